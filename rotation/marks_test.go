package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
)

// TestCopiedMark: a mark verifies at its own place only. Where the store knows the service it is drift, and one
// that was copied to a place of which the store knows nothing is refused.
func TestCopiedMark(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		envoy, err := w.target.Observe(t.Context(), "envoy")
		if err != nil {
			t.Fatal(err)
		}
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Mark = envoy.Mark })
		synctest.Wait()
		w.check(t)
		if s := w.status(t, "pgadmin"); s.Healed != 1 {
			t.Errorf("%+v", s)
		}
		w.target.Change("website", func(o *rotation.Observation) { *o = envoy })
		if err := w.engine.Reload(t.Context(), policies(append(mesh, "website")), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := w.status(t, "website"); s.State != rotation.StateRefused || s.Hint == "" || w.target.Writes("website") > 0 {
			t.Errorf("%+v", s)
		}
		w.target.Change("website", func(o *rotation.Observation) { o.Mark = nil }) // a copy of our set is no refusal
		synctest.Wait()
		if s := w.status(t, "website"); s.State != rotation.StateKept || w.target.Writes("website") != 1 {
			t.Errorf("%+v", s)
		}
		w.names = append(mesh, "website")
		w.check(t)
	})
}

// snapshot is a copy of the store as it is now.
func (w *world) snapshot(t *testing.T) []byte {
	t.Helper()
	var copied bytes.Buffer
	if _, err := w.Store.Snapshot(&copied); err != nil {
		t.Fatal(err)
	}
	return copied.Bytes()
}

// TestPausedEngine: one that stood still with an older state of the store, while another renewed, refuses to write
// when it goes on, and does not fight.
func TestPausedEngine(t *testing.T) {
	for what, change := range map[string]func(*rotation.Observation){
		"all there":     func(*rotation.Observation) {},
		"chain removed": func(o *rotation.Observation) { o.Cert = nil },
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.run(t)()
				fixture := *w.Fixture
				paused := &world{Fixture: &fixture, target: w.target, log: &logBuffer{}, names: mesh, sweep: time.Minute}
				paused.restore(t, w.snapshot(t))
				if err := paused.start(t); err != nil {
					t.Fatal(err)
				}
				stop := w.run(t)
				w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil }) // a new leaf is issued
				synctest.Wait()
				stop()
				w.target.Change("pgadmin", change)
				before := w.target.Writes("pgadmin")
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				if err := paused.engine.Run(ctx); err != nil {
					t.Error(err)
				}
				if s := paused.status(t, "pgadmin"); s.State != rotation.StateRefused || !strings.Contains(s.Error, "older") {
					t.Errorf("%+v", s)
				}
				if n := w.target.Writes("pgadmin") - before; n > 0 {
					t.Errorf("it wrote %d times", n)
				}
			})
		})
	}
}

// TestLaterEpoch: the store was put back to before the trust changed.
func TestLaterEpoch(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		old := m.snapshot(t)
		m.run(t)()
		m.restore(t, old)
		err := m.start(t)
		if refused, ok := errors.AsType[*rotation.RefusedError](err); !ok || len(refused.Refusals) != len(incident) || !strings.Contains(err.Error(), "epoch") {
			t.Errorf("start: %v", err)
		}
	})
}

// accepting is a store that was put back, whose places another state of it wrote.
func accepting(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	bubble(t, func(t *testing.T, w *world) {
		old := w.snapshot(t)
		stop := w.run(t)
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil })
		synctest.Wait()
		stop()
		w.restore(t, old)
		test(t, w)
	})
}

// TestAccept: an operator is shown what breaks; then the places are this store's, with new leaves and a higher
// epoch. Starts after that need no word.
func TestAccept(t *testing.T) {
	accepting(t, func(t *testing.T, w *world) {
		var shown []string
		w.accept = func(breaks []string) error { shown = breaks; return nil }
		stop := w.run(t)
		w.check(t)
		stop()
		text := strings.Join(shown, "\n")
		for _, want := range append([]string{"CERTIFICATE_VERIFY_FAILED", "memory:pgadmin"}, mesh...) {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in what was shown:\n%s", want, text)
			}
		}
		if epoch := w.engine.Status().Epoch; epoch != 2 {
			t.Errorf("epoch %d", epoch)
		}
		w.accept = nil
		w.run(t)()
		w.check(t)
	})
}

// TestAcceptDeclined changes nothing.
func TestAcceptDeclined(t *testing.T) {
	accepting(t, func(t *testing.T, w *world) {
		before := w.target.Copy()
		declined := errors.New("no")
		w.accept = func([]string) error { return declined }
		if err := w.start(t); !errors.Is(err, declined) {
			t.Errorf("start: %v", err)
		}
		for name, o := range w.target.Copy() {
			if !bytes.Equal(o.Cert, before[name].Cert) || w.engine.Issuer.Authority().Epoch() != 1 {
				t.Errorf("%s was changed", name)
			}
		}
	})
}

// TestAcceptNamesWhatItAccepts: the word holds for what was shown, not for what comes to the place later; and an
// epoch that anybody could have written does not become ours.
func TestAcceptNamesWhatItAccepts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		other := newWorld(t)
		other.run(t)()
		theirs, err := other.target.Observe(t.Context(), "pgadmin")
		if err != nil {
			t.Fatal(err)
		}
		theirs.Mark.Epoch = math.MaxUint64
		w.target.Change("pgadmin", func(o *rotation.Observation) { *o = theirs })
		w.accept = func([]string) error { return nil }
		w.run(t)()
		w.check(t)
		if epoch := w.engine.Status().Epoch; epoch != 2 {
			t.Errorf("epoch %d", epoch)
		}
	})
}

// TestWritesThatFail: a leaf is issued once, however often the target refuses to take it.
func TestWritesThatFail(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var tries atomic.Int32
		w.target.Fail = func(service string) (error, bool) {
			if service == "pgadmin" && tries.Add(1) <= 12 {
				return errors.New("quota exceeded"), false
			}
			return nil, true
		}
		stop := w.run(t)
		defer stop()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		w.check(t)
		if s := w.status(t, "pgadmin"); s.Issued != 1 || tries.Load() != 13 {
			t.Errorf("%d tries: %+v", tries.Load(), s)
		}
		leaf, _, err := issuer.New(w.Store, w.Authority).Current("pgadmin", "pgadmin")
		if err != nil {
			t.Fatal(err)
		}
		if older, err := issuer.New(w.Store, w.Authority).Before(leaf); older != nil || err != nil {
			t.Errorf("another leaf is recorded (%v)", err)
		}
	})
}

// TestConflict: what changed between the look and the write is looked at again, at most three times in a turn.
func TestConflict(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var conflicts, tries atomic.Int32
		w.target.Fail = func(service string) (error, bool) {
			if service != "pgadmin" {
				return nil, true
			}
			tries.Add(1)
			if conflicts.Add(-1) >= 0 {
				return rotation.ErrChanged, false
			}
			return nil, true
		}
		conflicts.Store(2)
		stop := w.run(t)
		defer stop()
		w.check(t)
		if s := w.status(t, "pgadmin"); tries.Load() != 3 || s.Issued != 1 || s.State != rotation.StateKept {
			t.Errorf("%d tries: %+v", tries.Load(), s)
		}
		tries.Store(0)
		conflicts.Store(4)
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA = nil })
		synctest.Wait()
		if s := w.status(t, "pgadmin"); tries.Load() != 3 || s.State != rotation.StateFailing || s.ForeignWrites != 1 {
			t.Errorf("%d tries in one turn: %+v", tries.Load(), s)
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		w.check(t)
		if s := w.status(t, "pgadmin"); tries.Load() != 5 || s.State != rotation.StateKept || s.ForeignWrites != 2 {
			t.Errorf("%d tries: %+v", tries.Load(), s)
		}
	})
}

// TestAlwaysTooLate: somebody writes faster than a look and a write, for an hour. That is an alarm, once, and what they
// leave is put right soon after the last of their writes.
func TestAlwaysTooLate(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		var at atomic.Bool
		w.target.Fail = func(service string) (error, bool) {
			if service == "pgadmin" && at.Load() {
				return rotation.ErrChanged, false
			}
			return nil, true
		}
		at.Store(true)
		for range 3600 {
			w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA = nil })
			time.Sleep(time.Second)
		}
		synctest.Wait()
		s := w.status(t, "pgadmin")
		if s.State != rotation.StateFailing || s.ForeignWrites < 3 || !strings.Contains(s.Hint, "find out who writes to memory:pgadmin") {
			t.Errorf("%+v", s)
		}
		alarms := 0
		for _, n := range w.target.Notices() {
			if n.Service == "pgadmin" && n.Kind == rotation.NoticeAlarm {
				alarms++
			}
		}
		if lines := w.log.take("again and again"); alarms != 1 || len(lines) != 1 {
			t.Errorf("%d alarms, and %d lines", alarms, len(lines))
		}
		at.Store(false)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		w.check(t)
	})
}

// TestBrokenGlass: a place that an operator has taken in hand rests until the operator says so; then it is healed.
func TestBrokenGlass(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		if err := w.engine.Resume(t.Context(), "pgadmin"); !errors.Is(err, rotation.ErrNothingToDo) {
			t.Errorf("resume of what does not rest: %v", err)
		}
		if err := w.engine.Resume(t.Context(), "nobody"); !errors.Is(err, issuer.ErrUnknownService) {
			t.Errorf("resume of nobody: %v", err)
		}
		writes := w.target.Writes("pgadmin")
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA, o.Rests = []byte("by hand"), "annotation break-glass" })
		synctest.Wait()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		s := w.status(t, "pgadmin")
		if s.State != rotation.StateResting || !strings.Contains(s.Error, "break-glass") || !strings.Contains(s.Hint, "--resume pgadmin") || w.target.Writes("pgadmin") != writes {
			t.Errorf("%+v", s)
		}
		if lines := w.log.take("broken the glass"); len(lines) != 1 {
			t.Errorf("said %d times", len(lines))
		}
		if err := w.engine.Resume(t.Context(), "pgadmin"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.check(t)
		if s := w.status(t, "pgadmin"); s.State != rotation.StateKept || s.Healed != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestPublishedInPlaces: who fights over the bundle in one place does not keep another from being healed at once.
func TestPublishedInPlaces(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		stop := w.run(t)
		defer stop()
		for range 25 {
			w.target.UnpublishAs(rotation.PublishedIn("one"))
			synctest.Wait()
		}
		if w.target.Published() != nil {
			t.Error("one is not metered: the test shows nothing")
		}
		w.target.UnpublishAs(rotation.PublishedIn("two"))
		synctest.Wait()
		if !bytes.Equal(w.target.Published(), w.Authority.Bundle().PEM()) {
			t.Error("two is not healed")
		}
	})
}

// TestResumedTooLate: an operator's word that healing goes on, given when the glass was whole again already, is not
// kept for the next time that it is broken.
func TestResumedTooLate(t *testing.T) {
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
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Rests = "ticket 42" })
		synctest.Wait()
		away.Store(true) // so that the word comes before the next look
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Rests = "" })
		synctest.Wait()
		if err := w.engine.Resume(t.Context(), "pgadmin"); err != nil {
			t.Fatal(err)
		}
		away.Store(false)
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		w.check(t)
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA, o.Rests = []byte("by hand"), "ticket 43" })
		synctest.Wait()
		if s := w.status(t, "pgadmin"); s.State != rotation.StateResting || s.Healed > 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestPublished: the bundle is published at the start, again when somebody changes it, metered as heals are, and
// in each sweep.
func TestPublished(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		stop := w.run(t)
		defer stop()
		begin := w.target.Publications()
		for range 25 {
			w.target.Unpublish()
			synctest.Wait()
		}
		if n := w.target.Publications() - begin; n != 20 {
			t.Errorf("published %d times within no time, want the twenty of the burst", n)
		}
		if w.target.Published() != nil {
			t.Error("it was published all the same")
		}
		time.Sleep(6 * time.Second)
		w.target.Unpublish()
		synctest.Wait()
		if !bytes.Equal(w.target.Published(), w.Authority.Bundle().PEM()) {
			t.Error("not published again six seconds later")
		}
		w.target.Unpublish()
		time.Sleep(time.Hour)
		synctest.Wait()
		if !bytes.Equal(w.target.Published(), w.Authority.Bundle().PEM()) {
			t.Error("not published in the sweep")
		}
	})
}

// notices are the texts that were told of a service under the kind.
func (w *world) notices(name string, kind rotation.NoticeKind) (texts []string) {
	for _, n := range w.target.Notices() {
		if n.Service == name && n.Kind == kind {
			texts = append(texts, n.Text)
		}
	}
	return texts
}

// TestClaimed: marks of another program, which anybody may set, stop neither healing nor renewal of a place that bears
// our own; they are told once. Where ours is not proven, the place is refused.
func TestClaimed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		stop := w.run(t)
		defer stop()
		claim := theirs
		claim.Claimant = "cert-manager"
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA, o.Foreign = []byte("theirs"), claim })
		synctest.Wait()
		w.check(t)
		first := w.serials(t)["pgadmin"]
		time.Sleep(life)
		synctest.Wait()
		w.check(t)
		s := w.status(t, "pgadmin")
		if s.State != rotation.StateKept || s.Healed != 1 || s.Serial == first {
			t.Errorf("not kept: %+v", s)
		}
		if len(s.Remarks) != 1 || !strings.Contains(s.Remarks[0].Text, "cert-manager") || s.Remarks[0].Hint != claim.Hint {
			t.Errorf("the status has remarks %+v", s.Remarks)
		}
		if told := w.notices("pgadmin", rotation.NoticeAlarm); len(told) != 1 || !strings.Contains(told[0], "cert-manager") {
			t.Errorf("told %q", told)
		}
		writes := w.target.Writes("pgadmin")
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA, o.Mark = []byte("theirs"), nil })
		synctest.Wait()
		if s := w.status(t, "pgadmin"); s.State != rotation.StateRefused || w.target.Writes("pgadmin") != writes {
			t.Errorf("without a mark of ours: %+v", s)
		}
	})
}

// TestLeftAloneIsTold: that a place is left alone is told when it begins, and again when its leaf is due and in each
// run that should renew it.
func TestLeftAloneIsTold(t *testing.T) {
	for kind, change := range map[rotation.NoticeKind]func(*rotation.Observation){
		rotation.NoticeResting: func(o *rotation.Observation) { o.Rests = "a look" },
		rotation.NoticeRefused: func(o *rotation.Observation) { o.Foreign = theirs },
	} {
		t.Run(string(kind), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.sweep = time.Hour
				stop := w.run(t)
				defer stop()
				due, ends := w.status(t, "pgadmin").Due, w.status(t, "pgadmin").NotAfter
				w.target.Change("pgadmin", change)
				time.Sleep(time.Until(due) - time.Second)
				synctest.Wait()
				if told := w.notices("pgadmin", kind); len(told) != 1 || strings.Contains(told[0], "expires") || !kind.Warning() {
					t.Errorf("told %q", told)
				}
				time.Sleep(time.Hour + time.Second)
				synctest.Wait()
				told := w.notices("pgadmin", kind)
				if len(told) != 2 || !strings.Contains(told[1], "its leaf expires at "+ends.UTC().Format(time.RFC3339)+" and is not renewed") {
					t.Errorf("told %q", told)
				}
				time.Sleep(48 * time.Hour)
				synctest.Wait()
				if told := w.notices("pgadmin", kind); len(told) != 4 {
					t.Errorf("told %d times, want also in each of two runs: %q", len(told), told)
				}
			})
		})
	}
}

// TestMarkOfAPrunedRecord: a genuine mark that somebody kept until its leaf's record was pruned says nothing of the
// store. It is put right, and no start is refused for it.
func TestMarkOfAPrunedRecord(t *testing.T) {
	for what, replay := range map[string]func(now *rotation.Observation, old rotation.Observation){
		"the mark": func(now *rotation.Observation, old rotation.Observation) { now.Mark = old.Mark },
		"the mark with a later end": func(now *rotation.Observation, old rotation.Observation) {
			mark := *old.Mark
			mark.NotAfter = mark.NotAfter.Add(2 * life)
			now.Mark = &mark
		},
		"all but the chain": func(now *rotation.Observation, old rotation.Observation) { *now = old; now.Cert = nil },
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.retain = time.Hour
				w.run(t)()
				old := w.target.Copy()["pgadmin"]
				time.Sleep(life * 7 / 10)
				w.run(t)() // renews
				time.Sleep(life * 4 / 10)
				stop := w.run(t) // prunes
				if has, err := w.engine.Issuer.HasSerial("pgadmin", old.Mark.Serial); has || err != nil {
					t.Fatalf("its record is still there (%v)", err)
				}
				w.target.Change("pgadmin", func(o *rotation.Observation) { replay(o, old) })
				synctest.Wait()
				w.check(t)
				if s := w.status(t, "pgadmin"); s.Healed != 1 || s.ForeignWrites != 1 {
					t.Errorf("%+v", s)
				}
				stop()
				w.target.Change("pgadmin", func(o *rotation.Observation) { replay(o, old) })
				w.run(t)()
				w.check(t)
			})
		})
	}
}

// TestMarkWithoutEnd: the mark of a set whose leaf was another CA's names no leaf, and so no time until when it matters.
// Put there again when the store has long forgotten the service, it stops nobody else.
func TestMarkWithoutEnd(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.ruin(t, 48*time.Hour)
		m.retain, m.sweep = time.Hour, time.Hour
		stop := m.run(t)
		old := m.holds(t, "search")
		if old.Mark == nil || old.Mark.Serial != "" {
			t.Fatalf("its mark is %+v", old.Mark)
		}
		others := slices.DeleteFunc(slices.Clone(m.names), func(name string) bool { return name == "search" })
		if err := m.engine.Reload(t.Context(), policies(others), nil); err != nil {
			t.Fatal(err)
		}
		m.wait(51 * time.Hour) // its leaf has expired, and what was recorded of it is pruned
		if err := m.engine.Reload(t.Context(), policies(m.names), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if s := m.status(t, "search"); s.State != rotation.StateRefused {
			t.Errorf("%+v", s)
		}
		m.wantHealed(t, "envoy")
		stop()
		if err := m.start(t); err != nil {
			t.Errorf("start: %v", err)
		}
	})
}
