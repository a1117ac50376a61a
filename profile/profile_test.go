package profile_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meshca/meshca/profile"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// chain is a root and an issuing CA with its key.
type chain struct {
	root, issuing *x509.Certificate
	key           crypto.Signer
}

func newKey(t testing.TB, k profile.KeyType) crypto.Signer {
	t.Helper()
	key, err := k.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign signs a template and parses the result.
func sign(t testing.TB, template, issuer *x509.Certificate, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, template.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newChain(t testing.TB) chain {
	t.Helper()
	rootKey := newKey(t, profile.ECDSAP256)
	template, err := profile.RootTemplate(1, rootKey.Public(), profile.CAWindow(now, 87600*time.Hour, 5*time.Minute, nil))
	if err != nil {
		t.Fatal(err)
	}
	root := sign(t, template, template, rootKey)
	key := newKey(t, profile.ECDSAP256)
	template, err = profile.IssuingTemplate(1, key.Public(), profile.CAWindow(now, 2160*time.Hour, 5*time.Minute, root), root)
	if err != nil {
		t.Fatal(err)
	}
	return chain{root: root, issuing: sign(t, template, root, rootKey), key: key}
}

func identity() profile.Identity {
	return profile.Identity{
		CommonName:  "pgadmin",
		DNSNames:    []string{"pgadmin", "pgadmin.default.svc"},
		IPAddresses: []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::1")},
		URI:         profile.SPIFFEID("mesh.local", "default", "pgadmin"),
	}
}

func (c chain) leafTemplate(t testing.TB, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	template, err := profile.LeafTemplate(identity(), pub, profile.LeafWindow(now, 720*time.Hour, 5*time.Minute, c.issuing), c.issuing)
	if err != nil {
		t.Fatal(err)
	}
	return template
}

// TestOwnTemplatesPass: what the package builds keeps its own rules, as template and as result, for every
// key type.
func TestOwnTemplatesPass(t *testing.T) {
	c := newChain(t)
	for kind, cert := range map[profile.Kind]*x509.Certificate{profile.Root: c.root, profile.Issuing: c.issuing} {
		if err := profile.Lint(kind, cert, c.root); err != nil {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
	for _, k := range profile.LeafKeyTypes() {
		t.Run(string(k), func(t *testing.T) {
			template := c.leafTemplate(t, newKey(t, k).Public())
			if err := profile.Lint(profile.Leaf, template, c.issuing); err != nil {
				t.Errorf("template: %v", err)
			}
			if err := profile.Lint(profile.Leaf, sign(t, template, c.issuing, c.key), c.issuing); err != nil {
				t.Errorf("result: %v", err)
			}
		})
	}
}

// TestLeafLint breaks a good leaf in one way at a time. Where crypto/x509 signs the broken template, which
// is nearly always, the result must be refused by the same clause.
func TestLeafLint(t *testing.T) {
	c := newChain(t)
	cases := map[string]struct {
		clause string
		break_ func(*x509.Certificate)
	}{
		"serial zero":       {"4.1.2.2", func(l *x509.Certificate) { l.SerialNumber = big.NewInt(0) }},
		"serial small":      {"4.1.2.2", func(l *x509.Certificate) { l.SerialNumber = big.NewInt(1234) }},
		"serial negative":   {"4.1.2.2", func(l *x509.Certificate) { l.SerialNumber = big.NewInt(-1234) }},
		"serial 21 octets":  {"4.1.2.2", func(l *x509.Certificate) { l.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 161) }},
		"ends before begin": {"4.1.2.5", func(l *x509.Certificate) { l.NotAfter = l.NotBefore.Add(-time.Hour) }},
		"outlives issuer":   {"outlives", func(l *x509.Certificate) { l.NotAfter = c.issuing.NotAfter.Add(time.Second) }},
		"before issuer":     {"outlives", func(l *x509.Certificate) { l.NotBefore = c.issuing.NotBefore.Add(-time.Second) }},
		"no common name":    {"4.1.2.6", func(l *x509.Certificate) { l.Subject = pkix.Name{} }},
		"organisation":      {"4.1.2.6", func(l *x509.Certificate) { l.Subject.Organization = []string{"system:masters"} }},
		"newline in CN":     {"4.1.2.6", func(l *x509.Certificate) { l.Subject.CommonName = "a\nb" }},
		"long CN":           {"4.1.2.6", func(l *x509.Certificate) { l.Subject.CommonName = strings.Repeat("a", 65) }},
		"no AKI":            {"4.2.1.1", func(l *x509.Certificate) { l.AuthorityKeyId = nil }},
		"foreign AKI":       {"4.2.1.1", func(l *x509.Certificate) { l.AuthorityKeyId = []byte("foreign") }},
		"no SKI":            {"4.2.1.2", func(l *x509.Certificate) { l.SubjectKeyId = nil }},
		"CA":                {"4.2.1.9", func(l *x509.Certificate) { l.IsCA = true }},
		"no constraints":    {"4.2.1.9", func(l *x509.Certificate) { l.BasicConstraintsValid = false }},
		"keyCertSign":       {"4.2.1.3", func(l *x509.Certificate) { l.KeyUsage |= x509.KeyUsageCertSign }},
		"keyEncipherment":   {"4.2.1.3", func(l *x509.Certificate) { l.KeyUsage |= x509.KeyUsageKeyEncipherment }},
		"no usage":          {"4.2.1.12", func(l *x509.Certificate) { l.ExtKeyUsage = nil }},
		"code signing":      {"4.2.1.12", func(l *x509.Certificate) { l.ExtKeyUsage = append(l.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) }},
		"no names":          {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames, l.IPAddresses = nil, nil }},
		"empty name":        {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = "" }},
		"NUL":               {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = "pgadmin\x00.evil" }},
		"wildcard":          {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = "*.svc" }},
		"dots":              {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = ".." }},
		"trailing dot":      {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = "pgadmin." }},
		"label of 64":       {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = strings.Repeat("a", 64) }},
		"name of 363":       {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = strings.Repeat("abcdefgh.", 40) + "com" }},
		"underscore":        {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = "pg_admin" }},
		"upper case":        {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = "PgAdmin" }},
		"IP as DNS name":    {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[0] = "10.0.0.1" }},
		"name twice":        {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames[1] = l.DNSNames[0] }},
		"too many names":    {"4.2.1.6", func(l *x509.Certificate) { l.DNSNames = make([]string, 101) }},
		"multicast":         {"4.2.1.6", func(l *x509.Certificate) { l.IPAddresses[0] = net.IPv4(224, 0, 0, 1) }},
		"unspecified":       {"4.2.1.6", func(l *x509.Certificate) { l.IPAddresses[0] = net.IPv4zero }},
		"e-mail":            {"4.2.1.6", func(l *x509.Certificate) { l.EmailAddresses = []string{"a@b.example"} }},
		"no URI":            {"SPIFFE", func(l *x509.Certificate) { l.URIs = nil }},
		"two URIs":          {"SPIFFE", func(l *x509.Certificate) { l.URIs = append(l.URIs, l.URIs[0]) }},
		"https URI": {"SPIFFE", func(l *x509.Certificate) {
			l.URIs[0] = &url.URL{Scheme: "https", Host: "mesh.local", Path: "/ns/a/svc/b"}
		}},
		"SPIFFE port":         {"SPIFFE", func(l *x509.Certificate) { l.URIs[0].Host = "mesh.local:443" }},
		"SPIFFE query":        {"SPIFFE", func(l *x509.Certificate) { l.URIs[0].RawQuery = "a=b" }},
		"SPIFFE dots":         {"SPIFFE", func(l *x509.Certificate) { l.URIs[0].Path = "/ns/../svc/b" }},
		"SPIFFE without path": {"SPIFFE", func(l *x509.Certificate) { l.URIs[0].Path = "" }},
		"OCSP":                {"revocation", func(l *x509.Certificate) { l.OCSPServer = []string{"http://ocsp.example"} }},
		"CRL location":        {"revocation", func(l *x509.Certificate) { l.CRLDistributionPoints = []string{"http://crl.example"} }},
		"extra extension": {"4.2 extensions", func(l *x509.Certificate) {
			l.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: []byte{5, 0}}}
		}},
		"name constraints": {"4.2.1.10", func(l *x509.Certificate) { l.PermittedDNSDomains = []string{"svc"} }},
	}
	key := newKey(t, profile.ECDSAP256)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			template := c.leafTemplate(t, key.Public())
			tc.break_(template)
			err := profile.Lint(profile.Leaf, template, c.issuing)
			if err == nil || !strings.Contains(err.Error(), tc.clause) {
				t.Fatalf("template: %v, want a violation of %s", err, tc.clause)
			}
			der, err := x509.CreateCertificate(rand.Reader, template, c.issuing, template.PublicKey, c.key)
			if err != nil {
				return // crypto/x509 refuses a few itself
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return
			}
			// Go corrects these two while it signs: the result is in order.
			if name == "no AKI" || name == "foreign AKI" {
				return
			}
			if err := profile.Lint(profile.Leaf, cert, c.issuing); err == nil || !strings.Contains(err.Error(), tc.clause) {
				t.Errorf("result: %v, want a violation of %s", err, tc.clause)
			}
		})
	}
}

// TestCALint breaks root and issuing CA.
func TestCALint(t *testing.T) {
	c := newChain(t)
	cases := map[string]struct {
		kind   profile.Kind
		clause string
		break_ func(*x509.Certificate)
	}{
		"root with path length":    {profile.Root, "4.2.1.9", func(r *x509.Certificate) { r.MaxPathLen = 1 }},
		"root with path length 0":  {profile.Root, "4.2.1.9", func(r *x509.Certificate) { r.MaxPathLen, r.MaxPathLenZero = 0, true }},
		"root with EKU":            {profile.Root, "4.2.1.12", func(r *x509.Certificate) { r.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }},
		"root no CA":               {profile.Root, "4.2.1.9", func(r *x509.Certificate) { r.IsCA = false }},
		"root digitalSignature":    {profile.Root, "4.2.1.3", func(r *x509.Certificate) { r.KeyUsage |= x509.KeyUsageDigitalSignature }},
		"root with names":          {profile.Root, "4.2.1.6", func(r *x509.Certificate) { r.DNSNames = []string{"a"} }},
		"root with another issuer": {profile.Root, "4.1.2.4", func(r *x509.Certificate) { r.Issuer = pkix.Name{CommonName: "other"} }},
		"issuing without limit":    {profile.Issuing, "4.2.1.9", func(r *x509.Certificate) { r.MaxPathLen, r.MaxPathLenZero = -1, false }},
		"issuing with limit 1":     {profile.Issuing, "4.2.1.9", func(r *x509.Certificate) { r.MaxPathLen, r.MaxPathLenZero = 1, false }},
		"issuing outlives root":    {profile.Issuing, "outlives", func(r *x509.Certificate) { r.NotAfter = c.root.NotAfter.Add(time.Hour) }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			broken, issuer := *c.root, c.root
			if tc.kind == profile.Issuing {
				broken = *c.issuing
			}
			tc.break_(&broken)
			if err := profile.Lint(tc.kind, &broken, issuer); err == nil || !strings.Contains(err.Error(), tc.clause) {
				t.Errorf("%v, want a violation of %s", err, tc.clause)
			}
		})
	}
	if err := profile.Lint(profile.Root, &x509.Certificate{PublicKey: newKey(t, profile.Ed25519).Public(), IsCA: true}, c.root); err == nil || !strings.Contains(err.Error(), "4.1.2.7") {
		t.Errorf("an Ed25519 CA: %v", err)
	}
}

// TestWindows: no window reaches beyond its issuer's, whatever the clock and the lifetimes are.
func TestWindows(t *testing.T) {
	c := newChain(t)
	rapid.Check(t, func(rt *rapid.T) {
		at := now.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(2160*time.Hour)).Draw(rt, "at")))
		life := time.Duration(rapid.Int64Range(int64(time.Second), int64(10000*time.Hour)).Draw(rt, "life"))
		backdate := time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(rt, "backdate"))
		w := profile.LeafWindow(at, life, backdate, c.issuing)
		if w.NotBefore.Before(c.issuing.NotBefore) || w.NotAfter.After(c.issuing.NotAfter) {
			rt.Fatalf("%v reaches beyond the issuer's %v to %v", w, c.issuing.NotBefore, c.issuing.NotAfter)
		}
		if earliest := at.Add(-min(backdate, life/10)).Add(-time.Second); w.NotBefore.Before(earliest) {
			rt.Fatalf("backdated to %v, at most to %v", w.NotBefore, earliest)
		}
		if w.NotAfter.After(at.Add(life)) {
			rt.Fatalf("ends at %v, later than asked", w.NotAfter)
		}
	})
}

func TestSerialsAreRandom(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		n, err := profile.NewSerial()
		if err != nil || n.Sign() <= 0 || n.BitLen() > 127 || seen[n.String()] {
			t.Fatalf("serial %v (%d bits): %v", n, n.BitLen(), err)
		}
		seen[n.String()] = true
	}
}

// TestSubjectKeyID: the identifier is of the bits that the certificate will carry, for each kind of key.
func TestSubjectKeyID(t *testing.T) {
	for _, k := range profile.LeafKeyTypes() {
		pub := newKey(t, k).Public()
		der, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		var spki struct {
			Algorithm pkix.AlgorithmIdentifier
			Key       asn1.BitString
		}
		if _, err := asn1.Unmarshal(der, &spki); err != nil {
			t.Fatal(err)
		}
		want := sha256.Sum256(spki.Key.Bytes)
		if got, err := profile.SubjectKeyID(pub); err != nil || !bytes.Equal(got, want[:20]) {
			t.Errorf("%s: %x (%v), want %x", k, got, err, want[:20])
		}
	}
	if _, err := profile.SubjectKeyID("a key"); err == nil {
		t.Error("a string has an identifier")
	}
}

func TestKeyTypes(t *testing.T) {
	for _, k := range profile.LeafKeyTypes() {
		if got, err := profile.TypeOf(newKey(t, k).Public()); err != nil || got != k {
			t.Errorf("TypeOf(%s) = %s, %v", k, got, err)
		}
	}
	if _, err := profile.ParseKeyType("Ed25519", profile.CAKeyTypes()); err == nil || !strings.Contains(err.Error(), "ECDSA-P256") {
		t.Errorf("an Ed25519 CA key: %v, want the list of what is allowed", err)
	}
	a, b := newKey(t, profile.ECDSAP256), newKey(t, profile.ECDSAP256)
	one, err := profile.SubjectKeyID(a.Public())
	if err != nil {
		t.Fatal(err)
	}
	if other, _ := profile.SubjectKeyID(b.Public()); bytes.Equal(one, other) || len(one) != 20 {
		t.Errorf("identifiers %x and %x", one, other)
	}
}
