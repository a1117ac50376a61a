package rotation_test

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
)

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

// TestAddedLater: a service that a new catalogue brings, with a set of a third CA that is let in. Its root enters the union, what
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
		m.letIn(t, "website", "Third CA")
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
		m.letIn(t, "website", "Third CA")
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
