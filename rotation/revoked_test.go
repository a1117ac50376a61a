package rotation_test

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
)

// revoke revokes the leaf that a service holds, as somebody outside the engine.
func (w *world) revoke(t *testing.T, name string) (serial string) {
	t.Helper()
	serial = w.current(t, name).Record().Serial
	if _, err := w.engine.Issuer.Revoke(serial, profile.KeyCompromise, "tester", w.now()); err != nil {
		t.Fatal(err)
	}
	return serial
}

// TestRevokedIsReplaced: a service whose leaf is revoked gets a new one with a new key, once and at once: when the engine
// is told, within a minute when it is not, and at the start.
func TestRevokedIsReplaced(t *testing.T) {
	for name, learn := range map[string]func(*testing.T, *world){
		"told":     func(_ *testing.T, w *world) { w.engine.Nudge("pgadmin") },
		"not told": func(*testing.T, *world) { time.Sleep(time.Minute) },
		"told of a service that it does not keep": func(_ *testing.T, w *world) { w.engine.Nudge("nobody") },
		"with its key gone": func(_ *testing.T, w *world) {
			w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.sweep = time.Hour
				stop := w.run(t)
				w.replaced(t, func() { learn(t, w) })
				stop()
			})
		})
	}
	t.Run("at the start", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *world) {
			w.run(t)()
			w.replaced(t, func() { w.run(t)() })
		})
	})
}

// replaced revokes pgadmin's leaf, has the engine learn of it, and checks that it alone was replaced, once.
func (w *world) replaced(t *testing.T, learn func()) {
	t.Helper()
	before, _ := w.target.Observe(t.Context(), "pgadmin")
	serials := w.serials(t)
	w.log.take("")
	revoked := w.revoke(t, "pgadmin")
	learn()
	synctest.Wait()
	w.check(t)
	after, _ := w.target.Observe(t.Context(), "pgadmin")
	if bytes.Equal(before.Key, after.Key) {
		t.Error("it has the key of the revoked leaf")
	}
	if record := w.current(t, "pgadmin").Record(); record.Serial == revoked || record.Revoked != nil || record.Reason != rotation.ReasonRevoked {
		t.Errorf("it holds %s, issued for %q, revoked %v", record.Serial, record.Reason, record.Revoked)
	}
	for name, serial := range w.serials(t) {
		if name != "pgadmin" && serial != serials[name] {
			t.Errorf("%s has another leaf", name)
		}
	}
	lines := w.log.take("")
	if n := strings.Count(strings.Join(lines, ""), "reason=revoked"); n != 1 {
		t.Errorf("%d leaves were issued for it: %q", n, lines)
	}
}

// TestRevokedIsMetered: whoever revokes one leaf after the other has no more made than by writing to the place.
func TestRevokedIsMetered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		stop := w.run(t)
		defer stop()
		revoke := func() (replaced bool) {
			serial := w.revoke(t, "pgadmin")
			w.engine.Nudge("pgadmin")
			synctest.Wait()
			return w.current(t, "pgadmin").Record().Serial != serial
		}
		const burst, refill = 20, 5 * time.Second
		for n := range burst {
			if !revoke() {
				t.Fatalf("leaf %d that was revoked is not replaced: %+v", n, w.status(t, "pgadmin"))
			}
		}
		if revoke() {
			t.Fatalf("%d leaves were made in no time", burst+1)
		}
		if s := w.status(t, "pgadmin"); s.State == rotation.StateAlarm || !strings.Contains(s.Error, "revokes its certificates") {
			t.Errorf("status %+v", s)
		}
		time.Sleep(refill)
		synctest.Wait()
		w.check(t)
		if record := w.current(t, "pgadmin").Record(); record.Revoked != nil {
			t.Errorf("after %s it still holds the revoked leaf %s", refill, record.Serial)
		}
	})
}

// TestRevokedIsNotPutBack: what was saved of a revoked leaf does not come back to stay.
func TestRevokedIsNotPutBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		saved, _ := w.target.Observe(t.Context(), "pgadmin")
		w.revoke(t, "pgadmin")
		w.engine.Nudge("pgadmin")
		synctest.Wait()
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Cert, o.Key = saved.Cert, saved.Key })
		synctest.Wait()
		w.check(t)
		if record := w.current(t, "pgadmin").Record(); record.Revoked != nil {
			t.Errorf("the revoked leaf %s is there again", record.Serial)
		}
	})
}

// TestRevokedOnAFullDisk: as long as no new leaf can be recorded the service fails by name, and it is tried again.
func TestRevokedOnAFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		full := &fullStore{Store: w.Store}
		w.store = full
		stop := w.run(t)
		defer stop()
		w.revoke(t, "pgadmin")
		full.full.Store(true)
		w.engine.Nudge("pgadmin")
		synctest.Wait()
		if s := w.status(t, "pgadmin"); s.State != rotation.StateFailing {
			t.Errorf("status %+v", s)
		}
		full.full.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		w.check(t)
		if record := w.current(t, "pgadmin").Record(); record.Revoked != nil {
			t.Errorf("it still holds the revoked leaf %s", record.Serial)
		}
	})
}
