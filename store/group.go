package store

import (
	"errors"
	"sync"
	"time"
)

// errPanicked stands for a caller's panic until it goes on where it belongs.
var errPanicked = errors.New("the caller's code has panicked")

const (
	// maxGroup is how many updates are committed together.
	maxGroup = 64
	// maxWait is how long a commit waits for updates that are expected. Two syncs take longer on most disks.
	maxWait = time.Millisecond
)

// A queue holds the updates that wait for the commit under way to end. Whoever arrives when none is under way
// leads the next one, and so does the first of those who arrived during one: it commits for all. Before, it waits
// a moment for those who are known to be on their way. So a lone writer waits for nobody, and many writers share
// the syncs of a commit.
type queue struct {
	mu      sync.Mutex
	busy    bool          // somebody leads: it waits or commits
	waiting []*update     // in the order in which they came; not empty only while busy
	coming  int           // how many are expected
	enough  chan struct{} // closed as soon as nobody need be waited for any longer; nil where nobody waits
}

// An update is one call of Update.
type update struct {
	fn       func(Writer) error
	err      error
	panicked any // of the caller's own code: it goes on in the caller's goroutine
	// told is what it waits for: true, it is done; false, it is to lead the next commit.
	told chan bool
}

// Update implements [Store].
func (b *Bolt) Update(fn func(Writer) error, came ...*Expected) error {
	u := &update{fn: fn, told: make(chan bool, 1)}
	if leads := b.queue.enter(u, came); leads || !<-u.told {
		b.lead(b.queue.gather())
	}
	if u.panicked != nil {
		panic(u.panicked)
	}
	return u.err
}

// Expect implements [Store].
func (b *Bolt) Expect() *Expected {
	q := &b.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.coming++
	return &Expected{gone: q.gone}
}

// gone counts down by one who was expected and does not come.
func (q *queue) gone() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.coming--
	q.wake()
}

// wake ends the wait of who leads where there is nobody to wait for. Who calls it holds the lock.
func (q *queue) wake() {
	if q.enough != nil && (q.coming == 0 || len(q.waiting) >= maxGroup) {
		close(q.enough)
		q.enough = nil
	}
}

// enter puts u into the next group, and says whether it leads it. In the same step those that came with it are expected
// no longer: who waits for the last of them does not leave without it.
func (q *queue) enter(u *update, came []*Expected) (leads bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, u)
	for _, e := range came {
		if e.ends() {
			q.coming--
		}
	}
	leads, q.busy = !q.busy, true
	q.wake()
	return leads
}

// gather waits a moment for those who are expected, and takes the group that its first is to commit.
func (q *queue) gather() []*update {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.coming > 0 && len(q.waiting) < maxGroup {
		q.await()
	}
	n := min(len(q.waiting), maxGroup)
	group := append([]*update(nil), q.waiting[:n]...)
	q.waiting = append(q.waiting[:0], q.waiting[n:]...)
	return group
}

// await gives the lock up until nobody need be waited for any longer, at most for maxWait.
func (q *queue) await() {
	enough := make(chan struct{})
	q.enough = enough
	q.mu.Unlock()
	wait := time.NewTimer(maxWait)
	select {
	case <-enough:
	case <-wait.C:
	}
	wait.Stop()
	q.mu.Lock()
	q.enough = nil
}

// leave ends a commit: the first who waits leads the next one.
func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.busy = false
		return
	}
	q.waiting[0].told <- false
}

// lead commits a group for all who are in it. The one who leads is its first.
func (b *Bolt) lead(group []*update) {
	defer b.queue.leave() // also where bbolt panics: nobody may wait for ever
	left := group
	for len(left) > 0 {
		failed, err := b.commit(left)
		if failed == nil {
			for _, u := range left {
				u.err = err
			}
			break
		}
		// The others have no part in its failure: they are run again without it.
		left = without(left, failed)
	}
	for _, u := range group[1:] {
		u.told <- true
	}
}

func without(group []*update, failed *update) (rest []*update) {
	for _, u := range group {
		if u != failed {
			rest = append(rest, u)
		}
	}
	return rest
}

// run runs the caller's code in a transaction that others share, and keeps how it ends. A panic of that code is
// an error here, and goes on in the goroutine of its caller.
func (u *update) run(t *boltTx) (err error) {
	defer func() {
		if t.outside {
			t.outside = false
			if u.panicked = recover(); u.panicked != nil {
				err = errPanicked
			}
		}
	}()
	t.err = nil
	if u.err = t.run(func() error { return u.fn(t) }); u.err == nil {
		u.err = t.err
	}
	return u.err
}
