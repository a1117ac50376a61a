package csr_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshca/meshca/csr"
	"github.com/meshca/meshca/test/need"
)

// TestNothingButTheKey asks, as crypto/x509 writes it, for what crypto/x509 would sign. Nothing of it is in
// what Parse returns but the words that it is ignored, or it is refused.
func TestNothingButTheKey(t *testing.T) {
	ext := func(id string, critical bool, der []byte) pkix.Extension {
		var oid asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(value(0x06, string(must(must(x509.ParseOID(id)).MarshalBinary()))), &oid); err != nil {
			t.Fatal(err)
		}
		return pkix.Extension{Id: oid, Critical: critical, Value: der}
	}
	type request = x509.CertificateRequest
	asking := func(e ...pkix.Extension) request { return request{ExtraExtensions: e} }
	named := func(names ...string) request { return request{DNSNames: names} }
	subject := func(n pkix.Name) request { return request{Subject: n} }
	for name, tc := range map[string]struct {
		ask     request
		ignored []string
		code    csr.Code
	}{
		"CA:TRUE":                   {asking(ext("2.5.29.19", true, sequence(value(0x01, "\xff")))), []string{"extension 2.5.29.19 (basic constraints)"}, ""},
		"CA:TRUE, path length 9":    {asking(ext("2.5.29.19", false, sequence(value(0x01, "\xff"), value(0x02, "\x09")))), []string{"extension 2.5.29.19 (basic constraints)"}, ""},
		"keyCertSign":               {asking(ext("2.5.29.15", true, value(0x03, "\x02\x04"))), []string{"extension 2.5.29.15 (key usage)"}, ""},
		"any extended usage":        {asking(ext("2.5.29.37", false, sequence(oid("2.5.29.37.0")))), []string{"extension 2.5.29.37 (extended key usage)"}, ""},
		"code signing":              {asking(ext("2.5.29.37", true, sequence(oid("1.3.6.1.5.5.7.3.3")))), []string{"extension 2.5.29.37 (extended key usage)"}, ""},
		"name constraints":          {asking(ext("2.5.29.30", true, sequence(value(0xa0)))), []string{"extension 2.5.29.30 (name constraints)"}, ""},
		"policy constraints":        {asking(ext("2.5.29.36", true, sequence(value(0x80, "\x00")))), []string{"extension 2.5.29.36 (policy constraints)"}, ""},
		"policies":                  {asking(ext("2.5.29.32", false, sequence(sequence(oid("2.5.29.32.0"))))), []string{"extension 2.5.29.32 (certificate policies)"}, ""},
		"inhibit any policy":        {asking(ext("2.5.29.54", true, value(0x02, "\x00"))), []string{"extension 2.5.29.54 (inhibit anyPolicy)"}, ""},
		"an unknown critical one":   {asking(ext("1.2.3.4.5", true, null)), []string{"extension 1.2.3.4.5"}, ""},
		"one that is no DER":        {asking(ext("1.2.3.4.5", false, []byte("\xff\x00MARKER"))), []string{"extension 1.2.3.4.5"}, ""},
		"one that is empty":         {asking(ext("1.2.3.4.5", false, nil)), []string{"extension 1.2.3.4.5"}, ""},
		"constraints that are none": {asking(ext("2.5.29.19", true, []byte("MARKER"))), []string{"extension 2.5.29.19 (basic constraints)"}, ""},
		"subject key identifier":    {asking(ext("2.5.29.14", false, value(0x04, "MARKER"))), []string{"extension 2.5.29.14 (subject key identifier)"}, ""},
		"authority key identifier":  {asking(ext("2.5.29.35", false, sequence(value(0x80, "MARKER")))), []string{"extension 2.5.29.35 (authority key identifier)"}, ""},
		"CRL location":              {asking(ext("2.5.29.31", false, sequence())), []string{"extension 2.5.29.31 (CRL distribution points)"}, ""},
		"OCSP location":             {asking(ext("1.3.6.1.5.5.7.1.1", false, sequence())), []string{"extension 1.3.6.1.5.5.7.1.1 (authority information access)"}, ""},
		"must-staple":               {asking(ext("1.3.6.1.5.5.7.1.24", false, sequence(value(0x02, "\x05")))), []string{"extension 1.3.6.1.5.5.7.1.24 (TLS feature)"}, ""},
		"precertificate poison":     {asking(ext("1.3.6.1.4.1.11129.2.4.3", true, null)), []string{"extension 1.3.6.1.4.1.11129.2.4.3"}, ""},
		"issuer alternative name":   {asking(ext("2.5.29.18", false, sequence(dns("MARKER")))), []string{"extension 2.5.29.18 (issuer alternative name)"}, ""},
		"Microsoft's template":      {asking(ext("1.3.6.1.4.1.311.20.2", false, value(0x1e, "\x00C\x00A"))), []string{"extension 1.3.6.1.4.1.311.20.2 (Microsoft certificate template name)"}, ""},
		"several at once": {asking(ext("2.5.29.19", true, sequence(value(0x01, "\xff"))), ext("2.5.29.15", true, value(0x03, "\x02\x04"))),
			[]string{"extension 2.5.29.19 (basic constraints)", "extension 2.5.29.15 (key usage)"}, ""},
		"system:masters":        {subject(pkix.Name{CommonName: "MARKER", Organization: []string{"system:masters"}}), []string{"subject"}, ""},
		"a line end in CN":      {subject(pkix.Name{CommonName: "MARKER\nx"}), []string{"subject"}, ""},
		"CN of 3000":            {subject(pkix.Name{CommonName: strings.Repeat("MARKER", 500)}), []string{"subject"}, ""},
		"CN that is a host":     {subject(pkix.Name{CommonName: "kubernetes.default.svc"}), []string{"subject"}, ""},
		"no subject, no names":  {request{}, nil, ""},
		"NUL in CN":             {subject(pkix.Name{CommonName: "MARKER\x00.evil"}), nil, csr.CodeMalformed},
		"NUL in a name":         {named("MARKER\x00.evil"), nil, csr.CodeName},
		"empty name":            {named(""), nil, csr.CodeName},
		"*":                     {named("*"), nil, csr.CodeName},
		"..":                    {named(".."), nil, csr.CodeName},
		"label of 64":           {named(strings.Repeat("a", 64)), nil, csr.CodeName},
		"name of 363":           {named(strings.Repeat("abcdefgh.", 40) + "com"), nil, csr.CodeName},
		"IP address as a name":  {named("10.0.0.1"), nil, csr.CodeName},
		"1000 names":            {named(slices.Repeat([]string{"a"}, 1000)...), nil, csr.CodeName},
		"10,000 names":          {named(slices.Repeat([]string{"a"}, 10000)...), nil, csr.CodeTooLong},
		"address of 3 bytes":    {request{IPAddresses: []net.IP{{1, 2, 3}}}, nil, csr.CodeName},
		"a SPIFFE ID of nobody": {request{URIs: []*url.URL{{Scheme: "spiffe", Path: "/ns/a/svc/b"}}}, nil, csr.CodeName},
		"names of its own wish": {request{DNSNames: []string{"web"}, EmailAddresses: []string{"root@MARKER"}, URIs: []*url.URL{{Scheme: "https", Host: "MARKER"}}}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			text := pemOf(must(x509.CreateCertificateRequest(rand.Reader, &tc.ask, ecKey(elliptic.P256()))))
			if tc.code != "" {
				refused(t, text, tc.code, "")
				return
			}
			r := accepted(t, text)
			if diff := cmp.Diff(tc.ignored, r.Ignored); diff != "" {
				t.Errorf("ignored (-want, +got):\n%s", diff)
			}
			if !ecKey(elliptic.P256()).PublicKey.Equal(r.PublicKey) {
				t.Error("another key")
			}
			for _, n := range r.Names {
				if strings.Contains(n.String(), "MARKER") {
					t.Errorf("repeats %s", n)
				}
			}
		})
	}
}

// TestNothingIsRepeated puts a word where a request is refused, and finds it in no refusal.
func TestNothingIsRepeated(t *testing.T) {
	for name, change := range map[string]func(*draft){
		"subject":       subjectOf(0x13, "MARKER@"),
		"subject's NUL": subjectOf(0x0c, "MARKER\x00"),
		"attribute":     valueOf(0x02, "\x00\x00MARKER"),
		"DNS name":      named("MARKER_"),
		"label":         named(strings.Repeat("MARKER", 20)),
		"wildcard":      named("*.MARKER"),
		"address":       address("MARKER"),
		"URI":           identity("https://MARKER/%zz"),
		"SPIFFE ID":     identity("spiffe://MARKER:1/"),
		"e-mail":        func(d *draft) { d.name(value(0x81, "MARKER\x00")) },
		"unknown kind":  func(d *draft) { d.name(value(0x89, "MARKER")) },
		"Ed25519 key":   keyOf(ed25519ID, "MARKER"),
		"point":         keyOf(p256, "MARKER"),
		"RSA key":       rsaBits("MARKER"),
		"algorithm":     algorithmOf(value(0x0c, "MARKER")),
		"proof":         signedBy("MARKER"),
	} {
		d := newDraft(ecKey(elliptic.P256()))
		change(d)
		_, err := csr.Parse(d.pem())
		if err == nil {
			t.Fatalf("%s: accepted", name)
		}
		if e := refusal(t, err); strings.Contains(strings.ToUpper(e.Detail), "MARKER") {
			t.Errorf("%s: %s", name, e.Detail)
		}
	}
	for _, text := range []string{"MARKER", "-----BEGIN MARKER-----\n", "-----BEGIN CERTIFICATE REQUEST-----\nMARKER: x\n-----END CERTIFICATE REQUEST-----"} {
		_, err := csr.Parse([]byte(text))
		if e := refusal(t, err); strings.Contains(e.Detail, "MARKER") {
			t.Errorf("%s", e.Detail)
		}
	}
}

// TestRequestsOfOpenSSL: what openssl req makes is read.
func TestRequestsOfOpenSSL(t *testing.T) {
	openssl := need.Program(t, "openssl")
	dir := t.TempDir()
	rsa := filepath.Join(dir, "rsa.key")
	writePKCS8(t, rsa, goodRSA(t, "1024"))
	ec := []string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"}
	for name, tc := range map[string]struct {
		args []string
		code csr.Code
	}{
		"P-256":             {ec, ""},
		"P-384, SHA-512":    {[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-sha512"}, ""},
		"Ed25519":           {[]string{"-newkey", "ed25519"}, ""},
		"RSA":               {[]string{"-key", rsa}, ""},
		"RSA, SHA-384":      {[]string{"-key", rsa, "-sha384"}, ""},
		"PSS":               {[]string{"-key", rsa, "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"}, ""},
		"the older label":   {append([]string{"-newhdr"}, ec...), ""},
		"names":             {append([]string{"-addext", "subjectAltName=DNS:PgAdmin,IP:10.0.0.1,IP:fd00::1,URI:" + goodURI + ",email:a@b"}, ec...), ""},
		"a CA":              {append([]string{"-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"}, ec...), ""},
		"explicit curve":    {append([]string{"-pkeyopt", "ec_param_enc:explicit"}, ec...), csr.CodeKey},
		"secp256k1":         {[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"}, csr.CodeKey},
		"RSA-1024":          {[]string{"-newkey", "rsa:1024"}, csr.CodeKey},
		"an RSA-PSS key":    {[]string{"-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"}, csr.CodeKey},
		"SHA-1":             {append([]string{"-sha1"}, ec...), csr.CodeProof},
		"PSS, longest salt": {[]string{"-key", rsa, "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:max"}, csr.CodeProof},
		"a wildcard":        {append([]string{"-addext", "subjectAltName=DNS:*.svc"}, ec...), csr.CodeName},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"req", "-new", "-nodes", "-keyout", os.DevNull, "-subj", "/O=a & b/CN=pgadmin"}, tc.args...)
			var stderr bytes.Buffer
			command := exec.Command(openssl, args...)
			command.Stderr = &stderr
			text, err := command.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, &stderr)
			}
			if tc.code != "" {
				refused(t, text, tc.code, "")
				return
			}
			accepted(t, text)
		})
	}
}

func writePKCS8(t *testing.T, path string, key any) {
	t.Helper()
	der := must(x509.MarshalPKCS8PrivateKey(key))
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRequestsOfGnuTLS: what certtool makes is read.
func TestRequestsOfGnuTLS(t *testing.T) {
	certtool := need.Program(t, "certtool")
	dir := t.TempDir()
	key, template := filepath.Join(dir, "key"), filepath.Join(dir, "template")
	writePKCS8(t, key, ecKey(elliptic.P256()))
	text := "cn = pgadmin\ndns_name = pgadmin.envoy.svc\nip_address = 10.0.0.1\nuri = " + goodURI + "\nchallenge_password = secret\ntls_www_server\n"
	if err := os.WriteFile(template, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(certtool, "--generate-request", "--load-privkey", key, "--template", template, "--no-text").Output()
	if err != nil {
		t.Fatal(err)
	}
	if r := accepted(t, out); len(r.Names) != 3 {
		t.Errorf("names %v", r.Names)
	}
}

// TestProofsAsOpenSSL: a proof that openssl req -verify refuses is refused.
func TestProofsAsOpenSSL(t *testing.T) {
	openssl := need.Program(t, "openssl")
	path := filepath.Join(t.TempDir(), "csr")
	texts := map[string][]byte{}
	for name, change := range goodChanges {
		d := newDraft(ecKey(elliptic.P256()))
		change(d)
		texts["good: "+name] = d.pem()
	}
	for _, r := range slices.Concat(proofRows, keyRows, rsaRows) {
		d := newDraft(ecKey(elliptic.P256()))
		r.spoil(d)
		texts[r.name] = d.pem()
	}
	theirs, ours := 0, 0
	for name, text := range texts {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(openssl, "req", "-in", path, "-verify", "-noout").CombinedOutput()
		_, refusal := csr.Parse(text)
		verified := err == nil && bytes.Contains(out, []byte("verify OK"))
		if !verified {
			theirs++
		}
		if refusal != nil {
			ours++
		}
		if !verified && refusal == nil {
			t.Errorf("%s: accepted, but openssl says %s", name, out)
		}
	}
	t.Logf("of %d requests openssl refuses %d, we %d", len(texts), theirs, ours)
	if theirs < 50 {
		t.Errorf("openssl refuses %d requests only: is it asked rightly?", theirs)
	}
}
