package rotation

import (
	"crypto/x509"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/ca/catest"
)

// TestCheck: what is remembered of an issuing CA changes no verdict, whatever was verified before.
func TestCheck(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	root, other := catest.NewForeign(t, "root", now), catest.NewForeign(t, "other root", now)
	narrow := catest.NewForeign(t, "narrow root", now, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"good"} })
	brief := catest.NewForeign(t, "brief root", now, func(c *x509.Certificate) { c.NotAfter = now.Add(10 * 24 * time.Hour) })
	issuing := func(below *catest.Foreign) *catest.Foreign {
		shorter := func(c *x509.Certificate) { c.NotAfter = now.Add(20 * 24 * time.Hour) }
		return catest.Sign(t, catest.CATemplate("issuing", now, shorter), catest.NewKey(t), below)
	}
	ours, bound, late := issuing(root), issuing(narrow), issuing(brief)
	impostor := catest.NewForeign(t, "issuing", now)
	set := func(by, beside, anchor *catest.Foreign, name string, changes ...catest.Change) *Material {
		leaf := by.Leaf(t, name, now, changes...)
		return &Material{Cert: append(leaf.PEM(), beside.PEM()...), Key: leaf.KeyPEM(t), CA: anchor.PEM()}
	}
	mixed := set(ours, ours, root, "a")
	mixed.Key = set(ours, ours, root, "a").Key
	var checks checks
	for _, tt := range []struct {
		name string
		set  *Material
		at   time.Time
		want string // in the error, "" for none
	}{
		{"the first", set(ours, ours, root, "a"), now, ""},
		{"another leaf", set(ours, ours, root, "b"), now, ""},
		{"an impostor's leaf", set(impostor, ours, root, "a"), now, "does not verify"},
		{"another bundle", set(ours, ours, other, "a"), now, "does not verify"},
		{"another key", mixed, now, "key does not match"},
		{"an expired leaf", set(ours, ours, root, "a", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }), now, "does not verify"},
		{"an expired issuing CA", set(ours, ours, root, "a"), now.Add(21 * 24 * time.Hour), "does not verify"},
		{"below a root that expires", set(late, late, brief, "a"), now, ""},
		{"an expired root", set(late, late, brief, "a"), now.Add(11 * 24 * time.Hour), "does not verify"},
		{"for servers alone", set(ours, ours, root, "a", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), now, "not good for"},
		{"below a constrained root", set(bound, bound, narrow, "good"), now, ""},
		{"outside its constraint", set(bound, bound, narrow, "bad"), now, "does not verify"},
		{"directly below the root", set(root, ours, root, "a"), now, ""},
	} {
		for _, again := range []string{"", ", again"} {
			err := checks.check(tt.set, tt.at, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%s%s: %v, want %q", tt.name, again, err, tt.want)
			}
		}
	}
}

// TestPermits: every certificate that names usages must name the one that is asked for, or any.
func TestPermits(t *testing.T) {
	cert := func(usages ...x509.ExtKeyUsage) *x509.Certificate { return &x509.Certificate{ExtKeyUsage: usages} }
	unknown := &x509.Certificate{UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3}}}
	const server, client = x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	for name, tt := range map[string]struct {
		chain []*x509.Certificate
		want  bool
	}{
		"both and a CA without": {[]*x509.Certificate{cert(server, client), cert()}, true},
		"the other alone":       {[]*x509.Certificate{cert(client), cert()}, false},
		"any":                   {[]*x509.Certificate{cert(x509.ExtKeyUsageAny), cert()}, true},
		"a CA for the other":    {[]*x509.Certificate{cert(server, client), cert(client)}, false},
		"an unknown one alone":  {[]*x509.Certificate{cert(server, client), unknown}, false},
		"none at all":           {[]*x509.Certificate{cert()}, true},
	} {
		if got := permits(tt.chain, server); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}
