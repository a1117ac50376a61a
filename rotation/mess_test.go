package rotation_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/verify"
)

// The incident: five services of two CAs. bookapi and envoy are whole, of a CA each; timescaledb holds a
// placeholder, pgadmin an expired leaf, search a key that is not its leaf's.
var incident = []string{"bookapi", "envoy", "pgadmin", "search", "timescaledb"}

// A mess is a world whose places other CAs have filled.
type mess struct {
	*world
	one, two *catest.Foreign
	was      map[string]rotation.Observation

	mu      sync.Mutex
	readers map[string]rotation.Readers
	unread  error
}

const hold = 2 * time.Minute

// broken runs a test in virtual time on the incident.
func broken(t *testing.T, test func(*testing.T, *mess)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newMess(t)) })
}

func newMess(t *testing.T) *mess {
	w := newWorld(t)
	w.names, w.hold, w.target.Now = incident, hold, time.Now
	now := time.Now()
	m := &mess{world: w, one: catest.NewForeign(t, "Old mesh CA", now), two: catest.NewForeign(t, "New mesh CA", now), readers: make(map[string]rotation.Readers)}
	w.target.Read = func(services []string) map[string]rotation.Readers {
		m.mu.Lock()
		defer m.mu.Unlock()
		all := maps.Clone(m.readers)
		for _, name := range services {
			if m.unread != nil {
				all[name] = rotation.Readers{Err: m.unread}
			}
		}
		return all
	}
	m.ruin(t, 29*24*time.Hour)
	return m
}

// ruin fills the places, with leaves of that life.
func (m *mess) ruin(t *testing.T, life time.Duration) {
	t.Helper()
	now := time.Now()
	lives := func(c *x509.Certificate) { c.NotAfter = now.Add(life) }
	m.fill(t, "bookapi", m.one.Leaf(t, "bookapi", now, lives), m.one)
	m.fill(t, "envoy", m.two.Leaf(t, "envoy", now, lives), m.two)
	m.fill(t, "pgadmin", m.one.Leaf(t, "pgadmin", now, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }), m.one, m.two)
	m.fill(t, "search", m.two.Leaf(t, "search", now, lives), m.two)
	m.target.Change("search", func(o *rotation.Observation) { o.Key = m.one.Leaf(t, "search", now).KeyPEM(t) })
	m.fill(t, "timescaledb", m.one.Leaf(t, "timescaledb", now), m.one)
	m.target.Change("timescaledb", func(o *rotation.Observation) { o.Cert, o.Key = []byte("REPLACE_ME\n"), []byte("REPLACE_ME\n") })
	m.was = m.target.Copy()
}

// fill gives a service a set of another CA.
func (m *mess) fill(t *testing.T, name string, leaf *catest.Foreign, trusts ...*catest.Foreign) {
	t.Helper()
	var bundle []byte
	for _, c := range trusts {
		bundle = append(bundle, c.PEM()...)
	}
	m.target.Change(name, func(o *rotation.Observation) {
		*o = rotation.Observation{Cert: leaf.PEM(), Key: leaf.KeyPEM(t), CA: bundle}
	})
}

// read says who is seen to read the services' sets from now on: a process each, created at the instant.
func (m *mess) read(created time.Time, names ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		m.readers[name] = rotation.Readers{Declared: m.readers[name].Declared, Known: []rotation.Reader{{Name: "pod/" + name, Created: created}}}
	}
}

func (m *mess) declare(declared rotation.DeclaredReaders, names ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		m.readers[name] = rotation.Readers{Declared: declared}
	}
}

func (m *mess) holds(t *testing.T, name string) rotation.Observation {
	t.Helper()
	o, err := m.target.Observe(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// anew says which services hold a leaf of ours.
func (m *mess) anew(t *testing.T) (names []string) {
	t.Helper()
	sets := m.target.Copy()
	for _, name := range m.names {
		block, _ := pem.Decode(sets[name].Cert)
		if block == nil {
			continue
		}
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil && m.Authority.Signed(leaf) {
			names = append(names, name)
		}
	}
	return names
}

// setsOf is what all services hold in the copy.
func setsOf(sets map[string]rotation.Observation) (services []verify.Service) {
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		services = append(services, verify.Service{Name: name, Cert: sets[name].Cert, Key: sets[name].Key, CA: sets[name].CA})
	}
	return services
}

// accepted lists the pairs of which nobody refuses the other, by what lies there.
func accepted(sets map[string]rotation.Observation) map[string]bool {
	pairs := make(map[string]bool)
	report := verify.Check(setsOf(sets), time.Now())
	for _, p := range report.Services {
		for _, q := range report.Services {
			if p.Compared && q.Compared && p.Name != q.Name {
				pairs[p.Name+" client "+q.Name], pairs[p.Name+" server "+q.Name] = true, true
			}
		}
	}
	for _, r := range report.Refusals {
		delete(pairs, r.Refuser+" "+string(r.RefuserRole)+" "+r.Refused)
	}
	return pairs
}

// notWorse fails where anybody refuses whom it accepted before.
func (m *mess) notWorse(t *testing.T) {
	t.Helper()
	now := accepted(m.target.Copy())
	for pair := range accepted(m.was) {
		if !now[pair] {
			t.Errorf("%s is refused, and was not", pair)
		}
	}
}

// wantUnion checks that step 1 is done: one bundle of our root and both CAs', the leaves that could be used are
// there still, and those that nobody could use are ours.
func (m *mess) wantUnion(t *testing.T) {
	t.Helper()
	for _, name := range incident {
		o := m.holds(t, name)
		for _, root := range [][]byte{catest.PEM(m.Authority.Root().Certificate), m.one.PEM(), m.two.PEM()} {
			if !bytes.Contains(o.CA, root) {
				t.Errorf("%s: the union is not whole:\n%s", name, o.CA)
			}
		}
		if !bytes.Equal(o.CA, m.holds(t, "envoy").CA) {
			t.Errorf("%s and envoy do not have one bundle", name)
		}
	}
	if got, want := m.anew(t), []string{"pgadmin", "timescaledb"}; !slices.Equal(got, want) {
		t.Errorf("leaves of ours at %v, want at %v", got, want)
	}
	for _, name := range []string{"bookapi", "envoy", "search"} {
		if o := m.holds(t, name); !bytes.Equal(o.Cert, m.was[name].Cert) || !bytes.Equal(o.Key, m.was[name].Key) {
			t.Errorf("the leaf or key of %s is not the one that was there", name)
		}
	}
	m.notWorse(t)
}

// wantAwaited checks whose processes are waited for.
func (m *mess) wantAwaited(t *testing.T, names ...string) {
	t.Helper()
	if got := m.engine.Status().Awaited; !slices.Equal(got, slices.Sorted(slices.Values(names))) {
		t.Errorf("waits for %v, want %v", got, names)
	}
}

// wantAllAnew checks that all is over: every leaf is ours, and all go together.
func (m *mess) wantAllAnew(t *testing.T) {
	t.Helper()
	if got := m.anew(t); !slices.Equal(got, m.names) {
		t.Errorf("leaves of ours at %v, want at all", got)
	}
	m.notWorse(t)
	for _, name := range m.names {
		if s := m.status(t, name); s.State != rotation.StateKept || s.WaitsFor != "" {
			t.Errorf("%+v", s)
		}
	}
	if report := verify.Check(setsOf(m.target.Copy()), time.Now()); len(report.Refusals) > 0 {
		t.Errorf("refusals: %v", report.Refusals)
	}
}

func (m *mess) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (m *mess) wantWaits(t *testing.T, name, text string) {
	t.Helper()
	if s := m.status(t, name); !strings.Contains(s.WaitsFor, text) {
		t.Errorf("%s (%s) waits for %q, want %q in it", name, s.State, s.WaitsFor, text)
	}
}

// untilDue lets the time pass until shortly before the leaves are due, and then until expiry wins.
func (m *mess) untilDue(t *testing.T) {
	t.Helper()
	due := m.status(t, "search").Due
	m.wait(time.Until(due) - time.Hour)
	m.wantUnion(t)
	m.wait(time.Until(due) + 2*time.Hour)
	if m.unread == nil {
		m.wantAllAnew(t)
		return
	}
	m.wantUnion(t)
	m.wait(2 * time.Hour) // the run at three is the last that leaves a quarter of the time from due to the end
	if got := m.anew(t); !slices.Equal(got, incident) {
		t.Errorf("leaves of ours at %v: expiry wins", got)
	}
}

func (m *mess) goOn(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := m.engine.Continue(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Wait()
}

// goOnRunning runs the engine that was started, until the returned stop.
func (m *mess) goOnRunning(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.engine.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

// lives runs an engine as a process that may end at its first failure, and then others, until all is signed anew.
func (m *mess) lives(t *testing.T) {
	t.Helper()
	if m.start(t) == nil {
		stop := m.goOnRunning(t)
		m.wait(30 * time.Second)
		m.wantUnion(t) // in the process that saw the failure
		stop()
	}
	m.store = m.Store
	stop := m.run(t)
	m.wait(2 * time.Minute)
	m.wantUnion(t)
	m.read(time.Now().Add(hold), incident...) // created later than anything written so far
	stop()
	stop = m.run(t)
	m.wait(4 * time.Minute)
	stop()
	m.wantAllAnew(t)
}

// issued counts the leaves of ours that the store has of a service.
func (m *mess) issued(t *testing.T, name string) (count int) {
	t.Helper()
	i := issuer.New(m.Store, m.Authority)
	leaf, _, err := i.Current(name, name)
	for ; leaf != nil && err == nil; leaf, err = i.Before(leaf) {
		if record := leaf.Record(); !record.Adopted() {
			count++
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// atPeace begins a take-over that waits for an unknown reader of each place.
func atPeace(t *testing.T, test func(*testing.T, *mess)) {
	t.Helper()
	broken(t, func(t *testing.T, m *mess) {
		stop := m.run(t)
		defer stop()
		m.wantUnion(t)
		m.log.take("")
		test(t, m)
	})
}
