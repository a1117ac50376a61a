package rotation_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
	"github.com/meshca/meshca/store/storetest"
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
	w.target.Read = func([]string) (map[string]rotation.Readers, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		return maps.Clone(m.readers), m.unread
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

// TestIncident: the union is written at once; nothing is signed anew while one process is older than its write and
// the hold, also one that reads a set which is ours already; then all are.
func TestIncident(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.read(time.Now().Add(-time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		m.wantUnion(t)
		written := time.Now()
		m.wait(10 * time.Minute)
		m.wantUnion(t)
		for _, name := range incident {
			m.wantWaits(t, name, "pod/"+name)
		}
		for _, name := range []string{"bookapi", "envoy", "search"} {
			if s := m.status(t, name); s.State != rotation.StateTaking {
				t.Errorf("%+v", s)
			}
		}
		m.wantAwaited(t, incident...)
		if got, want := m.engine.Status().Waiting, []string{"bookapi", "envoy", "search"}; !slices.Equal(got, want) {
			t.Errorf("%v wait to be signed anew, want %v", got, want)
		}
		if s := m.status(t, "search"); len(s.Remarks) != 1 || !strings.Contains(s.Remarks[0].Text, "tls.key is not the key of tls.crt") {
			t.Errorf("that search's leaf cannot be used is not said: %+v", s)
		}
		if s := m.engine.Status(); len(s.Foreign) != 2 || s.Foreign[0].Why == "" {
			t.Errorf("foreign anchors in the status: %+v", s.Foreign)
		}
		m.read(written.Add(hold), incident...) // as old as may be
		m.wait(2 * time.Minute)
		m.wantUnion(t)
		m.read(written.Add(hold+time.Second), "bookapi", "envoy", "search", "timescaledb")
		m.wait(2 * time.Minute)
		m.wantUnion(t) // pgadmin's old process still trusts what it trusted
		m.wantWaits(t, "pgadmin", "pod/pgadmin")
		m.wantWaits(t, "bookapi", "")
		m.wantAwaited(t, "pgadmin")
		m.read(written.Add(hold+time.Second), "pgadmin")
		m.wait(2 * time.Minute)
		m.wantAllAnew(t)
		for _, name := range incident {
			if s := m.status(t, name); s.ForeignWrites != 0 || s.Healed != 0 {
				t.Errorf("what meshca does is no foreign write: %+v", s)
			}
		}
	})
}

// TestGate: what opens it, and what keeps it closed.
func TestGate(t *testing.T) {
	whole := []string{"bookapi", "envoy", "search"}
	for name, tc := range map[string]struct {
		prepare func(m *mess)
		begin   func(t *testing.T, m *mess)
		atOnce  bool          // the first look at the union opens it
		opens   time.Duration // after the union is written; 0: not before the leaf is due
	}{
		"nobody reads":    {prepare: func(m *mess) { m.declare(rotation.ReadersNone, incident...) }, atOnce: true, opens: time.Minute},
		"readers follow":  {prepare: func(m *mess) { m.declare(rotation.ReadersFollow, incident...) }, opens: hold + time.Minute},
		"unknown readers": {},
		"nobody reads, and one is seen": {
			prepare: func(m *mess) {
				m.declare(rotation.ReadersNone, incident...)
				m.read(time.Now().Add(-time.Hour), "envoy")
			},
			begin: func(t *testing.T, m *mess) {
				m.wait(10 * time.Minute)
				m.wantUnion(t)
				m.wantWaits(t, "envoy", "pod/envoy")
				m.read(time.Now(), "envoy")
			}, opens: time.Minute},
		"one unknown reader":            {prepare: func(m *mess) { m.declare(rotation.ReadersNone, "bookapi", "envoy") }},
		"who reads cannot be found out": {prepare: func(m *mess) { m.declare(rotation.ReadersNone, incident...); m.unread = targettest.ErrDown }},
		"an operator goes on":           {begin: func(t *testing.T, m *mess) { m.goOn(t, "") }, opens: time.Minute},
		"goes on, and who reads is unknown": {
			prepare: func(m *mess) { m.unread = targettest.ErrDown },
			begin:   func(t *testing.T, m *mess) { m.goOn(t, "") }, opens: time.Minute},
		"an operator goes on with one":   {begin: func(t *testing.T, m *mess) { m.goOn(t, "envoy") }},
		"an operator goes on one by one": {begin: func(t *testing.T, m *mess) { m.goOn(t, whole...) }, opens: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			broken(t, func(t *testing.T, m *mess) {
				if tc.prepare != nil {
					tc.prepare(m)
				}
				if tc.opens == 0 {
					m.sweep = time.Hour
					m.ruin(t, 48*time.Hour) // so that they are due in a moment of simulation
				}
				stop := m.run(t)
				defer stop()
				if !tc.atOnce {
					m.wantUnion(t)
				}
				if tc.begin != nil {
					tc.begin(t, m)
				}
				if tc.opens > 0 {
					if tc.opens > time.Minute {
						m.wait(tc.opens - time.Minute - time.Second)
						m.wantUnion(t)
					}
					m.wait(2 * time.Minute)
					m.wantAllAnew(t)
					return
				}
				m.untilDue(t)
			})
		})
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

// TestContinueWhatDoesNotWait: there is nothing to do, and that is said.
func TestContinueWhatDoesNotWait(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		stop := m.run(t)
		defer stop()
		if err := m.engine.Continue(t.Context(), "nobody"); !errors.Is(err, rotation.ErrNothingToDo) {
			t.Error(err)
		}
		m.goOn(t, "")
		m.wantAllAnew(t)
		if err := m.engine.Continue(t.Context(), ""); !errors.Is(err, rotation.ErrNothingToDo) {
			t.Error(err)
		}
	})
}

// TestExpiryWinsOverTheGate: a leaf that cannot wait for the next run is signed anew although old processes read
// it, and those are waited for all the same.
func TestExpiryWinsOverTheGate(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.sweep = time.Hour
		m.read(time.Now().Add(-time.Hour), incident...)
		now := time.Now()
		short := m.one.Leaf(t, "bookapi", now, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now, now.Add(3*time.Hour) })
		m.target.Change("bookapi", func(o *rotation.Observation) { o.Cert, o.Key = short.PEM(), short.KeyPEM(t) })
		m.was = m.target.Copy()
		stop := m.run(t)
		defer stop()
		m.wantUnion(t)
		m.wait(119 * time.Minute) // 0.667 of three hours are two and a second
		m.wantUnion(t)
		m.wait(2 * time.Minute)
		if got, want := m.anew(t), []string{"bookapi", "pgadmin", "timescaledb"}; !slices.Equal(got, want) {
			t.Errorf("leaves of ours at %v, want at %v", got, want)
		}
		m.read(time.Now(), "envoy", "pgadmin", "search", "timescaledb")
		m.wait(4 * time.Hour)
		if got := m.anew(t); len(got) != 3 {
			t.Errorf("leaves of ours at %v, and bookapi's old process does not trust our root", got)
		}
		m.wantWaits(t, "bookapi", "pod/bookapi")
		m.read(time.Now(), "bookapi")
		m.wait(61 * time.Minute)
		m.wantAllAnew(t)
	})
}

// TestARootThatEndsSoon: a leaf is of use no longer than the root above it.
func TestARootThatEndsSoon(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		now := time.Now()
		m.one = catest.NewForeign(t, "Old mesh CA", now, func(c *x509.Certificate) { c.NotAfter = now.Add(3 * time.Hour) })
		m.fill(t, "bookapi", m.one.Leaf(t, "bookapi", now), m.one, m.two)
		m.was = m.target.Copy()
		m.read(now.Add(-time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		if got := m.anew(t); slices.Contains(got, "envoy") {
			t.Errorf("leaves of ours at %v", got)
		}
		m.wait(3 * time.Hour)
		if got := m.anew(t); !slices.Contains(got, "bookapi") || slices.Contains(got, "envoy") {
			t.Errorf("leaves of ours at %v, want bookapi's: nobody accepts the old one any more", got)
		}
	})
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

// TestTakeoverFaults breaks each write of the store on the way to the union, in both ways; other processes go on.
func TestTakeoverFaults(t *testing.T) {
	for _, fault := range storetest.Faults() {
		for n, reached := 1, true; reached; n++ {
			t.Run(fmt.Sprintf("%s, write %d", fault, n), func(t *testing.T) {
				broken(t, func(t *testing.T, m *mess) {
					m.read(time.Now().Add(-time.Hour), incident...)
					faulty := storetest.NewFaulty(m.Store, n, fault)
					m.store = faulty
					m.lives(t)
					reached = faulty.Updates() >= n
				})
			})
		}
	}
}

// TestSigningAnewFaults does the same while leaves are signed anew, in the process that lives on.
func TestSigningAnewFaults(t *testing.T) {
	for _, fault := range storetest.Faults() {
		for n, reached := 1, true; reached; n++ {
			t.Run(fmt.Sprintf("%s, write %d", fault, n), func(t *testing.T) {
				broken(t, func(t *testing.T, m *mess) {
					m.declare(rotation.ReadersNone, incident...)
					faulty := storetest.NewFaulty(m.Store, n, fault)
					m.store = faulty
					if m.start(t) == nil { // the first pass writes the union, the second signs anew
						stop := m.goOnRunning(t)
						if n%2 == 0 { // in the process that saw the failure, or in another
							m.wait(3 * time.Minute)
							m.wantAllAnew(t)
						}
						stop()
					}
					reached = faulty.Updates() >= n
					m.store = m.Store
					stop := m.run(t)
					m.wait(3 * time.Minute)
					stop()
					m.wantAllAnew(t)
				})
			})
		}
	}
}

// TestTakeoverTargetFails breaks each write of the target, before and after it took effect.
func TestTakeoverTargetFails(t *testing.T) {
	for _, written := range []bool{false, true} {
		for n, reached := 1, true; reached; n++ {
			t.Run(fmt.Sprintf("written=%t, write %d", written, n), func(t *testing.T) {
				broken(t, func(t *testing.T, m *mess) {
					m.read(time.Now().Add(-time.Hour), incident...)
					writes := 0
					var mu sync.Mutex
					m.target.Fail = func(string) (error, bool) {
						mu.Lock()
						defer mu.Unlock()
						if writes++; writes == n {
							return targettest.ErrDown, written
						}
						return nil, true
					}
					stop := m.run(t)
					m.wait(time.Minute)
					m.wantUnion(t)
					stop()
					m.read(time.Now().Add(hold), incident...)
					stop = m.run(t)
					m.wait(4 * time.Minute)
					stop()
					m.wantAllAnew(t)
					for _, name := range incident {
						if records := m.issued(t, name); records != 1 {
							t.Errorf("%d leaves were issued for %s", records, name)
						}
					}
					reached = writes >= n
				})
			})
		}
	}
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

// TestDriftWhileTakingOver: what others write is put right, and whose root comes that way does not enter the union.
func TestDriftWhileTakingOver(t *testing.T) {
	atPeace(t, func(t *testing.T, m *mess) {
		third := catest.NewForeign(t, "Third CA", time.Now())
		for what, change := range map[string]func(*rotation.Observation){
			"another ca.crt":    func(o *rotation.Observation) { o.CA = third.PEM() },
			"ca.crt removed":    func(o *rotation.Observation) { o.CA = nil },
			"mark removed":      func(o *rotation.Observation) { o.Mark = nil },
			"chain removed":     func(o *rotation.Observation) { o.Cert = nil },
			"chain emptied":     func(o *rotation.Observation) { o.Cert = []byte{} },
			"a chain of more":   func(o *rotation.Observation) { o.Cert = append(o.Cert, third.PEM()...) },
			"both and the mark": func(o *rotation.Observation) { o.CA, o.Mark = third.PEM(), nil },
		} {
			m.target.Change("envoy", change)
			synctest.Wait()
			m.wantUnion(t)
			m.wait(time.Minute)
			if t.Failed() {
				t.Fatal(what)
			}
		}
		if s := m.engine.Status(); len(s.Foreign) != 2 {
			t.Errorf("anchors %+v", s.Foreign)
		}
		if healed := m.log.take("healed"); len(healed) < 6 {
			t.Errorf("%d heals: %q", len(healed), healed)
		}
	})
}

// TestReplacedWholeWhileTakingOver: a third CA's set is accepted by nobody. Its key is nowhere else, so a leaf of
// ours takes its place at once.
func TestReplacedWholeWhileTakingOver(t *testing.T) {
	for what, change := range map[string]func(t *testing.T, o *rotation.Observation, third *catest.Foreign){
		"by a third CA": func(t *testing.T, o *rotation.Observation, third *catest.Foreign) {
			leaf := third.Leaf(t, "envoy", time.Now())
			*o = rotation.Observation{Cert: leaf.PEM(), Key: leaf.KeyPEM(t), CA: third.PEM()}
		},
		"by nothing":            func(_ *testing.T, o *rotation.Observation, _ *catest.Foreign) { *o = rotation.Observation{} },
		"chain and key removed": func(_ *testing.T, o *rotation.Observation, _ *catest.Foreign) { o.Cert, o.Key = nil, nil },
	} {
		t.Run(what, func(t *testing.T) {
			atPeace(t, func(t *testing.T, m *mess) {
				third := catest.NewForeign(t, "Third CA", time.Now())
				m.target.Change("envoy", func(o *rotation.Observation) { change(t, o, third) })
				synctest.Wait()
				if got, want := m.anew(t), []string{"envoy", "pgadmin", "timescaledb"}; !slices.Equal(got, want) {
					t.Errorf("leaves of ours at %v, want at %v", got, want)
				}
				if o := m.holds(t, "envoy"); !bytes.Equal(o.CA, m.holds(t, "bookapi").CA) || bytes.Contains(o.CA, third.PEM()) {
					t.Errorf("ca.crt:\n%s", o.CA)
				}
				if len(m.engine.Status().Foreign) != 2 {
					t.Errorf("anchors %+v", m.engine.Status().Foreign)
				}
				m.wantWaits(t, "envoy", "unknown reader") // it may still be that of the old ca.crt
			})
		})
	}
}

// TestKeyLostWhileTakingOver: a leaf of ours would be refused by who does not trust our root yet, and processes
// may hold the old one. So it waits, as one does that is found without its key; ca.crt is kept all the while.
func TestKeyLostWhileTakingOver(t *testing.T) {
	atPeace(t, func(t *testing.T, m *mess) {
		for _, key := range [][]byte{nil, []byte("foreign")} {
			m.target.Change("envoy", func(o *rotation.Observation) { o.Key, o.CA = key, nil })
			synctest.Wait()
			m.wait(5 * time.Minute)
			m.was["envoy"] = rotation.Observation{Cert: m.was["envoy"].Cert, Key: key, CA: m.was["envoy"].CA}
			m.wantUnion(t)
			if s := m.status(t, "envoy"); s.State != rotation.StateTaking || len(s.Remarks) != 1 {
				t.Errorf("%+v", s)
			}
		}
		if n := m.target.Writes("envoy"); n != 3 {
			t.Errorf("%d writes, want one for the union and one for each ca.crt that was removed", n)
		}
		m.goOn(t, "")
		m.wantAllAnew(t)
	})
}

// TestRenewedElsewhere: the CA that is being taken over from still renews. Its new leaf is accepted as the old one
// was, and stays as that would.
func TestRenewedElsewhere(t *testing.T) {
	atPeace(t, func(t *testing.T, m *mess) {
		for _, name := range []string{"envoy", "search"} {
			m.fill(t, name, m.two.Leaf(t, name, time.Now()), m.two)
			m.was[name] = m.holds(t, name)
		}
		synctest.Wait()
		m.wait(5 * time.Minute)
		m.wantUnion(t)
		if s := m.status(t, "search"); s.State != rotation.StateTaking || len(s.Remarks) != 0 {
			t.Errorf("search's leaf can be used now: %+v", s)
		}
		for range 30 {
			m.fill(t, "envoy", m.two.Leaf(t, "envoy", time.Now()), m.two)
			synctest.Wait()
		}
		if s := m.status(t, "envoy"); s.State != rotation.StateFailing || !strings.Contains(s.Error, "too many") {
			t.Errorf("whoever renews without end is metered: %+v", s)
		}
		m.was["envoy"] = m.holds(t, "envoy")
		m.wait(15 * time.Minute)
		m.wantUnion(t)
		m.goOn(t, "")
		m.wantAllAnew(t)
	})
}

// TestAddedLater: a service that a new catalogue brings, with a set of a third CA. Its root enters the union, what
// is ours is written anew without being taken for somebody's doing, and only what is new is waited for.
func TestAddedLater(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.read(time.Now().Add(time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		m.wait(2 * time.Minute)
		m.wantAllAnew(t)
		epoch := m.engine.Status().Epoch
		third := catest.NewForeign(t, "Third CA", time.Now())
		m.fill(t, "website", third.Leaf(t, "website", time.Now()), third, m.one)
		m.was = m.target.Copy()
		m.names = append(slices.Clone(incident), "website")
		if err := m.engine.Reload(t.Context(), policies(m.names), nil); err != nil {
			t.Fatal(err)
		}
		m.wait(2 * time.Minute)
		for _, name := range m.names {
			if o := m.holds(t, name); !bytes.Contains(o.CA, third.PEM()) || !bytes.Contains(o.CA, m.one.PEM()) {
				t.Errorf("%s: the union is not whole", name)
			}
			if s := m.status(t, name); s.ForeignWrites+s.Healed > 0 {
				t.Errorf("%+v", s)
			}
		}
		if s := m.engine.Status(); s.Epoch != epoch+1 || len(s.Foreign) != 3 {
			t.Errorf("epoch %d after %d, anchors %+v", s.Epoch, epoch, s.Foreign)
		}
		m.notWorse(t)
		if got := m.anew(t); slices.Contains(got, "website") {
			t.Errorf("leaves of ours at %v", got)
		}
		m.wantWaits(t, "website", "unknown reader")
		m.wantAwaited(t, "website") // the others have trusted our root for long
		m.read(time.Now().Add(time.Hour), "website")
		m.wait(2 * time.Minute)
		m.wantAllAnew(t)
	})
}

// TestOldTrustPutBack: a ca.crt of an earlier epoch that somebody puts back with its genuine mark is a foreign write
// like any other, also for the next process.
func TestOldTrustPutBack(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.read(time.Now().Add(time.Hour), incident...)
		stop := m.run(t)
		m.wait(2 * time.Minute)
		m.wantAllAnew(t)
		old := m.holds(t, "envoy")
		third := catest.NewForeign(t, "Third CA", time.Now())
		m.fill(t, "website", third.Leaf(t, "website", time.Now()), third)
		m.names = append(slices.Clone(incident), "website")
		if err := m.engine.Reload(t.Context(), policies(m.names), nil); err != nil {
			t.Fatal(err)
		}
		m.wait(2 * time.Minute)
		putBack := func(o *rotation.Observation) { o.CA, o.Mark = old.CA, old.Mark }
		for n := range 2 {
			if s := m.status(t, "envoy"); s.ForeignWrites+s.Healed > 0 {
				t.Errorf("nobody has done anything yet: %+v", s)
			}
			m.log.take("")
			m.target.Change("envoy", putBack)
			synctest.Wait()
			if s := m.status(t, "envoy"); s.ForeignWrites != 1 || s.Healed != 1 || len(m.log.take("healed")) != 1 {
				t.Errorf("process %d: %+v", n+1, s)
			}
			if o := m.holds(t, "envoy"); !bytes.Contains(o.CA, third.PEM()) {
				t.Error("the union is not back")
			}
			stop()
			stop = m.run(t)
		}
		defer func() { stop() }()
	})
}

// TestRefusedAmongTheBroken: a place that another program keeps has a live leaf that is accepted, and processes
// that accept others. Its root stays in the union, and nothing is signed anew that they would refuse.
func TestRefusedAmongTheBroken(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		third := catest.NewForeign(t, "Third CA", time.Now())
		m.fill(t, "website", third.Leaf(t, "website", time.Now()), third, m.two)
		m.target.Change("website", func(o *rotation.Observation) { o.Foreign = theirs })
		m.fill(t, "envoy", m.two.Leaf(t, "envoy", time.Now()), m.two, third)
		m.was = m.target.Copy()
		m.names = append(slices.Clone(incident), "website")
		m.declare(rotation.ReadersNone, m.names...)
		stop := m.run(t)
		defer stop()
		m.wait(10 * time.Minute)
		m.wantUnion(t)
		if o := m.holds(t, "bookapi"); !bytes.Contains(o.CA, third.PEM()) {
			t.Error("the root of website's leaf is gone")
		}
		if m.target.Writes("website") > 0 {
			t.Error("website was written")
		}
		m.wantWaits(t, "website", "would refuse")
		m.wantAwaited(t, "website")
		m.target.Change("website", func(o *rotation.Observation) { // its keeper is told to trust our root
			o.CA = append(bytes.Clone(o.CA), catest.PEM(m.Authority.Root().Certificate)...)
		})
		m.was["website"] = m.holds(t, "website")
		m.wait(3 * time.Minute)
		if got := m.anew(t); !slices.Equal(got, incident) {
			t.Errorf("leaves of ours at %v", got)
		}
		m.notWorse(t)
	})
}

// TestUnreadableAmongTheBroken: while it is not known what a place holds, nobody's trust is taken away.
func TestUnreadableAmongTheBroken(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		third := catest.NewForeign(t, "Third CA", time.Now())
		m.fill(t, "website", third.Leaf(t, "website", time.Now()), third, m.two)
		m.fill(t, "envoy", m.two.Leaf(t, "envoy", time.Now()), m.two, third)
		m.was = m.target.Copy()
		m.names = append(slices.Clone(incident), "website")
		m.declare(rotation.ReadersNone, m.names...)
		var mu sync.Mutex
		away := true
		m.target.Unreachable = func(name string) error {
			mu.Lock()
			defer mu.Unlock()
			if away && name == "website" {
				return targettest.ErrDown
			}
			return nil
		}
		stop := m.run(t)
		defer stop()
		m.wait(10 * time.Minute)
		if o := m.holds(t, "envoy"); !bytes.Contains(o.CA, third.PEM()) || !bytes.Contains(o.CA, m.one.PEM()) {
			t.Error("envoy's trust was taken away")
		}
		if got := m.anew(t); len(got) != 2 {
			t.Errorf("leaves of ours at %v", got)
		}
		m.wantWaits(t, "website", "cannot be read")
		m.notWorse(t)
		mu.Lock()
		away = false
		mu.Unlock()
		m.wait(20 * time.Minute)
		m.wantAllAnew(t)
	})
}

// TestSameNameInTheMesh: each service keeps its own root beside ours, and the status says why.
func TestSameNameInTheMesh(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		now := time.Now()
		m.one, m.two = catest.NewForeign(t, "Mesh CA", now), catest.NewForeign(t, "Mesh CA", now)
		m.fill(t, "bookapi", m.one.Nameless().Leaf(t, "bookapi", now), m.one)
		m.fill(t, "envoy", m.two.Nameless().Leaf(t, "envoy", now), m.two)
		m.fill(t, "search", m.two.Nameless().Leaf(t, "search", now), m.two)
		m.fill(t, "pgadmin", m.one.Nameless().Leaf(t, "pgadmin", now), m.one)
		m.was = m.target.Copy()
		m.declare(rotation.ReadersFollow, incident...)
		stop := m.run(t)
		defer stop()
		m.notWorse(t)
		for name, want := range map[string]*catest.Foreign{"bookapi": m.one, "envoy": m.two, "search": m.two, "pgadmin": m.one} {
			if o := m.holds(t, name); !bytes.Equal(o.CA, append(catest.PEM(m.Authority.Root().Certificate), want.PEM()...)) {
				t.Errorf("%s: ca.crt is not ours and its own\n%s", name, o.CA)
			}
		}
		for _, anchor := range m.engine.Status().Foreign {
			if len(anchor.Only) == 0 || !strings.Contains(anchor.Why, "for another of its name") {
				t.Errorf("%+v", anchor)
			}
		}
		m.wait(10 * time.Minute)
		m.wantAllAnew(t)
	})
}

// TestDriftClosesTheGate: who started while somebody else's ca.crt lay there may have loaded that. It is waited for
// again, also by a process of meshca that was not there to see it.
func TestDriftClosesTheGate(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%t", restart), func(t *testing.T) {
			broken(t, func(t *testing.T, m *mess) {
				m.read(time.Now().Add(-time.Hour), incident...)
				stop := m.run(t)
				written := time.Now()
				m.wait(10 * time.Minute)
				if restart {
					stop()
				}
				m.target.Change("envoy", func(o *rotation.Observation) { o.CA = m.two.PEM() })
				synctest.Wait()
				m.read(written.Add(hold+time.Second), incident...) // which is before the drift
				if restart {
					stop = m.run(t)
				}
				m.wait(10 * time.Minute)
				m.wantUnion(t)
				m.wantWaits(t, "envoy", "pod/envoy")
				m.wantWaits(t, "bookapi", "")
				m.read(time.Now(), "envoy")
				m.wait(2 * time.Minute)
				m.wantAllAnew(t)
				stop()
			})
		})
	}
}

// TestDriftTakesTheWordBack: an operator's word is of the readers that were there. Who started while somebody else's
// ca.crt lay there is another.
func TestDriftTakesTheWordBack(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.read(time.Now().Add(-time.Hour), "bookapi", "envoy")
		stop := m.run(t)
		defer stop()
		m.goOn(t, "envoy", "search")
		m.wait(2 * time.Minute)
		m.wantAwaited(t, "bookapi")
		m.target.Change("envoy", func(o *rotation.Observation) { o.CA = m.two.PEM() })
		synctest.Wait()
		m.read(time.Now(), "envoy") // it may have loaded what lay there for a moment
		m.wait(10 * time.Minute)
		m.read(time.Now(), "bookapi")
		m.wait(2 * time.Minute)
		m.wantUnion(t)
		m.wantWaits(t, "envoy", "pod/envoy")
		m.wantAwaited(t, "envoy")
		m.goOn(t, "envoy")
		m.wait(2 * time.Minute)
		m.wantAllAnew(t)
	})
}

// TestDriftThatTheSweepFinds: the gate is judged on what lies there now, not on what the sweep before has seen.
func TestDriftThatTheSweepFinds(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.target.Unwatched = errors.ErrUnsupported
		m.read(time.Now().Add(-time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		m.wait(10*time.Minute + time.Second) // between two sweeps
		m.read(time.Now(), "bookapi", "pgadmin", "search", "timescaledb")
		m.wait(2 * time.Minute)
		m.wantAwaited(t, "envoy")
		m.target.Change("envoy", func(o *rotation.Observation) { o.CA = m.two.PEM() })
		m.read(time.Now(), "envoy")
		m.wait(10 * time.Minute)
		m.wantUnion(t)
		m.wantWaits(t, "envoy", "pod/envoy")
		m.read(time.Now(), "envoy")
		m.wait(2 * time.Minute)
		m.wantAllAnew(t)
	})
}

// TestDriftWhileItBacksOff: the same of a place that could not be written for long, and has no turn in most sweeps.
func TestDriftWhileItBacksOff(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.target.Unwatched = errors.ErrUnsupported
		m.read(time.Now().Add(-time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		m.wait(10*time.Minute + time.Second)
		m.target.Fail = func(name string) (error, bool) {
			if name == "envoy" {
				return targettest.ErrDown, false
			}
			return nil, true
		}
		m.target.Change("envoy", func(o *rotation.Observation) { o.Mark = nil })
		m.read(time.Now(), "bookapi", "pgadmin", "search", "timescaledb")
		m.wait(20 * time.Minute)
		m.wantAwaited(t, "envoy")
		m.target.Change("envoy", func(o *rotation.Observation) { o.CA = m.two.PEM() })
		m.read(time.Now(), "envoy")
		m.wait(time.Minute)
		if got := m.anew(t); len(got) != 2 {
			t.Errorf("leaves of ours at %v, and envoy's process trusts the old CA alone", got)
		}
	})
}

// TestLeftPlaceThatChangesBetweenSweeps: the same of a place that is left alone.
func TestLeftPlaceThatChangesBetweenSweeps(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.target.Unwatched = errors.ErrUnsupported
		m.names = append(slices.Clone(incident), "website")
		m.fill(t, "website", m.two.Leaf(t, "website", time.Now()), m.two)
		m.target.Change("website", func(o *rotation.Observation) {
			o.Foreign, o.CA = theirs, append(o.CA, catest.PEM(m.Authority.Root().Certificate)...)
		})
		m.read(time.Now().Add(-time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		m.wait(10*time.Minute + time.Second)
		m.wantAwaited(t, incident...)
		m.target.Change("website", func(o *rotation.Observation) { o.CA = m.two.PEM() })
		m.was = m.target.Copy()
		m.read(time.Now(), incident...)
		m.wait(2 * time.Minute)
		m.wantAwaited(t, "website")
		m.notWorse(t)
	})
}

// TestOneLookASweepWhileTakingOver: who judges the gate and whose turn it is use the same one.
func TestOneLookASweepWhileTakingOver(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.target.Unwatched = errors.ErrUnsupported
		var mu sync.Mutex
		looks := make(map[string]int)
		m.target.Unreachable = func(name string) error {
			mu.Lock()
			defer mu.Unlock()
			looks[name]++
			return nil
		}
		m.read(time.Now().Add(-time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		m.wait(10*time.Minute + time.Second)
		mu.Lock()
		before := maps.Clone(looks)
		mu.Unlock()
		m.wait(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		for _, name := range incident {
			if n := looks[name] - before[name]; n != 10 {
				t.Errorf("%d looks at %s in ten sweeps", n, name)
			}
		}
	})
}

// TestContinueWhatIsLeftAlone: an operator's word ends the wait for a place, whatever keeps meshca from it.
func TestContinueWhatIsLeftAlone(t *testing.T) {
	for what, tc := range map[string]struct {
		leave func(t *testing.T, m *mess)
		name  string
		anew  []string
	}{
		"another program's": {func(_ *testing.T, m *mess) {
			m.target.Change("search", func(o *rotation.Observation) { o.Foreign = theirs })
		}, "search", []string{"bookapi", "envoy", "pgadmin", "timescaledb"}},
		"not read since the start": {func(_ *testing.T, m *mess) {
			m.target.Unreachable = func(name string) error { return map[string]error{"search": targettest.ErrDown}[name] }
		}, "search", []string{"bookapi", "envoy", "pgadmin", "timescaledb"}},
		"rests": {func(t *testing.T, m *mess) {
			m.run(t)()
			m.target.Change("envoy", func(o *rotation.Observation) { o.Rests, o.CA = "by hand", m.two.PEM() })
		}, "envoy", []string{"bookapi", "pgadmin", "search", "timescaledb"}},
		"became another program's": {func(t *testing.T, m *mess) {
			m.run(t)()
			m.target.Change("envoy", func(o *rotation.Observation) { o.Foreign, o.CA = theirs, m.two.PEM() })
		}, "envoy", []string{"bookapi", "pgadmin", "search", "timescaledb"}},
	} {
		for _, only := range []string{"", tc.name} {
			t.Run(what+", adopt "+only, func(t *testing.T) {
				broken(t, func(t *testing.T, m *mess) {
					m.declare(rotation.ReadersNone, incident...)
					m.read(time.Now().Add(-time.Hour), "bookapi")
					tc.leave(t, m)
					stop := m.run(t)
					defer stop()
					m.read(time.Now().Add(time.Hour), "bookapi")
					m.wait(10 * time.Minute)
					m.wantAwaited(t, tc.name)
					m.goOn(t, only)
					m.wait(2 * time.Minute)
					m.wantAwaited(t)
					if got := m.anew(t); !slices.Equal(got, tc.anew) {
						t.Errorf("leaves of ours at %v, want at %v", got, tc.anew)
					}
				})
			})
		}
	}
}

// TestTheWordOnALeftPlace: it survives a restart, and is of the ca.crt that lay there.
func TestTheWordOnALeftPlace(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.declare(rotation.ReadersNone, incident...)
		m.read(time.Now().Add(-time.Hour), "bookapi")
		m.target.Change("search", func(o *rotation.Observation) { o.Foreign = theirs })
		stop := m.run(t)
		m.wantAwaited(t, "bookapi", "search")
		m.goOn(t, "search")
		m.wantAwaited(t, "bookapi")
		stop()
		defer m.run(t)()
		m.wait(2 * time.Minute)
		m.wantAwaited(t, "bookapi")
		m.target.Change("search", func(o *rotation.Observation) { o.CA = m.one.PEM() })
		m.wait(2 * time.Minute)
		m.wantAwaited(t, "bookapi", "search")
		m.goOn(t, "")
		m.wait(2 * time.Minute)
		if got := m.anew(t); len(got) != 4 {
			t.Errorf("leaves of ours at %v", got)
		}
	})
}

// TestManyChangesAtOnce: the union comes to its last place while more is told of others than is queued. The leaves
// are signed anew then, not in the next sweep.
func TestManyChangesAtOnce(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.sweep = time.Hour
		m.declare(rotation.ReadersNone, incident...)
		m.read(time.Now().Add(-time.Hour), "bookapi")
		stop := m.run(t)
		defer stop()
		m.wait(10 * time.Minute)
		m.wantAwaited(t, "bookapi")
		m.read(time.Now().Add(time.Hour), "bookapi")
		var healed, told atomic.Bool
		m.target.Fail = func(string) (error, bool) { healed.Store(true); return nil, true }
		m.target.Unreachable = func(name string) error {
			if name == "envoy" && healed.Load() && told.CompareAndSwap(false, true) { // the look after the heal
				for range 200 {
					m.target.Change("pgadmin", func(*rotation.Observation) {})
				}
				time.Sleep(time.Second) // until the queue is full
			}
			return nil
		}
		m.target.Change("envoy", func(o *rotation.Observation) { o.CA = m.two.PEM() })
		m.wait(time.Minute)
		if !told.Load() {
			t.Fatal("envoy was not looked at after its heal")
		}
		m.wantAllAnew(t)
	})
}
