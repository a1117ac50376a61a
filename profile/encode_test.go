package profile_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meshca/meshca/profile"
)

// issuers are issuing CAs of each type of key that a CA may have.
func issuers(t *testing.T) (chains []chain) {
	t.Helper()
	for _, k := range profile.CAKeyTypes() {
		c := newChain(t)
		c.key = newKey(t, k)
		template, err := profile.IssuingTemplate(1, c.key.Public(), profile.CAWindow(now, 40*365*24*time.Hour, 5*time.Minute, nil), c.root)
		if err != nil {
			t.Fatal(err)
		}
		root := newKey(t, profile.ECDSAP256)
		parent := *c.root
		parent.PublicKey = root.Public()
		c.issuing = sign(t, template, &parent, root)
		chains = append(chains, c)
	}
	return chains
}

// leaves are templates of leaves of each type of key, with all that a catalogue may say of names and times.
func leaves(t *testing.T) func(*rapid.T, chain) *x509.Certificate {
	t.Helper()
	var keys []crypto.PublicKey
	for _, k := range profile.LeafKeyTypes() {
		keys = append(keys, newKey(t, k).Public())
	}
	label := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`)
	return func(rt *rapid.T, c chain) *x509.Certificate {
		id := profile.Identity{
			CommonName: rapid.StringOfN(rapid.Rune(), 1, 64, 64).Draw(rt, "common name"),
			DNSNames:   rapid.SliceOfN(label, 0, 8).Draw(rt, "DNS names"),
			URI:        profile.SPIFFEID(label.Draw(rt, "trust domain"), label.Draw(rt, "namespace"), rapid.String().Draw(rt, "service")),
		}
		for _, b := range rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 4, 4), 0, 4).Draw(rt, "IPv4") {
			a := netip.AddrFrom4([4]byte(b))
			if rapid.Bool().Draw(rt, "mapped") {
				a = netip.AddrFrom16(a.As16())
			}
			id.IPAddresses = append(id.IPAddresses, a)
		}
		for _, b := range rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 16, 16), 0, 4).Draw(rt, "IPv6") {
			id.IPAddresses = append(id.IPAddresses, netip.AddrFrom16([16]byte(b)))
		}
		at := now.Add(time.Duration(rapid.Int64Range(0, 39*365*24).Draw(rt, "hours")) * time.Hour)
		life := time.Duration(rapid.Int64Range(1, 10*365*24).Draw(rt, "life")) * time.Hour
		template, err := profile.LeafTemplate(id, rapid.SampledFrom(keys).Draw(rt, "key"), profile.LeafWindow(at, life, 5*time.Minute, c.issuing), c.issuing)
		if err != nil {
			rt.Fatal(err)
		}
		return template
	}
}

// TestSignLeaf: what is signed is, byte for byte, what crypto/x509 signs of the same template, and the signature is the
// issuer's.
func TestSignLeaf(t *testing.T) {
	draw := leaves(t)
	for _, c := range issuers(t) {
		t.Run(fmt.Sprintf("%T %s", c.key, c.issuing.SignatureAlgorithm), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				template := draw(rt, c)
				want, err := x509.CreateCertificate(rand.Reader, template, c.issuing, template.PublicKey, c.key)
				der, ours := profile.SignLeaf(template, c.issuing, c.key)
				if err != nil || ours != nil {
					if err == nil || ours == nil {
						rt.Fatalf("we say %v, crypto/x509 says %v", ours, err)
					}
					return
				}
				got, err := x509.ParseCertificate(der)
				if err != nil {
					rt.Fatal(err)
				}
				theirs, err := x509.ParseCertificate(want)
				if err != nil {
					rt.Fatal(err)
				}
				if !bytes.Equal(got.RawTBSCertificate, theirs.RawTBSCertificate) {
					rt.Errorf("we sign\n%x\ncrypto/x509 signs\n%x", got.RawTBSCertificate, theirs.RawTBSCertificate)
				}
				if err := got.CheckSignatureFrom(c.issuing); err != nil || got.SignatureAlgorithm != theirs.SignatureAlgorithm {
					rt.Errorf("%s: %v", got.SignatureAlgorithm, err)
				}
			})
		})
	}
}

// TestSignLeafRefuses: what cannot be written in a certificate is not written otherwise, and no key signs that is not
// a CA's.
func TestSignLeafRefuses(t *testing.T) {
	c := newChain(t)
	template := c.leafTemplate(t, newKey(t, profile.ECDSAP256).Public())
	for what, damage := range map[string]func(*x509.Certificate){
		"a DNS name outside ASCII": func(c *x509.Certificate) { c.DNSNames = []string{"büro"} },
		"a URI outside ASCII":      func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Opaque: "büro"}} },
		"a year before UTCTime":    func(c *x509.Certificate) { c.NotBefore = time.Date(1949, 1, 1, 0, 0, 0, 0, time.UTC) },
		"a year after them all":    func(c *x509.Certificate) { c.NotAfter = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		t.Run(what, func(t *testing.T) {
			bad := *template
			damage(&bad)
			if _, err := profile.SignLeaf(&bad, c.issuing, c.key); err == nil {
				t.Error("it was signed")
			}
		})
	}
	of := *c.issuing
	of.PublicKey = newKey(t, profile.Ed25519).Public()
	if _, err := profile.SignLeaf(template, &of, c.key); err == nil {
		t.Error("an Ed25519 CA has signed")
	}
}
