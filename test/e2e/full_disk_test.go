package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFullDisk: with a full disk under the store nothing is given and the refusal says why; what is there is read on;
// and when there is room again, all goes on without a restart.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	data := filepath.Join(m.Dir, "data")
	smallDisk(t, data, 8<<20)
	p := m.Serve()
	admin := newAPIClient(t, m, p.AwaitServing())
	client := admin.client()
	defer client.CloseIdleConnections()
	ask := func(method, path, body string, headers ...string) callAnswer {
		answer, err := admin.ask(client, method, path, body, headers...)
		must(t, err)
		return answer
	}
	wanted := apiBody(t, map[string]any{"service": "bookapi", "csr": quickCSR(t)})
	issued := ask("POST", "/v1/certificates", wanted).certificate(t)

	filler := filepath.Join(data, "filler")
	fillDisk(t, filler)
	// Until the file has no free page left. One certificate takes more of them than another: where one is refused, the next
	// may still find room.
	given, refused := 1, 0
	for refused < 2 {
		a := ask("POST", "/v1/certificates", wanted, "Idempotency-Key", fmt.Sprint(given))
		if a.status == http.StatusCreated {
			given, refused = given+1, 0
			continue
		}
		checkFull(t, a)
		refused++
	}
	// What is smaller than a certificate may still find room in the pages that are left, but not without end.
	revoked, full := 0, callAnswer{status: http.StatusOK}
	for ; full.status == http.StatusOK; revoked++ {
		serial := ask("POST", "/v1/certificates", wanted, "Idempotency-Key", fmt.Sprint(revoked+1)).certificate(t).Serial
		full = ask("POST", "/v1/certificates/"+serial+"/revoke", `{"reason": "superseded"}`)
	}
	checkFull(t, full)
	for _, path := range []string{"/v1/certificates/" + issued.Serial, "/v1/certificates", "/v1/ca", "/v1/crl", "/v1/services/bookapi", "/healthz"} {
		if a := ask("GET", path, ""); a.status != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, a.status, a.body)
		}
	}
	if a := ask("POST", "/v1/certificates", wanted, "Idempotency-Key", "1"); a.status != http.StatusCreated || a.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("what was given before: %d %s", a.status, a.body)
	}

	must(t, os.Remove(filler))
	ask("POST", "/v1/certificates", wanted, "Idempotency-Key", fmt.Sprint(given)).certificate(t)
	if c := ask("POST", "/v1/certificates/"+issued.Serial+"/revoke", `{"reason": "superseded"}`).certificate(t); c.State != "revoked" {
		t.Errorf("state %q", c.State)
	}
	s, err := readStore(m.Store())
	must(t, err)
	records := 0
	for _, r := range s.records {
		if r.Caller == "admin" {
			records++
		}
	}
	if records != given+1 {
		t.Errorf("%d records of %d certificates that were given", records, given+1)
	}
	m.AwaitSound(p)
	CheckInvariants(t, m)
}

// fillDisk writes a file until there is no room for another byte.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
}

// checkFull wants a refusal that says that the disk is full, and when to come again.
func checkFull(t *testing.T, a callAnswer) {
	t.Helper()
	if p := a.refused(t, http.StatusServiceUnavailable, "unavailable"); !strings.Contains(p.Detail, "the store's disk is full") || a.header.Get("Retry-After") == "" {
		t.Errorf("%s, Retry-After %q", a.body, a.header.Get("Retry-After"))
	}
}
