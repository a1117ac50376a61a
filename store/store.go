// Package store keeps the CA's durable state as ordered key-value transactions.
//
// # What it guarantees
//
// When Update returns nil its writes are on stable storage, all of them; when the process or the machine
// dies before that, either all or none of them are found at the next start. An Update that returns an
// error has usually written nothing, but may have written everything (the answer of a disk can be lost):
// callers derive what to do next from what they read, never from the error.
//
// # Concurrency
//
// One process holds a store at a time. Within it every method may be called from any goroutine; Updates
// are serial, Views see one consistent instant and do not wait for Updates. An Update may have to wait for
// open Views when the store grows, so Views are short, and never wait for an Update themselves.
//
// # Backends
//
// [OpenBolt] is the one there is. storetest holds the suite that every backend must pass.
package store

import (
	"io"
	"iter"
	"sync/atomic"
)

// A Reader reads one consistent instant of the store. It is valid only inside the function that it was
// given to. A backend that cannot read ends the transaction: View or Update returns that error.
type Reader interface {
	// Get returns a copy of the value of key; ok is false where there is none.
	Get(key string) (value []byte, ok bool)
	// Scan yields keys and copies of their values in the order of the range.
	Scan(r Range) iter.Seq2[string, []byte]
}

// A Writer reads and writes inside an Update, and reads what it wrote. An error in it sticks: Update
// returns it, and nothing is written.
type Writer interface {
	Reader
	// Put sets the value of key. Keys are 1 to 1024 bytes; the value is copied.
	Put(key string, value []byte)
	// Delete removes key; an absent one is no error.
	Delete(key string)
}

// A Store is the durable state.
type Store interface {
	// View runs fn on the newest committed state and returns its error.
	View(fn func(Reader) error) error
	// Update runs fn and commits what it wrote; it returns when that is durable. Where fn returns an
	// error nothing is written and Update returns it. A backend may run fn again, or commit it in one
	// group with others, so fn has no effect but on its Writer, and sets what it captures anew each time.
	// came is what announced it: in the same step it is counted as expected no longer, and is among those that
	// are committed next.
	Update(fn func(Writer) error, came ...*Expected) error
	// Expect says that an Update will come soon. A backend that commits several in one group may hold a commit
	// back for it, for a millisecond at most.
	Expect() *Expected
	// Snapshot writes a consistent copy of the whole store, in the backend's own format, while others
	// go on reading and writing. It returns the number of bytes written.
	Snapshot(w io.Writer) (int64, error)
	// Close waits for open transactions and releases the store. It is called once.
	Close() error
}

// An Expected is an Update that is on its way. Whoever announced it hands it to that Update, and calls Done by defer, so
// that no commit waits for one that will never come.
type Expected struct {
	over atomic.Bool // it counts once
	gone func()      // of the backend
}

// Done says that there will be no Update. After that Update, or another Done, it says nothing; a nil Expected never does.
func (e *Expected) Done() {
	if e.ends() {
		e.gone()
	}
}

// ends says whether it was expected until now, and is not any longer.
func (e *Expected) ends() bool { return e != nil && e.over.CompareAndSwap(false, true) }

// A Range is the keys from From (inclusive) to To (exclusive; empty means no end), in byte order, or
// backwards where Descending is set.
type Range struct {
	From, To   string
	Descending bool
}

// Prefix is the range of all keys that begin with p.
func Prefix(p string) Range {
	return Range{From: p, To: prefixEnd(p)}
}

// Backwards is the same range from its end.
func (r Range) Backwards() Range {
	r.Descending = !r.Descending
	return r
}

// prefixEnd is the least key that is greater than every key with prefix p, empty if there is none.
func prefixEnd(p string) string {
	end := []byte(p)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return string(end[:i+1])
		}
	}
	return ""
}
