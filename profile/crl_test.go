package profile_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meshca/meshca/profile"
)

// crlTemplate is a good CRL with three entries.
func (c chain) crlTemplate() *x509.RevocationList {
	serial := func(n int64) *big.Int { return new(big.Int).Lsh(big.NewInt(n), 100) }
	return profile.CRLTemplate(profile.CRLNumber(0, now), profile.CRLWindow(now, 5*time.Minute, c.issuing), []profile.Revoked{
		{Serial: serial(3), At: now.Add(-time.Hour), Reason: profile.KeyCompromise},
		{Serial: serial(1), At: now.Add(-time.Hour), Reason: profile.Unspecified},
		{Serial: serial(2), At: now.Add(-time.Hour), Reason: profile.PrivilegeWithdrawn},
	}, c.issuing)
}

// signCRL signs a template and parses the result, nil where crypto/x509 refuses.
func (c chain) signCRL(template *x509.RevocationList) *x509.RevocationList {
	der, err := x509.CreateRevocationList(rand.Reader, template, c.issuing, c.key)
	if err != nil {
		return nil
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil
	}
	return list
}

func TestOwnCRLPasses(t *testing.T) {
	c := newChain(t)
	template := c.crlTemplate()
	if err := profile.LintCRL(template, c.issuing); err != nil {
		t.Errorf("template: %v", err)
	}
	list := c.signCRL(template)
	if err := profile.LintCRL(list, c.issuing); err != nil {
		t.Errorf("result: %v", err)
	}
	if got := now.Sub(list.ThisUpdate); got != 5*time.Minute {
		t.Errorf("backdated by %s", got)
	}
	if got := list.NextUpdate.Sub(now); got != 7*24*time.Hour {
		t.Errorf("nextUpdate is %s ahead", got)
	}
	var codes []int
	for _, e := range list.RevokedCertificateEntries {
		codes = append(codes, e.ReasonCode)
	}
	if len(codes) != 3 || codes[0] != 0 || codes[1] != 9 || codes[2] != 1 {
		t.Errorf("reasons %v in the order of the serials, want unspecified, privilegeWithdrawn and keyCompromise", codes)
	}
	empty := profile.CRLTemplate(1, profile.CRLWindow(now, 0, c.root), nil, c.root)
	if err := profile.LintCRL(empty, c.root); err != nil {
		t.Errorf("a root's: %v", err)
	}
}

// TestCRLLint breaks a good CRL in one way at a time. Where crypto/x509 signs the broken template, the result must
// be refused by the same clause.
func TestCRLLint(t *testing.T) {
	c := newChain(t)
	extension := func(id asn1.ObjectIdentifier, critical bool) []pkix.Extension {
		return []pkix.Extension{{Id: id, Critical: critical, Value: []byte{2, 1, 1}}}
	}
	first := func(l *x509.RevocationList) *x509.RevocationListEntry { return &l.RevokedCertificateEntries[0] }
	for name, tc := range map[string]struct {
		clause string
		break_ func(*x509.RevocationList)
	}{
		"another issuer":    {"5.1.2.3", func(l *x509.RevocationList) { l.Issuer.CommonName = "other" }},
		"ends before begin": {"5.1.2.5", func(l *x509.RevocationList) { l.NextUpdate = l.ThisUpdate }},
		"no end":            {"5.1.2.5", func(l *x509.RevocationList) { l.NextUpdate = time.Time{} }},
		"half a second":     {"5.1.2.5", func(l *x509.RevocationList) { l.ThisUpdate = l.ThisUpdate.Add(time.Second / 2) }},
		"before the issuer": {"5.1.2.4", func(l *x509.RevocationList) { l.ThisUpdate = c.issuing.NotBefore.Add(-time.Second) }},
		"after the issuer": {"5.1.2.4", func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = now.Add(2161*time.Hour), now.Add(2162*time.Hour)
		}},
		"serial zero": {"5.1.2.6", func(l *x509.RevocationList) { first(l).SerialNumber = big.NewInt(0) }},
		"serial of 161 bits": {"5.1.2.6", func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[2].SerialNumber = new(big.Int).Lsh(big.NewInt(1), 161)
		}},
		"serial twice":      {"5.1.2.6", func(l *x509.RevocationList) { first(l).SerialNumber = l.RevokedCertificateEntries[1].SerialNumber }},
		"not sorted":        {"5.1.2.6", func(l *x509.RevocationList) { first(l).SerialNumber = new(big.Int).Lsh(big.NewInt(9), 100) }},
		"revoked later":     {"5.1.2.6", func(l *x509.RevocationList) { first(l).RevocationTime = l.ThisUpdate.Add(time.Second) }},
		"delta":             {"5.2 ", func(l *x509.RevocationList) { l.ExtraExtensions = extension(asn1.ObjectIdentifier{2, 5, 29, 27}, true) }},
		"unknown and plain": {"5.2 ", func(l *x509.RevocationList) { l.ExtraExtensions = extension(asn1.ObjectIdentifier{1, 2, 3}, false) }},
		"number twice": {"5.2 ", func(l *x509.RevocationList) {
			l.ExtraExtensions = extension(asn1.ObjectIdentifier{2, 5, 29, 20}, false)
		}},
		"foreign AKI":       {"5.2.1", func(l *x509.RevocationList) { l.AuthorityKeyId = []byte("foreign") }},
		"no AKI":            {"5.2.1", func(l *x509.RevocationList) { l.AuthorityKeyId = nil }},
		"no number":         {"5.2.3", func(l *x509.RevocationList) { l.Number = nil }},
		"number zero":       {"5.2.3", func(l *x509.RevocationList) { l.Number = big.NewInt(0) }},
		"number negative":   {"5.2.3", func(l *x509.RevocationList) { l.Number = big.NewInt(-1) }},
		"number of 65 bits": {"5.2.3", func(l *x509.RevocationList) { l.Number = new(big.Int).Lsh(big.NewInt(1), 64) }},
		"cACompromise":      {"5.3.1", func(l *x509.RevocationList) { first(l).ReasonCode = 2 }},
		"certificateHold":   {"5.3.1", func(l *x509.RevocationList) { first(l).ReasonCode = 6 }},
		"removeFromCRL":     {"5.3.1", func(l *x509.RevocationList) { first(l).ReasonCode = 8 }},
		"no such reason":    {"5.3.1", func(l *x509.RevocationList) { first(l).ReasonCode = 77 }},
		"entry of an other": {"5.3.1", func(l *x509.RevocationList) {
			first(l).ExtraExtensions = extension(asn1.ObjectIdentifier{2, 5, 29, 29}, true)
		}},
		"entry with a remark": {"5.3.1", func(l *x509.RevocationList) {
			first(l).ExtraExtensions = extension(asn1.ObjectIdentifier{2, 5, 29, 24}, false)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			template := c.crlTemplate()
			tc.break_(template)
			if err := profile.LintCRL(template, c.issuing); err == nil || !strings.Contains(err.Error(), tc.clause) {
				t.Fatalf("template: %v, want a violation of %s", err, tc.clause)
			}
			switch name {
			case "another issuer", "foreign AKI", "no AKI", "half a second":
				return // Go corrects these while it signs: the result is in order
			}
			list := c.signCRL(template)
			if list == nil {
				return // crypto/x509 refuses a few itself
			}
			if err := profile.LintCRL(list, c.issuing); err == nil || !strings.Contains(err.Error(), tc.clause) {
				t.Errorf("result: %v, want a violation of %s", err, tc.clause)
			}
		})
	}
}

// TestCRLOfAnother: what another CA signed, or what was changed after it was signed, is refused.
func TestCRLOfAnother(t *testing.T) {
	c, other := newChain(t), newChain(t)
	list := c.signCRL(c.crlTemplate())
	if err := profile.LintCRL(list, other.issuing); err == nil || !strings.Contains(err.Error(), "5.1.2.2") ||
		!strings.Contains(err.Error(), "5.1.2.3") || !strings.Contains(err.Error(), "5.2.1 ") {
		t.Errorf("another CA's: %v", err)
	}
	list.Signature[len(list.Signature)-1] ^= 1
	if err := profile.LintCRL(list, c.issuing); err == nil || !strings.Contains(err.Error(), "5.1.2.2") {
		t.Errorf("a forged one: %v", err)
	}
	explicit := c.signCRL(c.crlTemplate())
	first := &explicit.RevokedCertificateEntries[0]
	first.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 21}, Value: []byte{10, 1, 0}}}
	if err := profile.LintCRL(explicit, c.issuing); err == nil || !strings.Contains(err.Error(), "5.3.1") {
		t.Errorf("unspecified in words: %v", err)
	}
}

func TestParseReason(t *testing.T) {
	for _, r := range profile.Reasons() {
		if got, err := profile.ParseReason(string(r)); err != nil || got != r {
			t.Errorf("%s is read as %s (%v)", r, got, err)
		}
	}
	for _, s := range []string{"", "KeyCompromise", "keycompromise", "cACompromise", "certificateHold", "removeFromCRL", "1", "x\x00y"} {
		_, err := profile.ParseReason(s)
		if err == nil || !strings.Contains(err.Error(), "privilegeWithdrawn") || s != "" && strings.Contains(err.Error(), "\x00") {
			t.Errorf("%q: %v, want a refusal that lists what is allowed", s, err)
		}
	}
}

// TestCRLNumbers: numbers grow with each CRL, whatever the clock does, and no older copy of a store brings one
// back, as long as the clock does not go back with it.
func TestCRLNumbers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		at, last, restored := now, uint64(0), uint64(0)
		for range rapid.IntRange(1, 30).Draw(rt, "CRLs") {
			at = at.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(24*time.Hour)).Draw(rt, "later")))
			next := profile.CRLNumber(last, at)
			if next <= last {
				rt.Fatalf("number %d after %d", next, last)
			}
			if rapid.Bool().Draw(rt, "copy") {
				restored = last
			}
			last = next
		}
		if at = at.Add(24 * time.Hour * 31); profile.CRLNumber(restored, at) <= last {
			rt.Fatalf("with the number %d of an older copy, %d comes after %d", restored, profile.CRLNumber(restored, at), last)
		}
	})
	if n := profile.CRLNumber(0, time.Unix(-5, 0)); n != 1 {
		t.Errorf("before 1970: %d", n)
	}
}
