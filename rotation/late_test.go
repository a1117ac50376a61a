package rotation_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
)

// TestLateWrite: the write of a process that was killed arrives when the next one has found that it never came, and
// is about to write another leaf. Somebody may have read what was there for a moment, so it counts as delivered.
func TestLateWrite(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(t)()
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil }) // so that a new leaf is issued
		before := w.target.Copy()["pgadmin"]
		w.target.Fail = func(string) (error, bool) { return targettest.ErrDown, true } // the answer never comes
		w.run(t)()
		late := w.target.Copy()["pgadmin"]
		w.target.Change("pgadmin", func(o *rotation.Observation) { *o = before }) // it is on its way

		var arrived atomic.Bool
		w.target.Fail = func(service string) (error, bool) {
			if service == "pgadmin" && arrived.CompareAndSwap(false, true) {
				w.target.Change("pgadmin", func(o *rotation.Observation) { *o = late })
			}
			return nil, true
		}
		stop := w.run(t)
		stop()
		if !arrived.Load() {
			t.Fatal("nothing was written: the test shows nothing")
		}
		w.check(t)
		if lines := w.log.take("late: no longer counted"); len(lines) != 1 {
			t.Errorf("said %d times", len(lines))
		}
		first, err := issuer.New(w.Store, w.Authority).Before(w.current(t, "pgadmin"))
		if err != nil || first == nil || string(first.Chain()) != string(late.Cert) {
			t.Errorf("what was there for a moment counts as if nobody had it (%v)", err)
		}
	})
}

// TestTwoCrashesInARow: one process is killed when its leaf is written and that is not recorded, the next when another
// is issued and not written. The third settles both at its first look.
func TestTwoCrashesInARow(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(t)()
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil })      // so that a new leaf is issued
		w.target.Fail = func(string) (error, bool) { return targettest.ErrDown, true } // it is written, and not recorded
		w.run(t)()
		w.target.Fail = nil
		key, err := profile.ECDSAP256.Generate()
		if err != nil {
			t.Fatal(err)
		}
		i := issuer.New(w.Store, w.Authority)
		i.SetCatalogue(policies(mesh))
		if _, err := i.Issue(issuer.Request{Service: "pgadmin", Place: "pgadmin", PublicKey: key.Public(), Reason: "test"}, w.now()); err != nil {
			t.Fatal(err)
		}
		if err := w.start(t); err != nil { // and no more than that: a target need not tell of anything
			t.Fatal(err)
		}
		w.check(t)
		if lines := w.log.take("never written"); len(lines) != 1 {
			t.Errorf("%d leaves are said to be never written, want the one", len(lines))
		}
	})
}

// TestPutBackBeforeItIsRecorded: a leaf is written, the process is killed before that is recorded, and somebody puts
// the old leaf back, and takes the mark away or not. It does not count as never written.
func TestPutBackBeforeItIsRecorded(t *testing.T) {
	for _, marked := range []bool{true, false} {
		bubble(t, func(t *testing.T, w *world) {
			w.run(t)()
			before := w.target.Copy()["pgadmin"]
			w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil })      // so that a new leaf is issued
			w.target.Fail = func(string) (error, bool) { return targettest.ErrDown, true } // it is written, and not recorded
			w.run(t)()
			if state := w.current(t, "pgadmin").Record().State; state != issuer.Issued {
				t.Fatalf("its record is %s: the test shows nothing", state)
			}
			w.target.Fail = nil
			w.target.Change("pgadmin", func(o *rotation.Observation) {
				if o.Cert, o.Key = before.Cert, before.Key; !marked {
					o.Mark = nil
				}
			})
			w.run(t)()
			w.check(t)
			if lines := w.log.take("marked undelivered"); len(lines) > 0 {
				t.Errorf("with a mark: %t: what was there counts as if nobody had it: %s", marked, lines)
			}
		})
	}
}

// current is the service's newest leaf.
func (w *world) current(t *testing.T, service string) *issuer.Leaf {
	t.Helper()
	leaf, _, err := issuer.New(w.Store, w.Authority).Current(service, service)
	if err != nil || leaf == nil {
		t.Fatalf("%s has no leaf (%v)", service, err)
	}
	return leaf
}

// TestBackOffFollowsTheFailure: a target that lets each attempt wait is left alone between attempts for as long as one
// that fails at once.
func TestBackOffFollowsTheFailure(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const hang = 10 * time.Second
		var ended []time.Time
		w.target.Fail = func(service string) (error, bool) {
			if service != "pgadmin" {
				return nil, true
			}
			if n := len(ended); n > 0 && time.Since(ended[n-1]) < 4*time.Second {
				t.Errorf("attempt %d came %s after the end of the one before", n+1, time.Since(ended[n-1]))
			}
			time.Sleep(hang)
			ended = append(ended, time.Now())
			return targettest.ErrDown, false
		}
		stop := w.run(t)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		stop()
		if len(ended) < 3 {
			t.Errorf("only %d attempts: the test shows nothing", len(ended))
		}
	})
}

// TestOldStateDoesNotPublish: a process whose store is older than what the places hold, and that could not see so at
// its start, leaves the published trust bundle alone, in the sweep and when somebody has changed it.
func TestOldStateDoesNotPublish(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.fallBehind(t)
		newest := []byte("what the newer state has published")
		if _, err := w.target.Publish(t.Context(), newest); err != nil {
			t.Fatal(err)
		}
		var down atomic.Bool
		down.Store(true)
		w.target.Unreachable = func(string) error {
			if down.Load() {
				return targettest.ErrDown
			}
			return nil
		}
		stop := w.run(t)
		defer stop()
		for _, what := range []string{"while no place can be read", "in the sweep"} {
			time.Sleep(w.sweep)
			w.target.Change(rotation.Published, func(*rotation.Observation) {}) // a watch says so
			synctest.Wait()
			if !bytes.Equal(w.target.Published(), newest) {
				t.Fatalf("%s it was written over", what)
			}
			down.Store(false)
		}
		if s := w.status(t, "pgadmin"); s.State != rotation.StateRefused {
			t.Errorf("status %+v: the test shows nothing", s)
		}
	})
}

// TestPublishAgain: what somebody does to the published bundle is put right before the next sweep.
func TestPublishAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		stop := w.run(t)
		defer stop()
		if _, err := w.target.Publish(t.Context(), []byte("another")); err != nil {
			t.Fatal(err)
		}
		w.target.Change(rotation.Published, func(*rotation.Observation) {})
		synctest.Wait()
		if !bytes.Equal(w.target.Published(), w.Authority.Bundle().PEM()) {
			t.Errorf("published is %q", w.target.Published())
		}
	})
}

// patient is an error that asks to come later.
type patient struct{ wait time.Duration }

func (p patient) Error() string       { return "come later" }
func (p patient) Wait() time.Duration { return p.wait }

// TestComesLater: a target that asks to be left alone is, by the sweep too.
func TestComesLater(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = 10 * time.Second
		var asked atomic.Int64
		var patience atomic.Bool
		w.target.Unreachable = func(service string) error {
			if service != "pgadmin" || !patience.Load() {
				return nil
			}
			if at := asked.Swap(time.Now().UnixNano()); at != 0 && time.Since(time.Unix(0, at)) < time.Minute {
				t.Errorf("it was asked again after %s", time.Since(time.Unix(0, at)))
			}
			return patient{time.Minute}
		}
		stop := w.run(t)
		defer stop()
		patience.Store(true)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if asked.Load() == 0 {
			t.Error("it was never asked: the test shows nothing")
		}
		patience.Store(false)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		w.check(t)
	})
}
