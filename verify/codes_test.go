package verify_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshca/meshca/verify"
)

// TestCodes breaks one service of a healthy pair and wants just these codes at it.
func TestCodes(t *testing.T) {
	ca, other := newCA(t, "root"), newCA(t, "other")
	old := sign(t, change(caTemplate("old"), func(c *x509.Certificate) { c.NotAfter = now.Add(-day) }), newKey(t), nil)
	again, inter, renewed := newCA(t, "root"), sign(t, caTemplate("inter"), newKey(t), ca), sign(t, caTemplate("root"), ca.key, nil)
	future := sign(t, change(caTemplate("future"), func(c *x509.Certificate) { c.NotBefore = now.Add(day) }), newKey(t), nil)
	leaf := ca.leaf(t, "x")
	key := keyPEM(t, leaf.key)
	certText := string(leaf.pem())
	lines := strings.SplitAfter(certText, "\n")
	short := certPEM(leaf.cert.Raw[:len(leaf.cert.Raw)-30])
	withLeaf := func(l issued) func(*verify.Service) {
		return func(s *verify.Service) { s.Cert, s.Key = l.pem(), keyPEM(t, l.key) }
	}
	cert := func(b []byte) func(*verify.Service) { return func(s *verify.Service) { s.Cert = b } }
	keys := func(b []byte) func(*verify.Service) { return func(s *verify.Service) { s.Key = b } }
	anchors := func(b []byte) func(*verify.Service) { return func(s *verify.Service) { s.CA = b } }
	block := func(body string) []byte {
		return []byte("-----BEGIN CERTIFICATE-----\n" + body + "\n-----END CERTIFICATE-----\n")
	}
	for _, tt := range []struct {
		name string
		mend func(*verify.Service)
		want []verify.Code
		says string
	}{
		{"whole", func(*verify.Service) {}, nil, ""},
		{"no certificate file", cert(nil), codes(verify.MissingFile), "tls.crt is missing"},
		{"no key file", keys(nil), codes(verify.MissingFile), "tls.key is missing"},
		{"no bundle file", anchors(nil), codes(verify.MissingFile, verify.WouldRefuse), "ca.crt is missing"},
		{"renamed", func(s *verify.Service) { s.CA, s.CAName = nil, "root.pem" }, codes(verify.MissingFile, verify.WouldRefuse), "root.pem is missing"},
		{"empty certificate", cert([]byte{}), codes(verify.EmptyFile), "tls.crt is empty"},
		{"blank bundle", anchors([]byte(" \r\n")), codes(verify.EmptyFile, verify.WouldRefuse), ""},
		{"angle brackets", cert([]byte("<paste the certificate here>")), codes(verify.Placeholder), "tls.crt holds a placeholder"},
		{"shell variable", cert([]byte("${TLS_CRT}")), codes(verify.Placeholder), ""},
		{"template", cert([]byte("{{ .Values.tls.crt | b64enc }}")), codes(verify.Placeholder), ""},
		{"changeme", keys([]byte("CHANGEME")), codes(verify.Placeholder), "tls.key holds a placeholder"},
		{"replace_me", keys([]byte("REPLACE_ME")), codes(verify.Placeholder), ""},
		{"the word", cert([]byte("placeholder")), codes(verify.Placeholder), ""},
		{"placeholder in a block", cert(block("...REPLACE_ME...")), codes(verify.Placeholder), "a PEM block that holds a placeholder"},
		{"placeholder that is base64", cert(block("CHANGEME")), codes(verify.Placeholder), ""},
		{"template in a block", cert(block("{{ .crt }}")), codes(verify.Placeholder), ""},
		{"dots in a block", cert(block("...")), codes(verify.NotPEM), "not base64"},
		{"large file", anchors(bytes.Repeat([]byte("#"), 1<<20+1)), codes(verify.TooLarge, verify.WouldRefuse), "more than 1 MiB"},
		{"many certificates", anchors(bytes.Repeat(ca.pem(), 201)), codes(verify.TooLarge, verify.WouldRefuse), "more than 200"},
		{"as many as allowed", anchors(bytes.Repeat(ca.pem(), 200)), codes(verify.DuplicateInBundle, verify.BundleBytesDiffer), "ca.crt holds " + verify.ShortFingerprint(ca.cert) + " 200 times"},
		{"DER", cert(leaf.cert.Raw), codes(verify.NotPEM), "tls.crt is DER, not PEM"},
		{"encoded twice", cert([]byte(base64.StdEncoding.EncodeToString(leaf.pem()))), codes(verify.NotPEM), "encoded in base64 once more"},
		{"escaped newlines", cert([]byte(strings.ReplaceAll(certText, "\n", `\n`))), codes(verify.NotPEM), `the two characters \n`},
		{"indented", cert([]byte("  " + strings.ReplaceAll(certText, "\n", "\n  "))), codes(verify.NotPEM), "indented"},
		{"prose", cert([]byte("hello")), codes(verify.NotPEM), "holds no PEM block"},
		{"request", cert(bytes.ReplaceAll(leaf.pem(), []byte("CERTIFICATE"), []byte("CERTIFICATE REQUEST"))), codes(verify.NotPEM), "a certificate request"},
		{"no END", cert([]byte(strings.Join(lines[:len(lines)-2], ""))), codes(verify.TruncatedPEM), "without its END line"},
		{"cut and continued", cert([]byte(strings.Join(lines[:3], "") + certText)), codes(verify.TruncatedPEM), "without its END line"},
		{"second of two cut", anchors(join(ca.pem(), ca.pem()[:200])), codes(verify.TruncatedPEM, verify.BundleBytesDiffer), ""},
		{"lines missing", cert([]byte(strings.Join(append(slices.Clone(lines[:3]), lines[len(lines)-2:]...), ""))), codes(verify.TruncatedPEM), "content ends early"},
		{"DER too short", cert(short), codes(verify.TruncatedPEM), "content ends early"},
		{"base64 too short", cert(block(lines[1][:63])), codes(verify.TruncatedPEM), "base64 ends early"},
		{"cut within the length of the DER", cert(block("MIIB")), codes(verify.TruncatedPEM), "content ends early"},
		{"no file at all", func(s *verify.Service) { s.Cert, s.Key, s.CA = nil, nil, nil },
			codes(verify.MissingFile, verify.MissingFile, verify.MissingFile), "tls.key is missing"},
		{"empty block", cert(block("")), codes(verify.TruncatedPEM), "nothing between"},
		{"not a certificate", cert(block("MAMCAQE=")), codes(verify.BadCertificate), "is not a certificate"},
		{"key in the certificate", cert(join(leaf.pem(), key)), codes(verify.PrivateKeyInCertificateFile), "tls.crt holds a private key"},
		{"key in the bundle", anchors(join(ca.pem(), key)), codes(verify.PrivateKeyInCertificateFile, verify.BundleBytesDiffer), "ca.crt holds a private key"},
		{"files swapped", func(s *verify.Service) { s.Cert, s.Key = s.Key, s.Cert },
			codes(verify.PrivateKeyInCertificateFile, verify.NotPEM, verify.BadKey), "holds a certificate and no key"},
		{"another key", keys(keyPEM(t, newKey(t))), codes(verify.KeyMismatch), "is not the key of"},
		{"garbled key", keys(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{4, 1, 2}})), codes(verify.BadKey), "cannot be read"},
		{"cut key", keys(key[:len(key)/2]), codes(verify.TruncatedPEM), "tls.key has a BEGIN line"},
		{"encrypted key", keys(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{0x30, 0}})), codes(verify.EncryptedKey), ""},
		{"old encrypted key", keys([]byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMAA=\n-----END EC PRIVATE KEY-----\n")), codes(verify.EncryptedKey), ""},
		{"OpenSSH key", keys(pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte("openssh-key-v1\x00")})), codes(verify.BadKey), "OpenSSH"},
		{"root as leaf", withLeaf(*ca), codes(verify.RootInPlaceOfLeaf), "begins with the certificate of a CA"},
		{"expired", withLeaf(ca.leaf(t, "x", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-2*day), now.Add(-day) })), codes(verify.Expired), "expired on 2026-02-28T12:00:00Z"},
		{"not yet valid", withLeaf(ca.leaf(t, "x", func(c *x509.Certificate) { c.NotBefore = now.Add(day) })), codes(verify.NotYetValid), "not valid before 2026-03-02T12:00:00Z"},
		{"expires soon", withLeaf(ca.leaf(t, "x", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-91*day), now.Add(9*day) })), codes(verify.ExpiresSoon), "less than a tenth"},
		{"a tenth is left", withLeaf(ca.leaf(t, "x", func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-90*day), now.Add(10*day) })), nil, ""},
		{"two CAs", anchors(join(ca.pem(), other.pem())), codes(verify.BundleDiffers), "odd one out"},
		{"other bytes", anchors(join([]byte("# root\n"), ca.pem())), codes(verify.BundleBytesDiffer), "in other bytes"},
		{"other CA", anchors(other.pem()), codes(verify.BundleDiffers, verify.LeafNotSignedByOwnBundle, verify.WouldRefuse), ""},
		{"expired CA besides", anchors(join(ca.pem(), old.pem())), codes(verify.BundleDiffers, verify.CAExpired), "expired on"},
		{"future CA besides", anchors(join(ca.pem(), future.pem())), codes(verify.BundleDiffers, verify.CANotYetValid), "not valid before"},
		{"leaf in the bundle", anchors(join(ca.pem(), leaf.pem())), codes(verify.BundleDiffers, verify.LeafInBundle), "not the certificate of a CA"},
		{"intermediate in the bundle", anchors(join(ca.pem(), inter.pem())), codes(verify.BundleDiffers, verify.IntermediateInBundle), "not self-signed"},
		{"namesake", anchors(join(ca.pem(), again.pem())), codes(verify.BundleDiffers, verify.SameSubjectInBundle), "by the authority key identifier alone"},
		{"the same CA renewed", anchors(join(ca.pem(), renewed.pem())), codes(verify.BundleDiffers), ""},
		{"Windows line endings", cert([]byte(strings.ReplaceAll(certText, "\n", "\r\n"))), nil, ""},
		{"byte order mark", cert([]byte("\ufeff" + certText)), nil, ""},
		{"trailing blanks", cert([]byte(strings.ReplaceAll(certText, "\n", " \t\n"))), nil, ""},
		{"text around", cert([]byte("subject: <x>\n\n" + certText + "\nthe end")), nil, ""},
		{"no last newline", cert(bytes.TrimSpace(leaf.pem())), nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			services := healthy(t, ca, "a", "b", "c")
			x := service(t, "x", leaf, ca)
			tt.mend(&x)
			r := verify.Check(append(services, x), now)
			var got []verify.Code
			said := ""
			for _, f := range r.Findings {
				if f.Service == "x" {
					got = append(got, f.Code)
					said += f.Sentence + "\n"
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || !strings.Contains(said, tt.says) {
				t.Errorf("codes (-want +got):\n%ssaid, want %q:\n%s", diff, tt.says, said)
			}
		})
	}
}

func codes(c ...verify.Code) []verify.Code { return c }

func change(c *x509.Certificate, f func(*x509.Certificate)) *x509.Certificate {
	f(c)
	return c
}

// TestKeyForms: every form in which a key comes.
func TestKeyForms(t *testing.T) {
	ca := newCA(t, "root")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey := newKey(t).(*ecdsa.PrivateKey)
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	sec1PEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})
	params := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}})
	for name, tt := range map[string]struct {
		leaf issued
		pem  []byte
	}{
		"RSA PKCS #8":             {sign(t, leafTemplate("x"), rsaKey, ca), keyPEM(t, rsaKey)},
		"RSA PKCS #1":             {sign(t, leafTemplate("x"), rsaKey, ca), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})},
		"Ed25519":                 {sign(t, leafTemplate("x"), edKey, ca), keyPEM(t, edKey)},
		"ECDSA PKCS #8":           {sign(t, leafTemplate("x"), ecKey, ca), keyPEM(t, ecKey)},
		"ECDSA SEC 1":             {sign(t, leafTemplate("x"), ecKey, ca), sec1PEM},
		"ECDSA SEC 1, with curve": {sign(t, leafTemplate("x"), ecKey, ca), join(params, sec1PEM)},
	} {
		t.Run(name, func(t *testing.T) {
			s := service(t, "x", tt.leaf, ca)
			s.Key = tt.pem
			if r := verify.Check([]verify.Service{s}, now); len(r.Findings) > 0 {
				t.Error(r.Findings)
			}
			s.Key = keyPEM(t, newKey(t))
			if r := verify.Check([]verify.Service{s}, now); len(findings(r, verify.KeyMismatch)) != 1 {
				t.Error("another key was taken for this one")
			}
		})
	}
}

// TestCauses: the words for each way to be refused.
func TestCauses(t *testing.T) {
	ca := newCA(t, "root")
	again := newCA(t, "root") // the same name without key identifiers in common, see below
	inter := sign(t, caTemplate("inter"), newKey(t), ca)
	spent := sign(t, change(caTemplate("spent"), func(c *x509.Certificate) { c.NotAfter = now.Add(-day) }), newKey(t), ca)
	flat := sign(t, change(caTemplate("flat"), func(c *x509.Certificate) { c.MaxPathLenZero = true }), newKey(t), nil)
	belowFlat := sign(t, caTemplate("below"), newKey(t), &flat)
	narrow := sign(t, change(caTemplate("narrow"), func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"example.org"}
	}), newKey(t), nil)
	chain := func(certs ...issued) (b []byte) {
		for _, c := range certs {
			b = append(b, c.pem()...)
		}
		return b
	}
	own := sign(t, leafTemplate("own"), newKey(t), nil)
	for _, tt := range []struct {
		name           string
		chain          []byte
		trusts         *issued
		client, server verify.Cause
		alert          string
	}{
		{"accepted", chain(inter.leaf(t, "q"), inter), ca, "", "", ""},
		{"other CA", chain(newCA(t, "other").leaf(t, "q")), ca, verify.NoLocalIssuer, verify.NoLocalIssuer, "tlsv1 alert unknown ca"},
		{"intermediate missing", chain(inter.leaf(t, "q")), ca, verify.NoLocalIssuer, verify.NoLocalIssuer, "tlsv1 alert unknown ca"},
		{"root presented", chain(again.leaf(t, "q"), *again), &flat, verify.SelfSignedInChain, verify.SelfSignedInChain, "tlsv1 alert unknown ca"},
		{"self-signed", chain(own), ca, verify.SelfSigned, verify.SelfSigned, "tlsv1 alert unknown ca"},
		{"expired", chain(ca.leaf(t, "q", func(c *x509.Certificate) { c.NotAfter = now.Add(-1) })), ca, verify.HasExpired, verify.HasExpired, "sslv3 alert certificate expired"},
		{"expired, other CA", chain(flat.leaf(t, "q", func(c *x509.Certificate) { c.NotAfter = now.Add(-1) })), ca, verify.NoLocalIssuer, verify.NoLocalIssuer, "tlsv1 alert unknown ca"},
		{"future", chain(ca.leaf(t, "q", func(c *x509.Certificate) { c.NotBefore = now.Add(day) })), ca, verify.IsNotYetValid, verify.IsNotYetValid, "sslv3 alert bad certificate"},
		{"expired intermediate", chain(spent.leaf(t, "q"), spent), ca, verify.HasExpired, verify.HasExpired, "sslv3 alert certificate expired"},
		{"server only", chain(ca.leaf(t, "q", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })), ca, "", verify.WrongPurpose, "sslv3 alert unsupported certificate"},
		{"client only", chain(ca.leaf(t, "q", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })), ca, verify.WrongPurpose, "", "sslv3 alert unsupported certificate"},
		{"path too long", chain(belowFlat.leaf(t, "q"), belowFlat), &flat, verify.PathLengthExceeded, verify.PathLengthExceeded, "tlsv1 alert unknown ca"},
		{"name not permitted", chain(narrow.leaf(t, "q")), &narrow, verify.NameNotPermitted, verify.NameNotPermitted, "sslv3 alert certificate unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := service(t, "p", ca.leaf(t, "p"), tt.trusts)
			r := verify.Check([]verify.Service{p, {Name: "q", Cert: tt.chain, CA: p.CA}}, now)
			got := map[verify.Role]verify.Cause{}
			for _, f := range r.Refusals {
				if f.Refuser == "p" {
					got[f.RefuserRole] = f.Cause
				}
			}
			if got[verify.Client] != tt.client || got[verify.Server] != tt.server {
				t.Errorf("p refuses q: %v, want client %q, server %q", got, tt.client, tt.server)
			}
			for _, f := range findings(r, verify.WouldRefuse) {
				if f.Service == "p" && (!strings.Contains(f.Sentence, fmt.Sprintf("%q", tt.alert)) || !strings.Contains(f.Sentence, "CERTIFICATE_VERIFY_FAILED")) {
					t.Errorf("no alert %q in: %s", tt.alert, f)
				}
			}
		})
	}
}

// TestSignatureFailure: a CA made again under its old name, key identifiers left out.
func TestSignatureFailure(t *testing.T) {
	bare := func() *issued {
		ca := sign(t, change(caTemplate("same"), func(c *x509.Certificate) { c.SubjectKeyId = []byte("same") }), newKey(t), nil)
		return &ca
	}
	one, two := bare(), bare()
	p, q := service(t, "p", one.leaf(t, "p"), one), service(t, "q", two.leaf(t, "q"), one)
	r := verify.Check([]verify.Service{p, q}, now)
	if len(r.Refusals) != 2 || r.Refusals[0].Cause != verify.SignatureFailure {
		t.Errorf("refusals %+v", r.Refusals)
	}
}

// TestSameSubjectInBundle: it is said whose certificates do not say which of the namesakes they mean.
func TestSameSubjectInBundle(t *testing.T) {
	one, two := newCA(t, "root"), newCA(t, "root")
	bare := *one
	bare.cert = &x509.Certificate{} // what crypto/x509 copies the key identifier from
	*bare.cert = *one.cert
	bare.cert.SubjectKeyId = nil
	services := []verify.Service{
		service(t, "p", one.leaf(t, "p"), one, two, two), service(t, "q", bare.leaf(t, "q"), one, two),
		service(t, "r", bare.leaf(t, "r"), one),
	}
	r := verify.Check(services, now)
	got := findings(r, verify.SameSubjectInBundle)
	if len(got) != 2 || got[0].Service != "p" || !slices.Equal(got[0].Peers, []string{"q", "r"}) ||
		!strings.Contains(got[0].Sentence, "are the certificates of q and r") {
		t.Errorf("got %v", got)
	}
	if twice := findings(r, verify.DuplicateInBundle); len(twice) != 1 || !strings.Contains(twice[0].Sentence, "2 times") {
		t.Errorf("got %v", twice)
	}
}

// TestVerifierDependent: bundles that Go searches further than others do.
func TestVerifierDependent(t *testing.T) {
	key := newKey(t)
	renewedLater := sign(t, caTemplate("renewed"), key, nil)
	spent := sign(t, change(caTemplate("renewed"), func(c *x509.Certificate) { c.NotAfter = now.Add(-day) }), key, nil)
	drifted := sign(t, change(caTemplate("renewed"), func(c *x509.Certificate) { c.SubjectKeyId = []byte("drift") }), key, nil)
	bareA := sign(t, change(caTemplate("bare"), func(c *x509.Certificate) { c.SubjectKeyId = []byte("same") }), newKey(t), nil)
	bareB := sign(t, change(caTemplate("bare"), func(c *x509.Certificate) { c.SubjectKeyId = []byte("same") }), newKey(t), nil)
	root := newCA(t, "root")
	inter := sign(t, caTemplate("inter"), newKey(t), root)
	for _, tt := range []struct {
		name   string
		signer issued
		trusts []*issued
		want   string // the libraries that would refuse
	}{
		{"renewed copy first", renewedLater, []*issued{&renewedLater, &spent}, ""},
		{"expired copy first", renewedLater, []*issued{&spent, &renewedLater}, "but Envoy (BoringSSL) would refuse"},
		{"key identifier drifted", renewedLater, []*issued{&drifted}, "but Envoy (BoringSSL) and OpenSSL would refuse"},
		{"namesake first", bareB, []*issued{&bareA, &bareB}, "but Envoy (BoringSSL) and OpenSSL would refuse"},
		{"namesake second", bareB, []*issued{&bareB, &bareA}, ""},
		{"intermediate as anchor", inter, []*issued{&inter}, "but OpenSSL would refuse"},
		{"intermediate beside its root", inter, []*issued{&inter, root}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var services []verify.Service
			for _, n := range []string{"p", "q"} {
				services = append(services, service(t, n, tt.signer.leaf(t, n), tt.trusts...))
			}
			r := verify.Check(services, now)
			if len(r.Refusals) > 0 {
				t.Fatalf("Go refuses: %v", r.Refusals)
			}
			got := findings(r, verify.VerifierDependent)
			if tt.want == "" && len(got) > 0 || tt.want != "" && (len(got) != 2 || !strings.Contains(got[0].Sentence, tt.want)) {
				t.Errorf("got %v, want %q", got, tt.want)
			}
		})
	}
}
