package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/test/need"
)

// An apiClient asks a running process for certificates.
type apiClient struct {
	t       testing.TB
	m       *Mesh
	address string
	token   string // "" for none
	cert    *tls.Certificate
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
	other.token, other.cert = token, cert
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

// client trusts the mesh, and presents the caller's certificate.
func (c *apiClient) client() *http.Client {
	c.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(readFile(c.t, c.m.Path("envoy", caFile)))
	conf := &tls.Config{RootCAs: roots}
	if c.cert != nil {
		conf.Certificates = []tls.Certificate{*c.cert}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}, Timeout: patience}
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
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return a, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if bytes.Contains(content, []byte(c.token)) && c.token != "" {
		c.t.Errorf("%s %s answers with the token", method, path)
	}
	return callAnswer{response.StatusCode, response.Header, content}, err
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
	t.Run("Refused", func(t *testing.T) { testAPIRefused(t, admin, ask) })
	t.Run("Callers", func(t *testing.T) { testCallers(t, admin, m, ask, csr) })
	t.Run("GeneratedKey", func(t *testing.T) { testGeneratedKey(t, admin) })
	t.Run("Revoked", func(t *testing.T) { testRevoked(t, admin, m, pair, issued.Serial) })
	m.AwaitSound(p)
}

// testOnce: one request has one certificate, also over a crash.
func testOnce(t *testing.T, m *Mesh, p **Process, admin *apiClient, ask, serial string) {
	(*p).Kill()
	*p = m.Serve()
	*admin = *newAPIClient(t, m, (*p).AwaitServing())
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

// testAPIRefused: what cannot be read or may not be is refused with a stable type, and nothing is recorded.
func testAPIRefused(t *testing.T, admin *apiClient, ask string) {
	before := admin.do("GET", "/v1/certificates?limit=500", "").body
	stranger, _ := newCSR(t, "-addext", "subjectAltName=DNS:pgadmin")
	if p := admin.do("POST", "/v1/certificates", apiBody(t, map[string]any{"service": "bookapi", "csr": stranger})).refused(t, 403, "name-not-granted"); !strings.Contains(p.Detail, "pgadmin") {
		t.Errorf("%q does not name what was asked for", p.Detail)
	}
	weak, _ := newCSROf(t, "-newkey", "rsa:1024")
	for name, tt := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		kind               string
	}{
		"no body":             {"POST", "/v1/certificates", "", nil, 415, "unsupported-media-type"},
		"another media type":  {"POST", "/v1/certificates", ask, []string{"Content-Type", "text/plain"}, 415, "unsupported-media-type"},
		"no JSON":             {"POST", "/v1/certificates", "{", nil, 400, "bad-request"},
		"unknown field":       {"POST", "/v1/certificates", `{"service": "bookapi", "isCA": true}`, nil, 400, "bad-request"},
		"field twice":         {"POST", "/v1/certificates", `{"service": "bookapi", "service": "envoy"}`, nil, 400, "bad-request"},
		"field of other case": {"POST", "/v1/certificates", `{"Service": "bookapi"}`, nil, 400, "bad-request"},
		"wrong type":          {"POST", "/v1/certificates", `{"service": 1}`, nil, 400, "bad-request"},
		"more than one":       {"POST", "/v1/certificates", ask + ask, nil, 400, "bad-request"},
		"too long":            {"POST", "/v1/certificates", `{"service": "` + strings.Repeat("a", 70000) + `"}`, nil, 413, "too-large"},
		"no CSR":              {"POST", "/v1/certificates", `{"service": "bookapi"}`, nil, 400, "bad-request"},
		"CSR and generateKey": {"POST", "/v1/certificates", `{"service": "timescaledb", "csr": "x", "generateKey": true}`, nil, 400, "bad-request"},
		"generateKey refused": {"POST", "/v1/certificates", `{"service": "bookapi", "generateKey": true}`, nil, 403, "forbidden"},
		"no CSR at all":       {"POST", "/v1/certificates", `{"service": "bookapi", "csr": "hello"}`, nil, 400, "csr-malformed"},
		"weak key":            {"POST", "/v1/certificates", apiBody(t, map[string]any{"service": "bookapi", "csr": weak}), nil, 422, "key-refused"},
		"unknown service":     {"POST", "/v1/certificates", strings.Replace(ask, "bookapi", "nobody", 1), nil, 404, "not-found"},
		"own service":         {"POST", "/v1/certificates", strings.Replace(ask, "bookapi", "meshca.api", 1), nil, 400, "bad-request"},
		"key of idempotency":  {"POST", "/v1/certificates", ask, []string{"Idempotency-Key", "a b"}, 400, "bad-request"},
		"no such path":        {"GET", "/v2/certificates", "", nil, 404, "not-found"},
		"no such method":      {"DELETE", "/v1/certificates", "", nil, 405, "method-not-allowed"},
		"no such form":        {"GET", "/v1/ca", "", []string{"Accept", "text/html"}, 406, "not-acceptable"},
		"unknown parameter":   {"GET", "/v1/certificates?page=2", "", nil, 400, "bad-request"},
		"parameter twice":     {"GET", "/v1/certificates?limit=2&limit=3", "", nil, 400, "bad-request"},
		"bad parameter":       {"GET", "/v1/certificates?limit=many", "", nil, 400, "bad-request"},
		"unknown serial":      {"GET", "/v1/certificates/abc", "", nil, 404, "not-found"},
		"no serial":           {"GET", "/v1/certificates/xyz", "", nil, 400, "bad-request"},
		"unknown SKI":         {"GET", "/v1/crl/abcd", "", nil, 404, "not-found"},
		"body of a GET":       {"GET", "/v1/ca", "{}", nil, 400, "bad-request"},
	} {
		t.Run(name, func(t *testing.T) {
			admin.do(tt.method, tt.path, tt.body, tt.headers...).refused(t, tt.status, tt.kind)
		})
	}
	if after := admin.do("GET", "/v1/certificates?limit=500", "").body; !bytes.Equal(before, after) {
		t.Errorf("something was recorded:\n%s\n%s", before, after)
	}
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
