package api_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/api"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
)

// pipes is a listener whose connections are in memory, so that their deadlines are those of virtual time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	p.conns <- server
	return client, nil
}

// A served is an API that answers over HTTPS in virtual time, as the program's does.
type served struct {
	*api.V1
	l    *pipes
	http string // the version that clients speak: "1.1" or "2"
	stop func() // ends it as a signal does
}

const (
	adminToken = "a token of a test"
	lifetime   = 4 * time.Hour // of certificates
)

// serveTest runs a test with both versions of HTTP. bookapi lists envoy.
func serveTest(t *testing.T, test func(*testing.T, *served)) {
	t.Helper()
	for _, version := range []string{"1.1", "2"} {
		t.Run("HTTP "+version, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, newServed(t, version)) })
		})
	}
}

func newServed(t *testing.T, version string) *served {
	t.Helper()
	fixture := catest.New(t, time.Now())
	time.Sleep(time.Hour) // past the backdating of what is signed below
	i := issuer.New(fixture.Store, fixture.Authority)
	policy := func(name string) issuer.Policy {
		return issuer.Policy{Service: name, Identity: profile.Identity{DNSNames: []string{"localhost"}, IPAddresses: []netip.Addr{netip.IPv6Loopback()},
			CommonName: "of a test", URI: profile.SPIFFEID("mesh.local", "default", name)},
			Key: profile.ECDSAP256, Lifetime: lifetime, Backdate: time.Minute, MinRemaining: time.Minute}
	}
	i.SetCatalogue([]issuer.Policy{policy("envoy"), policy("bookapi"), policy("pgadmin")})
	i.SetOwn(policy(api.OwnService))
	log := slog.New(slog.DiscardHandler)
	s := &served{http: version, l: &pipes{make(chan net.Conn), make(chan struct{})}, V1: &api.V1{Issuer: i, Engine: &engine{}, Operator: &engine{},
		Grants: &api.Grants{}, Admin: api.NewAdminToken(adminToken), Events: api.NewEvents(time.Now), Revoked: func(string) {}, RenewAt: 0.667,
		Now: time.Now, Log: log}}
	s.grant("envoy")
	cert := &api.ServerCertificate{Issuer: i, RenewAt: 0.667, Now: time.Now, Log: log}
	if err := cert.Renew(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	context.AfterFunc(ctx, s.Events.End) // as the program does
	done := make(chan error, 1)
	go func() { done <- api.ServeTLS(ctx, s.l, s.Handler(), cert.TLS(), log) }()
	s.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		done <- nil
	}
	t.Cleanup(s.stop)
	return s
}

// grant has bookapi list these services under its clients.
func (s *served) grant(services ...string) {
	s.Grants.Set(map[string]api.Grant{"envoy": {}, "bookapi": {Services: services}, "pgadmin": {}})
}

// certificate is one of a service, with its serial number.
func (s *served) certificate(t *testing.T, service string) (pair *tls.Certificate, serial string) {
	t.Helper()
	key, err := profile.ECDSAP256.Generate()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := s.Issuer.Issue(issuer.Request{Service: service, PublicKey: key.Public(), Reason: "test"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair = &tls.Certificate{PrivateKey: key, Leaf: leaf.Certificate()}
	for block, rest := pem.Decode(leaf.Chain()); block != nil; block, rest = pem.Decode(rest) {
		pair.Certificate = append(pair.Certificate, block.Bytes)
	}
	return pair, leaf.Record().Serial
}

// A reading is a stream that a client has open.
type reading struct {
	t        *testing.T
	response *http.Response
	lines    *bufio.Reader
}

// open asks for a stream, by the admin's token or, where there is one, by a certificate.
func (s *served) open(t *testing.T, path string, pair *tls.Certificate, headers ...string) *reading {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://localhost"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.Issuer.Authority().Bundle().PEM())
	conf := &tls.Config{RootCAs: roots}
	if pair != nil {
		conf.Certificates = []tls.Certificate{*pair}
	} else {
		request.Header.Set("Authorization", "Bearer "+adminToken)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DialContext: s.l.dial, TLSClientConfig: conf, ForceAttemptHTTP2: s.http == "2"}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimPrefix(response.Proto, "HTTP/"); got != s.http && got != s.http+".0" {
		t.Errorf("spoken is %s", response.Proto)
	}
	t.Cleanup(func() {
		response.Body.Close()
		transport.CloseIdleConnections()
	})
	return &reading{t, response, bufio.NewReader(response.Body)}
}

// A block is what is between two empty lines of a stream.
type block struct {
	id      uint64
	event   string // "" where it is none
	comment string
	data    struct{ Service, Serial, Text string }
}

// next waits for the next block.
func (r *reading) next() (b block, err error) {
	r.t.Helper()
	if status := r.response.StatusCode; status != http.StatusOK || r.response.Header.Get("Content-Type") != "text/event-stream" {
		r.t.Fatalf("status %d, %v", status, r.response.Header)
	}
	for {
		line, err := r.lines.ReadString('\n')
		if err != nil {
			return b, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		switch value = strings.TrimPrefix(value, " "); {
		case line == "\n":
			return b, nil
		case name == "":
			b.comment = ":" + value
		case name == "id":
			if b.id, err = strconv.ParseUint(value, 10, 64); err != nil {
				r.t.Error(err)
			}
		case name == "event":
			b.event = value
		case name == "data":
			if err := json.Unmarshal([]byte(value), &b.data); err != nil {
				r.t.Error(err)
			}
		}
	}
}

// want is next, which has to be an event of that kind and service.
func (r *reading) want(event, service string) block {
	r.t.Helper()
	b, err := r.next()
	if err != nil || b.event != event || b.data.Service != service {
		r.t.Fatalf("%+v (%v), want %s of %q", b, err, event, service)
	}
	return b
}

// begun is next, which has to be the beginning: where it goes on after, and no event.
func (r *reading) begun() uint64 {
	r.t.Helper()
	return r.want("", "").id
}

// TestStream: a stream lives on past the server's own deadlines, with a comment every 15 s, and what happens comes at once.
func TestStream(t *testing.T) {
	serveTest(t, func(t *testing.T, s *served) {
		r := s.open(t, "/v1/events", nil)
		first, began := r.begun(), time.Now()
		for n := range 8 {
			b, err := r.next()
			if at := time.Since(began); err != nil || b.comment != ":" || b.id != first || at != time.Duration(n+1)*15*time.Second {
				t.Fatalf("after %s: %+v, %v", at, b, err)
			}
		}
		told := time.Now()
		s.Events.Tell(rotation.Notice{Service: "bookapi", Kind: rotation.NoticeTakenOver, Serial: "7f", Text: "what\nthere was"})
		b := r.want("takenOver", "bookapi")
		if b.id != first+1 || b.data.Serial != "7f" || b.data.Text != "what\nthere was" || !time.Now().Equal(told) {
			t.Errorf("after %s: %+v", time.Since(told), b)
		}
	})
}

// TestStreamGoesOn: whoever comes back with the last id gets what has happened since, and is told where that is not known.
func TestStreamGoesOn(t *testing.T) {
	serveTest(t, func(t *testing.T, s *served) {
		first := s.open(t, "/v1/events", nil).begun()
		tell := func(n int) {
			for range n {
				s.Events.Tell(rotation.Notice{Service: "bookapi", Kind: rotation.NoticeHealed, Text: strings.Repeat("é", 2000)})
			}
		}
		after := func(id uint64) *reading { return s.open(t, "/v1/events", nil, "Last-Event-ID", fmt.Sprint(id)) }
		tell(3)
		r := after(first + 1)
		if r.begun() != first+1 || r.want("healed", "bookapi").id != first+2 || r.want("healed", "bookapi").id != first+3 {
			t.Error("it goes on elsewhere")
		}
		for name, id := range map[string]uint64{"an earlier process": first - 1<<20, "a clock that was ahead": first + 4} {
			r := after(id)
			r.begun()
			if gap := r.want("gap", ""); gap.id != first || r.want("healed", "bookapi").id != first+1 {
				t.Errorf("%s: the gap ends at %d", name, gap.id-first)
			}
			r.response.Body.Close()
		}
		tell(1024)
		r = after(first + 2)
		r.begun()
		if gap := r.want("gap", ""); gap.id != first+3 {
			t.Errorf("the gap ends at %d", gap.id-first)
		}
		for n := range 1024 {
			if b := r.want("healed", "bookapi"); b.id != first+4+uint64(n) || len(b.data.Text) > 1024 {
				t.Fatalf("%d: %d, %d bytes", n, b.id-first, len(b.data.Text))
			}
		}
	})
}

// TestStreamShowsWhatMayBeSeen: events of services that the caller may ask for, or of one, and nothing to who may for none.
func TestStreamShowsWhatMayBeSeen(t *testing.T) {
	serveTest(t, func(t *testing.T, s *served) {
		envoy, _ := s.certificate(t, "envoy")
		mine, one := s.open(t, "/v1/events", envoy), s.open(t, "/v1/events?service=pgadmin", nil)
		first := mine.begun()
		one.begun()
		for _, service := range []string{"pgadmin", "bookapi", "envoy", "bookapi"} {
			s.Events.Tell(rotation.Notice{Service: service, Kind: rotation.NoticeIssued})
		}
		if mine.want("issued", "bookapi").id != first+2 || mine.want("issued", "bookapi").id != first+4 || one.want("issued", "pgadmin").id != first+1 {
			t.Error("other events")
		}
		s.Events.Tell(rotation.Notice{Service: "pgadmin", Kind: rotation.NoticeIssued})
		if b, err := mine.next(); err != nil || b.comment == "" || b.id != first+5 {
			t.Errorf("%+v %v: a comment passes what is not seen", b, err)
		}
		pgadmin, _ := s.certificate(t, "pgadmin")
		for path, status := range map[string]int{"/v1/events": 403, "/v1/events?service=bookapi": 403, "/v1/events?service=": 400, "/v1/events?since=1": 400} {
			if r := s.open(t, path, pgadmin); r.response.StatusCode != status {
				t.Errorf("%s: %d", path, r.response.StatusCode)
			}
		}
		for _, id := range []string{"-1", "x", "99999999999999999999", ""} {
			if r := s.open(t, "/v1/events", envoy, "Last-Event-ID", id); r.response.StatusCode != http.StatusBadRequest {
				t.Errorf("Last-Event-ID %q: %d", id, r.response.StatusCode)
			}
		}
	})
}

// TestStreamEndsWithTheRight: at the next comment nothing is given to whom nothing would be given anew.
func TestStreamEndsWithTheRight(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*testing.T, *served, string)
		wait time.Duration
		says string
	}{
		"revoked": {func(t *testing.T, s *served, serial string) {
			if _, err := s.Issuer.Revoke(serial, profile.Superseded, "test", time.Now()); err != nil {
				t.Fatal(err)
			}
		}, 15 * time.Second, "the client certificate is revoked"},
		"expired":               {func(*testing.T, *served, string) {}, lifetime, "the client certificate has expired"},
		"not a client any more": {func(_ *testing.T, s *served, _ string) { s.grant("pgadmin") }, 15 * time.Second, "no service of the catalogue lists the caller"},
	} {
		t.Run(name, func(t *testing.T) {
			serveTest(t, func(t *testing.T, s *served) {
				envoy, serial := s.certificate(t, "envoy")
				r := s.open(t, "/v1/events", envoy)
				r.begun()
				tt.end(t, s, serial)
				began := time.Now()
				var b block
				var err error
				for b.comment == "" || b.comment == ":" {
					if b, err = r.next(); err != nil {
						t.Fatalf("after %s: %v", time.Since(began), err)
					}
					if at := time.Since(began); at > tt.wait+time.Minute {
						t.Fatalf("it goes on after %s", at)
					}
				}
				if at := time.Since(began); !strings.Contains(b.comment, tt.says) || at > tt.wait+15*time.Second {
					t.Errorf("after %s: %q", at, b.comment)
				}
				if b, err := r.next(); !errors.Is(err, io.EOF) {
					t.Errorf("and then %+v, %v", b, err)
				}
			})
		})
	}
}

// TestStreamOfASlowReader: who takes nothing is cut off, and holds up nobody until then.
func TestStreamOfASlowReader(t *testing.T) {
	serveTest(t, func(t *testing.T, s *served) {
		var slow []*reading
		for range 4 {
			slow = append(slow, s.open(t, "/v1/events", nil))
		}
		if r := s.open(t, "/v1/events", nil); r.response.StatusCode != http.StatusTooManyRequests || r.response.Header.Get("Retry-After") != "15" {
			t.Errorf("a fifth stream: %d, again after %q", r.response.StatusCode, r.response.Header.Get("Retry-After"))
		}
		envoy, _ := s.certificate(t, "envoy")
		quick := s.open(t, "/v1/events", envoy)
		quick.begun()
		told := time.Now()
		for range 6000 { // more than a client of HTTP/2 takes by itself
			s.Events.Tell(rotation.Notice{Service: "bookapi", Kind: rotation.NoticeHealed, Text: strings.Repeat("x", 1000)})
			quick.want("healed", "bookapi")
		}
		if took := time.Since(told); took != 0 {
			t.Errorf("the quick reader was held up for %s", took)
		}
		time.Sleep(11 * time.Second)
		if r := s.open(t, "/v1/events", nil); r.response.StatusCode != http.StatusOK {
			t.Fatalf("the slow ones are held still: %d", r.response.StatusCode)
		}
		for _, r := range slow {
			if _, err := io.Copy(io.Discard, r.response.Body); err == nil {
				t.Error("a slow reader's stream ended as if it were whole")
			}
		}
	})
}

// TestStreamsEndWithTheProcess: a signal ends all of them at once and whole, and none begins after it.
func TestStreamsEndWithTheProcess(t *testing.T) {
	serveTest(t, func(t *testing.T, s *served) {
		r := s.open(t, "/v1/events", nil)
		r.begun()
		began := time.Now()
		ended := make(chan time.Duration, 1)
		go func() { // ends with the stream
			if _, err := r.next(); !errors.Is(err, io.EOF) {
				t.Errorf("it ends with %v", err)
			}
			ended <- time.Since(began)
		}()
		s.stop()
		if took := <-ended; took != 0 {
			t.Errorf("it ends after %s", took)
		}
	})
}
