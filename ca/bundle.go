package ca

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"slices"
)

// A Bundle is the trust bundle of one epoch, as it stands in ca.crt: the PEM blocks of our self-signed roots,
// sorted by their DER bytes, then those of other CAs' anchors, and nothing else. It is immutable.
type Bundle struct {
	pem   []byte
	sum   string
	certs []*x509.Certificate
}

func newBundle(roots, anchors []*x509.Certificate) Bundle {
	certs := slices.SortedFunc(slices.Values(roots), func(a, b *x509.Certificate) int {
		return bytes.Compare(a.Raw, b.Raw)
	})
	certs = append(certs, anchors...)
	var b bytes.Buffer
	for _, c := range certs {
		b.Write(certificatePEM(c))
	}
	sum := sha256.Sum256(b.Bytes())
	return Bundle{pem: b.Bytes(), sum: hex.EncodeToString(sum[:]), certs: certs}
}

// Certificates are those of the bundle, in its order.
func (b Bundle) Certificates() []*x509.Certificate { return slices.Clone(b.certs) }

// PEM is a copy of the bundle's canonical bytes.
func (b Bundle) PEM() []byte { return bytes.Clone(b.pem) }

// SHA256 is the lower-case hexadecimal SHA-256 of the canonical bytes.
func (b Bundle) SHA256() string { return b.sum }

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
