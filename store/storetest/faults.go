package storetest

import (
	"errors"
	"io"
	"sync"

	"github.com/meshca/meshca/store"
)

// ErrInjected is the error of an Update that was made to fail.
var ErrInjected = errors.New("injected fault")

// A Fault is the way in which an Update fails.
type Fault int

// The two ways in which a write can fail, which a caller cannot tell apart.
const (
	NotPersisted      Fault = iota // nothing was written
	PersistedButError              // everything was written, and the answer was lost
)

// Faults lists both.
func Faults() []Fault { return []Fault{NotPersisted, PersistedButError} }

func (f Fault) String() string {
	if f == NotPersisted {
		return "not persisted"
	}
	return "persisted but reported as failed"
}

// Faulty is a store whose n-th Update fails.
type Faulty struct {
	inner store.Store

	mu      sync.Mutex
	updates int
	failAt  int
	fault   Fault
}

// NewFaulty makes the n-th Update (from 1) of s fail; n = 0 fails none.
func NewFaulty(s store.Store, n int, fault Fault) *Faulty {
	return &Faulty{inner: s, failAt: n, fault: fault}
}

// Updates is how many Updates there were.
func (f *Faulty) Updates() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.updates
}

// Update implements [store.Store].
func (f *Faulty) Update(fn func(store.Writer) error, came ...*store.Expected) error {
	f.mu.Lock()
	f.updates++
	fails := f.updates == f.failAt
	f.mu.Unlock()
	if !fails {
		return f.inner.Update(fn, came...)
	}
	if f.fault == NotPersisted {
		return f.inner.Update(func(w store.Writer) error {
			if err := fn(w); err != nil {
				return err
			}
			return ErrInjected
		}, came...)
	}
	return errors.Join(ErrInjected, f.inner.Update(fn, came...))
}

// Expect implements [store.Store].
func (f *Faulty) Expect() *store.Expected { return f.inner.Expect() }

// View implements [store.Store].
func (f *Faulty) View(fn func(store.Reader) error) error { return f.inner.View(fn) }

// Snapshot implements [store.Store].
func (f *Faulty) Snapshot(w io.Writer) (int64, error) { return f.inner.Snapshot(w) }

// Close implements [store.Store].
func (f *Faulty) Close() error { return f.inner.Close() }
