package rotation_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
)

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

// TestForgedTime: whoever may write to a place may forge when the union was written there. Processes that are older than
// what was last seen to be without it are waited for all the same.
func TestForgedTime(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		var forged atomic.Bool
		m.target.Now = func() time.Time {
			if forged.Load() {
				return time.Now().Add(-24 * time.Hour)
			}
			return time.Now()
		}
		forged.Store(true)
		m.read(time.Now().Add(-time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		m.wait(10 * time.Minute)
		m.wantUnion(t)
		m.wantAwaited(t, incident...)
		m.read(time.Now(), incident...)
		m.read(time.Now().Add(-time.Hour), "search")
		m.wait(10 * time.Minute)
		m.wantAwaited(t, "search")

		created := time.Now()
		m.wait(10 * time.Minute)
		m.target.Change("envoy", func(o *rotation.Observation) { o.CA = m.two.PEM() })
		synctest.Wait()
		m.read(created, incident...) // envoy's between the union and somebody else's ca.crt
		m.wait(10 * time.Minute)
		m.wantUnion(t)
		m.wantAwaited(t, "envoy")
		m.read(time.Now(), "envoy")
		m.wait(2 * time.Minute)
		m.wantAllAnew(t)
	})
}
