package rotation_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
)

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
