// Package mesh makes the certificates of small meshes for tests: several CAs, and what goes wrong with them.
package mesh

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshca/meshca/verify"
)

const day = 24 * time.Hour

// A CA is a root with its key.
type CA struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a root.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	return newCA(t, name, nil)
}

// Below makes an intermediate.
func (c *CA) Below(t testing.TB, name string) *CA {
	t.Helper()
	return newCA(t, name, c)
}

func newCA(t testing.TB, name string, above *CA) *CA {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-100 * day), NotAfter: time.Now().Add(1000 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	ca := &CA{key: newKey(t)}
	if above == nil {
		above = &CA{Cert: template, key: ca.key}
	}
	ca.Cert = sign(t, template, above.Cert, ca.key, above.key)
	return ca
}

// PEM is the root's certificate.
func (c *CA) PEM() []byte { return block("CERTIFICATE", c.Cert.Raw) }

// Service makes a service's set: a leaf of the CA with its key, and the CA as what it trusts. The leaf's
// template may be changed before it is signed.
func (c *CA) Service(t testing.TB, name string, change ...func(*x509.Certificate)) verify.Service {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(28 * day),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, f := range change {
		f(template)
	}
	key := newKey(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := sign(t, template, c.Cert, key, c.key)
	return verify.Service{Name: name, Cert: block("CERTIFICATE", leaf.Raw), Key: block("PRIVATE KEY", der), CA: c.PEM()}
}

// Expired changes a leaf into one whose time has passed.
func Expired(template *x509.Certificate) { template.NotAfter = time.Now().Add(-day) }

// Trusting gives the service another ca.crt: those of the CAs, in this order.
func Trusting(s verify.Service, cas ...*CA) verify.Service {
	s.CA = nil
	for _, c := range cas {
		s.CA = append(s.CA, c.PEM()...)
	}
	return s
}

// Placeholder is what a manifest holds before anybody fills it in.
func Placeholder(name string) verify.Service {
	return verify.Service{Name: name, Cert: []byte("<PASTE CERTIFICATE HERE>"), Key: []byte("<PASTE KEY HERE>"), CA: []byte("<PASTE CA HERE>")}
}

// Write writes the services into a folder of folders.
func Write(t testing.TB, dir string, services ...verify.Service) {
	t.Helper()
	for _, s := range services {
		folder := filepath.Join(dir, s.Name)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"tls.crt": s.Cert, "tls.key": s.Key, "ca.crt": s.CA} {
			if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Secrets is a manifest of the services' Secrets: NAME-mtls-cert, of type kubernetes.io/tls.
func Secrets(services ...verify.Service) string {
	var b bytes.Buffer
	for _, s := range services {
		b.WriteString(Secret(s.Name+"-mtls-cert", "{}", "kubernetes.io/tls", s))
	}
	return b.String()
}

// Secret is the manifest of one Secret; more is what else its metadata has.
func Secret(name, more, kind string, s verify.Service) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, annotations: %s}\ntype: %s\ndata: {tls.crt: %q, tls.key: %q, ca.crt: %q}\n",
		name, more, kind, b64(s.Cert), b64(s.Key), b64(s.CA))
}

// Pod is the manifest of a pod that mounts a Secret.
func Pod(name, secret string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  containers: [{name: c, image: i}]\n  volumes: [{name: v, secret: {secretName: %s}}]\n", name, secret)
}

// Account is the manifest of the ServiceAccount without which no pod is admitted.
const Account = "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default}\n"

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func sign(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
