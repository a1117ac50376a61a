package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"path/filepath"
	"testing"
	"time"
)

// A foreignCA is one that is none of meshca's, such as the other CA of the incident.
type foreignCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newForeignCA(t testing.TB) *foreignCA {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "another CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	key, cert := makeCertificate(t, template, template, nil)
	return &foreignCA{cert: cert, key: key}
}

// makeCertificate makes a key and a certificate for it; without a signer it is self-signed.
func makeCertificate(t testing.TB, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return key, cert
}

// PEM is the CA's certificate as a ca.crt.
func (f *foreignCA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.cert.Raw})
}

// WriteSet writes tls.crt, tls.key and ca.crt for a service into dir, as people do without meshca.
func (f *foreignCA) WriteSet(t testing.TB, dir, service string) {
	t.Helper()
	key, cert := makeCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: service},
		DNSNames:     []string{service, service + ".default.svc"},
		URIs:         []*url.URL{{Scheme: "spiffe", Host: "mesh.local", Path: "/ns/default/svc/" + service}},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}, f.cert, f.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	writeFile(t, filepath.Join(dir, certFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	writeFile(t, filepath.Join(dir, keyFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	writeFile(t, filepath.Join(dir, caFile), f.PEM())
}
