package kube

import (
	"context"
	"sync"
	"time"
)

const (
	// silentFor is how long nobody asks an API server that was found to answer nobody. It is shorter than the wait
	// after which a service is tried again.
	silentFor = 3 * time.Second
	// probeTimeout bounds the question whether it answers anybody.
	probeTimeout = 2 * time.Second
)

// silence says whether the API server answers nobody. Few calls are under way at a time, and each would wait for its
// answer in vain: with many services one after the other would take minutes to find out the same.
type silence struct {
	probing sync.Mutex // held while asking, so that many who wait ask once

	mu    sync.Mutex
	until time.Time     // nobody asks before
	fell  chan struct{} // closed when it falls silent, for who waits then
}

func newSilence() *silence { return &silence{fell: make(chan struct{})} }

// holds says whether nobody is to ask now.
func (s *silence) holds() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.until)
}

// falls is closed when the API server is found to answer nobody.
func (s *silence) falls() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fell
}

func (s *silence) fall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Now().Add(silentFor)
	close(s.fell)
	s.fell = make(chan struct{})
}

// end is called with each answer.
func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Time{}
}

// listen finds out, after a call without an answer, whether it was that call's or whether nobody is answered.
func (c *Client) listen(ctx context.Context) {
	c.silence.probing.Lock()
	defer c.silence.probing.Unlock()
	if c.silence.holds() {
		return // another has just found out
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if is(c.Ready(ctx), Away) {
		c.silence.fall()
	}
}

// silent is the error of a call that is not made. It is that of one that is: who waits again and again is told once.
func silent(verb string, o object) *Error { return newError(verb, o, context.DeadlineExceeded) }
