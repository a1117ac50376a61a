package rotation

import (
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/test/need"
)

// programs are other people's verifiers; each says whether it accepts a chain with a ca.crt.
func programs(t *testing.T) map[string]func(bundle, chain []byte) bool {
	openssl, certtool, dir := need.Program(t, "openssl"), need.Program(t, "certtool"), t.TempDir()
	write := func(bundle, chain []byte) (caFile, leafFile, restFile string) {
		block := strings.Index(string(chain), "-----END CERTIFICATE-----\n") + len("-----END CERTIFICATE-----\n")
		for name, content := range map[string][]byte{"ca": bundle, "leaf": chain[:block], "rest": chain[block:], "chain": chain} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return filepath.Join(dir, "ca"), filepath.Join(dir, "leaf"), filepath.Join(dir, "rest")
	}
	accepts := map[string]func(bundle, chain []byte) bool{
		"GnuTLS": func(bundle, chain []byte) bool {
			caFile, _, _ := write(bundle, chain)
			return exec.Command(certtool, "--verify", "--load-ca-certificate", caFile, "--infile", filepath.Join(dir, "chain")).Run() == nil
		},
	}
	for _, partial := range []bool{false, true} {
		accepts[fmt.Sprintf("OpenSSL, partial chains %t", partial)] = func(bundle, chain []byte) bool {
			caFile, leafFile, restFile := write(bundle, chain)
			args := []string{"verify", "-no-CApath", "-no-CAstore", "-CAfile", caFile, "-purpose", "sslserver"}
			if partial {
				args = append(args, "-partial_chain")
			}
			if info, err := os.Stat(restFile); err == nil && info.Size() > 0 {
				args = append(args, "-untrusted", restFile)
			}
			return exec.Command(openssl, append(args, leafFile)...).Run() == nil
		}
	}
	return accepts
}

// A holder is a service with its ca.crt and what it presents.
type holder struct {
	name      string
	ca, chain []*x509.Certificate
	after     []*x509.Certificate
}

// takenOver gives each its ca.crt after the audit.
func takenOver(t *testing.T, holders []*holder, ours []*x509.Certificate) []ca.Anchor {
	t.Helper()
	var parties []*party
	for _, h := range holders {
		parties = append(parties, &party{service: h.name, held: h.ca, chains: [][]*x509.Certificate{h.chain}})
	}
	anchors := newAudit(parties, ours, nil, false, time.Now()).anchors()
	for _, h := range holders {
		h.after = ca.NewBundles(ours, anchors).For(h.name).Certificates()
	}
	return anchors
}

// TestSameName: two CAs of one name whose leaves do not say which key signed them, judged by the programs
// themselves. One bundle for all makes them refuse what they accepted; ours does not.
func TestSameName(t *testing.T) {
	now := time.Now()
	one, two := catest.NewForeign(t, "Mesh CA", now), catest.NewForeign(t, "Mesh CA", now)
	root := catest.NewForeign(t, "meshca root g1", now)
	issuing := catest.Sign(t, catest.CATemplate("meshca issuing CA 1", now), catest.NewKey(t), root)
	ours := []*x509.Certificate{root.Certificate}
	signed := func(by *catest.Foreign, name string) []*x509.Certificate {
		return []*x509.Certificate{by.Nameless().Leaf(t, name, now).Certificate}
	}
	holders := []*holder{
		{name: "a", ca: []*x509.Certificate{one.Certificate}, chain: signed(one, "a")},
		{name: "b", ca: []*x509.Certificate{one.Certificate, two.Certificate}, chain: signed(one, "b")},
		{name: "c", ca: []*x509.Certificate{two.Certificate, one.Certificate}, chain: signed(two, "c")},
		{name: "d", ca: []*x509.Certificate{two.Certificate}, chain: signed(two, "d")},
	}
	anchors := takenOver(t, holders, ours)
	if len(anchors) != 2 || len(anchors[0].Only) == 0 || len(anchors[1].Only) == 0 {
		t.Fatalf("anchors %+v: each is for some services only", anchors)
	}
	anew := []*x509.Certificate{issuing.Leaf(t, "anew", now).Certificate, issuing.Certificate}
	for name, accepts := range programs(t) {
		worse := 0
		for _, p := range holders {
			for _, q := range holders {
				had := accepts(catest.PEM(p.ca...), catest.PEM(q.chain...))
				for _, order := range [][]*x509.Certificate{{one.Certificate, two.Certificate}, {two.Certificate, one.Certificate}} {
					if had && !accepts(catest.PEM(slices.Concat(ours, order)...), catest.PEM(q.chain...)) {
						worse++
					}
				}
				if had && !accepts(catest.PEM(p.after...), catest.PEM(q.chain...)) {
					t.Errorf("%s: %s accepted %s, and does not with its new ca.crt", name, p.name, q.name)
				}
			}
			if !accepts(catest.PEM(p.after...), catest.PEM(anew...)) {
				t.Errorf("%s: %s does not accept a leaf of ours", name, p.name)
			}
		}
		if worse == 0 {
			t.Errorf("%s takes one bundle for all: then nothing need be apart", name)
		}
	}
}

// TestSameNameWithIdentifiers: where leaves say which key signed them, there is one bundle for all.
func TestSameNameWithIdentifiers(t *testing.T) {
	now := time.Now()
	one, two := catest.NewForeign(t, "Mesh CA", now), catest.NewForeign(t, "Mesh CA", now)
	ours := []*x509.Certificate{catest.NewForeign(t, "meshca root g1", now).Certificate}
	holders := []*holder{
		{name: "a", ca: []*x509.Certificate{one.Certificate}, chain: []*x509.Certificate{one.Leaf(t, "a", now).Certificate}},
		{name: "b", ca: []*x509.Certificate{two.Certificate}, chain: []*x509.Certificate{two.Leaf(t, "b", now).Certificate}},
	}
	for _, anchor := range takenOver(t, holders, ours) {
		if len(anchor.Only) > 0 {
			t.Errorf("not for all: %s", describeAnchor(anchor))
		}
	}
	for name, accepts := range programs(t) {
		for _, p := range holders {
			for _, q := range holders {
				if !accepts(catest.PEM(p.after...), catest.PEM(q.chain...)) {
					t.Errorf("%s: %s refuses %s with the union", name, p.name, q.name)
				}
			}
		}
	}
}

// TestAnchorsThatAreNoRoots: OpenSSL goes on from an anchor that is not self-signed, and wants the root too.
func TestAnchorsThatAreNoRoots(t *testing.T) {
	now := time.Now()
	root, other := catest.NewForeign(t, "Root", now), catest.NewForeign(t, "Other root", now)
	key := catest.NewKey(t)
	below := catest.Sign(t, catest.CATemplate("Intermediate", now), key, root)
	crossed := catest.Sign(t, catest.CATemplate("Intermediate", now), key, other)
	ours := []*x509.Certificate{catest.NewForeign(t, "meshca root g1", now).Certificate}
	leaf := func(name string, with ...*x509.Certificate) []*x509.Certificate {
		return append([]*x509.Certificate{below.Leaf(t, name, now).Certificate}, with...)
	}
	holders := []*holder{
		{name: "a", ca: []*x509.Certificate{below.Certificate, root.Certificate}, chain: leaf("a")},
		{name: "b", ca: []*x509.Certificate{root.Certificate}, chain: leaf("b", below.Certificate)},
		{name: "c", ca: []*x509.Certificate{crossed.Certificate}, chain: leaf("c", crossed.Certificate)},
		{name: "d", ca: []*x509.Certificate{other.Certificate}, chain: leaf("d", below.Certificate, crossed.Certificate)},
	}
	takenOver(t, holders, ours)
	for name, accepts := range programs(t) {
		for _, p := range holders {
			for _, q := range holders {
				if accepts(catest.PEM(p.ca...), catest.PEM(q.chain...)) && !accepts(catest.PEM(p.after...), catest.PEM(q.chain...)) {
					t.Errorf("%s: %s accepted %s, and does not with its new ca.crt", name, p.name, q.name)
				}
			}
		}
	}
}
