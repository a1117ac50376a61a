package api

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// endless is a listener to which somebody always connects.
type endless struct{ accepted atomic.Int32 }

func (e *endless) Accept() (net.Conn, error) {
	e.accepted.Add(1)
	c, _ := net.Pipe()
	return c, nil
}

func (e *endless) Close() error   { return nil }
func (e *endless) Addr() net.Addr { return &net.TCPAddr{} }

// TestConnectionsAreBounded: beyond the bound nobody is accepted until somebody has gone, and the end does
// not wait for that.
func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &endless{}
		l := limit(inner)
		open := make(chan net.Conn, maxConnections+2)
		ended := make(chan error, 1)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					ended <- err
					return
				}
				open <- c
			}
		}()
		wantAccepted := func(when string, n int32) {
			t.Helper()
			synctest.Wait()
			if got := inner.accepted.Load(); got != n {
				t.Errorf("%s: %d accepted, want %d", when, got, n)
			}
		}
		wantAccepted("at first", maxConnections)
		first := <-open
		for range 2 { // closing twice gives one slot back
			first.Close()
		}
		wantAccepted("after one has gone", maxConnections+1)
		l.Close()
		if err := <-ended; err != net.ErrClosed {
			t.Errorf("accept ended with %v", err)
		}
	})
}
