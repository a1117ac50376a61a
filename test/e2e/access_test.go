package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// accessTable says what each operation answers to each kind of caller: a row for each caller, a column for each thing
// that is asked. Service bookapi is what is asked for; envoy's certificate and the account bookapi are listed under its
// clients, the account pgadmin under those of pgadmin, and nobody under those of the others. mode is where the row holds:
// with folders, in a cluster, or both.
//
// A cell is the status, and what is seen where that is not all: of which services a list tells.
const accessTable = `
mode    caller                  issue other unknown list        filter get renew itself services    service ca  public rotate verify status events adopt heal revoke
both    nobody                  401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
both    no-bearer               401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
both    two-tokens              401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
both    made-up-token           401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
both    itself                  403   403   403     200=none    403    200 201   201    200=none    403     200 200    403    403    403    403    403   403  200
both    same-service            403   403   403     200=none    403    404 404   404    200=none    403     200 200    403    403    403    403    403   403  404
both    client                  201   403   403     200=bookapi 200    200 201   400    200=bookapi 200     200 200    200    403    403    200    403   403  200
both    other-service           403   403   403     200=none    403    404 404   404    200=none    403     200 200    403    403    403    403    403   403  404
both    revoked                 401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
both    expired                 401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
both    foreign                 401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
both    forged-chain            401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
both    made-up-token-itself    401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
local   admin                   201   201   404     200=all     200    200 201   400    200=all     200     200 200    200    200    200    200    409   409  200
local   admin-revoked           201   201   404     200=all     200    200 201   400    200=all     200     200 200    200    200    200    200    409   409  200
local   admin-itself            201   201   404     200=all     200    200 201   201    200=all     200     200 200    200    200    200    200    409   409  200
local   owner-of-the-socket     201   201   404     200=all     200    200 201   400    200=all     200     200 200    200    200    200    200    409   409  200
cluster account                 201   403   403     200=bookapi 200    200 201   400    200=bookapi 200     200 200    200    403    403    200    403   403  200
cluster pod                     201   403   403     200=bookapi 200    200 201   400    200=bookapi 200     200 200    200    403    403    200    403   403  200
cluster account-of-another      403   201   403     200=pgadmin 403    404 404   404    200=pgadmin 403     200 200    403    403    403    200    403   403  404
cluster account-of-none         403   403   403     200=none    403    404 404   404    200=none    403     200 200    403    403    403    403    403   403  404
cluster same-name-elsewhere     403   403   403     200=none    403    404 404   404    200=none    403     200 200    403    403    403    403    403   403  404
cluster operator                201   201   404     200=all     200    200 201   400    200=all     200     200 200    200    200    200    200    409   409  200
cluster operator-revoked        201   201   404     200=all     200    200 201   400    200=all     200     200 200    200    200    200    200    409   409  200
cluster may-create              201   201   404     200=none    403    404 201   400    200=none    403     200 200    403    403    403    403    403   403  404
cluster may-list                403   403   403     200=all     200    200 404   404    200=all     200     200 200    403    200    200    200    403   403  404
cluster may-revoke              403   403   403     200=none    403    404 404   404    200=none    403     200 200    403    403    403    403    403   403  200
cluster may-rotate              403   403   403     200=none    403    404 404   404    200=none    403     200 200    200    403    403    403    409   409  404
cluster may-in-a-namespace      403   403   403     200=none    403    404 404   404    200=none    403     200 200    403    403    403    403    403   403  404
cluster audience-of-the-cluster 401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
cluster another-audience        401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
cluster forged                  401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
cluster unsigned                401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
cluster pod-is-gone             401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
cluster secret-is-gone          401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
cluster account-made-anew       401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
cluster admin-token             401   401   401     401         401    401 401   401    401         401     401 200    401    401    401    401    401   401  401
`

// accessColumns are what is asked, in the table's order. SERIAL is that of a certificate of bookapi, made for each row.
var accessColumns = map[string][]ask{
	"issue":    {{"POST /v1/certificates", "/v1/certificates", "BOOKAPI"}},
	"other":    {{"POST /v1/certificates", "/v1/certificates", "PGADMIN"}},
	"unknown":  {{"POST /v1/certificates", "/v1/certificates", "NOBODY"}},
	"list":     {{"GET /v1/certificates", "/v1/certificates?limit=500", ""}},
	"filter":   {{"GET /v1/certificates", "/v1/certificates?service=bookapi", ""}},
	"get":      {{"GET /v1/certificates/{serial}", "/v1/certificates/SERIAL", ""}},
	"renew":    {{"POST /v1/certificates/{serial}/renew", "/v1/certificates/SERIAL/renew", "CSR"}},
	"itself":   {{"POST /v1/certificates/{serial}/renew", "/v1/certificates/SERIAL/renew", ""}},
	"services": {{"GET /v1/services", "/v1/services", ""}},
	"service":  {{"GET /v1/services/{name}", "/v1/services/bookapi", ""}},
	"ca":       {{"GET /v1/ca", "/v1/ca", ""}},
	"public": {{"GET /v1/ca/bundle.pem", "/v1/ca/bundle.pem", ""}, {"GET /v1/crl", "/v1/crl", ""}, {"GET /v1/crl/{ski}", "/v1/crl/SKI", ""},
		{"GET /healthz", "/healthz", ""}, {"GET /readyz", "/readyz", ""}, {"GET /openapi.yaml", "/openapi.yaml", ""}, {"GET /", "/", ""}},
	"rotate": {{"POST /v1/services/{name}/renew", "/v1/services/bookapi/renew", ""}},
	"verify": {{"GET /v1/verify", "/v1/verify", ""}},
	"status": {{"GET /v1/status", "/v1/status", ""}},
	"events": {{"GET /v1/events", "/v1/events", ""}},
	"adopt":  {{"POST /v1/adopt", "/v1/adopt", `{"service": "bookapi"}`}},
	"heal":   {{"POST /v1/heal", "/v1/heal", `{"service": "bookapi"}`}},
	"revoke": {{"POST /v1/certificates/{serial}/revoke", "/v1/certificates/SERIAL/revoke", `{"reason": "superseded"}`}},
}

// An ask is one request: the contract's operation, the path and the body.
type ask struct{ operation, path, body string }

// kindOf is the type of a refusal by its status: a caller who may not know of a thing is told that there is none. A conflict
// is told to who may: there is nothing to adopt or to heal.
var kindOf = map[int]string{400: "bad-request", 401: "unauthenticated", 403: "forbidden", 404: "not-found", 409: "conflict"}

// reasons are what callers are told who are not known.
var reasons = map[string]string{
	"nobody": "send a bearer token, or present a client certificate", "no-bearer": "is not one bearer token", "two-tokens": "is not one bearer token",
	"revoked": "is revoked", "expired": "has expired", "foreign": "is of another CA", "forged-chain": "is of another CA",
	"audience-of-the-cluster": "not of audience meshca", "another-audience": "not of audience meshca", "forged": "does not know the token", "unsigned": "does not know the token",
	"pod-is-gone": "does not know the token", "secret-is-gone": "does not know the token", "account-made-anew": "does not know the token",
}

// A verdict is what one column of a row wants.
type verdict struct {
	column string
	status int
	seen   string // the services that a list tells of, "" where it is no list
	why    string // what is said with a 401
}

// accessRows parses the table: the cells of each caller that there is in a mode.
func accessRows(t testing.TB, mode string) map[string][]verdict {
	t.Helper()
	var columns []string
	rows := make(map[string][]verdict)
	for line := range strings.Lines(accessTable) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
			continue
		case columns == nil:
			columns = words[2:]
			continue
		case len(words) != len(columns)+2:
			t.Fatalf("the table has a row %q", line)
		case words[0] != mode && words[0] != "both":
			continue
		}
		for i, word := range words[2:] {
			c := verdict{column: columns[i]}
			_, c.seen, _ = strings.Cut(word, "=")
			if _, err := fmt.Sscanf(word, "%d", &c.status); err != nil || accessColumns[c.column] == nil {
				t.Fatalf("the table has a cell %q in column %s", word, c.column)
			}
			rows[words[1]] = append(rows[words[1]], c)
		}
	}
	return rows
}

// TestAccessCoversTheContract: no operation is left out of the table.
func TestAccessCoversTheContract(t *testing.T) {
	var contract struct {
		Paths map[string]map[string]yaml.Node `yaml:"paths"`
	}
	must(t, yaml.Unmarshal(readFile(t, filepath.Join("..", "..", "api", "openapi.yaml")), &contract))
	want := map[string]bool{"GET /": true} // the page is no operation
	for path, methods := range contract.Paths {
		for method := range methods {
			if method != "parameters" {
				want[strings.ToUpper(method)+" "+path] = true
			}
		}
	}
	for _, column := range accessRows(t, "local")["nobody"] {
		for _, a := range accessColumns[column.column] {
			if !want[a.operation] {
				t.Errorf("the contract has no %s", a.operation)
			}
		}
	}
	for operation := range want {
		if !slices.ContainsFunc(accessRows(t, "local")["nobody"], func(c verdict) bool {
			return slices.ContainsFunc(accessColumns[c.column], func(a ask) bool { return a.operation == operation })
		}) {
			t.Errorf("who may %s is in no column", operation)
		}
	}
}

// An access is a running program whose API is asked as the table says.
type access struct {
	t        *testing.T
	p        *Process
	operator *apiClient
	callers  map[string]caller

	csr, key string // of bookapi
	bodies   map[string]string
	ski      string
	answers  []callAnswer
	secrets  []string // what must not be said
}

// A caller is somebody who asks: by what it presents. target is the certificate that is asked about.
type caller func(target *apiClient) *apiClient

// newAccess prepares what is asked. operator makes the certificates that are asked about.
func newAccess(t *testing.T, p *Process, operator *apiClient) *access {
	t.Helper()
	a := &access{t: t, p: p, operator: operator}
	a.csr, a.key = newCSR(t)
	other, _ := newCSR(t)
	body := func(service, csr string) string { return apiBody(t, map[string]any{"service": service, "csr": csr}) }
	a.bodies = map[string]string{"BOOKAPI": body("bookapi", a.csr), "PGADMIN": body("pgadmin", other), "NOBODY": body("nobody", a.csr),
		"CSR": apiBody(t, map[string]any{"csr": a.csr})}
	var ca struct{ Issuing []struct{ SKI string } }
	if answer := operator.do("GET", "/v1/ca", ""); json.Unmarshal(answer.body, &ca) != nil || len(ca.Issuing) == 0 {
		t.Fatalf("GET /v1/ca is answered %d: %s", answer.status, answer.body)
	}
	a.ski = ca.Issuing[0].SKI
	return a
}

// issue makes a certificate of bookapi; whoever presents it is the client that is returned.
func (a *access) issue(t testing.TB) (serial string, itself *apiClient) {
	t.Helper()
	c := a.operator.do("POST", "/v1/certificates", a.bodies["BOOKAPI"]).certificate(t)
	return c.Serial, a.operator.as("", pairOf(t, c.Chain, a.key))
}

// check asks what every row says, and sees afterwards that nothing was signed but what was answered, that each refusal
// was logged, and that no secret was said.
func (a *access) check(mode string) {
	rows := accessRows(a.t, mode)
	for name := range a.callers {
		if rows[name] == nil {
			a.t.Errorf("the table has no row for %s", name)
		}
	}
	before := a.handedOut()
	for name, cells := range rows {
		who, ok := a.callers[name]
		if !ok {
			a.t.Errorf("there is no %s", name)
			continue
		}
		a.t.Run(name, func(t *testing.T) {
			serial, itself := a.issue(t)
			asking := who(itself)
			asking.t = t
			for _, c := range cells {
				c.why = reasons[name]
				for _, what := range accessColumns[c.column] {
					a.ask(t, asking, serial, what, c)
				}
			}
		})
	}
	signed, refused, text := len(rows), 0, ""
	for _, answer := range a.answers {
		switch {
		case answer.status == http.StatusCreated:
			signed++
		case answer.status/100 == 4:
			refused++
		}
		text += string(answer.body)
	}
	a.p.Await("each refusal is logged", func() error {
		logged := len(a.p.Lines("refused"))
		for _, l := range a.p.Lines("refused as well within a second") { // many of a kind are counted in one line
			more, _ := l["times"].(float64)
			logged += int(more)
		}
		if logged < refused {
			return fmt.Errorf("%d of %d are", logged, refused)
		}
		return nil
	})
	text += a.p.out.String()
	if now := a.handedOut(); now != before+signed {
		a.t.Errorf("%d certificates were made, and %d answered", now-before, signed)
	}
	for _, secret := range a.secrets {
		if strings.Contains(text, secret) {
			a.t.Error("an answer or the log holds a token")
		}
	}
}

// ask asks once, and wants what the cell says.
func (a *access) ask(t *testing.T, who *apiClient, serial string, what ask, want verdict) {
	t.Helper()
	method, _, _ := strings.Cut(what.operation, " ")
	body, ok := a.bodies[what.body]
	if !ok {
		body = what.body
	}
	answer := who.do(method, strings.NewReplacer("SERIAL", serial, "SKI", a.ski).Replace(what.path), body)
	a.answers = append(a.answers, answer)
	if want.column == "rotate" && slices.Contains([]int{http.StatusAccepted, http.StatusTooManyRequests}, answer.status) {
		answer.status = http.StatusOK // the service has had its renewals, or has one under way: who asked may
	}
	if answer.status != want.status {
		t.Errorf("%s: %s is answered %d, want %d: %s", want.column, what.operation, answer.status, want.status, answer.body)
		return
	}
	if kind, refused := kindOf[want.status]; refused {
		if p := answer.refused(t, want.status, kind); want.status == http.StatusUnauthorized && !strings.Contains(p.Detail, want.why) {
			t.Errorf("%s is told %q, want %q", what.operation, p.Detail, want.why)
		}
	}
	if want.seen == "" {
		return
	}
	if seen := servicesIn(t, answer.body); seen != want.seen {
		t.Errorf("%s: tells of %s, want %s", what.operation, seen, want.seen)
	}
}

// servicesIn says of which services a list tells.
func servicesIn(t testing.TB, body []byte) string {
	t.Helper()
	var list struct {
		Certificates []struct{ Service string }
		Services     []struct{ Name string }
	}
	must(t, json.Unmarshal(body, &list))
	var names []string
	for _, c := range list.Certificates {
		names = append(names, c.Service)
	}
	for _, s := range list.Services {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "meshca.api" })
	switch {
	case len(names) == 0:
		return "none"
	case slices.Equal(names, accessServices):
		return "all"
	}
	return strings.Join(names, ",")
}

// accessServices are those of the catalogue.
var accessServices = []string{"bookapi", "envoy", "pgadmin"}

// handedOut counts the certificates that callers were given.
func (a *access) handedOut() (n int) {
	a.t.Helper()
	for cursor := ""; ; {
		var page struct {
			Certificates []struct{ Caller string }
			Next         string
		}
		answer := a.operator.do("GET", "/v1/certificates?limit=500"+cursor, "")
		must(a.t, json.Unmarshal(answer.body, &page))
		for _, c := range page.Certificates {
			if c.Caller != "" && c.Caller != "meshca" {
				n++
			}
		}
		if page.Next == "" {
			return n
		}
		cursor = "&cursor=" + page.Next
	}
}
