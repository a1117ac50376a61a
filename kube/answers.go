package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// A question is the hash of what is asked: what was asked itself, such as a token, is not kept.
type question [sha256.Size]byte

// answers remembers for seconds what the API server has answered. Many who ask the same at once ask once, and one of
// them who gives up does not end it for the others. A yes and a no are kept apart: whoever asks for what nobody knows,
// again and again, drives out no answer to others. An error is not kept. It is safe for concurrent use.
type answers[V any] struct {
	asking singleflight.Group
	places chan struct{} // one for each question under way

	mu      sync.Mutex
	yes, no recent[V]
}

// errBusy is that too many questions are under way.
var errBusy = errors.New("too many questions to the API server are under way")

// askWithin bounds a question, with the wait for its turn and with finding out whether anybody is answered.
const askWithin = reviewTimeout + probeTimeout

func newAnswers[V any](yesFor, noFor time.Duration, most, atOnce int) *answers[V] {
	return &answers[V]{places: make(chan struct{}, atOnce),
		yes: recent[V]{life: yesFor, most: most}, no: recent[V]{life: noFor, most: most}}
}

// get is the answer that is known, or the one that ask finds out: its value, and whether it is a yes. The goroutine that
// asks ends after askWithin at the latest, whoever waits for it.
func (a *answers[V]) get(ctx context.Context, q question, ask func(context.Context) (V, bool, error)) (value V, err error) {
	if known, ok := a.known(q); ok {
		return known, nil
	}
	answer := a.asking.DoChan(string(q[:]), func() (any, error) {
		if known, ok := a.known(q); ok { // since the look above
			return known, nil
		}
		select {
		case a.places <- struct{}{}:
			defer func() { <-a.places }()
		default:
			return value, errBusy
		}
		shared, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin)
		defer cancel()
		found, yes, err := ask(shared)
		if err == nil {
			a.keep(q, found, yes)
		}
		return found, err
	})
	select {
	case r := <-answer:
		found, _ := r.Val.(V)
		return found, r.Err
	case <-ctx.Done():
		return value, ctx.Err()
	}
}

func (a *answers[V]) known(q question) (value V, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if value, ok = a.yes.get(q); ok {
		return value, true
	}
	return a.no.get(q)
}

func (a *answers[V]) keep(q question, value V, yes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if yes {
		a.yes.put(q, value)
	} else {
		a.no.put(q, value)
	}
}

// recent are so many answers, each for a while. Whoever holds it locks it.
type recent[V any] struct {
	life time.Duration
	most int
	by   map[question]dated[V]
	// order has the oldest first. All live equally long, so it is the first to end too.
	order []question
}

type dated[V any] struct {
	value V
	until time.Time
}

func (r *recent[V]) get(q question) (value V, ok bool) {
	kept, ok := r.by[q]
	if !ok || !time.Now().Before(kept.until) {
		return value, false
	}
	return kept.value, true
}

// put keeps an answer that is not kept now, and forgets those that have ended, and the oldest where there are too many.
func (r *recent[V]) put(q question, value V) {
	now := time.Now()
	for len(r.order) > 0 && (len(r.order) >= r.most || !now.Before(r.by[r.order[0]].until)) {
		delete(r.by, r.order[0])
		r.order = r.order[1:]
	}
	if r.by == nil {
		r.by = make(map[question]dated[V])
	}
	r.by[q] = dated[V]{value, now.Add(r.life)}
	r.order = append(r.order, q)
}
