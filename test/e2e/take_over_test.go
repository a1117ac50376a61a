package e2e

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// twoCAs is a mesh of folders as the incident left it: services of two CAs, some of which trust both, and a folder that
// was never filled in.
func twoCAs(t *testing.T) *Mesh {
	t.Helper()
	m := NewMesh(t, Settings{})
	one, two := newForeignCA(t), newForeignCA(t)
	for service, of := range map[string]struct {
		by     *foreignCA
		trusts []*foreignCA
	}{
		"envoy": {one, []*foreignCA{one, two}}, "pgadmin": {one, []*foreignCA{one}},
		"bookapi": {two, []*foreignCA{two}}, "timescaledb": {two, []*foreignCA{two, one}},
		"bookapi-mcp-server": {two, []*foreignCA{two}},
	} {
		must(t, os.MkdirAll(m.Path(service), 0o755))
		of.by.WriteSet(t, m.Path(service), service)
		var bundle []byte
		for _, ca := range of.trusts {
			bundle = append(bundle, ca.PEM()...)
		}
		writeFile(t, m.Path(service, caFile), bundle)
	}
	for _, file := range []string{certFile, keyFile} {
		writeFile(t, m.Path("bookapi-mcp-server", file), []byte("REPLACE_ME\n"))
	}
	return m
}

// plain reads a folder that no meshca has written yet, as a process did that started then.
func (m *Mesh) plain(service string) View {
	m.t.Helper()
	v := View{Name: service, File: make(map[string][]byte)}
	for _, file := range []string{certFile, keyFile, caFile} {
		v.File[file] = readFile(m.t, m.Path(service, file))
	}
	return v
}

// comeTogether says of each ordered pair of processes whether a handshake of theirs succeeds. Some hold no pair of
// certificate and key: they take part in none.
func comeTogether(clients, servers map[string]View) map[[2]string]bool {
	pairs := make(map[[2]string]bool)
	for _, client := range clients {
		for _, server := range servers {
			if _, err := client.pair(); err != nil || client.Name == server.Name {
				continue
			}
			if _, err := server.pair(); err != nil {
				continue
			}
			clientErr, serverErr := handshake(client, server)
			pairs[[2]string{client.Name, server.Name}] = clientErr == nil && serverErr == nil
		}
	}
	return pairs
}

// TestTakeOverOfTwoCAs: at once the union of trust in every folder, so that processes which have read it come together
// with all, and those which have not with whom they did before. The status says what the leaves wait for; a restart
// changes nothing; and on the operator's word all is of one CA, and all who have read the union take it.
func TestTakeOverOfTwoCAs(t *testing.T) {
	t.Parallel()
	m := twoCAs(t)
	before := make(map[string]View)
	for _, service := range fiveServices {
		before[service] = m.plain(service)
	}
	did := comeTogether(before, before)
	if refused := len(did) - count(did); count(did) == 0 || refused == 0 {
		t.Fatalf("it is no incident: %v", did)
	}

	p := m.Start()
	foreign := slices.DeleteFunc(slices.Clone(fiveServices), func(s string) bool { return s == "bookapi-mcp-server" })
	for _, service := range foreign {
		m.AwaitState(p, service, "taking over")
	}
	m.AwaitState(p, "bookapi-mcp-server", "kept")
	CheckInvariants(t, m)
	checkAllPairs(t, m)
	union := m.Views()
	for _, service := range foreign {
		if v := union[service]; !bytes.Equal(v.File[certFile], before[service].File[certFile]) || !bytes.Equal(v.File[keyFile], before[service].File[keyFile]) {
			t.Errorf("the leaf or key of %s was changed", service)
		}
	}
	checkNotWorse(t, "old processes beside new", did, comeTogether(before, union), comeTogether(union, before))
	s, _ := m.Status()
	for _, service := range foreign {
		if !strings.Contains(s.Of(service).WaitsFor, "meshca adopt "+service+" --continue") {
			t.Errorf("%s waits for %q", service, s.Of(service).WaitsFor)
		}
	}
	p.Stop()
	held := snapshot(t, m.Folders())
	p = m.Start()
	m.AwaitSound(p)
	checkUnchanged(t, held, snapshot(t, m.Folders()))

	if a := m.Run("adopt", "--config", m.Config(), "--continue"); a.Code != 0 {
		t.Fatalf("adopt --continue: %d\n%s%s", a.Code, a.Stdout, a.Stderr)
	}
	for _, service := range fiveServices {
		m.AwaitState(p, service, "kept")
	}
	CheckInvariants(t, m)
	checkAllPairs(t, m)
	checkNotWorse(t, "who has read the union", all(union), comeTogether(union, m.Views()), comeTogether(m.Views(), union))
}

func count(pairs map[[2]string]bool) (together int) {
	for _, ok := range pairs {
		if ok {
			together++
		}
	}
	return together
}

// all are all pairs, come together.
func all(views map[string]View) map[[2]string]bool {
	pairs := make(map[[2]string]bool)
	for p := range views {
		for q := range views {
			if p != q {
				pairs[[2]string{p, q}] = true
			}
		}
	}
	return pairs
}

// checkNotWorse sees that who came together before does so now, in either direction of old and new.
func checkNotWorse(t *testing.T, what string, before map[[2]string]bool, now ...map[[2]string]bool) {
	t.Helper()
	for pair, ok := range before {
		for _, pairs := range now {
			if ok && !pairs[pair] {
				t.Errorf("%s: %s → %s no longer come together", what, pair[0], pair[1])
			}
		}
	}
}

// TestStranger: a service that the catalogue brings later, with a set of a CA that none of the others trusts, is left alone
// until an operator names it. A word on all does not let that CA in.
func TestStranger(t *testing.T) {
	t.Parallel()
	m := twoCAs(t)
	stranger := newForeignCA(t)
	trusting := func() (services []string) {
		for _, service := range fiveServices {
			if bytes.Contains(readFile(t, m.Path(service, caFile)), stranger.PEM()) {
				services = append(services, service)
			}
		}
		return services
	}
	p := m.Start()
	m.AwaitState(p, "envoy", "taking over")
	must(t, os.MkdirAll(m.Path("website"), 0o755))
	stranger.WriteSet(t, m.Path("website"), "website")
	writeFile(t, m.Path("website", caFile), stranger.PEM())
	held := snapshot(t, m.Path("website"))
	m.Configure(Settings{Services: withFive("website")})
	m.AwaitState(p, "website", "refused")
	adopt := func(args ...string) string {
		t.Helper()
		a := m.Run(append([]string{"adopt", "--config", m.Config()}, args...)...)
		if a.Code != 0 {
			t.Fatalf("adopt %v: %d\n%s%s", args, a.Code, a.Stdout, a.Stderr)
		}
		return a.Stdout
	}
	if plan := adopt(); !strings.Contains(plan, "if they are to: meshca adopt website --continue") {
		t.Errorf("the plan does not say how it is let in:\n%s", plan)
	}
	adopt("--continue")
	m.AwaitState(p, "envoy", "kept")
	m.AwaitState(p, "website", "refused")
	checkUnchanged(t, held, snapshot(t, m.Path("website")))
	if services := trusting(); len(services) > 0 {
		t.Errorf("%v trust a CA that nobody has let in", services)
	}
	if said := adopt("website", "--continue"); !strings.Contains(said, "from then on every service accepts whoever is certified by ") {
		t.Errorf("what it means is not said:\n%s", said)
	}
	m.AwaitState(p, "website", "taking over")
	await(t, "all trust it", func() error {
		if services := trusting(); len(services) < len(fiveServices) {
			return fmt.Errorf("only %v do", services)
		}
		return nil
	})
	checkAllPairs(t, m)
}
