package e2e

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestEndAndGoOn: SIGTERM and SIGINT end the process in time and in order, and a second start goes on with
// the same root, the same leaves, and the same bytes on the disk.
func TestEndAndGoOn(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			m := NewMesh(t, Settings{})
			p := m.Start()
			CheckInvariants(t, m)
			began := time.Now()
			p.Signal(signal)
			if code := p.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s to end", took)
			}
			if _, err := os.Lstat(m.Socket()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the socket is still there: %v", err)
			}
			folders := snapshot(t, m.Folders())

			p = m.Start()
			CheckInvariants(t, m)
			checkUnchanged(t, folders, snapshot(t, m.Folders()))
			if n := len(p.Lines("issued")) + len(p.Lines("healed")); n != 0 {
				t.Errorf("the second start issued or healed %d times", n)
			}
			if s, err := readStore(m.Store()); err != nil || s.count() != len(fiveServices) {
				t.Errorf("%d records, %v", s.count(), err)
			}
		})
	}
}

// TestQuiet: a process with nothing to do logs nothing after it serves, and writes nothing.
func TestQuiet(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{Sweep: "1s"})
	p := m.Start()
	m.AwaitSweep(p)
	before, said := m.snapshot(), p.out.String()
	m.AwaitSweep(p)
	m.AwaitSweep(p)
	checkUnchanged(t, before, m.snapshot())
	if now := p.out.String(); now != said {
		t.Errorf("it says %s", now[len(said):])
	}
}

// TestReload changes the list of services while the process runs.
func TestReload(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{Services: []string{"envoy", "pgadmin"}})
	m.Services = []string{"envoy", "pgadmin"}
	p := m.Start()
	CheckInvariants(t, m)
	first := m.Views()

	m.Services = []string{"envoy", "pgadmin", "bookapi"}
	m.Configure(Settings{Services: m.Services})
	m.AwaitSound(p) // the file alone tells of the change
	checkKept(t, m, first, "envoy", "pgadmin")

	m.Services = []string{"envoy", "bookapi"}
	m.Configure(Settings{Services: m.Services})
	p.AwaitLine("service removed from the catalogue: no longer kept, what it has stays", "service", "pgadmin")
	m.AwaitSound(p)
	if v := m.View("pgadmin"); !v.Leaf(t).Equal(first["pgadmin"].Leaf(t)) {
		t.Error("the removed service has another leaf")
	}

	m.Configure(Settings{Services: []string{"envoy", "{name: bookapi, dnsNames: [bookapi.default.svc, books.example.com]}"}})
	await(t, "a leaf with the new names", func() error {
		v, err := readView(m.Path("bookapi"))
		if err != nil {
			return err
		}
		if got := v.Leaf(t).DNSNames; !slices.Equal(got, []string{"bookapi.default.svc", "books.example.com"}) {
			return fmt.Errorf("its names are %v", got)
		}
		return nil
	})
	m.AwaitSound(p)
	checkKept(t, m, first, "envoy")
	p.Stop()
	CheckInvariants(t, m)
}

// TestReloadDuringStart changes the file while the first pass runs: the program has read it already, and must
// not take the new one for the one that it knows.
func TestReloadDuringStart(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{Services: []string{"envoy"}})
	p := m.Serve()
	p.AwaitLine("made the seal: keep it apart from the store, and a copy of each safe")
	p.Paused(func() { m.Configure(Settings{}) })
	m.AwaitSound(p)
}

// checkKept sees that services have the leaves that they had.
func checkKept(t *testing.T, m *Mesh, before map[string]View, services ...string) {
	t.Helper()
	for _, service := range services {
		if !m.View(service).Leaf(t).Equal(before[service].Leaf(t)) {
			t.Errorf("%s has another leaf", service)
		}
	}
}

// TestReloadBadFile: a bad file changes nothing and is named, by SIGHUP too; a good one is taken up after it,
// and what needs a restart is named.
func TestReloadBadFile(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	p := m.Start()
	CheckInvariants(t, m)
	folders := snapshot(t, m.Folders())

	const refused = "config file refused: nothing changes"
	m.ConfigureText("version: 1\nservices: []\n")
	line := p.AwaitLine(refused, "file", m.Config())
	if !strings.Contains(line.Get("error"), "target") {
		t.Errorf("the error is %q", line.Get("error"))
	}
	p.Signal(syscall.SIGHUP)
	p.Await("the file is named again", func() error {
		if n := len(p.Lines(refused)); n < 2 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	status, a := m.statusWith(Settings{})
	if a.Code != 0 || len(status.Services) != len(fiveServices) {
		t.Errorf("status: exit code %d, %d services", a.Code, len(status.Services))
	}
	checkUnchanged(t, folders, snapshot(t, m.Folders()))

	m.Configure(Settings{Sweep: "2h"})
	p.AwaitLine("this change needs a restart", "field", "sweep")
	p.Signal(syscall.SIGHUP)
	p.AwaitLine("config file read again")
	CheckInvariants(t, m)
	checkUnchanged(t, folders, snapshot(t, m.Folders()))
}

// statusWith asks the running process by way of another config file that names the same store.
func (m *Mesh) statusWith(s Settings) (*Status, Answer) {
	m.t.Helper()
	other := &Mesh{t: m.t, Dir: m.t.TempDir()}
	must(m.t, os.Symlink(filepath.Join(m.Dir, "data"), filepath.Join(other.Dir, "data")))
	other.Configure(s)
	return other.Status()
}

// TestStatus: exit code 2 where none runs, 0 while all is well, and an alarm from the third foreign write.
func TestStatus(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	a := m.Run("status", "--config", m.Config())
	if a.Code != 2 || !strings.Contains(a.Stderr, "no process runs") || !strings.Contains(a.Stderr, "hint: meshca serve --config "+m.Config()) {
		t.Errorf("before the start: exit code %d, %s", a.Code, a.Stderr)
	}
	p := m.Start()
	if info, err := os.Lstat(m.Socket()); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	checkStatus(t, m)
	for write := 1; write <= 3; write++ {
		must(t, os.Chmod(m.Path("pgadmin", caFile), 0o666))
		p.Await("the heal", func() error {
			if n := len(p.Lines("healed", "service", "pgadmin")); n < write {
				return fmt.Errorf("%d heals", n)
			}
			return nil
		})
		want := map[bool]string{false: "kept", true: "alarm"}[write == 3]
		if s := m.AwaitState(p, "pgadmin", want); s.ForeignWrites != write {
			t.Errorf("after %d foreign writes status counts %d", write, s.ForeignWrites)
		}
	}
	checkNamed(t, m, "alarm pgadmin: 3 foreign writes", "hint: find out who writes to "+m.Path("pgadmin"))
	CheckInvariants(t, m)
	p.Stop()
	if a := m.Run("status", "--config", m.Config()); a.Code != 2 {
		t.Errorf("after the end: exit code %d", a.Code)
	}
	p = m.Start()
	p.Kill()
	if a := m.Run("status", "--config", m.Config()); a.Code != 2 {
		t.Errorf("after a kill, which leaves the socket: exit code %d", a.Code)
	}
}

// checkStatus compares what status says with the disk.
func checkStatus(t *testing.T, m *Mesh) {
	t.Helper()
	s, a := m.Status()
	if a.Code != 0 || len(s.Services) != len(m.Services) {
		t.Errorf("status: exit code %d, %d services", a.Code, len(s.Services))
	}
	text := m.Run("status", "--config", m.Config())
	if text.Code != 0 {
		t.Errorf("status for people: exit code %d", text.Code)
	}
	if n := strings.Count(text.Stdout, "CRL       meshca "); n != 2 || strings.Contains(text.Stdout, "overdue") {
		t.Errorf("status for people names %d CRLs, want those of root and issuing CA:\n%s", n, text.Stdout)
	}
	for name, v := range m.Views() {
		serial := serialOf(v.Leaf(t))
		if got := s.Of(name); got.State != "kept" || got.Serial != serial {
			t.Errorf("status of %s: %+v, want serial %s", name, got, serial)
		}
		if !strings.Contains(text.Stdout, serial) {
			t.Errorf("status for people lacks serial %s", serial)
		}
	}
}

// TestLongPath: the socket works where its path is longer than the 107 bytes that a Unix address holds.
func TestLongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-long-folder-name-", 6), strings.Repeat("another-one-", 6))
	must(t, os.MkdirAll(dir, 0o755))
	m := NewMeshIn(t, dir, Settings{})
	if len(m.Socket()) <= 107 {
		t.Fatalf("%s is not long", m.Socket())
	}
	m.Start()
	checkStatus(t, m)
	CheckInvariants(t, m)
}

// TestObservability asks what Prometheus and a load balancer ask.
func TestObservability(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	base := "http://" + m.Start().AwaitServing().Get("metrics")
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, body := get(t, base+path); code != http.StatusOK || body != "ok\n" {
			t.Errorf("%s answers %d %q", path, code, body)
		}
	}
	code, body := get(t, base+"/metrics")
	if code != http.StatusOK {
		t.Errorf("/metrics answers %d", code)
	}
	for name, v := range m.Views() {
		got := metric(t, body, fmt.Sprintf("meshca_certificate_not_after_timestamp_seconds{service=%q}", name))
		if want := float64(v.Leaf(t).NotAfter.Unix()); got != want {
			t.Errorf("%s expires at %v, want %v", name, got, want)
		}
		if got := metric(t, body, fmt.Sprintf("meshca_service_kept{service=%q}", name)); got != 1 {
			t.Errorf("%s kept is %v", name, got)
		}
	}
	if err := secretIn(body, readFile(t, m.Seal())); err != nil {
		t.Errorf("/metrics gives %v away", err)
	}
}

// TestNotReady: a target that cannot be written shows at /readyz, in words, while the process lives.
func TestNotReady(t *testing.T) {
	t.Parallel()
	m := newUnprivilegedMesh(t, Settings{})
	base := "http://" + m.Start().AwaitServing().Get("metrics")
	must(t, os.Chmod(m.Folders(), 0o555))
	t.Cleanup(func() { must(t, os.Chmod(m.Folders(), 0o755)) })
	if code, body := get(t, base+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, m.Folders()) {
		t.Errorf("/readyz answers %d %q", code, body)
	}
	if code, _ := get(t, base+"/healthz"); code != http.StatusOK {
		t.Errorf("/healthz answers %d", code)
	}
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	must(t, err)
	defer response.Body.Close()
	all, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(all)
}

// metric is the value of one time series in Prometheus' text format.
func metric(t *testing.T, body, series string) float64 {
	t.Helper()
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			must(t, err)
			return f
		}
	}
	t.Errorf("/metrics has no %s", series)
	return 0
}

// TestCommands: what needs no process.
func TestCommands(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	example := m.Run("config", "example")
	m.ConfigureText(example.Stdout)
	if a := m.Run("config", "check", m.Config()); a.Code != 0 || !strings.Contains(a.Stdout, "next runs of") {
		t.Errorf("the example is refused: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
	if a := m.Run("version"); a.Code != 0 || !strings.Contains(a.Stdout, "store schema 1") {
		t.Errorf("version: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
	if a := m.Run("config", "check", filepath.Join(m.Dir, "missing.yaml")); a.Code != 2 || !strings.Contains(a.Stderr, "missing.yaml") {
		t.Errorf("a file that is not there: %d %s", a.Code, a.Stderr)
	}
}

// TestVerifyByConfig verifies the folders of a running mesh, and tells of a foreign bundle in one of a mesh
// that is not running.
func TestVerifyByConfig(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{})
	p := m.Start()
	if a := m.Run("verify", "--config", m.Config()); a.Code != 0 {
		t.Errorf("exit code %d\n%s%s", a.Code, a.Stdout, a.Stderr)
	}
	p.Stop()
	foreign := newForeignCA(t)
	writeFile(t, m.Path("pgadmin", caFile), foreign.PEM())
	a := m.Run("verify", "--config", m.Config())
	for _, part := range []string{"CERTIFICATE_VERIFY_FAILED", "pgadmin", shortFingerprint(foreign.cert)} {
		if a.Code != 1 || !strings.Contains(a.Stdout, part) {
			t.Errorf("exit code %d, want 1 and %q\n%s%s", a.Code, part, a.Stdout, a.Stderr)
		}
	}
}
