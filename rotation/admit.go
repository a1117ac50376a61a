package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// admit looks at every place before the first is written. What no meshca wrote is taken over; what proves that the
// store is older than what it serves is a reason to stand still for all. So is whatever another meshca wrote where
// this store has recorded nothing yet: it may be there in place of one that was lost. Beside records, what proves
// nothing is left alone by itself.
func (e *Engine) admit(ctx context.Context, now time.Time) error {
	looks := e.Looks
	e.Looks = nil
	if looks == nil {
		looks = lookAt(ctx, e.Target, e.names())
	}
	e.take(looks)
	refused := &RefusedError{}
	proof := false
	w := e.world(now)
	for _, name := range e.names() {
		s := e.services[name]
		if s.ahead == nil || s.ahead.Foreign.Reason != "" {
			continue // named by the pass that follows
		}
		if o := object(s.State, w, s.ahead.Seen, now); o.reason != "" {
			refused.Refusals = append(refused.Refusals, Refusal{name, e.Target.Place(name), o.reason, o.hint})
			proof = proof || o.proof
		}
	}
	if len(refused.Refusals) == 0 {
		return nil
	}
	if fresh, err := e.Issuer.Fresh(); err != nil || !fresh && !proof && e.Accept == nil {
		return err
	}
	return refused
}

// allSeen says whether of every place it is known what it holds.
func (e *Engine) allSeen() bool {
	for _, s := range e.services {
		if !s.looked && s.ahead == nil {
			return false
		}
	}
	return true
}

// errUnsurveyed is why nothing is written while the target is away from the start on: what cannot be read may show
// that the store is older than what it serves.
var errUnsurveyed = errors.New("not written: not every place could be looked at since the start, and the target does not answer")

// survey looks at the places that were not seen yet in this process's life, where the target was away when it started,
// and returns whose they are. A place that cannot be read while the target answers is left to its own turn.
func (e *Engine) survey(ctx context.Context, now time.Time) (names []string) {
	e.surveyed = e.surveyed || e.allSeen()
	if e.surveyed || !e.answers(ctx) {
		return nil
	}
	for name, s := range e.services {
		if !s.looked && s.ahead == nil && !s.unread && !s.backsOff(now) {
			names = append(names, name)
		}
	}
	e.look(ctx, names)
	e.surveyed = e.allSeen() || e.answers(ctx)
	w := e.world(now)
	for _, name := range names {
		if s := e.services[name]; s.ahead != nil {
			e.weigh(s, object(s.State, w, s.ahead.Seen, now))
		}
	}
	return names
}

// answersWithin is how long survey waits for a target to say that it is there: one that is silent has taken the time of a
// call from each look already.
const answersWithin = 2 * time.Second

// answers says whether the target is there.
func (e *Engine) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	return e.Target.Ready(ctx) == nil
}

// weigh keeps whether what was seen at the service's place proves that nothing may be written, and returns what does
// now. Where that is over, all are looked at again.
func (e *Engine) weigh(s *service, o objection) (older string) {
	if !o.proof {
		if older, over := e.evidence.drop(s.Service); !over {
			return older
		}
		e.changedAgain("")
		return ""
	}
	e.evidence.keep(s.Service, e.Target.Place(s.Service)+" "+o.reason)
	return e.evidence.words()
}

// evidence is what proves, by service, that nothing may be written. Its zero value is none.
type evidence struct {
	mu sync.Mutex
	of map[string]string
}

func (v *evidence) keep(service, words string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.of == nil {
		v.of = make(map[string]string)
	}
	v.of[service] = words
}

// drop forgets what the service's place has proved, and says what is left and whether that was the last.
func (v *evidence) drop(service string) (left string, last bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, was := v.of[service]
	delete(v.of, service)
	left = v.say()
	return left, was && left == ""
}

// words tell of the evidence, "" where there is none.
func (v *evidence) words() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.say()
}

// say is words. The caller holds the lock.
func (v *evidence) say() string {
	if len(v.of) == 0 {
		return ""
	}
	first := v.of[slices.Min(slices.Collect(maps.Keys(v.of)))]
	if n := len(v.of) - 1; n > 0 {
		return fmt.Sprintf("%s (and %d more)", first, n)
	}
	return first
}

// Stopped says why nothing may be written, and so nothing signed either: what was seen proves that the store is older
// than what it serves. It is "" where that is not so. It may be called from any goroutine.
func (e *Engine) Stopped() string { return e.evidence.words() }
