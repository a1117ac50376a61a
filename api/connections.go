package api

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	apiConnections   = 1024 // at some 50 kB each
	otherConnections = 64   // of metrics and health, and of the socket
)

// handshakeRate is how many connections one address may begin over TLS, each of which costs a signature.
var handshakeRate = rate{burst: 1000, every: 5 * time.Millisecond}

// places is how many connections a listener may have open: as wanted, and no more than half of the descriptors that
// the process may open, since the store and the folders need the others. Go has raised that limit to the hard one.
func places(wanted int) int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return wanted
	}
	return max(1, int(min(uint64(wanted), limit.Cur/2)))
}

// A listener accepts everybody and has a bounded number of connections open all the same: where no place is left, the
// address that has the most loses the connection on which nothing has happened for the longest time. So who holds many
// pays for it, and whoever comes new is served, from that same address too.
type listener struct {
	net.Listener
	places int
	log    *slog.Logger
	told   sieve

	mu    sync.Mutex // guards all below, and the fields of each connection
	open  map[*conn]bool
	by    map[netip.Prefix]int  // open connections
	begun *ledger[netip.Prefix] // buckets of handshakeRate, nil where nothing is metered
}

// A conn is an open connection of a listener.
type conn struct {
	net.Conn
	listener *listener
	peer     netip.Prefix
	busy     bool      // in a request
	since    time.Time // when that began
}

// bound makes a listener of l. Where handshakes cost something, they are metered.
func bound(l net.Listener, places int, metered bool, log *slog.Logger) *listener {
	b := &listener{Listener: l, places: places, log: log, open: make(map[*conn]bool), by: make(map[netip.Prefix]int)}
	if metered {
		b.begun = newLedger[netip.Prefix](maxAddresses)
	}
	return b
}

// Accept waits for a connection, and closes another one where there are too many.
func (l *listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, listener: l, peer: peerOf(raw.RemoteAddr().String())}
		admitted, loser := l.admit(c, time.Now())
		if loser != nil {
			l.tell("all connections are taken: the longest idle one of whoever has the most is closed", loser)
			loser.abort()
		}
		if admitted {
			return c, nil
		}
		l.tell("connections are refused: too many are begun from this address", c)
		c.abort()
	}
}

// admit gives the connection a place, and says whose it was if there was none.
func (l *listener) admit(c *conn, now time.Time) (admitted bool, loser *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.begun != nil {
		bucket := l.begun.get(c.peer)
		if handshakeRate.wait(bucket, now) > 0 {
			return false, nil
		}
		l.begun.set(c.peer, handshakeRate.take(bucket, now), now)
	}
	if len(l.open) >= l.places {
		loser = l.loser(c.peer)
		l.remove(loser)
	}
	c.since = now
	l.open[c] = true
	l.by[c.peer]++
	return true, loser
}

// loser is the connection that is closed for one more of peer's.
func (l *listener) loser(peer netip.Prefix) (worst *conn) {
	count := func(c *conn) int {
		if c.peer == peer {
			return l.by[c.peer] + 1
		}
		return l.by[c.peer]
	}
	for c := range l.open {
		switch {
		case worst == nil:
			worst = c
		case count(c) != count(worst):
			if count(c) > count(worst) {
				worst = c
			}
		case c.busy != worst.busy:
			if !c.busy {
				worst = c
			}
		case c.since.Before(worst.since):
			worst = c
		}
	}
	return worst
}

// remove takes the connection's place away. The caller holds the lock.
func (l *listener) remove(c *conn) {
	if !l.open[c] {
		return
	}
	delete(l.open, c)
	if l.by[c.peer]--; l.by[c.peer] == 0 {
		delete(l.by, c.peer)
	}
}

// state is told by the server what a connection does.
func (l *listener) state(c net.Conn, s http.ConnState) {
	if encrypted, ok := c.(*tls.Conn); ok {
		c = encrypted.NetConn()
	}
	if one, ok := c.(*conn); ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		one.busy, one.since = s == http.StateActive, time.Now()
	}
}

// tell warns, a few times a second.
func (l *listener) tell(what string, c *conn) {
	address, peer := l.Addr().String(), c.peer.String()
	if l.told.pass(what, func(n int) {
		l.log.Warn(what, "address", address, "more within a second", n)
	}) {
		l.log.Warn(what, "address", address, "peer", peer)
	}
}

// Close closes the connection and frees its place.
func (c *conn) Close() error {
	c.listener.mu.Lock()
	c.listener.remove(c)
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// abort closes the connection at once, and leaves the kernel nothing to remember.
func (c *conn) abort() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close() // the peer is not owed a word
}
