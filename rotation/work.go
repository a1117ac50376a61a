package rotation

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
)

// A job is a part of a pass that may wait for the target: a service's turn, under the service's name, or the
// publication of the trust bundle.
type job struct {
	name string
	do   func() error
}

// lateAfter is how long a job may take before it counts as one that hangs. A target that is there answers in
// milliseconds; one that is only slow loses nothing by it.
const lateAfter = 250 * time.Millisecond

// work does jobs, a few at once, and returns when all are done, with what they return.
//
// One that hangs takes nobody's place and keeps nobody waiting: it does not count among the few, and while there is one,
// services whose places change have their turn in between. So a part of the target that is silent costs the others
// nothing, however long it is waited for. Until a job ends its service is left alone by the goroutine of Run, which
// calls this.
func (e *Engine) work(ctx context.Context, jobs []job) error {
	type end struct {
		name string
		err  error
	}
	var group errgroup.Group
	defer func() { _ = group.Wait() }() // no error is returned below
	ended := make(chan end)
	queued, hung := make(map[string]bool), make(map[string]bool)
	for _, j := range jobs {
		queued[j.name] = true
	}
	var failed []error
	for {
		for len(jobs) > 0 && len(e.atWork)-e.hanging() < parallel {
			j := jobs[0]
			jobs = jobs[1:]
			delete(queued, j.name)
			e.atWork[j.name] = time.Now()
			group.Go(func() error { // ends with its job; work waits for it
				ended <- end{j.name, j.do()}
				return nil
			})
		}
		if len(e.atWork) == 0 {
			return errors.Join(append(failed, e.recordDelivered())...)
		}
		var changed <-chan string
		var tick <-chan time.Time
		hanging := e.hanging()
		if hanging > 0 {
			changed = e.changed
		}
		if hanging < len(e.atWork) {
			tick = time.After(lateAfter)
		}
		select {
		case done := <-ended:
			hung[done.name] = time.Since(e.atWork[done.name]) >= lateAfter
			delete(e.atWork, done.name)
			failed = append(failed, done.err)
			if left := len(e.atWork); left > 0 && left == e.hanging() && len(jobs) == 0 {
				failed = append(failed, e.recordDelivered())
				e.publish(e.now())
			}
		case name := <-changed:
			s, kept := e.services[name]
			if !kept || e.busy(name) || queued[name] || hung[name] {
				e.changedAgain(name) // it is for the next pass
				continue
			}
			queued[name] = true
			jobs = append([]job{e.between(ctx, s)}, jobs...)
		case <-tick:
		}
	}
}

// hanging counts the jobs that hang.
func (e *Engine) hanging() (n int) {
	for _, began := range e.atWork {
		if time.Since(began) >= lateAfter {
			n++
		}
	}
	return n
}

// busy says whether the service's turn is under way: whatever is its own is its goroutine's then.
func (e *Engine) busy(name string) bool {
	_, busy := e.atWork[name]
	return busy
}

// between is a service's turn in the middle of a pass. What the pass has found out for its own turns may be older than
// what has changed.
func (e *Engine) between(ctx context.Context, s *service) job {
	now := e.now()
	w := e.world(now)
	return job{s.Service, func() error {
		if ctx.Err() == nil {
			e.serve(ctx, s, w, now)
		}
		return nil
	}}
}
