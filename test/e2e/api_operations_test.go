package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/meshca/meshca/test/contract"
)

// An eventStream is one that a client follows. What comes is kept until it is asked for.
type eventStream struct {
	t        testing.TB
	contract *contract.Contract
	events   chan apiEvent
	ended    error // why, once events is closed
}

// An apiEvent is one of a stream.
type apiEvent struct {
	id, kind              string
	Service, Serial, Text string
}

// follow opens a stream of events, after the one of that id where it is not "".
func (c *apiClient) follow(after string) *eventStream {
	c.t.Helper()
	request, err := http.NewRequest("GET", c.address+"/v1/events", nil)
	must(c.t, err)
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	if after != "" {
		request.Header.Set("Last-Event-ID", after)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(readFile(c.t, c.m.Path("envoy", caFile)))
	conf := &tls.Config{RootCAs: roots}
	if c.cert != nil {
		conf.Certificates = []tls.Certificate{*c.cert}
	}
	judged := apiContract(c.t)
	response, err := judged.Transport(c.t, &http.Transport{TLSClientConfig: conf}).RoundTrip(request)
	must(c.t, err)
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		body, _ := io.ReadAll(response.Body)
		c.t.Fatalf("status %d: %s", response.StatusCode, body)
	}
	s := &eventStream{t: c.t, contract: judged, events: make(chan apiEvent, 1000)}
	done := make(chan struct{})
	go func() { // ends with the body, which the cleanup closes at the latest
		defer close(done)
		s.read(response.Body)
	}()
	c.t.Cleanup(func() {
		response.Body.Close()
		<-done
	})
	if first := s.next(); first.kind != "" || after == "" && first.id == "" {
		c.t.Errorf("a stream begins with %+v", first)
	}
	return s
}

func (s *eventStream) read(body io.Reader) {
	defer close(s.events)
	var e apiEvent
	for lines := bufio.NewReader(body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			s.ended = err
			return
		}
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.kind = value
		case "data":
			schema := map[bool]string{true: "Gap", false: "Event"}[e.kind == "gap"]
			if err := errors.Join(s.contract.CheckValue(schema, []byte(value)), json.Unmarshal([]byte(value), &e)); err != nil {
				s.ended = fmt.Errorf("%q: %w", value, err)
				return
			}
		case "":
			s.events <- e
			e = apiEvent{}
		}
	}
}

// next waits for a block.
func (s *eventStream) next() (e apiEvent) {
	s.t.Helper()
	await(s.t, "an event", func() error {
		select {
		case got, open := <-s.events:
			if !open {
				s.t.Fatalf("the stream ended: %v", s.ended)
			}
			e = got
			return nil
		default:
			return errors.New("none has come")
		}
	})
	return e
}

// want is the next event, which has to be of that kind and service.
func (s *eventStream) want(kind, service string) apiEvent {
	s.t.Helper()
	e := s.next()
	for e.kind == "" { // a comment
		e = s.next()
	}
	if e.kind != kind || e.Service != service {
		s.t.Errorf("%+v, want %s of %q", e, kind, service)
	}
	return e
}

// TestOperations: what an operator does with a running mesh, over HTTPS and through the socket.
func TestOperations(t *testing.T) {
	m := NewMesh(t, Settings{Services: []string{"envoy", "{name: bookapi, clients: [{service: envoy}]}", "pgadmin", "bookapi-mcp-server", "timescaledb"}})
	p := m.Serve()
	admin := newAPIClient(t, m, p.AwaitServing())
	envoy := admin.as("", pairOf(t, string(readFile(t, m.Path("envoy", certFile))), string(readFile(t, m.Path("envoy", keyFile)))))
	pgadmin := admin.as("", pairOf(t, string(readFile(t, m.Path("pgadmin", certFile))), string(readFile(t, m.Path("pgadmin", keyFile)))))

	t.Run("Renew", func(t *testing.T) { testRenewService(t, m, admin, envoy, pgadmin) })
	t.Run("Verify", func(t *testing.T) { testVerification(t, m, admin, envoy) })
	t.Run("Operators", func(t *testing.T) { testOperators(t, m, admin, envoy) })
	m.AwaitSound(p)
	testEvents(t, m, p, admin, envoy)
}

// testRenewService: whoever may ask for a service has what its folder holds renewed, a few times.
func testRenewService(t *testing.T, m *Mesh, admin, envoy, pgadmin *apiClient) {
	held := func() string { return string(readFile(t, m.Path("bookapi", certFile))) }
	before := held()
	for _, c := range []*apiClient{admin, envoy} {
		answer := c.do("POST", "/v1/services/bookapi/renew", "")
		if renewed := answer.certificate(t); answer.status != http.StatusOK || renewed.State != "kept" || held() == before {
			t.Errorf("%d %s; the folder holds another one: %t", answer.status, answer.body, held() != before)
		} else if leaf := pairOf(t, held(), string(readFile(t, m.Path("bookapi", keyFile)))).Leaf; fmt.Sprintf("%x", leaf.SerialNumber) != renewed.Serial {
			t.Errorf("%s is answered, and %x is there", renewed.Serial, leaf.SerialNumber)
		}
		before = held()
	}
	pgadmin.do("POST", "/v1/services/bookapi/renew", "").refused(t, http.StatusForbidden, "forbidden")
	pgadmin.do("POST", "/v1/services/pgadmin/renew", "").refused(t, http.StatusForbidden, "forbidden")
	admin.as("", nil).do("POST", "/v1/services/bookapi/renew", "").refused(t, http.StatusUnauthorized, "unauthenticated")
	admin.do("POST", "/v1/services/nobody/renew", "").refused(t, http.StatusNotFound, "not-found")
	admin.do("POST", "/v1/services/Nobody/renew", "").refused(t, http.StatusBadRequest, "bad-request")
	admin.do("POST", "/v1/services/bookapi/renew", "{}").refused(t, http.StatusBadRequest, "bad-request")
	if held() != before {
		t.Error("a refusal has changed the folder")
	}
	for range 3 {
		envoy.do("POST", "/v1/services/bookapi/renew", "").certificate(t)
	}
	before = held()
	if a := envoy.do("POST", "/v1/services/bookapi/renew", ""); a.header.Get("Retry-After") == "" || held() != before {
		a.refused(t, http.StatusTooManyRequests, "too-many-requests")
		t.Errorf("again after %q", a.header.Get("Retry-After"))
	}
}

// testVerification: the findings are those of the command, and an operator's to see.
func testVerification(t *testing.T, m *Mesh, admin, envoy *apiClient) {
	var over struct {
		Pairs, Refusals  int
		Services         []struct{ Name, Verdict, Serial string }
		Findings, Unread []any
	}
	answer := admin.do("GET", "/v1/verify", "")
	must(t, json.Unmarshal(answer.body, &over))
	if answer.status != http.StatusOK || over.Pairs != 20 || len(over.Services) != 5 || over.Refusals+len(over.Findings)+len(over.Unread) != 0 {
		t.Errorf("%d %s", answer.status, answer.body)
	}
	if again := admin.do("GET", "/v1/verify", ""); string(again.body) != string(answer.body) {
		t.Error("it was looked at again at once")
	}
	envoy.do("GET", "/v1/verify", "").refused(t, http.StatusForbidden, "forbidden")
	admin.as("", nil).do("GET", "/v1/verify", "").refused(t, http.StatusUnauthorized, "unauthenticated")
}

// testOperators: the status, and orders of an operator, are the same over HTTPS and through the socket.
func testOperators(t *testing.T, m *Mesh, admin, envoy *apiClient) {
	var over Status
	must(t, json.Unmarshal(admin.do("GET", "/v1/status", "").body, &over))
	through, _ := m.Status()
	if over.Of("bookapi").Serial == "" || over.Of("bookapi").Serial != through.Of("bookapi").Serial {
		t.Errorf("bookapi has %+v over HTTPS, and %+v through the socket", over.Of("bookapi"), through.Of("bookapi"))
	}
	admin.do("POST", "/v1/adopt", "{}").refused(t, http.StatusConflict, "conflict")
	admin.do("POST", "/v1/adopt", `{"service": "pgadmin"}`).refused(t, http.StatusConflict, "conflict")
	admin.do("POST", "/v1/adopt", "").refused(t, http.StatusUnsupportedMediaType, "unsupported-media-type")
	admin.do("POST", "/v1/heal", `{"service": "pgadmin"}`).refused(t, http.StatusConflict, "conflict")
	admin.do("POST", "/v1/heal", `{"service": "nobody"}`).refused(t, http.StatusNotFound, "not-found")
	admin.do("POST", "/v1/heal", "{}").refused(t, http.StatusBadRequest, "bad-request")
	for _, call := range [][3]string{{"GET", "/v1/status", ""}, {"POST", "/v1/adopt", "{}"}, {"POST", "/v1/heal", `{"service": "bookapi"}`}} {
		envoy.do(call[0], call[1], call[2]).refused(t, http.StatusForbidden, "forbidden")
		admin.as("", nil).do(call[0], call[1], call[2]).refused(t, http.StatusUnauthorized, "unauthenticated")
	}
	if a := m.Run("heal", "--resume", "pgadmin", "--config", m.Config()); a.Code != 1 || !strings.Contains(a.Stderr, "does not rest") {
		t.Errorf("meshca heal: %d %s", a.Code, a.Stderr)
	}
	if a := m.Run("adopt", "--continue", "--config", m.Config()); a.Code != 1 || !strings.Contains(a.Stderr, "no service is being taken over") {
		t.Errorf("meshca adopt: %d %s", a.Code, a.Stderr)
	}
}

// testEvents: what happens is told to who may see it, over the loss of a connection, and up to the end of the process.
func testEvents(t *testing.T, m *Mesh, p *Process, admin, envoy *apiClient) {
	all, mine := admin.follow(""), envoy.follow("")
	csr, _ := newCSR(t)
	issued := envoy.do("POST", "/v1/certificates", apiBody(t, map[string]any{"service": "bookapi", "csr": csr})).certificate(t)
	for _, s := range []*eventStream{all, mine} {
		if e := s.want("issued", "bookapi"); e.Serial != issued.Serial || !strings.Contains(e.Text, "certificate:envoy") {
			t.Errorf("%+v, want serial %s", e, issued.Serial)
		}
	}
	writeFile(t, m.Path("pgadmin", caFile), []byte("somebody's"))
	healed := all.want("healed", "pgadmin")
	for range 2 { // the second time nothing changes
		admin.do("POST", "/v1/certificates/"+issued.Serial+"/revoke", `{"reason": "superseded"}`).certificate(t)
	}
	admin.do("POST", "/v1/services/envoy/renew", "").certificate(t)
	again := admin.follow(healed.id)
	for _, s := range []*eventStream{all, again} {
		if e := s.want("revoked", "bookapi"); e.Serial != issued.Serial {
			t.Errorf("%+v", e)
		}
		s.want("renewed", "envoy")
	}
	mine.want("revoked", "bookapi")

	if code := p.Stop(); code != 0 {
		t.Errorf("the process ends with %d", code)
	}
	for _, s := range []*eventStream{all, mine, again} {
		await(t, "the stream ends", func() error {
			for {
				select {
				case e, open := <-s.events:
					if !open {
						return nil
					}
					if e.kind != "" {
						t.Errorf("there is %+v more", e)
					}
				default:
					return errors.New("it goes on")
				}
			}
		})
		if !errors.Is(s.ended, io.EOF) || errors.Is(s.ended, io.ErrUnexpectedEOF) {
			t.Errorf("a stream was cut off: %v", s.ended)
		}
	}
	p = m.Serve()
	later := newAPIClient(t, m, p.AwaitServing()).follow(healed.id)
	if e := later.want("gap", ""); e.id <= healed.id {
		t.Errorf("numbers go back over a restart: %s, and then %s", healed.id, e.id)
	}
}
