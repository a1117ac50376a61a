package csr_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshca/meshca/csr"
	"github.com/meshca/meshca/profile"
)

// refused wants a refusal with this code and these words, fit to be shown.
func refused(t testing.TB, text []byte, code csr.Code, words string) {
	t.Helper()
	r, err := csr.Parse(text)
	if err == nil {
		t.Fatalf("accepted: %+v, want %s", r, code)
	}
	e := refusal(t, err)
	if e.Code != code || !strings.Contains(e.Detail, words) {
		t.Fatalf("%s: %s\nwant %s: …%s…", e.Code, e.Detail, code, words)
	}
}

// refusal wants an error that is short, plain, and of a known code.
func refusal(t testing.TB, err error) *csr.Error {
	t.Helper()
	e, ok := errors.AsType[*csr.Error](err)
	if !ok {
		t.Fatalf("%T is not a *csr.Error: %v", err, err)
	}
	codes := []csr.Code{csr.CodeTooLong, csr.CodeMalformed, csr.CodeProof, csr.CodeKey, csr.CodeName}
	if !slices.Contains(codes, e.Code) || e.Detail == "" || len(e.Detail) > 400 || !printable(e.Detail) {
		t.Fatalf("not fit to be shown: %q %q", e.Code, e.Detail)
	}
	return e
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// accepted wants a request that holds what crypto/x509 finds too, and a proof that it verifies too.
func accepted(t testing.TB, text []byte) *csr.Request {
	t.Helper()
	r, err := csr.Parse(text)
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	agrees(t, text, r)
	return r
}

// agrees compares a request with what crypto/x509 reads, and with a second reading.
func agrees(t testing.TB, text []byte, r *csr.Request) {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("encoding/pem finds no block")
	}
	c, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatalf("crypto/x509 does not read it: %v", err)
	}
	if err := c.CheckSignature(); err != nil {
		t.Fatalf("crypto/x509 does not verify the proof: %v", err)
	}
	if !c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(r.PublicKey) {
		t.Fatal("crypto/x509 reads another key")
	}
	canonical, err := x509.MarshalPKIXPublicKey(r.PublicKey)
	if err != nil || !bytes.Equal(r.RawSubjectPublicKeyInfo, canonical) {
		t.Fatalf("the key's DER is not what a certificate would hold: %v", err)
	}
	if k, err := profile.TypeOf(r.PublicKey); err != nil || k != r.KeyType {
		t.Fatalf("key type %s, want %s: %v", r.KeyType, k, err)
	}
	sameNames(t, c, r)
	if slices.ContainsFunc(r.Ignored, func(s string) bool { return !printable(s) || len(s) > 300 }) {
		t.Fatalf("not fit to be shown: %q", r.Ignored)
	}
	if again, err := csr.Parse(text); err != nil || !reflect.DeepEqual(again, r) {
		t.Fatalf("a second reading gives %+v, %v", again, err)
	}
}

func sameNames(t testing.TB, c *x509.CertificateRequest, r *csr.Request) {
	t.Helper()
	got := map[csr.Kind][]string{}
	for i, n := range r.Names {
		if n.Index != i+1 || !printable(n.String()) || len(n.String()) > 350 {
			t.Fatalf("name %d: %+v is not fit to be shown", i+1, n)
		}
		if n.Value != "" {
			got[n.Kind] = append(got[n.Kind], n.Value)
		}
	}
	want := map[csr.Kind][]string{}
	for _, name := range c.DNSNames {
		want[csr.DNSName] = append(want[csr.DNSName], strings.ToLower(name))
	}
	for _, a := range c.IPAddresses {
		address, _ := netip.AddrFromSlice(a)
		want[csr.IPAddress] = append(want[csr.IPAddress], address.Unmap().String())
	}
	for _, u := range c.URIs {
		if u.Scheme == "spiffe" {
			want[csr.URI] = append(want[csr.URI], u.String())
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("names of crypto/x509 (-) and ours (+):\n%s", diff)
	}
}

func TestParse(t *testing.T) {
	r := accepted(t, newDraft(ecKey(elliptic.P256())).pem())
	want := &csr.Request{
		PublicKey: r.PublicKey, KeyType: profile.ECDSAP256, RawSubjectPublicKeyInfo: r.RawSubjectPublicKeyInfo,
		Names: []csr.Name{
			{Kind: csr.DNSName, Value: "pgadmin", Index: 1},
			{Kind: csr.DNSName, Value: "pgadmin.envoy.svc", Index: 2},
			{Kind: csr.IPAddress, Value: "10.0.0.1", Index: 3},
			{Kind: csr.URI, Value: goodURI, Index: 4},
		},
		Ignored: []string{
			"subject",
			"attribute 1.2.840.113549.1.9.7 (challengePassword)",
			"extension 2.5.29.15 (key usage)",
		},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

// TestEveryGoodKeyAndSignature: each type of key with each signature that it can make.
func TestEveryGoodKeyAndSignature(t *testing.T) {
	keys := map[profile.KeyType]crypto.Signer{
		profile.ECDSAP256: ecKey(elliptic.P256()), profile.ECDSAP384: ecKey(elliptic.P384()), profile.Ed25519: edKey(),
		profile.RSA2048: goodRSA(t, "1024"), profile.RSA3072: goodRSA(t, "1536"), profile.RSA4096: goodRSA(t, "2048"),
	}
	for _, kind := range profile.LeafKeyTypes() {
		var algorithms []x509.SignatureAlgorithm
		switch kind {
		case profile.ECDSAP256, profile.ECDSAP384:
			algorithms = []x509.SignatureAlgorithm{x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512}
		case profile.Ed25519:
			algorithms = []x509.SignatureAlgorithm{x509.PureEd25519}
		default:
			algorithms = []x509.SignatureAlgorithm{x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
				x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS}
		}
		for _, a := range algorithms {
			t.Run(string(kind)+" "+a.String(), func(t *testing.T) {
				d := newDraft(keys[kind])
				d.signWith(keys[kind], a)
				if r := accepted(t, d.pem()); r.KeyType != kind {
					t.Errorf("key type %s", r.KeyType)
				}
				d.subject = value(0x30) // signed before, not now
				s := d.sign
				d.sign = func([]byte) []byte { return s([]byte("other")) }
				refused(t, d.pem(), csr.CodeProof, "not that of the request's own key over this request")
			})
		}
	}
}

// TestGoodForms: what is unusual and right.
func TestGoodForms(t *testing.T) {
	text := string(newDraft(ecKey(elliptic.P256())).pem())
	oneLine := strings.ReplaceAll(text, "\n", "")
	oneLine = strings.Replace(oneLine, "REQUEST-----", "REQUEST-----\n", 1)
	oneLine = strings.Replace(oneLine, "-----END", "\n-----END", 1)
	for name, form := range map[string]string{
		"the label of keytool": strings.ReplaceAll(text, "CERTIFICATE", "NEW CERTIFICATE"),
		"white space around":   " \r\n\t\n" + text + "\n\n \t",
		"Windows line ends":    strings.ReplaceAll(text, "\n", "\r\n"),
		"no last line end":     strings.TrimSpace(text),
		"base64 in one line":   oneLine,
	} {
		t.Run(name, func(t *testing.T) { accepted(t, []byte(form)) })
	}
	for name, change := range goodChanges {
		t.Run(name, func(t *testing.T) {
			d := newDraft(ecKey(elliptic.P256()))
			change(d)
			accepted(t, d.pem())
		})
	}
}

// goodChanges are changes after which a request is still good.
var goodChanges = map[string]func(*draft){
	"nothing but a key": func(d *draft) { d.subject, d.attributes = value(0x30), value(0xa0) },
	"no extensions":     func(d *draft) { d.setAttributes(attribute("1.2.840.113549.1.9.7", value(0x13, "x"))) },
	"attributes in any order": func(d *draft) {
		d.setAttributes(attribute("1.2.3.4", null, value(0x02, "\x05")), attribute("1.2.3", null))
	},
	"an attribute twice named": func(d *draft) {
		d.subject = sequence(rdn("2.5.4.3", value(0x0c, "a")), rdn("2.5.4.3", value(0x0c, "b")))
	},
	"two types in one set": func(d *draft) {
		d.subject = sequence(set(sequence(oid("2.5.4.3"), value(0x0c, "a")), sequence(oid("2.5.4.10"), value(0x0c, "b"))))
	},
	"every type of string": func(d *draft) {
		d.subject = sequence(rdn("2.5.4.3", value(0x0c, "ö")), rdn("2.5.4.3", value(0x12, "1 2")), rdn("2.5.4.3", value(0x13, "a-b")),
			rdn("2.5.4.3", value(0x14, "\xf6")), rdn("2.5.4.3", value(0x16, "a@b")),
			rdn("2.5.4.3", value(0x1c, "\x00\x01\xf4\xa9")), rdn("2.5.4.3", value(0x1e, "\x00a\x20\xac")))
	},
	"every other type": func(d *draft) {
		d.setAttributes(attribute("1.2.3", value(0x01, "\xff"), value(0x01, "\x00"), value(0x02, "\x00\x80"), value(0x02, "\xff\x7f"),
			value(0x0a, "\x01"), value(0x03, "\x04\xf0"), value(0x03, "\x00"), value(0x04, "\x00"), null, oid("2.999.2147483567"),
			value(0x17, "491231235959Z"), value(0x18, "20491231235959Z"), value(0x1a, "a@b"), value(0x85, "\x00"), value(0x65)))
	},
	"a name critical":     func(d *draft) { d.ask(extension("2.5.29.17", true, goodNames())) },
	"101 names":           func(d *draft) { d.name(slices.Repeat([][]byte{dns("a")}, 101)...) },
	"a name of 253 bytes": func(d *draft) { d.name(dns(strings.Repeat("a.", 126) + "a")) },
	"a label of 63 bytes": func(d *draft) { d.name(dns(strings.Repeat("a", 63) + ".svc")) },
	"an A-label":          func(d *draft) { d.name(dns("xn--mller-kva.example")) },
	"loopback":            func(d *draft) { d.name(ip("\x7f\x00\x00\x01"), ip(strings.Repeat("\x00", 15)+"\x01")) },
	"IPv4 in IPv6":        func(d *draft) { d.name(ip(strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01")) },
	"a trust domain":      func(d *draft) { d.name(uri("spiffe://mesh.local")) },
	"a SPIFFE ID of 2048": func(d *draft) { d.name(uri("spiffe://a/" + strings.Repeat("b", 2048-11))) },
	"PKCS #1 without NULL": func(d *draft) {
		d.signRaw(rsaKey(65537, prime("a1024"), prime("b1024")))
		d.algorithm = sequence(oid("1.2.840.113549.1.1.11"))
	},
	"64 extensions":            func(d *draft) { d.ask(manyExtensions(64)...) },
	"the deepest nesting":      func(d *draft) { d.setAttributes(attribute("1.2.3", nested(11))) },
	"a modulus of 757":         func(d *draft) { d.signRaw(rsaKey(65537, big757, prime("cofactor757"))) },
	"beyond Fermat's rounds":   func(d *draft) { d.signRaw(rsaKey(65537, prime("a1024"), prime("fermat115"))) },
	"scalar 256":               func(d *draft) { d.signAs(scalarKey(elliptic.P256(), big256)) },
	"another URI":              func(d *draft) { d.name(uri("https://user:password@example.org/")) },
	"names of all other kinds": func(d *draft) { d.name(otherKinds()...) },
}

// signAs makes the request that of another key.
func (d *draft) signAs(key crypto.Signer) {
	d.spki = must(x509.MarshalPKIXPublicKey(key.Public()))
	d.signWith(key, signatureOf(key))
}

func manyExtensions(n int) [][]byte {
	var all [][]byte
	for i := range n {
		all = append(all, sequence(value(0x06, "\x2a\x03", string(rune('\x01'+i))), value(0x04)))
	}
	return all
}

// nested is a SEQUENCE in a SEQUENCE in a SEQUENCE.
func nested(depth int) []byte {
	b := null
	for range depth - 1 {
		b = sequence(b)
	}
	return b
}

// otherKinds are names that are well-formed, and that no certificate of meshca holds.
func otherKinds() [][]byte {
	return [][]byte{
		value(0xa0, string(oid("1.3.6.1.4.1.311.20.2.3")), string(value(0xa0, string(value(0x0c, "root@MARKER"))))),
		value(0x81, "root@MARKER"),
		value(0xa3, string(value(0x30))),
		value(0xa4, string(sequence(rdn("2.5.4.3", value(0x0c, "MARKER"))))),
		value(0xa5, string(value(0xa1, string(value(0x0c, "MARKER"))))),
		uri("https://MARKER/"),
		value(0x88, "\x2a\x03\x04"),
	}
}

func TestNotGranted(t *testing.T) {
	id := profile.Identity{
		CommonName:  "common",
		DNSNames:    []string{"pgadmin", "pgadmin.envoy.svc"},
		IPAddresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
		URI:         must(url.Parse(goodURI)),
	}
	cases := map[string]struct {
		ask  [][]byte
		want []string
	}{
		"all of them": {[][]byte{dns("pgadmin"), dns("pgadmin.envoy.svc"), ip("\x0a\x00\x00\x01"),
			ip("\xfd" + strings.Repeat("\x00", 14) + "\x01"), uri(goodURI)}, nil},
		"upper case, twice, IPv4 in IPv6": {[][]byte{dns("PGADMIN"), dns("pgadmin"),
			ip(strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01")}, nil},
		"the common name":   {[][]byte{dns("common")}, []string{"dNSName common"}},
		"a parent, a child": {[][]byte{dns("svc"), dns("a.pgadmin")}, []string{"dNSName svc", "dNSName a.pgadmin"}},
		"between good ones": {[][]byte{dns("pgadmin"), dns("web"), ip("\x0a\x00\x00\x02"), uri(goodURI)}, []string{"dNSName web", "iPAddress 10.0.0.2"}},
		"the API server":    {[][]byte{dns("kubernetes.default.svc")}, []string{"dNSName kubernetes.default.svc"}},
		"another identity":  {[][]byte{uri("spiffe://mesh.local/ns/envoy/svc/web")}, []string{"uniformResourceIdentifier spiffe://mesh.local/ns/envoy/svc/web"}},
		"its case":          {[][]byte{uri("spiffe://mesh.local/ns/envoy/svc/PgAdmin")}, []string{"uniformResourceIdentifier spiffe://mesh.local/ns/envoy/svc/PgAdmin"}},
		"its trust domain":  {[][]byte{uri("spiffe://other/ns/envoy/svc/pgadmin")}, []string{"uniformResourceIdentifier spiffe://other/ns/envoy/svc/pgadmin"}},
		"a long one is cut": {[][]byte{uri("spiffe://a/" + strings.Repeat("b", 1000))}, []string{"uniformResourceIdentifier spiffe://a/" + strings.Repeat("b", 245) + "... (name 1 of the request)"}},
		"kinds never granted": {otherKinds(), []string{
			"otherName (name 1 of the request)", "rfc822Name (name 2 of the request)", "x400Address (name 3 of the request)",
			"directoryName (name 4 of the request)", "ediPartyName (name 5 of the request)",
			"uniformResourceIdentifier (name 6 of the request)", "registeredID (name 7 of the request)"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := newDraft(ecKey(elliptic.P256()))
			d.name(tc.ask...)
			r := accepted(t, d.pem())
			var got []string
			for _, n := range r.NotGranted(id) {
				got = append(got, n.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
			if none := r.NotGranted(profile.Identity{}); len(none) != len(tc.ask) {
				t.Errorf("an empty identity does not grant %d of %d names", len(none), len(tc.ask))
			}
		})
	}
	d := newDraft(ecKey(elliptic.P256()))
	d.attributes = value(0xa0)
	if others := accepted(t, d.pem()).NotGranted(id); others != nil {
		t.Errorf("a request without names is not granted %v", others)
	}
}
