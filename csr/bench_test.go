package csr_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/meshca/meshca/csr"
)

// BenchmarkParse stands beside the floor: reading by crypto/x509, which checks less, and one verification.
func BenchmarkParse(b *testing.B) {
	text := newDraft(ecKey(elliptic.P256())).pem()
	b.Run("P-256", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := csr.Parse(text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("P-256 floor", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			floor(b, text)
		}
	})
	for _, bits := range []string{"1024", "2048"} {
		key := goodRSA(b, bits)
		text := newDraft(key).pem()
		b.Run("RSA of two primes of "+bits, func(b *testing.B) {
			for b.Loop() {
				if _, err := csr.Parse(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func floor(b *testing.B, text []byte) {
	block, _ := pem.Decode(text)
	c, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256(c.RawTBSCertificateRequest)
	if !ecdsa.VerifyASN1(c.PublicKey.(*ecdsa.PublicKey), digest[:], c.Signature) {
		b.Fatal("not verified")
	}
}
