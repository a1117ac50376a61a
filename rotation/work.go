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

const (
	// lateAfter is how long a job may take before it counts as one that hangs. A target that is there answers in
	// milliseconds; one that is only slow loses nothing by it.
	lateAfter = 250 * time.Millisecond
	// heldFor is how long a job may wait for others to begin with it: an API server that is busy answers so many in half
	// of it.
	heldFor = 50 * time.Millisecond
	// betweenFor is how long a pass takes turns in between: those may hang as well, and sweeps and orders wait for its end.
	betweenFor = 30 * time.Second
)

// work does jobs, a few at once, and returns when all are done, with what they return.
//
// One that hangs takes nobody's place and keeps nobody waiting: it does not count among the few, and while there is one,
// services whose places change have their turn in between. So a part of the target that is silent costs the others
// nothing, however long it is waited for. Until a job ends its service is left alone by the goroutine of Run, which
// calls this.
func (e *Engine) work(ctx context.Context, jobs []job) error {
	s := &shift{e: e, begun: time.Now(), jobs: jobs, queued: make(map[string]bool), hung: make(map[string]bool), ended: make(chan ended)}
	for _, j := range jobs {
		s.queued[j.name] = true
	}
	for {
		s.begin()
		if len(e.atWork) == 0 {
			_ = s.group.Wait() // all have ended, with no error
			return errors.Join(append(s.failed, e.recordDelivered())...)
		}
		select {
		case j := <-s.ended:
			s.end(j)
		case name := <-s.changed():
			s.between(ctx, name)
		case <-s.late():
		}
		s.tell()
	}
}

// A shift is one call of work. It is its caller's alone.
type shift struct {
	e      *Engine
	begun  time.Time
	jobs   []job
	queued map[string]bool // names of the jobs
	hung   map[string]bool // names of those that did
	group  errgroup.Group
	ended  chan ended
	failed []error
	want   int       // how many begin together
	held   time.Time // since when jobs wait for others to begin with; zero: none does
	told   bool      // nothing has ended since all that is done was told of
}

// ended is the end of a job.
type ended struct {
	name string
	err  error
}

// begin begins as many jobs as may be under way. They begin together, so that what they record is committed together: one
// by one, each would wait for the disk alone. Where others do not end in time for that, fewer begin together from then on.
func (s *shift) begin() {
	free := parallel - (len(s.e.atWork) - s.e.hanging())
	if free >= together {
		s.want = together
	}
	switch held := !s.held.IsZero(); {
	case free <= 0 || len(s.jobs) == 0 || free >= s.want:
		s.held = time.Time{}
	case !held:
		s.held = time.Now()
		return
	case time.Since(s.held) < heldFor:
		return
	default:
		s.want, s.held = free, time.Time{}
	}
	for range min(max(free, 0), len(s.jobs)) {
		j := s.jobs[0]
		s.jobs = s.jobs[1:]
		delete(s.queued, j.name)
		s.e.atWork[j.name] = time.Now()
		s.group.Go(func() error { // ends with its job, which work waits for
			s.ended <- ended{j.name, j.do()}
			return nil
		})
	}
}

// end takes what a job has come to.
func (s *shift) end(j ended) {
	s.hung[j.name] = time.Since(s.e.atWork[j.name]) >= lateAfter
	delete(s.e.atWork, j.name)
	s.failed = append(s.failed, j.err)
	s.told = false
}

// tell records and tells of what is done where all that is left hangs: that may take long.
func (s *shift) tell() {
	if left := len(s.e.atWork); left > 0 && left == s.e.hanging() && len(s.jobs) == 0 && !s.told {
		s.failed = append(s.failed, s.e.recordDelivered())
		s.e.publish(s.e.now())
		s.told = true
	}
}

// changed is what the target's watch tells, while a job hangs.
func (s *shift) changed() <-chan string {
	if s.e.hanging() == 0 || time.Since(s.begun) > betweenFor {
		return nil
	}
	return s.e.changed
}

// late comes when one more job hangs, or when those that wait have waited long enough to begin without others; never
// where neither is to come.
func (s *shift) late() <-chan time.Time {
	next, nothing := time.Duration(0), true
	sooner := func(left time.Duration) {
		if nothing || left < next {
			next, nothing = max(left, 0), false
		}
	}
	for _, began := range s.e.atWork {
		if left := lateAfter - time.Since(began); left > 0 {
			sooner(left)
		}
	}
	if !s.held.IsZero() {
		sooner(heldFor - time.Since(s.held))
	}
	if nothing && s.told && len(s.jobs) == 0 {
		return nil
	}
	return time.After(next) // at once where the last one has come to hang since that was looked at
}

// between gives a service its turn before all that wait. What the pass has found out for its own turns may be older than
// what has changed. What is no service, at work, or has just hung is for the next pass.
func (s *shift) between(ctx context.Context, name string) {
	e := s.e
	service, kept := e.services[name]
	if !kept || e.busy(name) || s.queued[name] || s.hung[name] {
		e.changedAgain(name)
		return
	}
	service.ahead = nil // likewise
	now := e.now()
	w := e.world(now)
	s.queued[name] = true
	s.jobs = append([]job{{name, func() error {
		if ctx.Err() == nil {
			e.serve(ctx, service, w, now)
		}
		return nil
	}}}, s.jobs...)
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
