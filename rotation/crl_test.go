package rotation_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/rotation"
)

// crls are those in the status, root first.
func (w *world) crls(t *testing.T) (root, issuing rotation.CRLStatus) {
	t.Helper()
	crls := w.engine.Status().CRLs
	if len(crls) != 2 || !crls[0].Root || crls[1].Root {
		t.Fatalf("CRLs %+v, want the root's and the issuing CA's", crls)
	}
	return crls[0], crls[1]
}

// TestCRLsAreMadeDaily, though nobody asks for them.
func TestCRLsAreMadeDaily(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		stop := w.run(t)
		defer stop()
		root, last := w.crls(t)
		for day := range 10 {
			time.Sleep(25 * time.Hour)
			synctest.Wait()
			sameRoot, next := w.crls(t)
			if next.Number <= last.Number || next.NextUpdate.Sub(w.now()) < 5*24*time.Hour || next.Overdue || sameRoot != root {
				t.Errorf("day %d: %+v after %+v", day, next, last)
			}
			last = next
		}
		if lines := w.log.take("overdue"); len(lines) > 0 {
			t.Errorf("said %q", lines)
		}
	})
}

// TestCRLIsOverdue: a CRL that cannot be made anew is an alarm at half of its time, once, and stays one when it has ended.
func TestCRLIsOverdue(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		full := &fullStore{Store: w.Store}
		w.store = full
		stop := w.run(t)
		defer stop()
		full.full.Store(true)
		for _, step := range []struct {
			wait    time.Duration
			overdue bool
			said    int
		}{{82 * time.Hour, false, 0}, {3 * time.Hour, true, 1}, {100 * time.Hour, true, 0}} {
			time.Sleep(step.wait)
			synctest.Wait()
			if _, issuing := w.crls(t); issuing.Overdue != step.overdue {
				t.Errorf("after %s more: %+v", step.wait, issuing)
			}
			if lines := w.log.take("CRL is overdue"); len(lines) != step.said {
				t.Errorf("after %s more, said %q", step.wait, lines)
			}
			if w.engine.Status().Sweep.Error == "" {
				t.Error("the sweep does not say that the CRL could not be made")
			}
		}
		full.full.Store(false)
		time.Sleep(time.Hour)
		synctest.Wait()
		if _, issuing := w.crls(t); issuing.Overdue {
			t.Errorf("when there is room again: %+v", issuing)
		}
	})
}

// TestRootCRLIsOverdue when a new leaf would outlive it: the issuing CA, with which it is made anew, should have been
// replaced.
func TestRootCRLIsOverdue(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		due := catest.Params.IssuingLifetime - life
		for n, at := range []time.Duration{due - time.Hour, due + time.Hour} {
			w.skew.Store(int64(at))
			w.run(t)()
			if root, issuing := w.crls(t); root.Overdue != (n == 1) || issuing.Overdue {
				t.Errorf("%s after the founding: %+v, want overdue %t; %+v", at, root, n == 1, issuing)
			}
		}
	})
}

func TestStatusNamesWhatHasNoCRL(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		catest.ForgetRootCRL(t, w.Fixture)
		stop := w.run(t)
		defer stop()
		s := w.engine.Status()
		if len(s.CRLs) != 1 || s.CRLs[0].Root || len(s.NoCRL) != 1 || s.NoCRL[0] != w.Authority.Root().Certificate.Subject.String() {
			t.Errorf("CRLs %+v, without one %q", s.CRLs, s.NoCRL)
		}
	})
}
