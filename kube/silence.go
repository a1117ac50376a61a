package kube

import (
	"context"
	"sync"
	"time"
)

const (
	// silentFor is how long nobody asks who was found to answer nobody. It is shorter than the wait after which a
	// service is tried again.
	silentFor = 3 * time.Second
	// probeTimeout bounds the question whether the API server answers anybody.
	probeTimeout = 2 * time.Second
	// slowCall is how long a call that fails may take without being a sign of silence: a webhook that hangs is given up
	// by the API server itself, in its own time.
	slowCall = time.Second
)

// silence says whether nobody is answered: by the API server, or by it for a verb in a namespace, where a webhook or a
// proxy hangs. Few calls are under way at a time, and each would wait for its answer in vain: with many services one
// after the other would take minutes to find out the same.
type silence struct {
	mu     sync.Mutex
	until  time.Time       // nobody asks before
	why    error           // what the last one was told
	fell   chan struct{}   // closed when it falls silent, for who waits then
	missed map[string]bool // for whom there was no answer since there was one
}

func newSilence() *silence { return &silence{fell: make(chan struct{}), missed: make(map[string]bool)} }

// holds says whether nobody is to ask now.
func (s *silence) holds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.until)
}

// error is that of a call that is not made. It is that of one that is: who waits again and again is told once.
func (s *silence) error(verb string, o object) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return newError(verb, o, s.why)
}

// falls is closed when nobody is found to be answered.
func (s *silence) falls() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fell
}

// fall begins the silence.
func (s *silence) fall(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin(why)
}

// begin is fall. The caller holds the lock.
func (s *silence) begin(why error) {
	s.until, s.why = time.Now().Add(silentFor), why
	close(s.fell)
	s.fell = make(chan struct{})
	clear(s.missed)
}

// miss notes that something was asked for in vain. When that was so for as many as are asked for at a time, with no
// answer in between, the others would wait in vain as well.
func (s *silence) miss(name string, why error, atOnce int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missed[name] = true; len(s.missed) >= atOnce {
		s.begin(why)
	}
}

// end is called with each answer.
func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Time{}
	clear(s.missed)
}

// A lane is what is asked for in one namespace. Each has calls of its own, so that one that hangs holds up no other.
type lane struct {
	slots   chan struct{} // one for each call under way
	silence map[string]*silence
}

// lanes are those of all namespaces. They are safe for concurrent use.
type lanes struct {
	atOnce int // calls under way in a namespace
	mu     sync.Mutex
	of     map[string]*lane
}

func newLanes(atOnce int) *lanes { return &lanes{atOnce: atOnce, of: make(map[string]*lane)} }

// at is the namespace's lane, and whether it is silent for the verb.
func (l *lanes) at(namespace, verb string) (slots chan struct{}, quiet *silence) {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := l.of[namespace]
	if in == nil {
		in = &lane{make(chan struct{}, l.atOnce), make(map[string]*silence)}
		l.of[namespace] = in
	}
	if in.silence[verb] == nil {
		in.silence[verb] = newSilence()
	}
	return in.slots, in.silence[verb]
}

// listen finds out, after a call without an answer, whether it was that call's or whether nobody is answered.
func (c *Client) listen(ctx context.Context) {
	c.probing.Lock() // many who wait ask once
	defer c.probing.Unlock()
	if c.silence.holds() {
		return // another has just found out
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if is(c.Ready(ctx), Away) {
		c.silence.fall(context.DeadlineExceeded)
	}
}
