package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fiveServices are those of the mesh in which the incident happened.
var fiveServices = []string{"envoy", "pgadmin", "bookapi", "bookapi-mcp-server", "timescaledb"}

// The files of a set.
const (
	certFile = "tls.crt"
	keyFile  = "tls.key"
	caFile   = "ca.crt"
	markFile = "meshca.json"
	dataLink = "..data"
)

var setFiles = []string{certFile, keyFile, caFile, markFile}

// Settings are what a test's config file says. The zero value is five services with the defaults, and a
// sweep so rare that what is healed is healed because it was seen.
type Settings struct {
	Metrics  string   // address, default any free port
	Sweep    string   // default 1h
	Retain   string   // default as the program's
	CAKey    string   // default as the program's
	Leaf     string   // further fields of leaf, in YAML's flow form
	Schedule string   // default as the program's
	Services []string // entries in YAML's flow form, or bare names; default fiveServices
}

func (s Settings) yaml() string {
	var b strings.Builder
	line := func(format, value, byDefault string) {
		if value == "" {
			value = byDefault
		}
		if value != "" {
			fmt.Fprintf(&b, format+"\n", value)
		}
	}
	b.WriteString("version: 1\ntarget: {directory: {path: mesh}}\n")
	line("listen: {api: '127.0.0.1:0', metrics: %q}", s.Metrics, "127.0.0.1:0")
	line("sweep: %s", s.Sweep, "1h")
	line("store: {retain: %s}", s.Retain, "")
	line("ca: {key: %s}", s.CAKey, "")
	line("leaf: {%s}", s.Leaf, "")
	line("rotation: {schedule: %q}", s.Schedule, "")
	services := s.Services
	if services == nil {
		services = fiveServices
	}
	b.WriteString("services:\n")
	for _, entry := range services {
		if !strings.HasPrefix(entry, "{") {
			entry = fmt.Sprintf("{name: %q}", entry)
		}
		fmt.Fprintf(&b, "- %s\n", entry)
	}
	return b.String()
}

// A Mesh is a folder with a config file, and what the program makes beside it: data/, seal/ and mesh/.
type Mesh struct {
	t        testing.TB
	Dir      string
	Services []string            // the names of those that must stand
	As       *syscall.Credential // who runs the program; nil: the test's own user
	root     string              // fingerprint of the root that was first seen
}

// NewMesh makes the folder and the config file.
func NewMesh(t testing.TB, s Settings) *Mesh {
	t.Helper()
	return NewMeshIn(t, t.TempDir(), s)
}

// NewMeshIn is NewMesh in a given folder.
func NewMeshIn(t testing.TB, dir string, s Settings) *Mesh {
	t.Helper()
	m := &Mesh{t: t, Dir: dir, Services: fiveServices}
	m.Configure(s)
	return m
}

// Configure replaces the config file, in one step as an editor does.
func (m *Mesh) Configure(s Settings) {
	m.t.Helper()
	m.ConfigureText(s.yaml())
}

// ConfigureText replaces the config file by any text.
func (m *Mesh) ConfigureText(text string) {
	m.t.Helper()
	next := m.Config() + ".next"
	writeFile(m.t, next, []byte(text))
	must(m.t, os.Rename(next, m.Config()))
}

// Config is the path of the config file.
func (m *Mesh) Config() string { return filepath.Join(m.Dir, "meshca.yaml") }

// Store, Seal, Folders and Socket are the paths of what the program makes.
func (m *Mesh) Store() string   { return filepath.Join(m.Dir, "data", "meshca.db") }
func (m *Mesh) Seal() string    { return filepath.Join(m.Dir, "seal", "seal.key") }
func (m *Mesh) Folders() string { return filepath.Join(m.Dir, "mesh") }
func (m *Mesh) Socket() string  { return filepath.Join(m.Dir, "data", "meshca.sock") }

// Path is the path of a service's folder, or of a file in it.
func (m *Mesh) Path(service string, file ...string) string {
	return filepath.Join(append([]string{m.Folders(), service}, file...)...)
}

// Serve starts the program and does not wait for it. Nothing that it writes may give a secret away.
func (m *Mesh) Serve(flags ...string) *Process {
	m.t.Helper()
	args := append([]string{"serve", "--config", m.Config(), "--log", "json"}, flags...)
	p := startProcess(m.t, m.Dir, m.As, args...)
	m.t.Cleanup(func() {
		seal, err := os.ReadFile(m.Seal())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.t.Error(err)
		}
		if err := secretIn(p.out.String(), seal); err != nil {
			m.t.Errorf("the output gives %v away", err)
		}
	})
	return p
}

// Start starts the program and waits until it serves.
func (m *Mesh) Start(flags ...string) *Process {
	m.t.Helper()
	p := m.Serve(flags...)
	p.AwaitServing()
	return p
}

// Run runs a command of the program to its end.
func (m *Mesh) Run(args ...string) Answer {
	m.t.Helper()
	a := runCommand(m.t, m.Dir, program, args...)
	seal, _ := os.ReadFile(m.Seal()) // absent before the first start
	if err := secretIn(a.Stdout+a.Stderr, seal); err != nil {
		m.t.Errorf("%s: the output gives %v away", strings.Join(args, " "), err)
	}
	return a
}

// A Status is the part of `meshca status -o json` that the tests look at.
type Status struct {
	Sweep struct {
		At time.Time `json:"at"`
	} `json:"lastSweep"`
	Services []ServiceStatus `json:"services"`
}

// A ServiceStatus is one service's part of a Status.
type ServiceStatus struct {
	Name          string `json:"name"`
	State         string `json:"state"`
	Serial        string `json:"serial"`
	ForeignWrites int    `json:"foreignWrites"`
	Issued        int    `json:"issued"`
	Error         string `json:"error"`
	Hint          string `json:"hint"`
	WaitsFor      string `json:"waitsFor"`
}

// Of is the status of one service.
func (s *Status) Of(service string) ServiceStatus {
	i := slices.IndexFunc(s.Services, func(v ServiceStatus) bool { return v.Name == service })
	if i < 0 {
		return ServiceStatus{}
	}
	return s.Services[i]
}

// Status asks the running process.
func (m *Mesh) Status() (*Status, Answer) {
	m.t.Helper()
	a := m.Run("status", "--config", m.Config(), "-o", "json")
	s := &Status{}
	if err := json.Unmarshal([]byte(a.Stdout), s); err != nil {
		m.t.Fatalf("status answers %q, %q: %v", a.Stdout, a.Stderr, err)
	}
	return s, a
}

// AwaitState waits until the status says that a service is in a state.
func (m *Mesh) AwaitState(p *Process, service, state string) (s ServiceStatus) {
	m.t.Helper()
	p.Await(service+" is "+state, func() error {
		status, _ := m.Status()
		if s = status.Of(service); s.State != state {
			return fmt.Errorf("it is %q: %s", s.State, s.Error)
		}
		return nil
	})
	return s
}

// AwaitSound waits until no invariant is broken.
func (m *Mesh) AwaitSound(p *Process) {
	m.t.Helper()
	p.Await("all folders stand", func() error { return errors.Join(Inspect(m)...) })
}

// AwaitSweep waits until a sweep has begun after this call, and has ended.
func (m *Mesh) AwaitSweep(p *Process) {
	m.t.Helper()
	began := time.Now()
	p.Await("a sweep", func() error {
		status, _ := m.Status()
		if !status.Sweep.At.After(began) {
			return fmt.Errorf("the last one was at %s", status.Sweep.At)
		}
		return nil
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(path, data, 0o644))
}
