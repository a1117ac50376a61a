package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/meshca/meshca/test/contract"
)

// A fuzzWorker is one caller with one connection at a time.
type fuzzWorker struct {
	f    *fuzzed
	kind callerKind
	cert *tls.Certificate

	conn   *tls.Conn
	reader *bufio.Reader
	h2     *http.Client
	heard  time.Time // when it was dialled, or answered last
}

// cutOff is the shortest deadline of the server: whoever is slower, because the machine stands still, is hung up on.
const cutOff = 5 * time.Second

// step sends the n-th request and judges its answer. It says whether to go on.
func (w *fuzzWorker) step(n uint64) bool {
	message := w.f.contract.Generate(rand.New(rand.NewPCG(w.f.seed, n)), w.f.known)
	if w.kind.token != nil {
		message.Header = append(message.Header, contract.Field{Name: "Authorization", Value: "Bearer " + w.kind.token(w.f)})
	}
	if w.heard.IsZero() {
		w.heard = time.Now()
	}
	x, err := w.exchange(message)
	slow := time.Since(w.heard) > cutOff
	w.heard = time.Now()
	if err != nil {
		w.hangUp()
		if slow {
			w.f.lost.Add(1)
			return true
		}
		return w.f.found(n, message, "no answer: %v", err)
	}
	if x == nil {
		return true // refused below any handler, as it should be
	}
	w.f.count(x)
	if err := w.judge(message, x); err != nil {
		return w.f.found(n, message, "%s: %v\n%.400q", w.kind.name, err, x.Body)
	}
	if x.Status < http.StatusBadRequest {
		w.f.learn(x)
	}
	if w.kind.certificate && x.Status == http.StatusUnauthorized && bytes.Contains(x.Body, []byte("is revoked")) {
		w.cert = nil // somebody revoked it: go on as another
		w.hangUp()
	}
	return true
}

func (w *fuzzWorker) hangUp() {
	if w.h2 != nil {
		w.h2.CloseIdleConnections()
		w.h2 = nil
	}
	if w.conn != nil {
		_ = w.conn.Close() // whatever it says, it is gone
		w.conn = nil
	}
}

// tls is how its connections are made.
func (w *fuzzWorker) tls() *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(readFile(w.f.t, w.f.m.Path("envoy", caFile)))
	conf := &tls.Config{RootCAs: roots}
	if w.kind.certificate {
		if w.cert == nil {
			w.cert = w.f.newCertificate()
		}
		conf.Certificates = []tls.Certificate{*w.cert}
	}
	return conf
}

// from is another address of this machine for each connection: one address may begin a few hundred in a second.
func (w *fuzzWorker) from() *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+rand.IntN(250)))}}
}

func (w *fuzzWorker) dial() error {
	conn, err := tls.DialWithDialer(w.from(), "tcp", w.f.host, w.tls())
	if err != nil {
		return err
	}
	w.conn, w.reader = conn, bufio.NewReader(conn)
	return nil
}

// exchange sends a message and reads its answer. It is nil where net/http refused what it may refuse.
func (w *fuzzWorker) exchange(message *contract.Message) (*contract.Exchange, error) {
	wire := message.Wire(w.f.host)
	x := &contract.Exchange{}
	var err error
	if x.Request, err = http.ReadRequest(bufio.NewReader(bytes.NewReader(wire))); err == nil {
		x.RequestBody, err = io.ReadAll(x.Request.Body)
	}
	var response *http.Response
	if w.kind.http2 && err == nil {
		response, x.Body, err = w.overHTTP2(x)
	}
	if response == nil {
		if response, x.Body, err = w.overHTTP1(message, wire); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	if response.Header.Get("X-Request-Id") == "" {
		return nil, belowHandlers(message, wire, response, x.Body)
	}
	if x.Request == nil {
		return nil, fmt.Errorf("a handler answered what is no request: %d %.200q", response.StatusCode, x.Body)
	}
	x.Status, x.Header = response.StatusCode, response.Header
	return x, nil
}

// overHTTP2 sends the same as HTTP/2, where a client can: the answer is nil where it cannot.
func (w *fuzzWorker) overHTTP2(x *contract.Exchange) (*http.Response, []byte, error) {
	if w.h2 == nil {
		w.h2 = &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: w.from().DialContext, TLSClientConfig: w.tls(), ForceAttemptHTTP2: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	r := x.Request.Clone(w.f.t.Context())
	r.RequestURI, r.URL.Scheme, r.URL.Host, r.Close, r.Trailer = "", "https", w.f.host, false, nil
	r.TransferEncoding, r.ContentLength, r.Body = nil, int64(len(x.RequestBody)), io.NopCloser(bytes.NewReader(x.RequestBody))
	response, err := w.h2.Do(r)
	if err != nil {
		if clientRefuses.MatchString(err.Error()) {
			return nil, nil, nil
		}
		return nil, nil, err
	}
	defer response.Body.Close()
	if isStream(response) {
		return response, nil, nil // its head is what is judged
	}
	body, err := io.ReadAll(response.Body)
	return response, body, err
}

// clientRefuses are words of net/http's client for what it does not send.
var clientRefuses = regexp.MustCompile(`net/http: invalid|http2: invalid|http2: request header list larger|invalid URL|unsupported protocol|no Host`)

func isStream(r *http.Response) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream")
}

// overHTTP1 sends a message as it is.
func (w *fuzzWorker) overHTTP1(message *contract.Message, wire []byte) (*http.Response, []byte, error) {
	if w.conn == nil {
		if err := w.dial(); err != nil {
			return nil, nil, err
		}
	}
	must(w.f.t, w.conn.SetDeadline(time.Now().Add(patience)))
	_, sent := w.conn.Write(wire) // an answer may come before all was sent, and the connection end with it
	if message.Last && sent == nil {
		sent = w.conn.CloseWrite()
	}
	response, body, err := w.read(message)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (sent: %v)", err, sent)
	}
	if response.Close || message.Last || sent != nil || isStream(response) {
		w.hangUp()
	}
	return response, body, nil
}

// read reads an answer, and of a stream its first bytes.
func (w *fuzzWorker) read(message *contract.Message) (response *http.Response, body []byte, err error) {
	for {
		response, err = http.ReadResponse(w.reader, &http.Request{Method: message.Method})
		if err != nil {
			return nil, nil, err
		}
		if response.StatusCode != http.StatusContinue {
			break
		}
	}
	if isStream(response) {
		must(w.f.t, w.conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		body = make([]byte, 512)
		n, _ := response.Body.Read(body) // a stream may have nothing to say
		return response, body[:n], nil
	}
	body, err = io.ReadAll(response.Body)
	return response, body, err
}

// maxHead is how long a request's head may be before net/http refuses it; a long target counts too.
const maxHead = 16 << 10

// belowHandlers wants an answer of net/http itself to be plain, and only to what is no good HTTP.
func belowHandlers(message *contract.Message, wire []byte, response *http.Response, body []byte) error {
	long := bytes.Index(wire, []byte("\r\n\r\n")) > maxHead && response.StatusCode == http.StatusRequestHeaderFieldsTooLarge
	if !message.Lower && !long || response.StatusCode < 400 || response.StatusCode > 431 && response.StatusCode != http.StatusNotImplemented {
		return fmt.Errorf("not answered by a handler: %d %v %.200q", response.StatusCode, response.Header, body)
	}
	return leak(message, response.Header, body)
}

// judge says what is wrong with an answer.
func (w *fuzzWorker) judge(message *contract.Message, x *contract.Exchange) error {
	if err := w.f.contract.Check(x); err != nil {
		return err
	}
	if x.Status == http.StatusServiceUnavailable && x.Header.Get("Retry-After") == "" {
		return fmt.Errorf("it does not say when to come again")
	}
	if bytes.Contains(x.Body, []byte("PRIVATE KEY")) {
		if x.Status != http.StatusCreated || !bytes.Contains(message.Body(), []byte(`"generateKey": true`)) {
			return fmt.Errorf("the answer holds a private key")
		}
	}
	return leak(message, x.Header, x.Body)
}

// inside are words of the program's inside.
var inside = regexp.MustCompile(`(?i:goroutine|runtime[ ./]|panic|\.go\b|0x[0-9a-f]{4}|nil pointer|/tmp/|/home/|/root|/usr/|\.db\b|bbolt|json:|strconv|unmarshal|x509:|asn1:|<nil>|%!|schema)|\b[a-z]+\.[A-Z]\w+`)

// leak wants neither what was sent nor the program's inside in an answer.
func leak(message *contract.Message, header http.Header, body []byte) error {
	head := fmt.Sprint(header)
	if strings.Contains(head, message.Canary) || bytes.Contains(body, []byte(message.Canary)) {
		return fmt.Errorf("the answer repeats what was sent")
	}
	if header.Get("Content-Type") != "application/problem+json" {
		return nil
	}
	if word := inside.Find(body); word != nil {
		return fmt.Errorf("the problem speaks of %q", word)
	}
	return nil
}
