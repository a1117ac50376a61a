package api

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"

	"github.com/meshca/meshca/ca"
)

// maxSigned bounds the signatures that are remembered: more clients than a mesh has.
const maxSigned = 4096

// signed remembers whose signature was found good: a connection sends its certificate once and is asked for it with each
// request, and verifying costs as much as signing twice. Nothing else of a certificate is remembered: whether it is valid,
// recorded and not revoked is asked each time. Its zero value is ready; it is safe for concurrent use.
type signed struct {
	mu     sync.Mutex
	by     *ca.Authority // of whom leaves is true; another one, of whatever kind, is asked anew
	leaves map[[sha256.Size]byte]struct{}
}

// is says whether the authority signed the leaf. What it did not sign is not remembered: that would be a stranger's to
// fill.
func (s *signed) is(by *ca.Authority, leaf *x509.Certificate) bool {
	key := sha256.Sum256(leaf.Raw)
	s.mu.Lock()
	_, known := s.leaves[key]
	known = known && s.by == by
	s.mu.Unlock()
	if known || !by.Signed(leaf) {
		return known
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by != by || len(s.leaves) >= maxSigned {
		s.by, s.leaves = by, make(map[[sha256.Size]byte]struct{})
	}
	s.leaves[key] = struct{}{}
	return true
}
