package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A gate stands between the program and an API server: an HTTPS server of its own that passes everything on, and that
// does harm where a test asks for it. What passes is counted.
type gate struct {
	Kubeconfig string // for the program

	upstream  string
	transport http.RoundTripper
	server    *http.Server

	mu      sync.Mutex
	calls   []call
	dials   []time.Time
	hook    func(*exchange) // what is done with a call; nil: it is passed on
	conns   map[*gateConn]bool
	refuses bool          // connections are closed at once
	open    chan struct{} // closed while bytes pass
	watches map[*watchStream]bool
}

// A call is one request to the API server.
type call struct {
	At                   time.Time
	Verb, Resource, Name string // get, list, watch, patch
	Code                 int    // what was answered, 0 where nothing was
}

// writes says whether the call changes a Secret or the published bundle.
func (c call) writes() bool {
	return c.Verb == "patch" && (c.Resource == "secrets" || c.Resource == "configmaps")
}

// newGate starts a gate before the API server for who has the token, and closes it when the test ends.
func newGate(t testing.TB, k *kubernetes, token string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	key, cert := makeCertificate(t, gateTemplate, gateTemplate, nil)
	g := &gate{upstream: k.Server, transport: k.plain.Transport, open: make(chan struct{}),
		conns: make(map[*gateConn]bool), watches: make(map[*watchStream]bool)}
	close(g.open)
	g.server = &http.Server{Handler: g, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}}
	go func() { _ = g.server.ServeTLS(&gateListener{l, g}, "", "") }() // ends with Close in the cleanup
	t.Cleanup(func() {
		g.Mend()
		_ = g.server.Close()
	})
	ca := filepath.Join(t.TempDir(), caFile)
	writeFile(t, ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	g.Kubeconfig = writeKubeconfig(t, "https://"+l.Addr().String(), ca, token)
	return g
}

var gateTemplate = &x509.Certificate{
	SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
}

// Do has fn handle every call from now on; nil passes all on.
func (g *gate) Do(fn func(*exchange)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.hook = fn
}

// Refuse cuts the program off: what is open is reset, and so is what is dialled.
func (g *gate) Refuse() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuses = true
	for c := range g.conns {
		c.reset()
	}
}

// Silence cuts the program off without a word: nothing passes in either direction, connections stay open.
func (g *gate) Silence() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuses = false
	g.open = make(chan struct{})
}

// Mend ends Refuse, Silence and what Do asked for. What was held back passes then.
func (g *gate) Mend() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuses, g.hook = false, nil
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// Calls lists the calls since the given number of them, and how many there are in all.
func (g *gate) Calls(since int) (list []call, all int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.calls[since:]), len(g.calls)
}

// Dials counts the connections that were dialled since an instant.
func (g *gate) Dials(since time.Time) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, at := range g.dials {
		if at.After(since) {
			n++
		}
	}
	return n
}

// Writes lists the calls since the given number that have changed a Secret or the published bundle.
func (g *gate) Writes(since int) (list []call) {
	calls, _ := g.Calls(since)
	for _, c := range calls {
		if c.writes() && c.Code/100 == 2 {
			list = append(list, c)
		}
	}
	return list
}

// tally counts calls by verb and resource.
func tally(calls []call) map[string]int {
	n := make(map[string]int)
	for _, c := range calls {
		n[c.Verb+" "+c.Resource]++
	}
	return n
}

func tallyText(calls []call) string {
	n, words := tally(calls), []string{}
	for _, what := range slices.Sorted(maps.Keys(n)) {
		words = append(words, fmt.Sprintf("%s %d", what, n[what]))
	}
	return strings.Join(words, ", ")
}

// EndWatches tells every open watch that its place in history is no longer known, and returns how many there were.
func (g *gate) EndWatches() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for s := range g.watches {
		select {
		case s.end <- struct{}{}:
			n++
		default: // it is ending already
		}
	}
	return n
}

// ServeHTTP takes one call.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the program is gone
	}
	x := &exchange{call: callOf(r), g: g, w: w, r: r, body: body}
	g.mu.Lock()
	x.number = len(g.calls)
	g.calls = append(g.calls, x.call)
	hook := g.hook
	g.mu.Unlock()
	if hook == nil {
		hook = (*exchange).Pass
	}
	hook(x)
}

// callOf reads from its path what a request is.
func callOf(r *http.Request) call {
	c := call{At: time.Now(), Verb: strings.ToLower(r.Method)}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if i := slices.Index(parts, "namespaces"); i >= 0 && len(parts) > i+2 {
		c.Resource = parts[i+2]
		c.Name = strings.Join(parts[i+3:], "/")
	} else {
		c.Resource = parts[len(parts)-1]
	}
	switch query := r.URL.Query(); {
	case query.Get("watch") == "true":
		c.Verb = "watch"
		c.Name = strings.TrimPrefix(query.Get("fieldSelector"), "metadata.name=")
	case c.Verb == "get" && c.Name == "" && c.Resource != "readyz":
		c.Verb = "list"
	}
	return c
}

// An exchange is one call that passes through a gate.
type exchange struct {
	call
	number int // of the call, from 0
	g      *gate
	w      http.ResponseWriter
	r      *http.Request
	body   []byte
}

// An apiAnswer is what the API server has answered.
type apiAnswer struct {
	code   int
	header http.Header
	body   []byte
}

// Pass hands the call on, and the answer back.
func (x *exchange) Pass() {
	if x.Verb == "watch" {
		x.passWatch()
		return
	}
	if a := x.Ask(); a != nil {
		x.Hand(a)
	}
}

// request is the call as it goes to the API server.
func (x *exchange) request(ctx context.Context) *http.Request {
	r := x.r.Clone(ctx)
	r.RequestURI = ""
	r.URL.Scheme, r.URL.Host, _ = strings.Cut(x.g.upstream, "://")
	r.Host = r.URL.Host
	r.Body = io.NopCloser(bytes.NewReader(x.body))
	r.ContentLength = int64(len(x.body))
	r.Header.Del("Accept-Encoding") // a watch is taken apart
	return r
}

// Ask has the API server do what the call asks for, whether the program still waits for it or not. It returns nil
// where there is no answer.
func (x *exchange) Ask() *apiAnswer {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), patience)
	defer cancel()
	response, err := x.g.transport.RoundTrip(x.request(ctx))
	if err != nil {
		x.Answer(http.StatusBadGateway, "")
		return nil
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		x.Answer(http.StatusBadGateway, "")
		return nil
	}
	x.note(response.StatusCode)
	return &apiAnswer{response.StatusCode, response.Header, body}
}

// note keeps how the call was answered.
func (x *exchange) note(code int) {
	x.g.mu.Lock()
	defer x.g.mu.Unlock()
	x.g.calls[x.number].Code = code
}

// Hand gives the program an answer.
func (x *exchange) Hand(a *apiAnswer) {
	for name, values := range a.header {
		if name != "Content-Length" && name != "Connection" {
			x.w.Header()[name] = values
		}
	}
	x.w.WriteHeader(a.code)
	_, _ = x.w.Write(a.body) // the program may be gone
}

// Answer gives an answer of the gate's own, as the API server words it. after is for Retry-After, "" for none: with it
// comes no Status, as who is throttled gets none.
func (x *exchange) Answer(code int, after string) {
	x.note(code)
	if after != "" {
		x.w.Header().Set("Retry-After", after)
		http.Error(x.w, "Too many requests, please try again later.", code)
		return
	}
	x.w.Header().Set("Content-Type", "application/json")
	x.w.WriteHeader(code)
	reason := map[int]string{http.StatusGone: "Expired", http.StatusServiceUnavailable: "ServiceUnavailable", http.StatusInternalServerError: "InternalError"}[code]
	fmt.Fprintf(x.w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d,"message":"the gate says so"}`, reason, code)
}

// Drop breaks the call off without an answer.
func (x *exchange) Drop() { panic(http.ErrAbortHandler) }

// Gone waits until the program no longer waits for the answer.
func (x *exchange) Gone() { <-x.r.Context().Done() }

// A watchStream is one open watch.
type watchStream struct{ end chan struct{} }

// expiredEvent is how a watch ends whose place in history is no longer known.
const expiredEvent = `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old resource version"}}` + "\n"

// passWatch passes a stream on, event by event.
func (x *exchange) passWatch() {
	ctx, cancel := context.WithCancel(x.r.Context())
	defer cancel()
	response, err := x.g.transport.RoundTrip(x.request(ctx))
	if err != nil {
		x.Answer(http.StatusBadGateway, "")
		return
	}
	defer response.Body.Close()
	x.note(response.StatusCode)
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(response.Body)
		x.Hand(&apiAnswer{response.StatusCode, response.Header, body})
		return
	}
	s := &watchStream{end: make(chan struct{}, 1)}
	x.g.follow(s, true)
	defer x.g.follow(s, false)
	x.Hand(&apiAnswer{http.StatusOK, response.Header, nil})
	events := make(chan []byte)
	go readEvents(ctx, response.Body, events) // ends with the stream, or with cancel
	for {
		_ = http.NewResponseController(x.w).Flush()
		select {
		case event, more := <-events:
			if !more {
				return
			}
			_, _ = x.w.Write(event)
		case <-s.end:
			_, _ = io.WriteString(x.w, expiredEvent)
			return
		case <-ctx.Done():
			return
		}
	}
}

func (g *gate) follow(s *watchStream, open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if open {
		g.watches[s] = true
	} else {
		delete(g.watches, s)
	}
}

// readEvents sends what it reads event by event.
func readEvents(ctx context.Context, r io.Reader, to chan<- []byte) {
	defer close(to)
	for decoder := json.NewDecoder(r); ; {
		var event json.RawMessage
		if decoder.Decode(&event) != nil {
			return
		}
		select {
		case to <- event:
		case <-ctx.Done():
			return
		}
	}
}

// A gateListener makes connections that a gate can cut.
type gateListener struct {
	net.Listener
	g *gate
}

// Accept implements net.Listener.
func (l *gateListener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &gateConn{Conn: raw, g: l.g, closed: make(chan struct{})}
		l.g.mu.Lock()
		l.g.dials = append(l.g.dials, time.Now())
		refused := l.g.refuses
		if !refused {
			l.g.conns[c] = true
		}
		l.g.mu.Unlock()
		if !refused {
			return c, nil
		}
		c.reset()
	}
}

// A gateConn passes bytes only while its gate is open.
type gateConn struct {
	net.Conn
	g      *gate
	once   sync.Once
	closed chan struct{}
}

// reset has the other end see that the connection is gone.
func (c *gateConn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Conn.Close()
}

// wait waits until bytes may pass.
func (c *gateConn) wait() error {
	c.g.mu.Lock()
	open := c.g.open
	c.g.mu.Unlock()
	select {
	case <-open:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

// Read implements net.Conn. What comes while the gate is silent is kept until it is not.
func (c *gateConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if cut := c.wait(); cut != nil {
		return 0, cut
	}
	return n, err
}

// Write implements net.Conn.
func (c *gateConn) Write(b []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *gateConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.g.mu.Lock()
	delete(c.g.conns, c)
	c.g.mu.Unlock()
	return c.Conn.Close()
}
