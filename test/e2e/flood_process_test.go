package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// floodEnv has the test's binary be a flood instead, and says which.
const floodEnv = "MESHCA_TEST_FLOOD"

// A Flood is many connections to one address that are of no use to anybody. They come from a process of its own, which
// has its own descriptors.
type Flood struct {
	Kind        string // a key of floods
	Address     string // of the API
	Token       string // of whoever may ask for certificates, "" for none
	Connections int
	Sources     int // addresses that they come from: 127.0.0.1, or that many others beside it
}

// A floodState is what a flood prints: how many connections it has begun, how many of them failed at once, and how many
// are open now.
type floodState struct{ Begun, Failed, Open int }

// tick is the pause between two bytes of what is sent slowly.
const tick = 200 * time.Millisecond

// floods are what a connection does once it is made. It is over when that returns.
var floods = map[string]func(f *Flood, raw net.Conn) error{
	// silent says nothing, not even the beginning of a handshake.
	"silent": func(_ *Flood, raw net.Conn) error { return nil },
	// handshake begins one, byte by byte.
	"handshake": func(_ *Flood, raw net.Conn) error {
		_, err := floodTLS(slow{raw}, "http/1.1")
		return err
	},
	// header begins a request that does not end.
	"header": func(_ *Flood, raw net.Conn) error {
		c, err := floodTLS(raw, "http/1.1")
		if err != nil {
			return err
		}
		_, err = io.WriteString(slow{c}, "GET /healthz HTTP/1.1\r\nHost: meshca\r\nX-Long: "+strings.Repeat("a", 10_000))
		return err
	},
	// body begins a body that does not end, as somebody whose requests are read.
	"body": func(f *Flood, raw net.Conn) error {
		c, err := floodTLS(raw, "http/1.1")
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(c, "POST /v1/certificates HTTP/1.1\r\nHost: meshca\r\nAuthorization: Bearer %s\r\n"+
			"Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n", f.Token); err != nil {
			return err
		}
		_, err = io.WriteString(slow{c}, strings.Repeat(" ", 60_000))
		return err
	},
	// idle asks once and keeps the connection.
	"idle": func(_ *Flood, raw net.Conn) error {
		c, err := floodTLS(raw, "http/1.1")
		if err != nil {
			return err
		}
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: meshca\r\n\r\n"); err != nil {
			return err
		}
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		return response.Body.Close()
	},
	// pings speaks HTTP/2 and asks for nothing but an answer to its pings.
	"pings": func(_ *Flood, raw net.Conn) error {
		c, err := floodTLS(raw, "h2")
		if err != nil {
			return err
		}
		go func() { _, _ = io.Copy(io.Discard, c) }() // ends with the connection
		if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
			return err
		}
		for {
			if _, err := io.WriteString(c, "\x00\x00\x08\x06\x00\x00\x00\x00\x00pingping"); err != nil {
				return err
			}
			time.Sleep(tick)
		}
	},
}

func floodTLS(raw net.Conn, protocol string) (net.Conn, error) {
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}) // it sends nothing that is secret to others
	return c, c.Handshake()
}

// slow writes byte by byte.
type slow struct{ net.Conn }

func (s slow) Write(b []byte) (n int, err error) {
	for ; n < len(b); n++ {
		if _, err := s.Conn.Write(b[n : n+1]); err != nil {
			return n, err
		}
		time.Sleep(tick)
	}
	return n, nil
}

// run makes the connections and prints their state until its standard input ends.
func (f *Flood) run() error {
	var counts floodCounts
	next := make(chan int)
	for range 32 { // end with the process
		go func() {
			for i := range next {
				f.connect(i, &counts)
			}
		}()
	}
	go func() { // ends with the process
		for i := range f.Connections {
			next <- i
		}
	}()
	ended := make(chan struct{})
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	for {
		if err := json.NewEncoder(os.Stdout).Encode(counts.state()); err != nil {
			return err
		}
		select {
		case <-ended:
			return nil
		case <-time.After(tick):
		}
	}
}

type floodCounts struct{ begun, failed, open atomic.Int32 }

func (c *floodCounts) state() floodState {
	return floodState{Begun: int(c.begun.Load()), Failed: int(c.failed.Load()), Open: int(c.open.Load())}
}

// connect makes one connection, which is counted as open until the server closes it. It returns when that is ready, or
// after a while, so that any number of slow ones is under way at once.
func (f *Flood) connect(i int, counts *floodCounts) {
	source := net.IPv4(127, 0, 0, 1)
	if f.Sources > 0 {
		source = net.IPv4(127, 0, 1, byte(1+i%f.Sources))
	}
	raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: source}}).Dial("tcp", f.Address)
	defer counts.begun.Add(1)
	if err != nil {
		counts.failed.Add(1)
		return
	}
	counts.open.Add(1)
	ready := make(chan struct{})
	go func() { // ends with the connection
		defer counts.open.Add(-1)
		_ = floods[f.Kind](f, raw) // it ends where the server has had enough
		close(ready)
		_, _ = io.Copy(io.Discard, raw)
		_ = raw.Close()
	}()
	select {
	case <-ready:
	case <-time.After(tick):
	}
}

// floodMain is the process.
func floodMain(text string) error {
	var f Flood
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return err
	}
	return f.run()
}

// A flooding is a flood that goes on. It is ended with its test.
type flooding struct {
	t   testing.TB
	f   Flood
	out output
	end func()
}

// start begins the flood.
func (f Flood) start(t testing.TB) *flooding {
	t.Helper()
	text, err := json.Marshal(f)
	must(t, err)
	g := &flooding{t: t, f: f}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), floodEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = &g.out, os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	g.end = func() {
		_ = stdin.Close() // closed twice where the test ended it
		_ = cmd.Wait()
	}
	t.Cleanup(g.end)
	return g
}

// await waits until the flood's state is as wanted: it is nil then.
func (g *flooding) await(what string, wanted func(s floodState) error) (s floodState) {
	g.t.Helper()
	awaitFor(g.t, 4*patience, g.f.Kind+": "+what, func() error {
		lines := strings.Split(strings.TrimSuffix(g.out.String(), "\n"), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &s); err != nil {
			return errors.New("it has not begun")
		}
		if s.Begun < g.f.Connections {
			return fmt.Errorf("%+v", s)
		}
		return wanted(s)
	})
	return s
}

// full waits until all connections were tried.
func (g *flooding) full() floodState {
	g.t.Helper()
	return g.await("all have begun", func(floodState) error { return nil })
}

// over waits until the server has closed them all.
func (g *flooding) over() {
	g.t.Helper()
	g.await("all are closed", func(s floodState) error {
		if s.Open > 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}
