package rotation_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
)

// renew asks as the API does: it waits for eight seconds.
func (w *world) renew(t *testing.T, name string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	return w.engine.Renew(ctx, name, "tester")
}

// TestRenew: a leaf is renewed when that is asked for, in its place alone, and it is said whose wish that was.
func TestRenew(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = 24 * time.Hour
		stop := w.run(t)
		defer stop()
		before, swept := w.serials(t), w.engine.Status().Sweep.At
		time.Sleep(time.Hour)
		w.log.take("")
		if err := w.renew(t, "pgadmin"); err != nil {
			t.Fatal(err)
		}
		w.check(t)
		for name, serial := range w.serials(t) {
			if changed := serial != before[name]; changed != (name == "pgadmin") {
				t.Errorf("%s has %s, and had %s", name, serial, before[name])
			}
		}
		record := w.current(t, "pgadmin").Record()
		notices := w.target.Notices()
		if n := notices[len(notices)-1]; n.Kind != rotation.NoticeRenewed || n.Service != "pgadmin" || n.Serial != record.Serial {
			t.Errorf("told %+v", n)
		}
		if record.Reason != "renewal asked for by tester" || record.Caller != "" {
			t.Errorf("the record says %q, for %q", record.Reason, record.Caller)
		}
		if at := w.engine.Status().Sweep.At; !at.Equal(swept) {
			t.Error("all services were looked at for one")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if serial := w.current(t, "pgadmin").Record().Serial; serial != record.Serial {
			t.Error("it was renewed once more")
		}
	})
}

// TestRenewIsMetered: who asks again and again makes no more than a few records.
func TestRenewIsMetered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		renewed, began := 0, time.Now()
		var soon *rotation.TooSoonError
		for range 100 {
			if err := w.renew(t, "pgadmin"); err == nil {
				renewed++
			} else if !errors.As(err, &soon) {
				t.Fatal(err)
			}
		}
		if renewed != 5 || soon == nil || !soon.At.Equal(began.Add(10*time.Minute).Round(0)) {
			t.Errorf("%d of 100, and then not before %v", renewed, soon)
		}
		if err := w.renew(t, "envoy"); err != nil {
			t.Errorf("another service: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if err := w.renew(t, "pgadmin"); err != nil {
			t.Errorf("ten minutes later: %v", err)
		}
		w.check(t)
	})
}

// TestRenewIsRefused: what stands in the way is named, nothing is issued, and nothing is owed when it is gone.
func TestRenewIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*world, *atomic.Bool)
		mend  func(*world, *atomic.Bool)
		state string
		says  string
	}{
		"refused": {
			func(w *world, _ *atomic.Bool) {
				w.target.Change("pgadmin", func(o *rotation.Observation) { o.Foreign = rotation.Obstacle{Reason: "is another's", Hint: "ask them"} })
			},
			func(w *world, _ *atomic.Bool) {
				w.target.Change("pgadmin", func(o *rotation.Observation) { o.Foreign = rotation.Obstacle{} })
			}, rotation.StateRefused, "its place is another's"},
		"resting": {
			func(w *world, _ *atomic.Bool) {
				w.target.Change("pgadmin", func(o *rotation.Observation) { o.Rests = "ticket 42" })
			},
			func(w *world, _ *atomic.Bool) {
				w.target.Change("pgadmin", func(o *rotation.Observation) { o.Rests = "" })
			},
			rotation.StateResting, "its place rests, since somebody has broken the glass: ticket 42"},
		"away, and it is known": {
			func(w *world, away *atomic.Bool) { away.Store(true); w.engine.Nudge("pgadmin") },
			func(w *world, away *atomic.Bool) { away.Store(false); w.engine.Nudge("pgadmin") },
			rotation.StateFailing, targettest.ErrDown.Error()},
		"away since": {
			func(_ *world, away *atomic.Bool) { away.Store(true) },
			func(w *world, away *atomic.Bool) { away.Store(false); w.engine.Nudge("pgadmin") },
			rotation.StateFailing, targettest.ErrDown.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var away atomic.Bool
				w.target.Unreachable = func(string) error {
					if away.Load() {
						return targettest.ErrDown
					}
					return nil
				}
				stop := w.run(t)
				defer stop()
				before := w.current(t, "pgadmin").Record().Serial
				tt.spoil(w, &away)
				synctest.Wait()
				var stands *rotation.NotKeptError
				if err := w.renew(t, "pgadmin"); !errors.As(err, &stands) || stands.State != tt.state || !strings.Contains(stands.Reason, tt.says) {
					t.Errorf("%v, want %s: … %s", err, tt.state, tt.says)
				}
				tt.mend(w, &away)
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if serial := w.current(t, "pgadmin").Record().Serial; serial != before {
					t.Error("renewed all the same")
				}
				w.check(t)
			})
		})
	}
}

// TestRenewThatCannotBeWritten: the leaf is recorded, that it is not in its place is said, and it comes there later, without
// another one.
func TestRenewThatCannotBeWritten(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var fails atomic.Bool
		w.target.Fail = func(string) (error, bool) {
			if fails.Load() {
				return targettest.ErrDown, false
			}
			return nil, true
		}
		stop := w.run(t)
		defer stop()
		fails.Store(true)
		var stands *rotation.NotKeptError
		if err := w.renew(t, "pgadmin"); !errors.As(err, &stands) || stands.State != rotation.StateFailing {
			t.Errorf("%v", err)
		}
		recorded := w.current(t, "pgadmin").Record().Serial
		fails.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.check(t); w.current(t, "pgadmin").Record().Serial != recorded {
			t.Error("it was issued twice")
		}
	})
}

// TestRenewWhileItTakesLong: who asked is told so in time, and it is done.
func TestRenewWhileItTakesLong(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		before := w.current(t, "pgadmin").Record().Serial
		w.target.Fail = func(string) (error, bool) { time.Sleep(time.Minute); return nil, true }
		if err := w.renew(t, "pgadmin"); !errors.Is(err, rotation.ErrUnderWay) {
			t.Errorf("%v", err)
		}
		if err := w.renew(t, "pgadmin"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("in the middle of it: %v", err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if w.check(t); w.current(t, "pgadmin").Record().Serial == before || w.status(t, "pgadmin").Issued != 2 {
			t.Errorf("status %+v, want it renewed once", w.status(t, "pgadmin"))
		}
	})
}

// TestRenewOfNobody: what is not in the catalogue cannot be renewed.
func TestRenewOfNobody(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		if err := w.renew(t, "nobody"); !errors.Is(err, issuer.ErrUnknownService) {
			t.Errorf("%v", err)
		}
		w.check(t)
	})
}

// TestRenewWhileTakenOver: a leaf that waits for others to trust our root is not signed anew by being asked for.
func TestRenewWhileTakenOver(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.read(time.Now().Add(-time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		var stands *rotation.NotKeptError
		if err := m.renew(t, "bookapi"); !errors.As(err, &stands) || stands.State != rotation.StateTaking || !strings.Contains(stands.Reason, "pod/bookapi") {
			t.Errorf("%v", err)
		}
		m.wantUnion(t)
		for range 3 {
			m.target.Suite().Tamper(t, "bookapi", rotation.CAFile, []byte("theirs"))
			synctest.Wait()
		}
		if state := m.status(t, "bookapi").State; state != rotation.StateAlarm {
			t.Fatalf("it is %s", state)
		}
		if err := m.renew(t, "bookapi"); !errors.As(err, &stands) || stands.State != rotation.StateTaking {
			t.Errorf("where somebody writes again and again: %v", err)
		}
	})
}
