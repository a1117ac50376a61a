package api

import (
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// endless is a listener to which whoever is sent connects.
type endless struct{ from chan string }

// from is a connection of an address. Nobody is at its other end.
type from struct {
	net.Conn
	address net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.address }

func (e endless) Accept() (net.Conn, error) {
	address, ok := <-e.from
	if !ok {
		return nil, net.ErrClosed
	}
	near, _ := net.Pipe()
	return from{near, net.TCPAddrFromAddrPort(addrPort(address))}, nil
}

func (e endless) Close() error   { return nil }
func (e endless) Addr() net.Addr { return &net.TCPAddr{} }

// A crowd connects to a listener in a bubble of virtual time.
type crowd struct {
	t    *testing.T
	l    *listener
	from chan string
	done chan struct{}
	in   chan net.Conn
}

func newCrowd(t *testing.T, places int, metered bool) *crowd {
	c := &crowd{t: t, from: make(chan string), in: make(chan net.Conn, 1), done: make(chan struct{})}
	c.l = bound(endless{c.from}, places, metered, slog.New(slog.DiscardHandler))
	go func() { // ends with end
		defer close(c.done)
		for {
			one, err := c.l.Accept()
			if err != nil {
				return
			}
			c.in <- one
		}
	}()
	return c
}

// connect is nil where the connection is refused. A millisecond goes by.
func (c *crowd) connect(address string) *conn {
	c.from <- address
	synctest.Wait()
	time.Sleep(time.Millisecond)
	select {
	case one := <-c.in:
		return one.(*conn)
	default:
		return nil
	}
}

func (c *crowd) end() {
	close(c.from)
	<-c.done
}

func closed(c *conn) bool { return c.SetDeadline(time.Time{}) != nil }

// want says which of the connections are open.
func (c *crowd) want(when string, open map[*conn]bool) {
	c.t.Helper()
	n := 0
	for one, want := range open {
		if want {
			n++
		}
		if closed(one) == want {
			c.t.Errorf("%s: a connection of %s is open: %t, want %t", when, one.peer, !closed(one), want)
		}
	}
	if len(c.l.open) != n {
		c.t.Errorf("%s: %d places are taken, want %d", when, len(c.l.open), n)
	}
}

// TestPlaces: whoever comes new gets a place, and whoever has the most loses the one that it has let idle for the
// longest time.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 4, false)
		defer c.end()
		few := c.connect("192.0.2.1:1")
		busy := c.connect("192.0.2.2:1")
		c.l.state(busy, http.StateActive)
		old, young := c.connect("192.0.2.2:2"), c.connect("192.0.2.2:3")
		open := map[*conn]bool{few: true, busy: true, old: true, young: true}
		c.want("full", open)

		next := c.connect("192.0.2.3:1")
		open[next], open[old] = true, false
		c.want("after another", open)

		own := c.connect("192.0.2.2:4") // pays for itself
		open[own], open[young] = true, false
		c.want("after one of the greediest", open)

		c.l.state(own, http.StateActive)
		second := c.connect("192.0.2.2:5") // both others are in requests: the older request goes
		open[second], open[busy] = true, false
		c.want("after one more", open)

		c.l.state(own, http.StateIdle) // later than second began
		third := c.connect("192.0.2.2:6")
		open[third], open[second] = true, false
		c.want("after a request", open)

		for range 2 { // to close twice frees one place
			few.Close()
		}
		open[few] = false
		c.want("after one has gone", open)
		last := c.connect("192.0.2.4:1")
		open[last] = true
		c.want("in its place", open)
	})
}

// TestPlacesOfEqual: among those who have as many, whoever wants more loses its own.
func TestPlacesOfEqual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2, false)
		defer c.end()
		old, own := c.connect("192.0.2.1:1"), c.connect("192.0.2.2:1")
		next := c.connect("192.0.2.2:2")
		c.want("after another", map[*conn]bool{old: true, own: false, next: true})
	})
}

// TestPlacesOfANet: who has a whole net of addresses is one peer.
func TestPlacesOfANet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 3, false)
		defer c.end()
		few, first, second := c.connect("[2001:db8:0:1::1]:1"), c.connect("[2001:db8:0:2::1]:1"), c.connect("[2001:db8:0:2::2]:1")
		third := c.connect("[2001:db8:0:2::3]:1")
		c.want("after a third", map[*conn]bool{few: true, first: false, second: true, third: true})
	})
}

// TestHandshakesAreMetered: one address may not begin connections without end, and others are not touched.
func TestHandshakesAreMetered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 10, true)
		defer c.end()
		n := 0
		for c.connect("192.0.2.1:1") != nil {
			n++
		}
		// One comes back every five connections, each of which takes a millisecond here.
		if want := handshakeRate.burst * 5 / 4; n < handshakeRate.burst || n > want+1 {
			t.Errorf("%d are accepted, want %d to %d", n, handshakeRate.burst, want)
		}
		if len(c.l.open) != 10 {
			t.Errorf("%d are open", len(c.l.open))
		}
		if c.connect("192.0.2.2:1") == nil {
			t.Error("another address is refused")
		}
		time.Sleep(handshakeRate.every)
		if c.connect("192.0.2.1:1") == nil {
			t.Error("refused after a while")
		}
	})
}

// TestPlacesFitDescriptors: the bound is never more than the process can open beside its files.
func TestPlacesFitDescriptors(t *testing.T) {
	if n := places(1 << 40); n < 1 || n >= 1<<40 {
		t.Errorf("%d places", n)
	}
	if n := places(2); n != 2 {
		t.Errorf("%d places, want 2", n)
	}
}
