package e2e

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A badRow is a request that is refused: by whom, in what words, and where they point.
type badRow struct {
	name               string
	by                 *apiClient // nil: the admin
	method, path, body string
	headers            []string
	status             int
	kind               string
	pointer            string // "" where there is none
	words              string // of the detail
}

// A badMesh is a running program with what bad requests refer to.
type badMesh struct {
	t                        *testing.T
	admin, envoy, pgadmin    *apiClient
	csr                      string // good, its key certified for nobody
	certified, compromised   string // CSRs of a key that another service has, and of one that was compromised
	serial, revoked          string // of bookapi's certificates
	own                      string // serial of the API's certificate
	known                    map[string]string
	nobody, foreign, expired *apiClient
}

// minRows is how many bad requests there are at least.
const minRows = 500

// TestAPIRefusals: every bad input is refused with the problem that stands beside it and points to where it is wrong,
// and the store stays as it is, byte for byte.
func TestAPIRefusals(t *testing.T) {
	m := NewMesh(t, Settings{Services: []string{"{name: envoy, generateKey: true}", "pgadmin", "{name: bookapi, clients: [{service: envoy}]}",
		"bookapi-mcp-server", "{name: timescaledb, generateKey: true}"}})
	p := m.Serve()
	b := newBadMesh(t, m, newAPIClient(t, m, p.AwaitServing()))
	rows := slices.Concat(b.vectorRows(), b.nameRows(), b.keyRows(), b.bodyRows(), b.parameterRows(), b.operationRows(), b.callerRows())
	if len(rows) < minRows {
		t.Errorf("%d rows", len(rows))
	}
	before, err := readStore(m.Store())
	must(t, err)
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { b.refuses(t, &r) })
	}
	after, err := readStore(m.Store())
	must(t, err)
	if !maps.EqualFunc(before.entries, after.entries, slices.Equal) {
		t.Errorf("the store has changed: %v", changedKeys(before.entries, after.entries))
	}
	t.Logf("%d rows", len(rows))
}

func (b *badMesh) refuses(t *testing.T, r *badRow) {
	by := *cmp.Or(r.by, b.admin)
	by.t = t
	problem := by.do(r.method, r.path, r.body, r.headers...).refused(t, r.status, r.kind)
	if !strings.Contains(problem.Detail, r.words) {
		t.Errorf("%q does not say %q", problem.Detail, r.words)
	}
	if pointed := strings.Join(problem.Pointers, " "); r.pointer != pointed {
		t.Errorf("%s points to %q, want %q", problem.Detail, pointed, r.pointer)
	}
}

// changedKeys lists the keys that are in one store alone, or with another value.
func changedKeys(before, after map[string][]byte) (keys []string) {
	for key, value := range before {
		if now, ok := after[key]; !ok || !slices.Equal(value, now) {
			keys = append(keys, key)
		}
	}
	for key := range after {
		if _, ok := before[key]; !ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// newBadMesh makes what bad requests refer to.
func newBadMesh(t *testing.T, m *Mesh, admin *apiClient) *badMesh {
	t.Helper()
	held := func(folder string) *tls.Certificate {
		return pairOf(t, string(readFile(t, filepath.Join(folder, certFile))), string(readFile(t, filepath.Join(folder, keyFile))))
	}
	b := &badMesh{t: t, admin: admin, envoy: admin.as("", held(m.Path("envoy"))), pgadmin: admin.as("", held(m.Path("pgadmin"))),
		nobody: admin.as("", nil), csr: freshCSR(), certified: freshCSR(), compromised: freshCSR()}
	dir := t.TempDir()
	newForeignCA(t).WriteSet(t, dir, "envoy")
	b.foreign = admin.as("", held(dir))

	issue := func(service, csr string) apiCertificate {
		return admin.do("POST", "/v1/certificates", apiBody(t, map[string]any{"service": service, "csr": csr})).certificate(t)
	}
	revoke := func(serial, reason string) {
		admin.do("POST", "/v1/certificates/"+serial+"/revoke", apiBody(t, map[string]any{"reason": reason})).certificate(t)
	}
	issue("pgadmin", b.certified)
	revoke(issue("bookapi", b.compromised).Serial, "keyCompromise")
	b.serial = issue("bookapi", freshCSR()).Serial
	csr, key := newCSR(t)
	gone := issue("bookapi", csr)
	b.revoked = gone.Serial
	b.expired = admin.as("", pairOf(t, gone.Chain, key)) // what it was is over
	revoke(b.revoked, "superseded")
	admin.do("POST", "/v1/certificates", apiBody(t, map[string]any{"service": "bookapi", "csr": freshCSR()}), "Idempotency-Key", "used").certificate(t)
	admin.do("POST", "/v1/certificates", `{"service": "timescaledb", "generateKey": true}`, "Idempotency-Key", "made").certificate(t)

	var list struct{ Certificates []apiCertificate }
	must(t, json.Unmarshal(admin.do("GET", "/v1/certificates", "").body, &list))
	b.own = list.Certificates[slices.IndexFunc(list.Certificates, func(c apiCertificate) bool { return c.Service == "meshca.api" })].Serial
	var ca struct{ Issuing []struct{ SKI string } }
	must(t, json.Unmarshal(admin.do("GET", "/v1/ca", "").body, &ca))
	b.known = map[string]string{"serial": b.serial, "name": "bookapi", "ski": ca.Issuing[0].SKI}
	return b
}

// fields is a body of these: a name and a value, and so on.
func (b *badMesh) fields(of ...string) string {
	all := make(map[string]any)
	for pair := range slices.Chunk(of, 2) {
		all[pair[0]] = pair[1]
	}
	return apiBody(b.t, all)
}

// ask is the body of a request for bookapi.
func (b *badMesh) ask(csr string) string { return b.fields("service", "bookapi", "csr", csr) }

// asking is a row of a request for bookapi with this CSR.
func (b *badMesh) asking(name, csr string, status int, kind string) badRow {
	return badRow{name: name, method: "POST", path: "/v1/certificates", body: b.ask(csr), status: status, kind: kind, pointer: "/csr"}
}

// target is an operation's path, with what its parameters may be.
func (b *badMesh) target(path string) string {
	for name, value := range b.known {
		path = strings.ReplaceAll(path, "{"+name+"}", value)
	}
	if strings.Contains(path, "{") {
		b.t.Fatalf("nothing is known for %s", path)
	}
	return path
}

// numbered names what must not be the same twice.
func numbered(name string, i int) string { return fmt.Sprintf("%s %d", name, i) }
