package api

import (
	"sync"
	"time"
)

// sieved is how many lines of a kind are logged one by one within a second.
const sieved = 5

// A sieve lets the first lines of a kind through in each second and counts the others. It is safe for concurrent use,
// and holds only the kinds of the last second.
type sieve struct {
	mu   sync.Mutex
	seen map[string]int // lines of a kind since its first one, at most a second ago
}

// pass says whether the line may be logged. When the second is over, rest is told how many might not, if any, on a
// goroutine of a timer's.
func (s *sieve) pass(kind string, rest func(n int)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = make(map[string]int)
	}
	if s.seen[kind] == 0 {
		time.AfterFunc(time.Second, func() {
			s.mu.Lock()
			n := s.seen[kind] - sieved
			delete(s.seen, kind)
			s.mu.Unlock()
			if n > 0 {
				rest(n)
			}
		})
	}
	s.seen[kind]++
	return s.seen[kind] <= sieved
}
