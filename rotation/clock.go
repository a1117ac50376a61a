package rotation

import (
	"fmt"
	"time"

	"github.com/meshca/meshca/store"
)

// loadLastRun reads when the schedule's job last ran.
func (e *Engine) loadLastRun() error {
	err := e.Store.View(func(r store.Reader) error {
		value, ok := r.Get(lastRunKey)
		if !ok {
			return nil
		}
		at, err := time.Parse(time.RFC3339, string(value))
		e.lastRun = at
		return err
	})
	if err != nil {
		return fmt.Errorf("read the last run of the schedule: %w", err)
	}
	return nil
}

// beginClock compares the clock with the last run. At the first start the job counts as just run, since the
// first pass issues everything.
func (e *Engine) beginClock(now time.Time) error {
	if e.lastRun.IsZero() {
		return e.saveLastRun(now)
	}
	e.wall = e.lastRun
	e.noticeClock(now)
	return nil
}

// saveLastRun records the run. Where that fails it counts all the same until the process ends: a run is
// idempotent, and the next start only repeats it.
func (e *Engine) saveLastRun(now time.Time) error {
	e.lastRun = now
	err := e.Store.Update(func(w store.Writer) error {
		w.Put(lastRunKey, []byte(now.UTC().Format(time.RFC3339)))
		return nil
	})
	if err != nil {
		return fmt.Errorf("record the run of the schedule: %w", err)
	}
	return nil
}

// runDue says whether a run of the schedule lies between the last one and now. Any number of missed runs
// is caught up by one.
func (e *Engine) runDue(now time.Time) bool {
	next := e.Schedule.Next(e.lastRun)
	return !next.IsZero() && !now.Before(next)
}

// noticeClock says that the clock went back, and keeps the schedule from waiting for the instant of a
// future that was never reached. Expiry is judged by the clock as it is.
func (e *Engine) noticeClock(now time.Time) {
	if back := e.wall.Sub(now); back > time.Second {
		e.Log.Warn("the clock went back: certificates are judged by the clock as it is now",
			"by", back.Round(time.Second).String(), "now", now.UTC().Format(time.RFC3339))
		if e.lastRun.After(now) {
			if err := e.saveLastRun(now); err != nil {
				e.Log.Error("the corrected run of the schedule is not recorded", "error", err)
			}
		}
		e.swept.At = earlier(e.swept.At, now)
	}
	e.wall = now
}
