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
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshca/meshca/test/contract"
	"github.com/meshca/meshca/test/need"
)

// An apiClient asks a running process for certificates.
type apiClient struct {
	t       testing.TB
	m       *Mesh
	address string
	token   string // "" for none
	cert    *tls.Certificate

	authorization []string // headers as they are, in place of the token
	socket        string   // the Unix socket's path, in place of the address
	trusts        []byte   // nil: what envoy's folder says
}

// callAnswer is what came back.
type callAnswer struct {
	status int
	header http.Header
	body   []byte
}

// apiProblem is the part of a problem that tests look at.
type apiProblem struct {
	Type, Detail, Instance, Serial string
	Pointers                       []string
	Status                         int
}

// apiCertificate is the part of a certificate's answer that tests look at.
type apiCertificate struct {
	Service, Certificate, Chain, CA, Serial, PrivateKey, State string
	NotAfter, RenewAfter                                       time.Time
	Ignored                                                    []string
}

// newAPIClient is the admin.
func newAPIClient(t testing.TB, m *Mesh, serving Line) *apiClient {
	t.Helper()
	token := readFile(t, filepath.Join(m.Dir, "data", "admin.token"))
	return &apiClient{t: t, m: m, address: "https://" + serving.Get("api"), token: strings.TrimSpace(string(token))}
}

// as is the same address for another caller.
func (c *apiClient) as(token string, cert *tls.Certificate) *apiClient {
	other := *c
	other.token, other.cert, other.authorization = token, cert, nil
	return &other
}

// do asks once, over a connection of its own. Headers come as name and value.
func (c *apiClient) do(method, path, body string, headers ...string) callAnswer {
	c.t.Helper()
	client := c.client()
	defer client.CloseIdleConnections()
	answer, err := c.ask(client, method, path, body, headers...)
	must(c.t, err)
	return answer
}

// client keeps the caller's connections; whatever comes through it is judged by the contract.
func (c *apiClient) client() *http.Client {
	c.t.Helper()
	return &http.Client{Transport: apiContract(c.t).Transport(c.t, c.transport()), Timeout: patience}
}

// ask asks over a client's connections, from any goroutine.
func (c *apiClient) ask(client *http.Client, method, path, body string, headers ...string) (a callAnswer, err error) {
	request, err := http.NewRequest(method, c.address+path, strings.NewReader(body))
	if err != nil {
		return a, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	for _, value := range c.authorization {
		request.Header.Add("Authorization", value)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	if response.Header.Get("Content-Type") == "text/event-stream" { // it does not end: its head is the answer
		return callAnswer{response.StatusCode, response.Header, nil}, nil
	}
	content, err := io.ReadAll(response.Body)
	if bytes.Contains(content, []byte(c.token)) && c.token != "" {
		c.t.Errorf("%s %s answers with the token", method, path)
	}
	return callAnswer{response.StatusCode, response.Header, content}, err
}

// transport is how it connects.
func (c *apiClient) transport() *http.Transport {
	if c.socket != "" {
		return &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
		}}
	}
	trusts := c.trusts
	if trusts == nil {
		trusts = readFile(c.t, c.m.Path("envoy", caFile))
	}
	conf := &tls.Config{RootCAs: x509.NewCertPool()}
	conf.RootCAs.AppendCertsFromPEM(trusts)
	if c.cert != nil { // whatever the server says of whose it wants: a certificate that is no good is to be judged, not kept back
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
	}
	return &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}
}

// certificate reads an answer that must be a certificate.
func (a callAnswer) certificate(t testing.TB) (c apiCertificate) {
	t.Helper()
	if a.status != http.StatusCreated && a.status != http.StatusOK {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	must(t, json.Unmarshal(a.body, &c))
	return c
}

// refused wants a problem of that type.
func (a callAnswer) refused(t testing.TB, status int, kind string) (p apiProblem) {
	t.Helper()
	if err := json.Unmarshal(a.body, &p); err != nil || a.status != status || p.Type != "urn:meshca:problem:"+kind ||
		p.Status != status || a.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("status %d, %s (%v), want %d %s", a.status, a.body, err, status, kind)
	}
	return p
}

var loadContract = sync.OnceValues(func() (*contract.Contract, error) {
	text, err := os.ReadFile(filepath.Join("..", "..", "api", "openapi.yaml"))
	if err != nil {
		return nil, err
	}
	return contract.Load(text)
})

// apiContract is what all answers of the API are judged by.
func apiContract(t testing.TB) *contract.Contract {
	t.Helper()
	c, err := loadContract()
	must(t, err)
	return c
}

// body is a request in JSON.
func apiBody(t testing.TB, fields map[string]any) string {
	t.Helper()
	body, err := json.Marshal(fields)
	must(t, err)
	return string(body)
}

// newCSR is a request by OpenSSL, as callers make it, with its key.
func newCSR(t testing.TB, extra ...string) (csr, key string) {
	t.Helper()
	return newCSROf(t, append([]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"}, extra...)...)
}

// newCSROf is newCSR for a key of any kind.
func newCSROf(t testing.TB, kind ...string) (csr, key string) {
	t.Helper()
	dir := t.TempDir()
	args := append([]string{"req", "-new", "-nodes", "-subj", "/CN=anything/O=system:masters", "-keyout", "tls.key", "-out", "tls.csr"}, kind...)
	if a := runCommand(t, dir, need.Program(t, "openssl"), args...); a.Code != 0 {
		t.Fatalf("openssl: %s", a.Stderr)
	}
	return string(readFile(t, filepath.Join(dir, "tls.csr"))), string(readFile(t, filepath.Join(dir, "tls.key")))
}

func pairOf(t testing.TB, chain, key string) *tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(chain), []byte(key))
	must(t, err)
	return &pair
}

// TestAPI: a certificate is asked for, used, renewed and revoked, as a caller does it.
func TestAPI(t *testing.T) {
	m := NewMesh(t, Settings{Services: []string{"envoy", "{name: bookapi, clients: [{service: envoy}]}", "pgadmin", "bookapi-mcp-server", "{name: timescaledb, generateKey: true}"}})
	p := m.Serve()
	admin := newAPIClient(t, m, p.AwaitServing())
	csr, key := newCSR(t)
	ask := apiBody(t, map[string]any{"service": "bookapi", "csr": csr})

	first := admin.do("POST", "/v1/certificates", ask, "Idempotency-Key", "one")
	issued := first.certificate(t)
	pair := pairOf(t, issued.Chain, key)
	if names := pair.Leaf.DNSNames; pair.Leaf.Subject.String() != "CN=bookapi" || !slices.Equal(names, []string{"bookapi", "bookapi.default.svc", "bookapi.default.svc.cluster.local"}) {
		t.Errorf("subject %s, names %v: want the catalogue's", pair.Leaf.Subject, names)
	}
	if !slices.Equal(issued.Ignored, []string{"subject"}) || first.header.Get("Location") != "/v1/certificates/"+issued.Serial {
		t.Errorf("ignored %v, location %q", issued.Ignored, first.header.Get("Location"))
	}
	if issued.CA != string(readFile(t, m.Path("envoy", caFile))) {
		t.Error("the bundle is not the services' ca.crt")
	}
	t.Run("Once", func(t *testing.T) { testOnce(t, m, &p, admin, ask, issued.Serial) })
	t.Run("Callers", func(t *testing.T) { testCallers(t, admin, m, ask, csr) })
	t.Run("GeneratedKey", func(t *testing.T) { testGeneratedKey(t, admin) })
	t.Run("Revoked", func(t *testing.T) { testRevoked(t, admin, m, pair, issued.Serial) })
	m.AwaitSound(p)
}

// testOnce: one request has one certificate, also over a crash.
func testOnce(t *testing.T, m *Mesh, p **Process, admin *apiClient, ask, serial string) {
	(*p).Kill()
	*p = m.Serve()
	*admin = *newAPIClient(admin.t, m, (*p).AwaitServing())
	again := admin.do("POST", "/v1/certificates", ask, "Idempotency-Key", "one")
	if c := again.certificate(t); c.Serial != serial || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("serial %s, want %s again", c.Serial, serial)
	}
	if c := admin.do("POST", "/v1/certificates", ask, "Idempotency-Key", "two").certificate(t); c.Serial == serial {
		t.Error("another key gives the same certificate")
	}
	other, _ := newCSR(t)
	admin.do("POST", "/v1/certificates", apiBody(t, map[string]any{"service": "bookapi", "csr": other}), "Idempotency-Key", "one").
		refused(t, http.StatusUnprocessableEntity, "idempotency-key-reused")
}

// testCallers: nobody gets what is not granted.
func testCallers(t *testing.T, admin *apiClient, m *Mesh, ask, csr string) {
	held := func(service string) *tls.Certificate {
		return pairOf(t, string(readFile(t, m.Path(service, certFile))), string(readFile(t, m.Path(service, keyFile))))
	}
	envoy, pgadmin := admin.as("", held("envoy")), admin.as("", held("pgadmin"))
	nobody, thief := admin.as("", nil), admin.as(strings.Repeat("x", 43), nil)
	dir := t.TempDir()
	newForeignCA(t).WriteSet(t, dir, "envoy")
	stranger := admin.as("", pairOf(t, string(readFile(t, filepath.Join(dir, certFile))), string(readFile(t, filepath.Join(dir, keyFile)))))

	for _, path := range []string{"/v1/ca/bundle.pem", "/v1/crl", "/healthz", "/readyz", "/openapi.yaml", "/"} {
		if a := nobody.do("GET", path, ""); a.status != http.StatusOK {
			t.Errorf("GET %s without a caller: %d %s", path, a.status, a.body)
		}
	}
	for _, c := range []*apiClient{nobody, thief, stranger} {
		for _, path := range []string{"/v1/ca", "/v1/certificates", "/v1/services", "/v1/services/envoy"} {
			c.do("GET", path, "").refused(t, http.StatusUnauthorized, "unauthenticated")
		}
		c.do("POST", "/v1/certificates", ask).refused(t, http.StatusUnauthorized, "unauthenticated")
	}
	if c := envoy.do("POST", "/v1/certificates", ask).certificate(t); c.Service != "bookapi" {
		t.Errorf("a client got %q", c.Service)
	}
	pgadmin.do("POST", "/v1/certificates", ask).refused(t, http.StatusForbidden, "forbidden")
	pgadmin.do("POST", "/v1/certificates", apiBody(t, map[string]any{"service": "pgadmin", "csr": csr})).refused(t, http.StatusForbidden, "forbidden")
	pgadmin.do("GET", "/v1/services/envoy", "").refused(t, http.StatusForbidden, "forbidden")
	serial := fmt.Sprintf("%x", held("envoy").Leaf.SerialNumber)
	pgadmin.do("GET", "/v1/certificates/"+serial, "").refused(t, http.StatusNotFound, "not-found")
	pgadmin.do("POST", "/v1/certificates/"+serial+"/renew", "").refused(t, http.StatusNotFound, "not-found")
	pgadmin.do("POST", "/v1/certificates/"+serial+"/revoke", `{"reason": "superseded"}`).refused(t, http.StatusNotFound, "not-found")
	var seen struct{ Certificates []apiCertificate }
	must(t, json.Unmarshal(envoy.do("GET", "/v1/certificates", "").body, &seen))
	for _, c := range seen.Certificates {
		if c.Service != "bookapi" {
			t.Errorf("envoy sees a certificate of %s", c.Service)
		}
	}
	if len(seen.Certificates) == 0 {
		t.Error("envoy does not see what it may ask for")
	}
}

// testGeneratedKey: a key that the server makes is given once.
func testGeneratedKey(t *testing.T, admin *apiClient) {
	ask := `{"service": "timescaledb", "generateKey": true}`
	c := admin.do("POST", "/v1/certificates", ask, "Idempotency-Key", "made").certificate(t)
	pairOf(t, c.Chain, c.PrivateKey)
	if p := admin.do("POST", "/v1/certificates", ask, "Idempotency-Key", "made").refused(t, http.StatusConflict, "key-not-retained"); p.Serial != c.Serial {
		t.Errorf("names %q, want %s", p.Serial, c.Serial)
	}
	if bytes.Contains(readFile(t, admin.m.Store()), []byte("PRIVATE KEY")) {
		t.Error("the store holds a private key")
	}
}

// testRevoked: a certificate renews itself until it is revoked, and OpenSSL refuses it from then on.
func testRevoked(t *testing.T, admin *apiClient, m *Mesh, pair *tls.Certificate, serial string) {
	itself := admin.as("", pair)
	renewed := itself.do("POST", "/v1/certificates/"+strings.ToUpper(serial)+"/renew", "").certificate(t)
	if renewed.Serial == serial || renewed.Service != "bookapi" {
		t.Errorf("renewed as %+v", renewed)
	}
	admin.do("POST", "/v1/certificates/"+serial+"/renew", "").refused(t, http.StatusBadRequest, "bad-request")
	check := func() Answer {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "crl.pem"), admin.as("", nil).do("GET", "/v1/crl", "").body)
		var chain bytes.Buffer
		for _, der := range pair.Certificate {
			must(t, pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
		}
		writeFile(t, filepath.Join(dir, "chain.pem"), chain.Bytes())
		return runCommand(t, dir, need.Program(t, "openssl"), "verify", "-CAfile", m.Path("envoy", caFile), "-untrusted", "chain.pem",
			"-crl_check_all", "-CRLfile", "crl.pem", "chain.pem")
	}
	if a := check(); a.Code != 0 {
		t.Errorf("before: %s%s", a.Stdout, a.Stderr)
	}
	if c := itself.do("POST", "/v1/certificates/"+serial+"/revoke", `{"reason": "superseded"}`).certificate(t); c.State != "revoked" {
		t.Errorf("state %q", c.State)
	}
	itself.do("POST", "/v1/certificates/"+serial+"/renew", "").refused(t, http.StatusUnauthorized, "unauthenticated")
	admin.do("POST", "/v1/certificates/"+serial+"/revoke", `{"reason": "privilegeWithdrawn"}`).refused(t, http.StatusConflict, "already-revoked")
	if a := check(); a.Code == 0 || !strings.Contains(a.Stdout+a.Stderr, "certificate revoked") {
		t.Errorf("after: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
	// What lies in a folder is replaced at once when it is revoked.
	held := readFile(t, m.Path("pgadmin", certFile))
	number := fmt.Sprintf("%x", pairOf(t, string(held), string(readFile(t, m.Path("pgadmin", keyFile)))).Leaf.SerialNumber)
	admin.do("POST", "/v1/certificates/"+number+"/revoke", `{"reason": "keyCompromise"}`).certificate(t)
	await(t, "pgadmin has another leaf", func() error {
		if bytes.Equal(readFile(t, m.Path("pgadmin", certFile)), held) {
			return fmt.Errorf("the revoked one is there")
		}
		return nil
	})
}
