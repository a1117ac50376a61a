package api

import (
	"container/heap"
	"time"
)

// A rate is what a token bucket holds and how fast it fills again. A bucket itself is one moment: when it will be
// full again, which has passed where it is full. So a bucket that nobody uses need not be kept, the fullest of many is
// the one whose moment comes first, and what was taken can be given back.
type rate struct {
	burst int           // tokens in a full bucket
	every time.Duration // one token comes back in this time
}

// wait is how long the bucket has no token, 0 where it has one.
func (r rate) wait(full, now time.Time) time.Duration {
	return max(full.Sub(now.Add(time.Duration(r.burst-1)*r.every)), 0)
}

// take is the bucket with one token less.
func (r rate) take(full, now time.Time) time.Time {
	if full.Before(now) {
		full = now
	}
	return full.Add(r.every)
}

// give is the bucket with one token more.
func (r rate) give(full time.Time) time.Time { return full.Add(-r.every) }

// A ledger keeps a moment for each key until it has passed, and for at most max keys: where no place is left, the key
// whose moment comes first goes. Of buckets that is the fullest, with which its owner gets, and loses, the least. It is
// not safe for concurrent use.
type ledger[K comparable] struct {
	max   int
	of    map[K]*moment[K]
	order moments[K]
}

func newLedger[K comparable](max int) *ledger[K] {
	return &ledger[K]{max: max, of: make(map[K]*moment[K])}
}

// get is the key's moment, the zero time where there is none.
func (l *ledger[K]) get(key K) time.Time {
	if m, ok := l.of[key]; ok {
		return m.at
	}
	return time.Time{}
}

// set keeps the key's moment. It costs the logarithm of the number of keys.
func (l *ledger[K]) set(key K, at, now time.Time) {
	if m, ok := l.of[key]; ok {
		m.at = at
		heap.Fix(&l.order, m.place)
	} else {
		for len(l.order) > 0 && (len(l.order) >= l.max || !l.order[0].at.After(now)) {
			l.drop(l.order[0].key)
		}
		m := &moment[K]{key: key, at: at}
		l.of[key] = m
		heap.Push(&l.order, m)
	}
}

// drop forgets the key.
func (l *ledger[K]) drop(key K) {
	if m, ok := l.of[key]; ok {
		heap.Remove(&l.order, m.place)
		delete(l.of, key)
	}
}

// A moment is a key's in a ledger.
type moment[K comparable] struct {
	key   K
	at    time.Time
	place int // in the heap
}

// moments is a heap, the earliest first.
type moments[K comparable] []*moment[K]

func (m moments[K]) Len() int           { return len(m) }
func (m moments[K]) Less(i, j int) bool { return m[i].at.Before(m[j].at) }

func (m moments[K]) Swap(i, j int) {
	m[i], m[j] = m[j], m[i]
	m[i].place, m[j].place = i, j
}

// Push implements heap.Interface.
func (m *moments[K]) Push(x any) {
	one := x.(*moment[K])
	one.place = len(*m)
	*m = append(*m, one)
}

// Pop implements heap.Interface.
func (m *moments[K]) Pop() any {
	last := len(*m) - 1
	one := (*m)[last]
	(*m)[last] = nil
	*m = (*m)[:last]
	return one
}
