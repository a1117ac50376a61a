package api

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
)

// deskToken is the admin's.
const deskToken = "an admin token that is long enough"

// A desk answers over TLS from a store of its own, by a clock that the test turns. Of its services, envoy may ask for
// bookapi.
type desk struct {
	*V1
	f      *catest.Fixture
	cert   *ServerCertificate
	server *httptest.Server
	clock  atomic.Pointer[time.Time]
	log    lockedBuffer
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	now := time.Now().Truncate(time.Second)
	d := &desk{f: catest.New(t, now)}
	d.clock.Store(&now)
	d.V1 = &V1{Issuer: issuer.New(d.f.Store, d.f.Authority), Engine: still{passed: now}, Grants: &Grants{}, Admin: NewAdminToken(deskToken), RenewAt: 0.667,
		Revoked: func(string) {}, Now: func() time.Time { return *d.clock.Load() }, Log: slog.New(slog.NewTextHandler(&d.log, nil))}
	d.Issuer.SetCatalogue([]issuer.Policy{deskPolicy("envoy", "default"), deskPolicy("bookapi", "default"), deskPolicy("pgadmin", "default")})
	d.Issuer.SetOwn(deskPolicy(OwnService, "meshca"))
	d.Grants.Set(map[string]Grant{"envoy": {}, "bookapi": {Services: []string{"envoy"}}, "pgadmin": {GenerateKey: true}})
	d.cert = &ServerCertificate{Issuer: d.Issuer, RenewAt: 0.667, Now: d.V1.Now, Log: d.V1.Log}
	if err := d.cert.Renew(); err != nil {
		t.Fatal(err)
	}
	d.server = httptest.NewUnstartedServer(d.Handler())
	d.server.TLS = d.cert.TLS()
	d.server.EnableHTTP2 = true
	d.server.StartTLS()
	t.Cleanup(d.server.Close)
	return d
}

func deskPolicy(service, namespace string) issuer.Policy {
	id := profile.Identity{CommonName: service, DNSNames: []string{"localhost"}, URI: profile.SPIFFEID("mesh.local", namespace, service)}
	if service != OwnService {
		id.DNSNames = []string{service}
	}
	return issuer.Policy{Service: service, Identity: id, Key: profile.ECDSAP256, Lifetime: 240 * time.Hour, Backdate: time.Minute, MinRemaining: time.Hour}
}

// turn sets the clock forward.
func (d *desk) turn(by time.Duration) {
	next := d.Now().Add(by)
	d.clock.Store(&next)
}

// hold issues a certificate for a service's place, with its key.
func (d *desk) hold(t testing.TB, service string) *tls.Certificate {
	t.Helper()
	key, err := profile.ECDSAP256.Generate()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := d.Issuer.Issue(issuer.Request{Service: service, Place: "here", PublicKey: key.Public(), Reason: "test"}, d.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Certificate().Raw}, PrivateKey: key, Leaf: leaf.Certificate()}
}

// tls is how a client with that certificate, which may be nil, connects.
func (d *desk) tls(held *tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(d.f.Authority.Bundle().PEM())
	c := &tls.Config{RootCAs: roots, ServerName: "localhost", Time: d.Now}
	if held != nil {
		c.Certificates = []tls.Certificate{*held}
	}
	return c
}

// ask sends one request. Who has neither certificate nor token is nobody.
func (d *desk) ask(t testing.TB, held *tls.Certificate, token, method, path, body string, headers ...string) deskAnswer {
	t.Helper()
	request, err := http.NewRequest(method, d.server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{TLSClientConfig: d.tls(held), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	return readAnswer(t, response)
}

// A deskAnswer is what came back.
type deskAnswer struct {
	status int
	header http.Header
	body   string
}

func readAnswer(t testing.TB, r *http.Response) deskAnswer {
	t.Helper()
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return deskAnswer{r.StatusCode, r.Header, string(body)}
}

// refused wants a problem of that kind.
func (a deskAnswer) refused(t testing.TB, k kind) {
	t.Helper()
	var p contract.Problem
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.status != k.status || p.Type != problemPrefix+k.name {
		t.Errorf("%d %s, want %d %s", a.status, a.body, k.status, k.name)
	}
}

// issued wants a certificate.
func (a deskAnswer) issued(t testing.TB) (c contract.IssuedCertificate) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &c); err != nil || a.status != http.StatusCreated {
		t.Fatalf("%d %s, want a certificate", a.status, a.body)
	}
	return c
}

// newCSR is a request for a new key.
func newCSR(t testing.TB) (text string, key crypto.Signer) {
	t.Helper()
	key, err := profile.ECDSAP256.Generate()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), key
}

// newQuotedCSR is one as a value in JSON.
func newQuotedCSR(t testing.TB) string {
	t.Helper()
	text, _ := newCSR(t)
	return strconv.Quote(text)
}

// newAsk is the body of a request for a service's certificate.
func newAsk(t testing.TB, service string) string {
	t.Helper()
	return `{"service": "` + service + `", "csr": ` + newQuotedCSR(t) + `}`
}

// records counts the certificates of the store.
func (d *desk) records(t testing.TB) int {
	t.Helper()
	page, next, err := d.Issuer.List(issuer.Filter{}, 0, maxPage)
	if err != nil || next != 0 {
		t.Fatal(next, err)
	}
	return len(page)
}

// dial opens a connection for a client that speaks by hand.
func (d *desk) dial(t testing.TB, held *tls.Certificate) *tls.Conn {
	t.Helper()
	conf := d.tls(held)
	conf.NextProtos = []string{"http/1.1"}
	c, err := tls.Dial("tcp", d.server.Listener.Addr().(*net.TCPAddr).String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// A lockedBuffer may be written to while it is read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
