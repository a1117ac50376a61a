package e2e

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// TestInspect shows that the helper sees what is broken: all other tests rest on it.
func TestInspect(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	p := m.Start()
	CheckInvariants(t, m)
	if code := p.Stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	foreign := newForeignCA(t)
	breaks := map[string]func(v View){
		"foreign bundle": func(v View) { writeFile(t, filepath.Join(v.Data, caFile), foreign.PEM()) },
		"comment in bundle": func(v View) {
			writeFile(t, filepath.Join(v.Data, caFile), append([]byte("# root\n"), v.File[caFile]...))
		},
		"two times the root": func(v View) { writeFile(t, filepath.Join(v.Data, caFile), append(v.File[caFile], v.File[caFile]...)) },
		"empty key":          func(v View) { writeFile(t, filepath.Join(v.Data, keyFile), nil) },
		"another's set":      func(v View) { copyFiles(t, m.View("envoy").Data, v.Data) },
		"mark of no epoch": func(v View) {
			writeFile(t, filepath.Join(v.Data, markFile), bytes.Replace(v.File[markFile], []byte(": 1"), []byte(": 2"), 1))
		},
		"mode":    func(v View) { must(t, os.Chmod(filepath.Join(v.Data, keyFile), 0o644)) },
		"no link": func(v View) { must(t, os.Remove(m.Path(v.Name, certFile))) },
		"no data": func(v View) { must(t, os.Remove(m.Path(v.Name, dataLink))) },
	}
	whole := snapshot(t, m.Dir)
	for name, breakIt := range breaks {
		v := m.View("pgadmin")
		breakIt(v)
		if len(Inspect(m)) == 0 {
			t.Errorf("%s: not seen", name)
		}
		restore(t, m.Dir, whole)
	}
	CheckInvariants(t, m)
}

// TestInspectRecords shows the same of the store: each way of tampering with a copy is seen.
func TestInspectRecords(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	m.Start().Stop()
	tampers := map[string]func(s *storeCopy){
		"record lost":      func(s *storeCopy) { delete(s.records, 1) },
		"index lost":       func(s *storeCopy) { delete(s.entries, indexesOf(s.records[2])[3]) },
		"index astray":     func(s *storeCopy) { s.entries[indexesOf(s.records[2])[0]] = []byte(strconv.Itoa(7)) },
		"serial twice":     func(s *storeCopy) { s.records[9] = s.records[1] },
		"another root":     func(s *storeCopy) { s.roots[0] = s.issuing[0] },
		"key in the store": func(s *storeCopy) { s.raw = append(s.raw, m.View("envoy").secret(t)...) },
	}
	for name, tamper := range tampers {
		s, err := readStore(m.Store())
		must(t, err)
		if found := InspectRecords(m, s); found != nil {
			t.Fatalf("%s: found before %v", name, found)
		}
		tamper(s)
		if InspectRecords(m, s) == nil {
			t.Errorf("%s: not seen", name)
		}
	}
}

// secret is the view's private key as a number.
func (v View) secret(t testing.TB) []byte {
	t.Helper()
	block, _ := pem.Decode(v.File[keyFile])
	secrets, err := secretsOf(block.Bytes)
	must(t, err)
	return secrets[0]
}
