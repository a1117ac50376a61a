package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"testing"
	"time"
)

// TestAPITemplates: what crypto/x509 would copy out of a CSR into a certificate gets into none. The certificate is the
// same as for a CSR that asks for nothing, but for its key, its serial number and its dates.
func TestAPITemplates(t *testing.T) {
	m := NewMesh(t, Settings{})
	admin := newAPIClient(t, m, m.Serve().AwaitServing())
	issue := func(t *testing.T, ask x509.CertificateRequest) (*x509.Certificate, []string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		b := badMesh{t: t}
		c := admin.do("POST", "/v1/certificates", b.ask(b.csrOf(ask, key))).certificate(t)
		return firstOf([]byte(c.Certificate)), c.Ignored
	}
	plain, ignored := issue(t, x509.CertificateRequest{})
	if len(ignored) > 0 {
		t.Errorf("ignored %v", ignored)
	}
	extension := func(id asn1.ObjectIdentifier, value ...byte) x509.CertificateRequest {
		return x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: id, Critical: true, Value: value}}}
	}
	subject := func(name pkix.Name) x509.CertificateRequest { return x509.CertificateRequest{Subject: name} }
	for name, ask := range map[string]x509.CertificateRequest{
		"CA:TRUE":                    extension(asn1.ObjectIdentifier{2, 5, 29, 19}, 0x30, 0x03, 0x01, 0x01, 0xff),
		"keyCertSign":                extension(asn1.ObjectIdentifier{2, 5, 29, 15}, 0x03, 0x02, 0x02, 0x04),
		"any extended key usage":     extension(asn1.ObjectIdentifier{2, 5, 29, 37}, 0x30, 0x06, 0x06, 0x04, 0x55, 0x1d, 0x25, 0x00),
		"name constraints":           extension(asn1.ObjectIdentifier{2, 5, 29, 30}, 0x30, 0x00),
		"policies":                   extension(asn1.ObjectIdentifier{2, 5, 29, 32}, 0x30, 0x00),
		"subject key identifier":     extension(asn1.ObjectIdentifier{2, 5, 29, 14}, 0x04, 0x01, 0x07),
		"authority key identifier":   extension(asn1.ObjectIdentifier{2, 5, 29, 35}, 0x30, 0x00),
		"CRL distribution points":    extension(asn1.ObjectIdentifier{2, 5, 29, 31}, 0x30, 0x00),
		"precertificate poison":      extension(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, 0x05, 0x00),
		"unknown critical extension": extension(asn1.ObjectIdentifier{1, 2, 3, 4}, 0x05, 0x00),
		"system:masters":             subject(pkix.Name{CommonName: "bookapi", Organization: []string{"system:masters"}}),
		"CN with a line end":         subject(pkix.Name{CommonName: "bookapi\npgadmin"}),
		"CN of another":              subject(pkix.Name{CommonName: "kubernetes.default.svc"}),
		"CN of 3000":                 subject(pkix.Name{CommonName: string(slices.Repeat([]byte("a"), 3000))}),
		"serial number in the name":  subject(pkix.Name{SerialNumber: "0"}),
	} {
		t.Run(name, func(t *testing.T) {
			got, ignored := issue(t, ask)
			if len(ignored) != 1 {
				t.Errorf("ignored %v", ignored)
			}
			ids := func(c *x509.Certificate) (all []string) {
				for _, e := range c.Extensions {
					all = append(all, e.Id.String())
				}
				return all
			}
			if got.IsCA || got.KeyUsage != plain.KeyUsage || got.Subject.String() != plain.Subject.String() || !slices.Equal(got.DNSNames, plain.DNSNames) ||
				!slices.Equal(got.ExtKeyUsage, plain.ExtKeyUsage) || !slices.Equal(ids(got), ids(plain)) || got.NotAfter.Sub(plain.NotAfter).Abs() > time.Hour || got.SerialNumber.BitLen() < 64 {
				t.Errorf("%+v is not as %+v", got, plain)
			}
		})
	}
}
