package api

import (
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// How often may be asked. Whoever proves who it is pays from a bucket of its name; everybody else from that of the
// address, and all of these together from one more. docs/api.md has the table, docs/decisions the reasons.
var (
	callerRate    = rate{burst: 1000, every: 20 * time.Millisecond}
	addressRate   = rate{burst: 500, every: 20 * time.Millisecond}
	strangersRate = rate{burst: 1000, every: 10 * time.Millisecond} // less than the tokens that are reviewed in a second: guesses leave some for who is known
	everyoneRate  = rate{burst: 10_000, every: 100 * time.Microsecond}
)

const (
	maxAddresses = 1 << 14         // buckets of addresses: some 3 MiB
	maxCallers   = 1 << 12         // buckets of names, and credentials that are remembered
	provenFor    = time.Hour       // at least half of it, for whoever goes on asking without end
	retrySpread  = 4 * time.Second // so that those who were refused together do not come back together
)

// A credential is the hash of what a request names its caller with.
type credential [sha256.Size]byte

// credentialOf is what the request names its caller with, if anything: a token counts alone, so that who has a good one
// is remembered once, whatever certificates it presents with it.
func credentialOf(r *http.Request) (c credential, given bool) {
	if tokens := r.Header.Values("Authorization"); len(tokens) > 0 {
		return sha256.Sum256([]byte("token\x00" + strings.Join(tokens, "\x00"))), true
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return sha256.Sum256(r.TLS.PeerCertificates[0].Raw), true
	}
	return c, false
}

// Limits meter requests. They are safe for concurrent use.
type limits struct {
	mu        sync.Mutex // guards all below
	addresses *ledger[netip.Prefix]
	callers   *ledger[string]
	proven    *ledger[credential] // those that were good lately: to use one again is no guess
	strangers time.Time           // the bucket of all who are not known
	everyone  time.Time           // the bucket of all
}

func newLimits() *limits {
	return &limits{addresses: newLedger[netip.Prefix](maxAddresses), callers: newLedger[string](maxCallers),
		proven: newLedger[credential](maxCallers)}
}

// stranger takes a token for a request whose caller has proven nothing.
func (l *limits) stranger(from netip.Prefix, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.addresses.get(from)
	if wait := addressRate.wait(own, now); wait > 0 {
		return tooOften("this address asks too often without proving who asks", wait)
	}
	if wait := strangersRate.wait(l.strangers, now); wait > 0 {
		return tooOften("all who do not prove who they are ask too often together", wait)
	}
	if wait := everyoneRate.wait(l.everyone, now); wait > 0 {
		return tooOften("all callers ask too often together", wait)
	}
	l.addresses.set(from, addressRate.take(own, now), now)
	l.strangers = strangersRate.take(l.strangers, now)
	l.everyone = everyoneRate.take(l.everyone, now)
	return nil
}

// guess is stranger for whoever sends a credential, unless that was good lately. It comes before the credential is
// looked at, since that is what costs.
func (l *limits) guess(from netip.Prefix, c credential, now time.Time) (paid bool, err error) {
	l.mu.Lock()
	known := l.proven.get(c).After(now)
	l.mu.Unlock()
	if known {
		return false, nil
	}
	return true, l.stranger(from, now)
}

// wrong forgets a credential that turned out to be no good.
func (l *limits) wrong(c credential) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proven.drop(c)
}

// caller takes a token for a request whose caller is known; where it had paid as a stranger, it gets that back.
func (l *limits) caller(who *Caller, from netip.Prefix, c credential, paid bool, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.proven.get(c).Sub(now) <= provenFor/2 {
		l.proven.set(c, now.Add(provenFor), now)
	}
	if paid {
		if own := l.addresses.get(from); own.After(now) {
			l.addresses.set(from, addressRate.give(own), now)
		}
		l.strangers = strangersRate.give(l.strangers)
		l.everyone = everyoneRate.give(l.everyone)
	}
	own := l.callers.get(who.Name) // full where nothing is ever taken
	if wait := callerRate.wait(own, now); wait > 0 {
		return tooOften("this caller asks too often", wait)
	}
	if wait := everyoneRate.wait(l.everyone, now); wait > 0 {
		return tooOften("all callers ask too often together", wait)
	}
	if !who.everything {
		l.callers.set(who.Name, callerRate.take(own, now), now)
	}
	l.everyone = everyoneRate.take(l.everyone, now)
	return nil
}

// tooOften is a problem that says when to come back. Its connection ends: to go on costs a handshake, which is metered.
func tooOften(detail string, wait time.Duration) *problem {
	p := tooMany.because(detail + ": wait as long as Retry-After says")
	p.after, p.hangsUp = wait+rand.N(retrySpread), true
	return p
}

// probes are the operations without a limit. A kubelet may share its address with whoever asks too often, and to
// restart the server is no help; their answers are a few bytes that are there already.
var probes = []string{"GET /healthz", "GET /readyz"}

// admit finds out who asks, and refuses whoever asks too often.
func (v *V1) admit(r *http.Request) (Caller, error) {
	operation, from, now := requestOf(r).operation, peerOf(r.RemoteAddr), v.Now()
	switch {
	case slices.Contains(probes, operation):
		return Caller{}, nil
	case slices.Contains(public, operation):
		return Caller{}, v.limits.stranger(from, now)
	}
	sent, given := credentialOf(r)
	if !given {
		if err := v.limits.stranger(from, now); err != nil {
			return Caller{}, err
		}
		return v.identify(r)
	}
	paid, err := v.limits.guess(from, sent, now)
	if err != nil {
		return Caller{}, err
	}
	caller, err := v.identify(r)
	if p, no := errors.AsType[*problem](err); no && p.kind == unauthenticated { // a cluster that does not answer says nothing of it
		v.limits.wrong(sent)
	}
	if err != nil {
		return Caller{}, err
	}
	return caller, v.limits.caller(&caller, from, sent, paid, now)
}

// peerOf is who connects, for whoever counts: an IPv4 address, or the /64 of an IPv6 address, since whoever has one
// address of such a net has all. It is zero for a Unix socket. Headers that name another address are not believed.
func peerOf(address string) netip.Prefix {
	from, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip := from.Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	peer, _ := ip.Prefix(bits) // the bits fit the address
	return peer
}
