package rotation

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/verify"
)

// epoch is the instant of every test here.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// ourCA makes what meshca signs leaves with: a root, and an issuing CA below it.
func ourCA(t catest.Failer) (root, issuing *catest.Foreign) {
	t.Helper()
	root = catest.Sign(t, catest.CATemplate("meshca root g1", epoch), caKeys()[0], nil)
	return root, catest.Sign(t, catest.CATemplate("meshca issuing CA 1", epoch), caKeys()[1], root)
}

// caKeys are those of other CAs: RSA, since verifying is what takes the time here.
var caKeys = sync.OnceValue(func() (keys []crypto.Signer) {
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys = append(keys, key)
	}
	return keys
})

// A ruin is a random mesh of several CAs that do not go together.
type ruin struct {
	t        *rapid.T
	keys     []crypto.Signer
	cas      []*catest.Foreign // that sign leaves, and stand in ca.crt
	services []*ruined
}

// ruined is one service of it.
type ruined struct {
	verify.Service
	fixed bool // it is refused: its place is not ours to write
}

func (r *ruin) chance(label string, of int) bool {
	return rapid.IntRange(0, of-1).Draw(r.t, label) == 0
}

func (r *ruin) one(label string) *catest.Foreign {
	return r.cas[rapid.IntRange(0, len(r.cas)-1).Draw(r.t, label)]
}

// dates makes one certificate in so many an expired one, one of the future, or one that ends soon.
func (r *ruin) dates(of int) catest.Change {
	n := rapid.IntRange(0, of-1).Draw(r.t, "dates")
	return func(c *x509.Certificate) {
		switch n {
		case 1:
			c.NotBefore, c.NotAfter = epoch.Add(-100*time.Hour), epoch.Add(-time.Hour)
		case 2:
			c.NotBefore = epoch.Add(time.Hour)
		case 3:
			c.NotAfter = epoch.Add(50 * time.Hour)
		}
	}
}

// authorities draws roots, roots made again under the same name with the same key or with another, intermediates
// and cross-signed ones.
func (r *ruin) authorities() {
	names := []string{"root A", "root B"}
	identifiers := [][]byte{nil, nil, nil, {1, 2, 3}}
	for range rapid.IntRange(1, 6).Draw(r.t, "CAs") {
		name := rapid.SampledFrom(names).Draw(r.t, "name")
		template := catest.CATemplate(name, epoch, r.dates(12))
		template.SubjectKeyId = rapid.SampledFrom(identifiers).Draw(r.t, "identifier")
		key := r.keys[rapid.IntRange(0, len(r.keys)-1).Draw(r.t, "key")]
		var parent *catest.Foreign
		if len(r.cas) > 0 && r.chance("below another", 2) {
			parent = r.signer("parent")
			if r.chance("intermediate", 2) {
				template.Subject.CommonName = "intermediate " + rapid.SampledFrom(names).Draw(r.t, "name")
			}
		}
		r.cas = append(r.cas, catest.Sign(r.t, template, key, parent))
	}
}

// signer is a CA that may not say which key it is.
func (r *ruin) signer(label string) *catest.Foreign {
	signer := r.one(label)
	if r.chance("nameless", 2) {
		return signer.Nameless()
	}
	return signer
}

// service draws one service: its leaf, what it presents with it and whom it trusts.
func (r *ruin) service(name string) *ruined {
	key := catest.NewKey(r.t)
	var parent *catest.Foreign
	if !r.chance("self-signed", 12) {
		parent = r.signer("issuer")
	}
	template := catest.LeafTemplate(name, epoch, r.dates(12))
	template.IsCA = r.chance("leaf of a CA", 12)
	leaf := catest.Sign(r.t, template, key, parent)
	s := &ruined{Service: verify.Service{Name: name, Cert: leaf.PEM(), Key: leaf.KeyPEM(r.t), CA: []byte{}}}
	for range rapid.IntRange(0, 2).Draw(r.t, "presents") {
		s.Cert = append(s.Cert, r.one("presents").PEM()...)
	}
	for range rapid.IntRange(0, 4).Draw(r.t, "trusts") {
		s.CA = append(s.CA, r.one("trusts").PEM()...)
	}
	if r.chance("trusts a leaf", 12) {
		s.CA = append(s.CA, leaf.PEM()...)
	}
	switch rapid.IntRange(0, 19).Draw(r.t, "harm") {
	case 0:
		s.Key = nil
	case 1:
		s.Key = (&catest.Foreign{Key: catest.NewKey(r.t)}).KeyPEM(r.t)
	case 2:
		s.Cert = []byte("REPLACE_ME\n")
	case 3:
		s.Cert, s.Key = nil, nil
	}
	s.fixed = r.chance("refused", 8)
	return s
}

func drawRuin(t *rapid.T) *ruin {
	r := &ruin{t: t, keys: caKeys()}
	r.authorities()
	for i := range rapid.IntRange(2, 4).Draw(t, "services") {
		r.services = append(r.services, r.service(fmt.Sprintf("s%d", i)))
	}
	return r
}

// asSeen is what the engine sees of the service.
func (s *ruined) asSeen() Seen {
	seen := Seen{Observation: Observation{Cert: s.Cert, Key: s.Key, CA: s.CA}}
	seen.Leaf = firstCertificate(s.Cert)
	return seen
}

// party is the service as the audit sees it.
func (s *ruined) party() *party {
	p := &party{service: s.Name, held: certificates(s.CA), fixed: s.fixed}
	if leaf, _ := usable(s.asSeen(), epoch); leaf != LeafNone {
		p.chains = append(p.chains, certificates(s.Cert))
	}
	return p
}

// refusals are who refuses whom by the report, and where a library other than Go's does.
func refusals(services []verify.Service) map[string]bool {
	refused := make(map[string]bool)
	report := verify.Check(services, epoch)
	for _, row := range report.Services {
		for _, other := range report.Services {
			if !row.Compared || !other.Compared {
				refused[row.Name+" client "+other.Name], refused[row.Name+" server "+other.Name] = true, true
			}
		}
	}
	for _, r := range report.Refusals {
		refused[r.Refuser+" "+string(r.RefuserRole)+" "+r.Refused] = true
	}
	for _, f := range report.Findings {
		if f.Code == verify.VerifierDependent {
			for _, peer := range f.Peers {
				refused[f.Service+" client "+peer], refused[f.Service+" server "+peer] = true, true
			}
		}
	}
	return refused
}

// notWorse fails where anybody is refused in the second mesh and not in the first, by the report, by each
// verifier of the model for itself, or by Go.
func (a answers) notWorse(t catest.Failer, what string, before, after []verify.Service) {
	t.Helper()
	old, next := refusals(before), refusals(after)
	for _, p := range before {
		for _, q := range before {
			for _, role := range []string{"client", "server"} {
				pair := p.Name + " " + role + " " + q.Name
				if p.Name != q.Name && !old[pair] && next[pair] {
					t.Fatalf("%s: %s is refused, and was not", what, pair)
				}
			}
		}
	}
	for i, p := range before {
		for j, q := range before {
			for _, at := range []time.Time{epoch, epoch.Add(2 * time.Hour), epoch.Add(51 * time.Hour)} {
				had, has := a.accepts(p.CA, q.Cert, at), a.accepts(after[i].CA, after[j].Cert, at)
				if had.Except(has) != 0 {
					t.Fatalf("%s: %s of %s at %s: accepted by %b, then by %b\n chain %s\nbefore %s\n after %s", what, p.Name, q.Name, at, had, has,
						told(q.Cert), told(p.CA), told(after[i].CA))
				}
			}
		}
	}
}

// told names certificates for people who look for what went wrong.
func told(data []byte) (words string) {
	for _, c := range certificates(data) {
		words += fmt.Sprintf(" %s by %s (%s, until %s, names a key: %t)", c.Subject.CommonName, c.Issuer.CommonName,
			verify.ShortFingerprint(c), c.NotAfter.Format(time.DateTime), len(c.AuthorityKeyId) > 0)
	}
	return words
}

// answers remembers what was answered: most pairs stay as they are from one step to the next.
type answers map[string]verify.Verifiers

// goToo is beside the model's verifiers what crypto/x509 says when it is asked as a program asks it.
const goToo verify.Verifiers = 1 << 15

func (a answers) accepts(bundle, chain []byte, at time.Time) verify.Verifiers {
	question := fmt.Sprintf("%s\n%s\n%d", bundle, chain, at.Unix())
	answer, known := a[question]
	if leaf := firstCertificate(chain); leaf != nil && !known {
		answer = verify.NewTrust(certificates(bundle)).Accepts(certificates(chain), at)
		if goAccepts(bundle, chain, at) {
			answer |= goToo
		}
		a[question] = answer
	}
	return answer
}

// goAccepts asks crypto/x509 in the way that a program does, in both roles.
func goAccepts(bundle, chain []byte, at time.Time) bool {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	intermediates.AppendCertsFromPEM(chain)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := firstCertificate(chain).Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return false
		}
	}
	return true
}

// TestNobodyGetsWorse takes random broken meshes over, all at once or in two parts, and then signs leaves anew,
// in any order.
func TestNobodyGetsWorse(t *testing.T) {
	root, issuing := ourCA(t)
	rapid.Check(t, func(t *rapid.T) {
		r := drawRuin(t)
		memory := make(answers)
		ours := []*x509.Certificate{root.Certificate}
		var mesh []verify.Service
		for _, s := range r.services {
			mesh = append(mesh, s.Service)
		}
		var known []ca.Anchor
		first := rapid.IntRange(1, len(r.services)).Draw(t, "first part")
		for _, count := range []int{first, len(r.services)} {
			var parties []*party
			for i, s := range r.services[:count] {
				p := s.party()
				p.held = certificates(mesh[i].CA)
				parties = append(parties, p)
			}
			known = newAudit(parties, ours, known, false, epoch).anchors()
			after := slices.Clone(mesh)
			for i, s := range r.services[:count] {
				if !s.fixed {
					after[i].CA = catest.PEM(ca.NewBundles(ours, known).For(s.Name).Certificates()...)
				}
			}
			memory.notWorse(t, "with the union", mesh[:count], after[:count])
			mesh = after
		}
		checkAnchors(t, r, known)
		signAnew(t, r, memory, mesh, issuing)
	})
}

// checkAnchors: a root enters the union only if a live leaf chains to it.
func checkAnchors(t *rapid.T, r *ruin, anchors []ca.Anchor) {
	t.Helper()
	for _, anchor := range anchors {
		if len(anchor.Services) == 0 {
			t.Fatalf("nobody needs %s", describeAnchor(anchor))
		}
		if epoch.After(anchor.Certificate.NotAfter) {
			t.Fatalf("%s has expired", describeAnchor(anchor))
		}
		for _, name := range anchor.Services {
			i := slices.IndexFunc(r.services, func(s *ruined) bool { return s.Name == name })
			if leaf, why := usable(r.services[i].asSeen(), epoch); leaf == LeafNone {
				t.Fatalf("%s is needed by %s, which has no live leaf: %s", describeAnchor(anchor), name, why)
			}
		}
	}
}

func indexes(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// signAnew signs services' leaves anew one after the other, once all have loaded the union: each instant on the
// way is a mix of old and new leaves.
func signAnew(t *rapid.T, r *ruin, memory answers, mesh []verify.Service, issuing *catest.Foreign) {
	t.Helper()
	for n, i := range rapid.Permutation(indexes(len(r.services))).Draw(t, "order") {
		next := r.services[i]
		if next.fixed {
			continue
		}
		leaf := issuing.Leaf(t, next.Name, epoch)
		after := slices.Clone(mesh)
		after[i].Cert, after[i].Key = slices.Concat(leaf.PEM(), issuing.PEM()), leaf.KeyPEM(t)
		// Those whose place is not ours do not trust our root: that is why nothing is signed anew while they stand.
		var before, now []verify.Service
		for j, s := range r.services {
			if !s.fixed {
				before, now = append(before, mesh[j]), append(now, after[j])
			}
		}
		memory.notWorse(t, fmt.Sprintf("%d signed anew", n+1), before, now)
		for _, p := range now {
			if memory.accepts(p.CA, after[i].Cert, epoch) != allVerifiers {
				t.Fatalf("%s does not accept the new leaf of %s", p.Name, next.Name)
			}
		}
		mesh = after
	}
}

// allVerifiers is what accepts says of a chain that everybody accepts.
const allVerifiers = goToo | 1<<6 - 1
