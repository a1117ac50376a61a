package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/store"
)

// Schedule says when the rotation job runs.
type Schedule interface {
	// Next is the first run strictly after the given instant; zero means never.
	Next(after time.Time) time.Time
}

// Config is what an engine is made of.
type Config struct {
	Store    store.Store
	Issuer   *issuer.Issuer
	Target   Target
	Schedule Schedule
	RenewAt  float64          // fraction of a leaf's life at which it is due, 0.1 to 0.9
	Sweep    time.Duration    // how often everything is read and compared
	Retain   time.Duration    // how long the record of an expired certificate is kept
	HoldDown time.Duration    // how long after a write a new process may still be given the old files
	Now      func() time.Time // the wall clock
	Log      *slog.Logger
	// Looks is what a boot has seen just now of the places: Start does not look at them again. Where one has
	// changed since, its write fails and it is observed anew.
	Looks Looks
	// Accept, where set, is shown what breaks where places would be refused at the start, and lets them be
	// written over unless it returns an error.
	Accept func(breaks []string) error
}

const (
	together   = 8           // services whose turns begin at once
	parallel   = 24          // services that are worked on at once: signing and committing fill the waits for the target
	checkClock = time.Minute // longest sleep: timers stand still while a machine is suspended, the wall clock does not
	pruneBatch = 1000        // records deleted in one transaction
	pruneFor   = time.Second // how long a sweep begins such transactions: services wait meanwhile, and callers may ask for more than one batch a sweep
	watchRetry = time.Minute
)

// An Engine keeps the services of a catalogue. Start and then Run are called once, from one goroutine;
// Reload, Status and Ready from any.
type Engine struct {
	Config
	services map[string]*service // owned by the goroutine of Start and Run
	lastRun  time.Time
	swept    Sweep
	passed   time.Time // when the last pass ended
	wall     time.Time // the clock at the last pass, to notice that it went back

	checks       checks            // of what is about to be written
	publications map[string]bucket // of the published trust bundle, by place
	evidence     evidence          // that nothing may be written
	surveyed     bool              // every place that can be read was looked at before the first is written
	closed       bool              // the first take-over is over: see stranger
	moved        atomic.Bool       // a ca.crt has come to hold our root, or holds it no longer, in this pass
	revocations  uint64            // in the store, when the records were read
	crls         []issuer.CRL      // in force
	late         string            // issuers whose CRL is overdue, as it was said last

	atWork map[string]time.Time // jobs of the pass that are under way, and since when; owned by the goroutine of Start and Run

	commands chan command
	changed  chan string // what the target's watch tells
	again    namesOnce   // what a pass wants another to look at: it cannot wait for room in the channel that it is to empty
	status   atomic.Pointer[Status]
}

// A command is done by the goroutine of Run between two passes.
type command struct {
	do   func(now time.Time) error
	done chan error // with room for the answer: nobody may wait for it any more

	// The pass that follows is over all services, and the watch begins anew, where only is "".
	only string
	// after is what is answered in place of a nil of do, when that pass has ended; nil: do is answered at once.
	after func() error
}

// service is one service's state and what people are told of it. During a pass it is owned by the one
// goroutine that works on it.
type service struct {
	State
	failures  int
	retryAt   time.Time // after a failure, or when heals are metered: not before
	finding   string    // what stands in the way, "" if nothing does
	hint      string
	refused   bool
	unseen    bool // the newest look at the target failed
	unread    bool // its records could not be read yet
	throttled bool // the target has asked to come later
	arrived   bool // its newest leaf is in place, and that is not recorded yet
	rests     bool // an operator wants it left alone
	overdue   bool // that its leaf is due and its place is left alone was told
	claim     Remark
	barred    barred
	brings    string // strangers that wait for an operator's word
	remarks   []Remark

	ahead    *looked   // an observation that its turn in this pass uses
	looked   bool      // the place was seen in this process's life
	ca       []byte    // its ca.crt as it was seen last; the key beside it is not kept
	taken    *Takeover // as the store has it, also when a leaf of ours is in place
	waits    string    // why its processes may refuse leaves that are signed anew
	form     Form      // as the store has it
	forms    bucket    // its records
	renewals bucket    // that were asked for
	turns    int       // since the start, as all that follows
	healed   int
	issued   int
	lastHeal time.Time
}

// looked is what one look at a place has given.
type looked struct {
	Seen
	err error // wraps ErrNotWritable
}

// Sweep tells of the newest pass over all services.
type Sweep struct {
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"`
}

// lastRunKey holds the instant of the newest run of the schedule, so that a missed one is caught up.
const lastRunKey = "rotation/last-run"

// New makes an engine.
func New(c Config) *Engine {
	e := &Engine{
		Config:       c,
		services:     make(map[string]*service),
		publications: make(map[string]bucket),
		atWork:       make(map[string]time.Time),
		commands:     make(chan command),
		changed:      make(chan string, 64),
	}
	e.status.Store(&Status{})
	return e
}

// A RefusedError lists the places that a start found to be another's, or newer than the store. Nothing was
// changed.
type RefusedError struct {
	Refusals []Refusal
}

// A Refusal is one place that was refused.
type Refusal struct {
	Service, Place, Reason, Hint string
}

func (e *RefusedError) Error() string {
	r := e.Refusals[0]
	if n := len(e.Refusals) - 1; n > 0 {
		return fmt.Sprintf("%s %s (and %d more)", r.Place, r.Reason, n)
	}
	return fmt.Sprintf("%s %s", r.Place, r.Reason)
}

// Start settles what a crash left open and makes the first pass over all services. Where a place proves that the store
// is older than what it serves, or holds another meshca's set while the store has recorded nothing yet, it returns a
// *RefusedError and has changed nothing.
func (e *Engine) Start(ctx context.Context) error {
	now := e.now()
	if err := errors.Join(e.loadLastRun(), e.loadClosed()); err != nil {
		return err
	}
	for _, name := range e.Issuer.Services() {
		s := &service{State: State{Service: name}}
		if err := e.reread(s); err != nil {
			return err
		}
		e.services[name] = s
	}
	err := e.admit(ctx, now)
	if refused, ok := errors.AsType[*RefusedError](err); ok && e.Accept != nil {
		err = e.accept(refused, now)
	}
	if err != nil {
		return err
	}
	if err := e.beginClock(now); err != nil {
		return err
	}
	e.pass(ctx, e.names(), true, now)
	return ctx.Err()
}

// Run keeps the services until ctx ends. It returns nil then; what was begun is finished first.
func (e *Engine) Run(ctx context.Context) error {
	watching := e.watch(ctx)
	defer func() { watching.stop() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var names []string
		var answer func()
		all := false
		select {
		case <-ctx.Done():
			return nil
		case c := <-e.commands:
			watching, answer = e.obey(ctx, c, watching)
			if all = c.only == ""; !all {
				names = []string{c.only}
			}
		case name := <-e.changed:
			names = e.drain(name)
		case <-timer.C:
		}
		now := e.now()
		e.noticeClock(now)
		names = append(names, e.again.take()...)
		all = all || slices.Contains(names, "") || e.mayPublish(names, now)
		if all = all || e.runDue(now) || !now.Before(e.nextSweep()); all {
			names = e.names()
		}
		e.pass(ctx, append(names, e.dueNames(now)...), all, now)
		if answer != nil {
			answer()
		}
		timer.Reset(min(max(e.wake(now).Sub(e.now()), 0), checkClock))
	}
}

// watching is one run of the target's Watch.
type watching struct{ stop func() }

// watch runs the target's Watch in a goroutine until stop, which waits for its end.
func (e *Engine) watch(parent context.Context) watching {
	ctx, cancel := context.WithCancel(parent)
	done := make(chan struct{})
	go func() { // ends when ctx does: owned by Run, which calls stop
		defer close(done)
		for e.watchOnce(ctx) {
		}
	}()
	return watching{stop: func() { cancel(); <-done }}
}

// watchOnce watches until ctx ends, or until the watch fails and it is time to try again.
func (e *Engine) watchOnce(ctx context.Context) (again bool) {
	err := e.Target.Watch(ctx, e.Issuer.Services(), func(name string) {
		select {
		case e.changed <- name:
		case <-ctx.Done():
		}
	})
	if ctx.Err() != nil {
		return false
	}
	e.Log.Warn("cannot watch: until it is tried again, changes are found by the sweep",
		"sweep", e.Sweep.String(), "again in", watchRetry.String(), "error", err)
	select {
	case <-time.After(watchRetry):
		return true
	case <-ctx.Done():
		return false
	}
}

// drain takes all changes that are waiting, so that a burst of events is one pass.
func (e *Engine) drain(first string) (names []string) {
	names = []string{first}
	for {
		select {
		case name := <-e.changed:
			names = append(names, name)
		default:
			return names
		}
	}
}

// namesOnce are names, each kept once until they are taken. It is safe for concurrent use.
type namesOnce struct {
	mu    sync.Mutex
	names map[string]bool
}

func (n *namesOnce) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names == nil {
		n.names = make(map[string]bool)
	}
	n.names[name] = true
}

func (n *namesOnce) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := sorted(n.names)
	n.names = nil
	return taken
}

func (n *namesOnce) any() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.names) > 0
}

// obey does a command, and returns the watch that goes on. answer, where it is not nil, is called when the pass that
// follows has ended.
func (e *Engine) obey(ctx context.Context, c command, w watching) (next watching, answer func()) {
	if c.only == "" {
		w.stop() // it may be a new catalogue
	}
	err := c.do(e.now())
	if c.only == "" {
		w = e.watch(ctx)
	}
	if err != nil || c.after == nil {
		c.done <- err
		return w, nil
	}
	return w, func() { c.done <- c.after() }
}

// do has Run do something between two passes, and look at everything then.
func (e *Engine) do(ctx context.Context, do func(now time.Time) error) error {
	return e.order(ctx, command{do: do})
}

// order has Run do a command. Where ctx ends before it is taken it is not done later, and the error is that of ctx; where
// the pass that follows is waited for and ctx ends before, the error is ErrUnderWay.
func (e *Engine) order(ctx context.Context, c command) error {
	c.done = make(chan error, 1)
	select {
	case e.commands <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.after == nil {
		return <-c.done
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ErrUnderWay
	}
}

// Reload replaces the catalogue. It returns when the engine has taken it, or when ctx ends. prepare, where it is not
// nil, is called at that moment, when no pass is under way: it tells the target of the services' places.
func (e *Engine) Reload(ctx context.Context, policies []issuer.Policy, prepare func()) error {
	return e.do(ctx, func(time.Time) error {
		if prepare != nil {
			prepare()
		}
		e.setCatalogue(policies)
		return nil
	})
}

// setCatalogue takes up new services and lets go of removed ones.
func (e *Engine) setCatalogue(policies []issuer.Policy) {
	e.Issuer.SetCatalogue(policies)
	for _, name := range e.Issuer.Services() {
		if s, kept := e.services[name]; kept && s.Subject == e.Target.Subject(name) {
			s.Fits = s.Leaf != nil && e.Issuer.Fits(s.Leaf)
			continue
		} else if kept {
			e.Log.Info("service has another place: what it had stays, and is no longer kept", "service", name,
				"place", e.Target.Place(name), "had", s.Subject)
		}
		s := &service{State: State{Service: name}}
		e.weigh(s, objection{})
		s.unread = e.reread(s) != nil // its turn in the pass says what is wrong
		e.services[name] = s
	}
	for _, name := range e.names() {
		s := e.services[name]
		if _, kept := e.Issuer.Policy(name); !kept {
			delete(e.services, name)
			e.weigh(s, objection{})
			e.Log.Info("service removed from the catalogue: no longer kept, what it has stays",
				"service", name, "place", e.Target.Place(name))
		}
	}
}

func (e *Engine) names() []string {
	names := make([]string, 0, len(e.services))
	for name := range e.services {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// now is the wall clock alone: the monotonic one stands still while a machine is suspended.
func (e *Engine) now() time.Time { return e.Now().Round(0) }

// world is what Step sees besides the service.
func (e *Engine) world(now time.Time) World {
	return World{
		Authority: e.Issuer.Authority(),
		RenewAt:   e.RenewAt,
		Run:       e.runDue(now),
		NextRun:   e.Schedule.Next(now),
	}
}

// pass works on the named services, a few at once. A pass over all of them is a sweep; one that the schedule
// called for is recorded when it is done, so that a crash in it is caught up.
func (e *Engine) pass(ctx context.Context, names []string, all bool, now time.Time) {
	names = append(names, e.noticeRevocations()...)
	names = append(names, e.survey(ctx, now)...)
	slices.Sort(names)
	names = slices.Compact(names)
	if all {
		for _, s := range e.services {
			s.barred = barred{} // a leaf that has expired needs no CA any more
		}
	}
	if e.surveyed && e.takeOver(ctx, names, now) {
		names, all = e.names(), true // the trust bundle is another
	}
	w := e.world(now)
	if all {
		e.see(ctx, now)
		w.Trusted = e.trusted(ctx, now)
	}
	var turns []job
	for _, name := range names {
		if s, kept := e.services[name]; kept {
			turns = append(turns, job{name, func() error {
				if ctx.Err() != nil {
					return nil // the program is ending: what was not begun is left to the next start
				}
				e.serve(ctx, s, w, now)
				if all {
					return e.Target.Tidy(ctx, s.Service)
				}
				return nil
			}})
		}
	}
	err := e.work(ctx, turns)
	for _, s := range e.services {
		s.ahead = nil // also of those that had no turn: a later pass must not decide on it
	}
	if err != nil && !all {
		e.Log.Error("pass incomplete", "error", err)
	}
	if e.moved.Swap(false) {
		e.trusted(ctx, now) // what is waited for is another; the next pass acts on it
	}
	if all && ctx.Err() == nil {
		e.finishSweep(errors.Join(err, e.publishBundle(ctx)), w, now)
	}
	e.passed = e.now()
	e.publish(now)
}

// finishSweep keeps the CRLs, prunes, records the run, and keeps what went wrong for the status.
func (e *Engine) finishSweep(err error, w World, now time.Time) {
	err = errors.Join(err, e.keepCRLs(now))
	pruned, pruneErr := inBatches(func() (int, error) { return e.Issuer.Prune(now.Add(-e.Retain), pruneBatch) })
	if pruned > 0 {
		e.Log.Info("pruned records of expired certificates", "count", pruned)
	}
	_, answersErr := inBatches(func() (int, error) { return e.Issuer.PruneAnswers(now, pruneBatch) })
	err = errors.Join(err, answersErr)
	err = errors.Join(err, pruneErr, e.forget(now), e.keepClosed(now))
	if w.Run {
		err = errors.Join(err, e.saveLastRun(now))
	}
	swept := Sweep{At: now}
	if err != nil {
		swept.Error = err.Error()
	}
	if swept.Error != e.swept.Error && err != nil {
		e.Log.Error("sweep incomplete", "error", err)
	}
	e.swept = swept
}

// inBatches prunes until a batch is not full, or for pruneFor.
func inBatches(prune func() (int, error)) (pruned int, err error) {
	for began := time.Now(); time.Since(began) < pruneFor; {
		n, err := prune()
		if pruned += n; err != nil || n < pruneBatch {
			return pruned, err
		}
	}
	return pruned, nil
}

func (e *Engine) nextSweep() time.Time { return e.swept.At.Add(e.Sweep) }

// dueNames lists the services whose turn has come outside the sweep: after a failure, when a heal is free
// again, or because their leaf cannot wait.
func (e *Engine) dueNames(now time.Time) []string {
	var names []string
	for name, s := range e.services {
		if at := e.attention(s, now); !at.IsZero() && !now.Before(at) {
			names = append(names, name)
		}
	}
	return names
}

// attention is when a service must be looked at outside the sweep, zero if the sweep will do.
func (e *Engine) attention(s *service, now time.Time) time.Time {
	if !s.retryAt.IsZero() {
		return s.retryAt
	}
	if s.refused || s.rests {
		return time.Time{}
	}
	var due, notAfter time.Time
	switch {
	case s.Takeover != nil && s.Takeover.Leaf != LeafNone:
		due, notAfter = s.Takeover.Due, s.Takeover.NotAfter
	case s.Leaf != nil:
		record := s.Leaf.Record()
		due, notAfter = Due(record, e.RenewAt), record.NotAfter
	default:
		return time.Time{}
	}
	if cannotWait(due, notAfter, e.Schedule.Next(later(due, now))) {
		return due
	}
	return time.Time{}
}

// wake is the next instant at which there may be something to do.
func (e *Engine) wake(now time.Time) time.Time {
	if e.again.any() {
		return now
	}
	wake := e.nextSweep()
	if next := e.Schedule.Next(e.lastRun); !next.IsZero() {
		wake = earlier(wake, next)
	}
	for _, s := range e.services {
		if at := e.attention(s, now); !at.IsZero() {
			wake = earlier(wake, at)
		}
	}
	return wake
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
