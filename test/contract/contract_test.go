package contract_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/meshca/meshca/api"
	"github.com/meshca/meshca/test/contract"
)

func load(t testing.TB) *contract.Contract {
	t.Helper()
	c, err := contract.Load(api.Contract)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	problem = `{"type": "urn:meshca:problem:not-found", "title": "none", "status": 404, "detail": "none", "instance": "urn:meshca:request:7"}`
	record  = `{"serial": "7", "service": "bookapi", "state": "valid", "issuer": "ab", "keyType": "ECDSA-P256", "keySha256": "00",
		"issuedAt": "2026-11-30T10:00:00Z", "notBefore": "2026-11-30T10:00:00Z", "notAfter": "2026-11-30T10:00:00Z",
		"dnsNames": ["bookapi"], "ipAddresses": [], "uris": [], "certificate": "PEM"}`
)

// exchange is a request line with a body, and an answer: its status, media type and body.
func exchange(line, sent string, status int, media, body string) *contract.Exchange {
	method, target, _ := strings.Cut(line, " ")
	r := httptest.NewRequest(method, target, strings.NewReader(sent))
	if sent != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return &contract.Exchange{Request: r, RequestBody: []byte(sent), Status: status, Body: []byte(body),
		Header: http.Header{"Content-Type": {media}, "X-Request-Id": {"7"}}}
}

// TestCheck: what the contract says passes, and each way to leave it does not.
func TestCheck(t *testing.T) {
	const js, pj, text = "application/json", "application/problem+json", "text/plain; charset=utf-8"
	reason := `{"reason": "superseded"}`
	spoilt := func(old, new string) string { return strings.Replace(record, old, new, 1) }
	c := load(t)
	for name, tt := range map[string]struct {
		exchange *contract.Exchange
		words    string // of the complaint, "" for none
	}{
		"record":               {exchange("GET /v1/certificates/7", "", 200, js, record), ""},
		"problem":              {exchange("GET /v1/certificates/7", "", 404, pj, problem), ""},
		"revocation":           {exchange("POST /v1/certificates/7/revoke", reason, 200, js, record), ""},
		"not modified":         {exchange("GET /v1/ca", "", 304, "", ""), ""},
		"text":                 {exchange("GET /healthz", "", 200, text, "ok"), ""},
		"bytes":                {exchange("GET /v1/crl/ab", "", 200, "application/pkix-crl", "\x30\x00"), ""},
		"yaml":                 {exchange("GET /openapi.yaml", "", 200, "application/yaml", "a: 1"), ""},
		"parameters":           {exchange("GET /v1/certificates?limit=2&expiresBefore=2026-11-30T10:00:00Z", "", 200, js, `{"certificates": []}`), ""},
		"no such path":         {exchange("GET /v2", "", 404, pj, problem), ""},
		"no such method":       {exchange("PUT /v1/ca", "", 404, pj, problem), ""},
		"unknown status":       {exchange("GET /v1/certificates/7", "", 500, pj, problem), "status is not supported"},
		"unknown redirection":  {exchange("GET /v1/ca", "", 308, "", ""), "status is not supported"},
		"unknown 304":          {exchange("GET /healthz", "", 304, "", ""), "status is not supported"},
		"304 with a body":      {exchange("GET /v1/ca", "", 304, "", "x"), "there is a body"},
		"unknown media type":   {exchange("GET /v1/certificates/7", "", 200, "text/html", record), "Content-Type"},
		"no media type":        {exchange("GET /v1/certificates/7", "", 200, "", record), "Content-Type"},
		"problem as JSON":      {exchange("GET /v1/certificates/7", "", 404, js, problem), "Content-Type"},
		"no JSON":              {exchange("GET /v1/certificates/7", "", 200, js, "{"), "decode"},
		"field missing":        {exchange("GET /v1/certificates/7", "", 200, js, spoilt(`"serial": "7",`, "")), "serial"},
		"unknown field":        {exchange("GET /v1/certificates/7", "", 200, js, spoilt("{", `{"id": 7, `)), "id"},
		"wrong type":           {exchange("GET /v1/certificates/7", "", 200, js, spoilt(`["bookapi"]`, `"bookapi"`)), "dnsNames"},
		"null":                 {exchange("GET /v1/certificates/7", "", 200, js, spoilt(`"uris": []`, `"uris": null`)), "uris"},
		"not in the enum":      {exchange("GET /v1/certificates/7", "", 200, js, spoilt(`"valid"`, `"fine"`)), "state"},
		"not of the pattern":   {exchange("GET /v1/certificates/7", "", 200, js, spoilt(`"bookapi"`, `"Book"`)), "service"},
		"not of the format":    {exchange("GET /v1/certificates/7", "", 200, js, spoilt("2026-11-30T10", "30-11-2026T10")), "issuedAt"},
		"problem's type":       {exchange("GET /v1/ca", "", 406, pj, strings.Replace(problem, "urn:meshca:problem:", "", 1)), "type"},
		"problem's status":     {exchange("GET /v1/ca", "", 406, pj, problem), "status 404"},
		"problem's instance":   {exchange("GET /v1/certificates/7", "", 404, pj, strings.Replace(problem, "request:7", "request:8", 1)), "request:8"},
		"header's schema":      {withHeader(exchange("GET /v1/certificates/7", "", 429, pj, strings.Replace(problem, "404", "429", 1)), "Retry-After", "soon"), "Retry-After"},
		"taken, bad path":      {exchange("GET /v1/certificates/xyz", "", 200, js, record), "does not allow the request"},
		"taken, bad query":     {exchange("GET /v1/certificates?limit=0", "", 200, js, `{"certificates": []}`), "does not allow the request"},
		"taken, unknown query": {exchange("GET /v1/certificates?page=1", "", 200, js, `{"certificates": []}`), "does not allow the request"},
		"taken, query twice":   {exchange("GET /v1/certificates?limit=1&limit=1", "", 200, js, `{"certificates": []}`), "does not allow the request"},
		"taken, bad body":      {exchange("POST /v1/certificates/7/revoke", `{"reason": "boredom"}`, 200, js, record), "does not allow the request"},
		"taken, unknown field": {exchange("POST /v1/certificates/7/revoke", `{"reason": "superseded", "a": 1}`, 200, js, record), "does not allow the request"},
		"taken, no body":       {exchange("POST /v1/certificates/7/revoke", "", 200, js, record), "does not allow the request"},
		"taken, body too much": {exchange("GET /v1/certificates/7", "{}", 200, js, record), "does not allow the request"},
		"taken, bad header":    {asked(exchange("POST /v1/certificates/7/renew", "", 201, "application/pem-certificate-chain", ""), "Idempotency-Key", "a b"), "does not allow the request"},
		"405":                  {withHeader(exchange("PUT /v1/certificates", "", 405, pj, strings.Replace(problem, "404", "405", 1)), "Allow", "GET, POST"), ""},
		"405 without Allow":    {exchange("PUT /v1/ca", "", 405, pj, strings.Replace(problem, "404", "405", 1)), "Allow"},
		"success elsewhere":    {exchange("GET /v2", "", 200, js, "{}"), "no such operation"},
		"words elsewhere":      {exchange("GET /v2", "", 404, text, "404 page not found"), "media type"},
		"problem elsewhere":    {exchange("GET /v2", "", 404, pj, `{"status": 404}`), "type"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.Check(tt.exchange)
			if (err == nil) != (tt.words == "") || err != nil && !strings.Contains(err.Error(), tt.words) {
				t.Errorf("%v, want %q", err, tt.words)
			}
		})
	}
}

func withHeader(x *contract.Exchange, name, value string) *contract.Exchange {
	x.Header.Set(name, value)
	return x
}

func asked(x *contract.Exchange, name, value string) *contract.Exchange {
	x.Request.Header.Set(name, value)
	return x
}

// TestUnsound: a contract whose example is not what its schema says is none.
func TestUnsound(t *testing.T) {
	text := strings.Replace(string(api.Contract), "value: {reason: keyCompromise}", "value: {reason: boredom}", 1)
	if _, err := contract.Load([]byte(text)); err == nil || !strings.Contains(err.Error(), "reason") {
		t.Errorf("%v", err)
	}
}

// complaints is a test that fails without an end to the one that watches it.
type complaints struct {
	testing.TB
	said []string
}

func (c *complaints) Errorf(format string, args ...any) {
	c.said = append(c.said, fmt.Sprintf(format, args...))
}

// TestTransport: a client sees what came, and the test fails where that is against the contract.
func TestTransport(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sent, err := io.ReadAll(r.Body); err != nil || string(sent) != r.Header.Get("Sent") {
			t.Errorf("%q came of %q: %v", sent, r.Header.Get("Sent"), err)
		}
		w.Header().Set("Content-Type", r.Header.Get("Accept"))
		_, _ = io.WriteString(w, "ok")
	}))
	defer server.Close()
	for accept, wrong := range map[string]bool{"text/plain": false, "application/json": true} {
		heard := &complaints{TB: t}
		client := &http.Client{Transport: load(t).Transport(heard, server.Client().Transport)}
		r, err := http.NewRequest(http.MethodGet, server.URL+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || string(body) != "ok" {
			t.Errorf("%q, %v", body, err)
		}
		if (len(heard.said) > 0) != wrong {
			t.Errorf("%s: %v", accept, heard.said)
		}
	}
}
