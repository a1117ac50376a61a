package catest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"
)

// Failer is what testing.TB and *rapid.T share.
type Failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// A Foreign is a certificate of another CA with its key: a root, an intermediate or a leaf.
type Foreign struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// A Change changes what is signed before it is.
type Change func(*x509.Certificate)

// NewKey makes a P-256 key.
func NewKey(t Failer) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	return key
}

// Sign signs what the template says for the key; a nil parent makes it self-signed. The authority key identifier
// is the parent's, unless the parent is one of [Foreign.Nameless].
func Sign(t Failer, template *x509.Certificate, key crypto.Signer, parent *Foreign) *Foreign {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatalf("make a serial: %v", err)
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = &Foreign{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Certificate, key.Public(), parent.Key)
	if err != nil {
		t.Fatalf("sign: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return &Foreign{cert, key}
}

// CATemplate is what a CA of ten years is signed from.
func CATemplate(name string, now time.Time, changes ...Change) *x509.Certificate {
	return changed(&x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, changes)
}

// LeafTemplate is what a leaf of thirty days is signed from.
func LeafTemplate(name string, now time.Time, changes ...Change) *x509.Certificate {
	return changed(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(29 * 24 * time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, changes)
}

func changed(c *x509.Certificate, changes []Change) *x509.Certificate {
	for _, change := range changes {
		change(c)
	}
	return c
}

// NewForeign founds another CA.
func NewForeign(t Failer, name string, now time.Time, changes ...Change) *Foreign {
	t.Helper()
	return Sign(t, CATemplate(name, now, changes...), NewKey(t), nil)
}

// Leaf signs a leaf.
func (f *Foreign) Leaf(t Failer, name string, now time.Time, changes ...Change) *Foreign {
	t.Helper()
	return Sign(t, LeafTemplate(name, now, changes...), NewKey(t), f)
}

// Nameless is the same CA, and what it signs does not say which key signed it.
func (f *Foreign) Nameless() *Foreign {
	cert := *f.Certificate
	cert.SubjectKeyId = nil
	return &Foreign{&cert, f.Key}
}

// PEM is the certificate.
func (f *Foreign) PEM() []byte { return PEM(f.Certificate) }

// PEM are certificates one after the other.
func PEM(certs ...*x509.Certificate) (all []byte) {
	for _, c := range certs {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return all
}

// KeyPEM is the private key.
func (f *Foreign) KeyPEM(t Failer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(f.Key)
	if err != nil {
		t.Fatalf("encode a key: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
