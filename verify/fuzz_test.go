package verify_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/meshca/meshca/verify"
)

// FuzzCheck: whatever the bytes are, Check returns, and returns nothing of a private key. The key is a fixed
// part of what is fuzzed: it stands in each of the files at a place that the fuzzer chooses.
func FuzzCheck(f *testing.F) {
	// Ed25519 keys from fixed seeds: every worker makes the same bytes, without which the engine takes the
	// differences in coverage for news and does little but minimize.
	fixed := func(tmpl *x509.Certificate, n byte, parent *issued) issued {
		tmpl.SerialNumber = big.NewInt(int64(n))
		return sign(f, tmpl, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize)), parent)
	}
	ca := fixed(caTemplate("root"), 1, nil)
	leaf := fixed(leafTemplate("x"), 0xa7, &ca)
	key := keyPEM(f, leaf.key)
	good := service(f, "good", fixed(leafTemplate("good"), 3, &ca), &ca)
	f.Add(leaf.pem(), key, ca.pem(), uint16(0))
	f.Add(join(leaf.pem(), key), key[:90], []byte{}, uint16(30))
	f.Add(leaf.cert.Raw, []byte("CHANGEME"), []byte("-----BEGIN CERTIFICATE-----\n{{ }}\n-----END CERTIFICATE-----"), uint16(28))
	f.Add([]byte("\ufeff-----BEGIN CERTIFICATE-----\r\nMAMCAQE=\r\n"), []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"), []byte(nil), uint16(1))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"), []byte(nil), []byte(nil), uint16(0))
	f.Fuzz(func(t *testing.T, cert, tlsKey, anchors []byte, at uint16) {
		insert := func(b []byte) []byte { return slices.Insert(bytes.Clone(b), int(at)%(len(b)+1), key...) }
		for _, s := range []verify.Service{
			{Name: "x", Cert: cert, Key: tlsKey, CA: anchors},
			{Name: "x", Cert: insert(cert), Key: insert(tlsKey), CA: insert(anchors)},
		} {
			r := verify.Check([]verify.Service{good, s}, now)
			var table strings.Builder
			if err := r.WriteTable(&table); err != nil {
				t.Fatal(err)
			}
			doc, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(key)) {
				line = strings.TrimSpace(line)
				if strings.HasPrefix(line, "-----") {
					continue
				}
				for i := 0; i+12 <= len(line); i += 4 {
					if part := line[i : i+12]; strings.Contains(table.String(), part) || bytes.Contains(doc, []byte(part)) {
						t.Fatalf("a part of the private key is in the report:\n%s", table.String())
					}
				}
			}
		}
	})
}
