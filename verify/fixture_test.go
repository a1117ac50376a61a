package verify_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"

	"github.com/meshca/meshca/verify"
)

// now is the instant of every test.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// name is carried by every leaf, so that a real handshake can check a host name too.
const name = "any.mesh.test"

// fataler is what *testing.T and *rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// An issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (i issued) pem() []byte { return certPEM(i.cert.Raw) }

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func newKey(t fataler) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("generate key: %v", err)
	}
	return key
}

func keyPEM(t fataler, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("marshal key: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// sign makes a certificate; a nil parent makes it self-signed.
func sign(t fataler, tmpl *x509.Certificate, key crypto.Signer, parent *issued) issued {
	t.Helper()
	if tmpl.SerialNumber == nil {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
		if err != nil {
			t.Fatalf("serial: %v", err)
		}
		tmpl.SerialNumber = serial
	}
	if parent == nil {
		parent = &issued{tmpl, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatalf("create certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse certificate: %v", err)
	}
	return issued{cert, key}
}

func caTemplate(cn string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"test"}, CommonName: cn},
		NotBefore:             now.Add(-100 * day),
		NotAfter:              now.Add(1000 * day),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func leafTemplate(cn string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: cn},
		DNSNames:              []string{name},
		NotBefore:             now.Add(-day),
		NotAfter:              now.Add(29 * day),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func newCA(t fataler, cn string) *issued {
	t.Helper()
	ca := sign(t, caTemplate(cn), newKey(t), nil)
	return &ca
}

func (i *issued) leaf(t fataler, cn string, change ...func(*x509.Certificate)) issued {
	t.Helper()
	tmpl := leafTemplate(cn)
	for _, f := range change {
		f(tmpl)
	}
	return sign(t, tmpl, newKey(t), i)
}

// service puts a service together whose ca.crt holds the given certificates.
func service(t fataler, cn string, leaf issued, trusts ...*issued) verify.Service {
	t.Helper()
	var ca []byte
	for _, c := range trusts {
		ca = append(ca, c.pem()...)
	}
	return verify.Service{Name: cn, Cert: leaf.pem(), Key: keyPEM(t, leaf.key), CA: ca}
}

// healthy makes services that are fine: one CA, signed by it, trusting it.
func healthy(t fataler, ca *issued, names ...string) []verify.Service {
	t.Helper()
	var services []verify.Service
	for _, n := range names {
		services = append(services, service(t, n, ca.leaf(t, n), ca))
	}
	return services
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
