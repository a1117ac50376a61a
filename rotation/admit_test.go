package rotation_test

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
)

// writes are how often each place of the mesh was written.
func (w *world) writes() map[string]int {
	all := make(map[string]int)
	for _, name := range w.names {
		all[name] = w.target.Writes(name)
	}
	return all
}

// wantRefused sees a service refused with the words.
func (w *world) wantRefused(t *testing.T, name string, words ...string) {
	t.Helper()
	s := w.status(t, name)
	for _, word := range words {
		if s.State != rotation.StateRefused || s.Hint == "" || !strings.Contains(s.Error, word) {
			t.Errorf("want %q: %+v", word, s)
		}
	}
}

// TestOldStoreWritesNothing: a store that is older than what one place holds writes to none, also where the target was
// away when it started, until that place proves it no longer.
func TestOldStoreWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour // so that weeks are simulated in a moment
		w.fallBehind(t)
		w.target.Change("bookapi", func(o *rotation.Observation) { *o = rotation.Observation{} })
		before := w.writes()
		var away atomic.Bool
		away.Store(true)
		w.target.Unreachable = func(string) error {
			if away.Load() {
				return targettest.ErrDown
			}
			return nil
		}
		stop := w.run(t)
		defer stop()
		time.Sleep(50 * time.Minute)
		away.Store(false)
		w.target.Change("envoy", func(o *rotation.Observation) { o.CA = []byte("another") }) // it is looked at first
		time.Sleep(life * 8 / 10)                                                            // all become due meanwhile
		synctest.Wait()
		if after := w.writes(); !maps.Equal(before, after) {
			t.Errorf("written %v times, then %v", before, after)
		}
		w.wantRefused(t, "pgadmin", "the store is older than what it serves")
		for _, name := range []string{"bookapi", "envoy"} {
			w.wantRefused(t, name, "is not written: memory:pgadmin")
		}
		w.target.Change("pgadmin", func(o *rotation.Observation) { *o = rotation.Observation{} })
		synctest.Wait()
		w.check(t)
	})
}

// TestProofComesFirst: when the target is back all places are weighed before the first is written, be they many.
func TestProofComesFirst(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for n := range 30 { // more than are worked on at once
			w.names = append(w.names, fmt.Sprintf("a%d", n))
		}
		w.fallBehind(t)
		var away atomic.Bool
		away.Store(true)
		w.target.Unreachable = func(string) error {
			if away.Load() {
				return targettest.ErrDown
			}
			return nil
		}
		stop := w.run(t)
		defer stop()
		for _, name := range w.names {
			if name != "pgadmin" {
				w.target.Change(name, func(o *rotation.Observation) { *o = rotation.Observation{} })
			}
		}
		before := w.writes()
		away.Store(false)
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if after := w.writes(); !maps.Equal(before, after) {
			t.Errorf("written %v times, then %v", before, after)
		}
	})
}

// TestProofWhileRunning: a process that learns while it runs that its store is old stops then, and takes over nothing.
func TestProofWhileRunning(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(t)()
		old := w.snapshot(t)
		stop := w.run(t)
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil })
		synctest.Wait()
		newer := w.target.Copy()["pgadmin"]
		stop() // first: it would put back what is taken away
		w.target.Change("pgadmin", func(o *rotation.Observation) { *o = rotation.Observation{} })
		w.restore(t, old)
		stop = w.run(t) // nothing shows what it does not know
		defer stop()
		w.target.Change("pgadmin", func(o *rotation.Observation) { *o = newer })
		synctest.Wait()
		before := w.writes()
		w.target.Change("envoy", func(o *rotation.Observation) { o.Key = nil })
		w.target.Unpublish()
		synctest.Wait()
		w.wantRefused(t, "pgadmin", "the store is older")
		w.wantRefused(t, "envoy", "is not written: memory:pgadmin")
		if after := w.writes(); !maps.Equal(before, after) || w.target.Published() != nil {
			t.Errorf("written %v times, then %v", before, after)
		}
		if s := w.status(t, "bookapi"); s.State != rotation.StateKept {
			t.Errorf("nothing is wrong there: %+v", s)
		}
	})
}

// TestHalfAway: while the target as a whole does not answer, and some places could not be looked at since the start,
// none is written, since those may show what the store does not know.
func TestHalfAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var away atomic.Bool
		away.Store(true)
		w.target.Unreachable = func(service string) error {
			if away.Load() && service != "envoy" {
				return targettest.ErrDown // Ready too
			}
			return nil
		}
		stop := w.run(t)
		defer stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		if s := w.status(t, "envoy"); w.target.Writes("envoy") > 0 || s.State != rotation.StateFailing || w.target.Published() != nil {
			t.Errorf("written %v times: %+v", w.writes(), s)
		}
		away.Store(false)
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		w.check(t)
	})
}

// TestOneUnreadablePlace does not hold up the others at a start.
func TestOneUnreadablePlace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.target.Unreachable = func(service string) error {
			if service == "pgadmin" {
				return targettest.ErrDown
			}
			return nil
		}
		stop := w.run(t)
		defer stop()
		if w.target.Writes("envoy") != 1 || w.target.Writes("bookapi") != 1 {
			t.Errorf("written %v times", w.writes())
		}
	})
}

// forged is a mark that anybody can write.
func forged(store string) *rotation.Mark {
	return &rotation.Mark{Store: store, Service: "website", Epoch: 7, Bundle: "aa", Serial: "7f", MAC: "bb"}
}

// TestForgedMark: what proves nothing stops nobody else. A place with a mark that our seal did not make is refused
// alone, when the catalogue is read again and at a start, and an operator may give it to this store.
func TestForgedMark(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for i, store := range []string{"0011", w.Authority.Identity()} {
			w.target.Change([]string{"website", "search"}[i], func(o *rotation.Observation) { o.CA, o.Mark = []byte("another"), forged(store) })
		}
		stop := w.run(t)
		if err := w.engine.Reload(t.Context(), policies(append(mesh, "website", "search")), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, how := range []string{"reload", "start"} {
			w.wantRefused(t, "website", "written by another meshca")
			w.wantRefused(t, "search", "its seal did not")
			w.target.Change("envoy", func(o *rotation.Observation) { o.CA = nil })
			w.target.Unpublish()
			synctest.Wait()
			w.check(t)
			if !bytes.Equal(w.target.Published(), w.Authority.Bundle().PEM()) {
				t.Errorf("after the %s: the trust bundle is not published", how)
			}
			stop()
			w.names = append(mesh, "website", "search")
			stop = w.run(t)
			w.names = mesh
		}
		stop()
		var shown []string
		w.names, w.accept = append(mesh, "website", "search"), func(breaks []string) error { shown = breaks; return nil }
		stop = w.run(t)
		defer stop()
		w.check(t)
		if text := strings.Join(shown, "\n"); !strings.Contains(text, "memory:website") || strings.Contains(text, "memory:envoy") {
			t.Errorf("shown: %s", text)
		}
	})
}

// TestMovedToAnothersMark is refused, and the others are kept.
func TestMovedToAnothersMark(t *testing.T) {
	theirs := func(t *testing.T, _ *world) rotation.Observation {
		other := newWorld(t)
		other.run(t)()
		return other.target.Copy()["pgadmin"]
	}
	moving(t, theirs, func(t *testing.T, w *world, held rotation.Observation) {
		w.wantRefused(t, "pgadmin", "was written by another meshca")
		if o := w.target.Copy()["elsewhere"]; w.target.Writes("elsewhere") > 0 || !bytes.Equal(o.Key, held.Key) {
			t.Error("it was written over")
		}
		w.target.Change("envoy", func(o *rotation.Observation) { o.CA = nil })
		synctest.Wait()
		w.names = []string{"bookapi", "envoy"}
		w.check(t)
	})
}

// TestRenamed: a service that has another name, and the place of the old one, is not taken for a sign that the store
// is old. It says so, and is taken over when the old mark is gone.
func TestRenamed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		renamed := []string{"bookapi", "envoy", "website"}
		place := func() { w.target.Move("website", "pgadmin") }
		if err := w.engine.Reload(t.Context(), policies(renamed), place); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for range 2 { // by the reload, and after a start
			w.wantRefused(t, "website", `for service "pgadmin": was that renamed?`)
			w.names = []string{"bookapi", "envoy"}
			w.target.Change("envoy", func(o *rotation.Observation) { o.CA = nil })
			synctest.Wait()
			w.check(t)
			stop()
			w.names = renamed
			stop = w.run(t)
		}
		defer func() { stop() }()
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Mark = nil })
		synctest.Wait()
		if s := w.status(t, "website"); s.State != rotation.StateKept && s.State != rotation.StateTaking {
			t.Errorf("%+v", s)
		}
	})
}
