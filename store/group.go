package store

import (
	"errors"
	"sync"
)

// errPanicked stands for a caller's panic until it goes on where it belongs.
var errPanicked = errors.New("the caller's code has panicked")

// maxGroup is how many updates are committed together.
const maxGroup = 64

// A queue holds the updates that wait for the commit under way to end. Whoever arrives when none is under way
// commits at once, alone; whoever arrives during one joins the next, which the first of them makes for all. So a
// lone writer waits for nobody, and many writers share the syncs of a commit.
type queue struct {
	mu      sync.Mutex
	busy    bool // somebody commits
	waiting []*update
}

// An update is one call of Update.
type update struct {
	fn       func(Writer) error
	err      error
	panicked any // of the caller's own code: it goes on in the caller's goroutine
	// told is what it waits for: true, it is done; false, it is to commit the next group.
	told chan bool
}

// Update implements [Store].
func (b *Bolt) Update(fn func(Writer) error) error {
	u := &update{fn: fn, told: make(chan bool, 1)}
	if group := b.queue.enter(u); group != nil {
		b.lead(group)
	} else if done := <-u.told; !done {
		b.lead(b.queue.next(u))
	}
	if u.panicked != nil {
		panic(u.panicked)
	}
	return u.err
}

// enter returns the group that u is to commit, or nil where it must wait.
func (q *queue) enter(u *update) []*update {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.busy {
		q.waiting = append(q.waiting, u)
		return nil
	}
	q.busy = true
	return []*update{u}
}

// next takes the group that u, its first, is to commit.
func (q *queue) next(u *update) []*update {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), maxGroup)
	group := append([]*update(nil), q.waiting[:n]...)
	q.waiting = append(q.waiting[:0], q.waiting[n:]...)
	return group
}

// leave ends a commit: the first who waits makes the next one.
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
