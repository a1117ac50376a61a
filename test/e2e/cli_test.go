package e2e

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshca/meshca/test/mesh"
	"github.com/meshca/meshca/test/need"
)

// A desk is a running mesh, and a folder of somebody who asks it for certificates by the command line.
type desk struct {
	t       testing.TB
	m       *Mesh
	address string
	token   string
	relay   *relay // of which nothing else is wanted than that it judges what passes
	Dir     string
}

// at is the same desk in another folder, for a test of its own.
func (d *desk) at(t testing.TB) *desk {
	other := *d
	other.t, other.Dir = t, t.TempDir()
	return &other
}

// Path is a file of the folder.
func (d *desk) Path(name ...string) string {
	return filepath.Join(append([]string{d.Dir}, name...)...)
}

// Run runs a command that must end with code, and gives nothing secret away.
func (d *desk) Run(code int, args ...string) Answer {
	d.t.Helper()
	a := runCommand(d.t, d.Dir, program, args...)
	if a.Code != code {
		d.t.Fatalf("%s: exit code %d, want %d\n%s%s", strings.Join(args, " "), a.Code, code, a.Stdout, a.Stderr)
	}
	d.keepsSecrets(a.Stdout + a.Stderr)
	return a
}

func (d *desk) keepsSecrets(text string) {
	d.t.Helper()
	if err := secretIn(text, readFile(d.t, d.m.Seal())); err != nil || strings.Contains(text, d.token) {
		d.t.Errorf("the output gives a secret away (%v):\n%s", err, text)
	}
}

// Socket asks through the socket, Over over the network as nobody yet, Admin as the admin.
func (d *desk) Socket() []string { return []string{"--config", d.relay.Config} }

func (d *desk) Over() []string {
	return []string{"--server", d.address, "--ca", d.m.Path("envoy", caFile)}
}

func (d *desk) Admin() []string {
	return append(d.Over(), "--token-file", filepath.Join(d.m.Dir, "data", "admin.token"))
}

// List is what the CA has recorded of a service.
func (d *desk) List(service string) (found []apiCertificate) {
	d.t.Helper()
	var list struct{ Certificates []apiCertificate }
	a := d.Run(0, append([]string{"list", "--service", service, "--limit", "0", "-o", "json"}, d.Socket()...)...)
	must(d.t, json.Unmarshal([]byte(a.Stdout), &list))
	return list.Certificates
}

// Holds wants a whole set in a folder: key and chain go together, by OpenSSL, and the bundle is everybody's.
func (d *desk) Holds(dir string) *x509.Certificate {
	d.t.Helper()
	dir = d.Path(dir)
	if info, err := os.Stat(filepath.Join(dir, keyFile)); err != nil || info.Mode().Perm() != 0o600 {
		d.t.Errorf("the key: %v, %v", info, err)
	}
	if !bytes.Equal(readFile(d.t, filepath.Join(dir, caFile)), readFile(d.t, d.m.Path("envoy", caFile))) {
		d.t.Error("ca.crt is not that of the services")
	}
	pair := pairOf(d.t, string(readFile(d.t, filepath.Join(dir, certFile))), string(readFile(d.t, filepath.Join(dir, keyFile))))
	for _, purpose := range []string{"sslserver", "sslclient"} {
		a := runCommand(d.t, dir, need.Program(d.t, "openssl"), "verify", "-x509_strict", "-purpose", purpose, "-CAfile", caFile, "-untrusted", certFile, certFile)
		if a.Code != 0 {
			d.t.Errorf("openssl verify: %s%s", a.Stdout, a.Stderr)
		}
	}
	d.Names(dir, certFile, keyFile, caFile)
	return pair.Leaf
}

// Names wants a folder to have these files, and none that a run has left.
func (d *desk) Names(dir string, want ...string) {
	d.t.Helper()
	var names []string
	entries, err := os.ReadDir(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		must(d.t, err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		d.t.Errorf("%s holds %q, want %q", dir, names, want)
	}
}

// TestCLI: certificates are asked for, renewed and revoked by the command line, in all the ways that there are.
func TestCLI(t *testing.T) {
	need.Program(t, "openssl")
	m := NewMesh(t, Settings{Services: []string{"envoy", "{name: bookapi, clients: [{service: envoy}]}", "pgadmin", "bookapi-mcp-server", "{name: timescaledb, key: RSA-2048}"}})
	p := m.Serve()
	admin := newAPIClient(t, m, p.AwaitServing())
	d := &desk{t: t, m: m, address: admin.address, token: admin.token, relay: newRelay(t, m)}
	for name, test := range map[string]func(*desk){
		"Issue": testCLIIssue, "Ways": testCLIWays, "Trust": testCLITrust, "NeverOverwritten": testCLINeverOverwritten,
		"KeyFirst": testCLIKeyFirst, "LostAnswer": testCLILostAnswer, "Interrupted": testCLIInterrupted, "Refused": testCLIRefused,
		"Renew": testCLIRenew, "Revoke": testCLIRevoke, "List": testCLIList, "CA": testCLICA,
	} {
		t.Run(name, func(t *testing.T) { test(d.at(t)) })
	}
	m.AwaitSound(p)
	d.keepsSecrets(p.out.String())
}

// testCLIIssue: one word beside the config file that lies here is enough.
func testCLIIssue(d *desk) {
	d.Dir = d.m.Dir
	a := d.Run(0, "issue", "bookapi")
	leaf := d.Holds("bookapi")
	if serial := leaf.SerialNumber.Text(16); !strings.Contains(a.Stdout, serial) || !strings.Contains(a.Stdout, "bookapi/tls.key") {
		d.t.Errorf("%q tells neither serial %s nor files", a.Stdout, serial)
	}
	if leaf.Subject.String() != "CN=bookapi" || !slices.Contains(leaf.DNSNames, "bookapi.default.svc") {
		d.t.Errorf("subject %s, names %v: want the catalogue's", leaf.Subject, leaf.DNSNames)
	}
	d.Run(0, "issue", "timescaledb", "-o", "json")
	if leaf := d.Holds("timescaledb"); leaf.PublicKeyAlgorithm != x509.RSA {
		d.t.Errorf("the key is %s, want the catalogue's", leaf.PublicKeyAlgorithm)
	}
	var v struct{ Serial, CertFile, KeyFile, CAFile string }
	must(d.t, json.Unmarshal([]byte(d.Run(0, "issue", "pgadmin", "-o", "json", "--out", "a/b/c").Stdout), &v))
	if d.Holds("a/b/c"); v.KeyFile != "a/b/c/tls.key" || v.CertFile != "a/b/c/tls.crt" || v.CAFile != "a/b/c/ca.crt" {
		d.t.Errorf("json tells %+v", v)
	}
}

// testCLIWays: over the network, by token and by certificate, with a key of one's own.
func testCLIWays(d *desk) {
	d.Run(0, append(d.Admin(), "issue", "pgadmin")...)
	d.Holds("pgadmin")
	envoy := append(d.Over(), "--cert", d.m.Path("envoy", certFile), "--key", d.m.Path("envoy", keyFile))
	d.Run(0, append(envoy, "issue", "bookapi", "--out", "as-envoy")...)
	d.Holds("as-envoy")
	d.Run(0, append(d.Admin(), "issue", "bookapi", "--out", "apart", "--key-out", "my.key")...)
	d.Names(d.Path("apart"), certFile, caFile)
	must(d.t, os.Rename(d.Path("my.key"), d.Path("apart", keyFile)))
	d.Holds("apart")

	csr, key := newCSR(d.t)
	writeFile(d.t, d.Path("my.csr"), []byte(csr))
	if a := d.Run(0, append(d.Admin(), "issue", "bookapi", "--csr", "my.csr", "--out", "by-csr")...); !strings.Contains(a.Stderr, "ignored in the CSR: subject") {
		d.t.Errorf("%q does not say what was ignored", a.Stderr)
	}
	d.Names(d.Path("by-csr"), certFile, caFile)
	must(d.t, os.WriteFile(d.Path("by-csr", keyFile), []byte(key), 0o600))
	d.Holds("by-csr")
	a := runCommand(d.t, d.Dir, "sh", "-c", fmt.Sprintf("%s issue bookapi --config %s --csr - --out stdin < my.csr", program, d.m.Config()))
	if a.Code != 0 {
		d.t.Errorf("a CSR from stdin: %s", a.Stderr)
	}
	d.Names(d.Path("stdin"), certFile, caFile)
}

// quiet is for servers of tests, whose clients end connections on purpose.
var quiet = log.New(io.Discard, "", 0)

// A trap is a server that is not the CA: it remembers what it was sent.
type trap struct {
	*httptest.Server
	mu  sync.Mutex
	got []string // each request, whole
}

func newTrap(t testing.TB, ca *mesh.CA, bundle []byte) *trap {
	t.Helper()
	s := ca.Service(t, "meshca", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} })
	tr := &trap{}
	tr.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		var whole bytes.Buffer
		_ = r.Write(&whole)
		tr.got = append(tr.got, whole.String())
		_, _ = w.Write(bundle)
	}))
	tr.Config.ErrorLog = quiet
	tr.TLS = &tls.Config{Certificates: []tls.Certificate{*pairOf(t, string(s.Cert), string(s.Key))}}
	tr.StartTLS()
	t.Cleanup(tr.Close)
	return tr
}

func (tr *trap) all() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return slices.Clone(tr.got)
}

// testCLITrust: a root's fingerprint is enough, and no token gets to anybody else.
func testCLITrust(d *desk) {
	root, _ := pem.Decode(readFile(d.t, d.m.Path("envoy", caFile)))
	sum := fmt.Sprintf("%x", sha256.Sum256(root.Bytes))
	token := []string{"--token-file", filepath.Join(d.m.Dir, "data", "admin.token")}
	ask := func(code int, server, trust, value string) Answer {
		d.t.Helper()
		return d.Run(code, append(token, "issue", "bookapi", "--server", server, trust, value)...)
	}
	ask(0, d.address, "--ca-fingerprint", sum)
	d.Holds("bookapi")
	must(d.t, os.RemoveAll(d.Path("bookapi")))
	a := runCommand(d.t, d.Dir, need.Program(d.t, "openssl"), "x509", "-noout", "-fingerprint", "-sha256", "-in", d.m.Path("envoy", caFile))
	_, colons, _ := strings.Cut(strings.TrimSpace(a.Stdout), "=")
	ask(0, d.address, "--ca-fingerprint", colons)
	must(d.t, os.RemoveAll(d.Path("bookapi")))

	if a := ask(2, d.address, "--ca-fingerprint", strings.Repeat("0f", 32)); !strings.Contains(a.Stderr, colons) {
		d.t.Errorf("%q does not name the root that was seen", a.Stderr)
	}
	// One in the middle: with another root of its own, and with our public bundle.
	theirs := mesh.NewCA(d.t, "theirs")
	stranger, middle := newTrap(d.t, theirs, theirs.PEM()), newTrap(d.t, theirs, readFile(d.t, d.m.Path("envoy", caFile)))
	for _, tr := range []*trap{stranger, middle} {
		ask(2, tr.URL, "--ca-fingerprint", sum)
		ask(2, tr.URL, "--ca", d.m.Path("envoy", caFile))
		got := tr.all()
		if len(got) != 1 || !strings.HasPrefix(got[0], "GET /v1/ca/bundle.pem ") {
			d.t.Errorf("one in the middle got %q, want the bundle to be fetched once", got)
		}
		if all := strings.Join(got, ""); strings.Contains(all, d.token) || strings.Contains(all, "Authorization") {
			d.t.Errorf("one in the middle got a token: %q", all)
		}
	}
	d.Names(d.Dir)
	if a := d.Run(2, "ca", "--token", "secret"); !strings.Contains(a.Stderr, "unknown flag: --token") {
		d.t.Errorf("a token may be given as an argument: %q", a.Stderr)
	}
}

// testCLINeverOverwritten: what is there stays, and nothing was asked for.
func testCLINeverOverwritten(d *desk) {
	before := len(d.List("pgadmin"))
	csr, _ := newCSR(d.t)
	writeFile(d.t, d.Path("my.csr"), []byte(csr))
	for _, name := range []string{keyFile, certFile, caFile} {
		must(d.t, os.Mkdir(d.Path(name+".d"), 0o755))
		path := d.Path(name+".d", name)
		writeFile(d.t, path, []byte("mine"))
		a := d.Run(1, append(d.Socket(), "issue", "pgadmin", "--out", name+".d")...)
		if !strings.Contains(a.Stderr, name+" is there") || !strings.Contains(a.Stderr, "hint: ") {
			d.t.Errorf("%q names neither %s nor a way on", a.Stderr, name)
		}
		if name != keyFile {
			d.Run(1, append(d.Socket(), "issue", "pgadmin", "--csr", "my.csr", "--out", name+".d")...)
		}
		if string(readFile(d.t, path)) != "mine" {
			d.t.Errorf("%s was overwritten", name)
		}
		d.Names(d.Path(name+".d"), name)
	}
	must(d.t, os.Symlink(d.Path("nowhere"), d.Path("link.key")))
	d.Run(1, append(d.Socket(), "issue", "pgadmin", "--key-out", "link.key")...)
	// A certificate never lies beside a key that is not its own.
	must(d.t, os.Mkdir(d.Path("other"), 0o755))
	_, other := newCSR(d.t)
	writeFile(d.t, d.Path("other", keyFile), []byte(other))
	if a := d.Run(1, append(d.Socket(), "issue", "pgadmin", "--csr", "my.csr", "--out", "other")...); !strings.Contains(a.Stderr, "is not the key of the CSR") {
		d.t.Errorf("%q", a.Stderr)
	}
	d.Names(d.Path("other"), keyFile)
	if after := len(d.List("pgadmin")); after != before {
		d.t.Errorf("%d certificates were made", after-before)
	}
}

// testCLIKeyFirst: when the request arrives, its key is on disk, whole and its owner's alone.
func testCLIKeyFirst(d *desk) {
	r := newRelay(d.t, d.m)
	var seen error
	r.Act(func(w http.ResponseWriter, request *http.Request, pass http.Handler) {
		seen = func() error {
			info, err := os.Lstat(d.Path("bookapi", keyFile))
			switch {
			case err != nil:
				return err
			case info.Mode() != 0o600:
				return fmt.Errorf("mode %s", info.Mode())
			}
			block, _ := pem.Decode(readFile(d.t, d.Path("bookapi", keyFile)))
			if block == nil {
				return errors.New("no key in PEM")
			}
			d.Names(d.Path("bookapi"), keyFile)
			_, err = x509.ParsePKCS8PrivateKey(block.Bytes)
			return err
		}()
		pass.ServeHTTP(w, request)
	})
	seen = errors.New("no request came")
	d.Run(0, "issue", "bookapi", "--config", r.Config)
	if seen != nil {
		d.t.Errorf("as the request arrived: %v", seen)
	}
	d.Holds("bookapi")
}

// testCLILostAnswer: answers that are lost on the way, and a server that is busy, cost no second certificate.
func testCLILostAnswer(d *desk) {
	r := newRelay(d.t, d.m)
	before, n := len(d.List("pgadmin")), 0
	r.Act(func(w http.ResponseWriter, request *http.Request, pass http.Handler) {
		switch n++; n {
		case 1, 2:
			pass.ServeHTTP(httptest.NewRecorder(), request)
			panic(http.ErrAbortHandler)
		case 3:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			pass.ServeHTTP(w, request)
		}
	})
	d.Run(0, "issue", "pgadmin", "--config", r.Config)
	leaf := d.Holds("pgadmin")
	after := d.List("pgadmin")
	if len(after) != before+1 || after[len(after)-1].Serial != leaf.SerialNumber.Text(16) || n != 4 {
		d.t.Errorf("%d requests made %d certificates", n, len(after)-before)
	}
}

// testCLIInterrupted: whoever is interrupted leaves nothing; whoever is killed leaves a key that nobody overwrites.
func testCLIInterrupted(d *desk) {
	r := newRelay(d.t, d.m)
	for _, tt := range []struct {
		signal syscall.Signal
		code   int
		left   []string
	}{{syscall.SIGINT, 2, nil}, {syscall.SIGTERM, 2, nil}, {syscall.SIGKILL, -1, []string{keyFile}}} {
		came, release := r.Hold()
		p := startProcess(d.t, d.Dir, nil, "issue", "bookapi", "--config", r.Config)
		<-came
		p.Signal(tt.signal)
		if code := p.Wait(); code != tt.code {
			d.t.Errorf("%s: exit code %d, want %d", tt.signal, code, tt.code)
		}
		release()
		d.keepsSecrets(p.out.String())
		d.Names(d.Path("bookapi"), tt.left...)
	}
	r.Act(nil)
	if a := d.Run(1, "issue", "bookapi", "--config", r.Config); !strings.Contains(a.Stderr, "bookapi/tls.key is there") || !strings.Contains(a.Stderr, "no certificate belongs to it") {
		d.t.Errorf("after a kill: %q", a.Stderr)
	}
	must(d.t, os.Remove(d.Path("bookapi", keyFile)))
	d.Run(0, "issue", "bookapi", "--config", r.Config)
	d.Holds("bookapi")
}

// testCLIRefused: a no is exit 1, silence is 2, both in one line, and nothing is left.
func testCLIRefused(d *desk) {
	pgadmin := append(d.Over(), "--cert", d.m.Path("pgadmin", certFile), "--key", d.m.Path("pgadmin", keyFile))
	writeFile(d.t, d.Path("bad.token"), []byte(strings.Repeat("x", 43)))
	stranger, _ := newCSR(d.t, "-addext", "subjectAltName=DNS:pgadmin")
	writeFile(d.t, d.Path("stranger.csr"), []byte(stranger))
	weak, _ := newCSROf(d.t, "-newkey", "rsa:1024")
	writeFile(d.t, d.Path("weak.csr"), []byte(weak))
	away, err := net.Listen("tcp", "127.0.0.1:0")
	must(d.t, err)
	must(d.t, away.Close()) // nobody listens there
	for name, tt := range map[string]struct {
		code int
		args []string
		says string
	}{
		"unknown service":   {1, append(d.Socket(), "issue", "nobody"), "not-found: the catalogue has no such service"},
		"no name":           {1, append(d.Socket(), "issue", "../envoy"), "cannot be the name of a service"},
		"not listed":        {1, append(pgadmin, "issue", "bookapi"), "clients: [{service: pgadmin}]"},
		"nobody":            {1, append(d.Over(), "issue", "bookapi"), "hint: say who asks"},
		"wrong token":       {1, append(d.Over(), "issue", "bookapi", "--token-file", "bad.token"), "unauthenticated"},
		"no token there":    {2, append(d.Over(), "issue", "bookapi", "--token-file", "no.token"), "no.token"},
		"name not granted":  {1, append(d.Socket(), "issue", "bookapi", "--csr", "stranger.csr"), "name-not-granted"},
		"weak key":          {1, append(d.Socket(), "issue", "bookapi", "--csr", "weak.csr"), "weak.csr: "},
		"no CSR":            {1, append(d.Socket(), "issue", "bookapi", "--csr", "bad.token"), "bad.token: "},
		"other type of key": {1, append(d.Socket(), "issue", "timescaledb", "--csr", "stranger.csr"), "name-not-granted"},
		"not there":         {2, []string{"issue", "bookapi", "--server", "https://" + away.Addr().String(), "--ca", d.m.Path("envoy", caFile), "--token-file", "bad.token"}, "connection refused"},
		"no process":        {2, []string{"issue", "bookapi", "--config", d.noProcess()}, "hint: meshca serve --config"},
	} {
		d.t.(*testing.T).Run(name, func(t *testing.T) {
			at := *d
			at.t = t
			a := at.Run(tt.code, tt.args...)
			lines := strings.Split(strings.TrimSuffix(a.Stderr, "\n"), "\n")
			if !strings.Contains(a.Stderr, tt.says) || !strings.HasPrefix(lines[0], "meshca: ") || a.Stdout != "" {
				t.Errorf("%q, %q, want %q", a.Stdout, a.Stderr, tt.says)
			}
			for _, line := range lines[1:] {
				if !strings.HasPrefix(line, "hint: ") {
					t.Errorf("more than one line: %q", a.Stderr)
				}
			}
			at.Names(d.Path("bookapi"))
			at.Names(d.Path("nobody"))
		})
	}
}

// noProcess is a config for which nobody runs.
func (d *desk) noProcess() string {
	path := filepath.Join(d.t.TempDir(), "meshca.yaml")
	writeFile(d.t, path, readFile(d.t, d.m.Config()))
	return path
}

// testCLIRenew: a certificate renews itself, keeps its key, and gets another one only elsewhere.
func testCLIRenew(d *desk) {
	d.Run(0, append(d.Admin(), "issue", "pgadmin")...)
	first, key := d.Holds("pgadmin"), readFile(d.t, d.Path("pgadmin", keyFile))
	serials := map[string]bool{first.SerialNumber.Text(16): true}
	for _, way := range [][]string{d.Over(), d.Admin(), d.Socket()} {
		d.Run(0, append(way, "renew", "pgadmin")...)
		leaf := d.Holds("pgadmin")
		if serials[leaf.SerialNumber.Text(16)] || !bytes.Equal(readFile(d.t, d.Path("pgadmin", keyFile)), key) {
			d.t.Error("the certificate is the one before, or the key is not")
		}
		serials[leaf.SerialNumber.Text(16)] = true
	}
	certs := d.List("pgadmin")
	if last := certs[len(certs)-3]; last.Serial == first.SerialNumber.Text(16) {
		d.t.Error("a renewal is not recorded")
	}
	for i, way := range [][]string{d.Over(), d.Socket()} {
		to := fmt.Sprintf("new%d", i)
		d.Run(0, append(way, "renew", "pgadmin", "--out", to)...)
		d.Holds(to)
		if bytes.Equal(readFile(d.t, d.Path(to, keyFile)), key) {
			d.t.Error("the new key is the old one")
		}
		d.Run(1, append(way, "renew", "pgadmin", "--out", to)...)
	}
	csr, _ := newCSR(d.t)
	writeFile(d.t, d.Path("my.csr"), []byte(csr))
	before := readFile(d.t, d.Path("pgadmin", certFile))
	d.Run(1, append(d.Over(), "renew", "pgadmin", "--csr", "my.csr")...)
	if !bytes.Equal(readFile(d.t, d.Path("pgadmin", certFile)), before) {
		d.t.Error("a certificate of another key was written")
	}
	d.Run(0, append(d.Over(), "renew", "pgadmin", "--csr", "my.csr", "--out", "by-csr")...)
	d.Names(d.Path("by-csr"), certFile, caFile)
	if a := d.Run(1, append(d.Socket(), "renew", d.m.Path("pgadmin"))...); !strings.Contains(a.Stderr, "is kept by meshca serve") {
		d.t.Errorf("%q", a.Stderr)
	}
	d.Run(2, append(d.Socket(), "renew", "nowhere")...)
}

// testCLIRevoke: by an operator, and by whoever has the key; what is revoked renews nothing.
func testCLIRevoke(d *desk) {
	d.Run(0, append(d.Admin(), "issue", "pgadmin")...)
	serial := d.Holds("pgadmin").SerialNumber.Text(16)
	itself := append(d.Over(), "--cert", d.Path("pgadmin", certFile), "--key", d.Path("pgadmin", keyFile))
	other := append(d.Over(), "--cert", d.m.Path("pgadmin", certFile), "--key", d.m.Path("pgadmin", keyFile))
	d.Run(1, append(other, "revoke", serial, "--reason", "superseded")...)
	if a := d.Run(0, append(itself, "revoke", strings.ToUpper(serial), "--reason", "superseded")...); !strings.Contains(a.Stdout, serial+" of pgadmin is revoked") || !strings.Contains(a.Stdout, "superseded") {
		d.t.Errorf("%q", a.Stdout)
	}
	d.Run(0, append(d.Socket(), "revoke", serial, "--reason", "superseded")...)
	d.Run(1, append(d.Socket(), "revoke", serial, "--reason", "affiliationChanged")...)
	if a := d.Run(1, append(d.Over(), "renew", "pgadmin")...); !strings.Contains(a.Stderr, "is revoked") || !strings.Contains(a.Stderr, "hint: ") {
		d.t.Errorf("%q", a.Stderr)
	}
	certs := d.List("pgadmin")
	i := slices.IndexFunc(certs, func(c apiCertificate) bool { return c.Serial == serial })
	if i < 0 || certs[i].State != "revoked" {
		d.t.Errorf("the list does not say that it is revoked: %+v", certs)
	}
}

// testCLIList: filters, and pages until there are enough.
func testCLIList(d *desk) {
	all := d.List("envoy")
	if len(all) == 0 {
		d.t.Fatal("the list is empty")
	}
	d.Run(0, append(d.Socket(), "issue", "envoy")...)
	lines := func(args ...string) []string {
		d.t.Helper()
		return strings.Split(strings.TrimSpace(d.Run(0, append(d.Socket(), append([]string{"list"}, args...)...)...).Stdout), "\n")[1:]
	}
	if got := lines("--service", "envoy"); len(got) != len(all)+1 || !strings.Contains(got[len(got)-1], "owner") {
		d.t.Errorf("%q", got)
	}
	if a := d.Run(0, append(d.Socket(), "list", "--limit", "2")...); strings.Count(a.Stdout, "\n") != 3 || !strings.Contains(a.Stderr, "more than 2") {
		d.t.Errorf("%q %q", a.Stdout, a.Stderr)
	}
	for _, none := range [][]string{{"--state", "undelivered"}, {"--expires-before", "24h"}, {"--expires-before", time.Now().UTC().Format(time.RFC3339)}, {"--issuer", "abcd"}} {
		if got := lines(none...); len(got) != 0 {
			d.t.Errorf("%q lists %q", none, got)
		}
	}
	if got := lines("--expires-before", "8760h", "--state", "valid", "--service", "envoy"); len(got) != len(all)+1 {
		d.t.Errorf("%q", got)
	}
}

// testCLICA: roots, issuing CAs and their fingerprints as OpenSSL prints them; the bundle is every ca.crt.
func testCLICA(d *desk) {
	a := runCommand(d.t, d.Dir, need.Program(d.t, "openssl"), "x509", "-noout", "-fingerprint", "-sha256", "-in", d.m.Path("envoy", caFile))
	_, sum, _ := strings.Cut(strings.TrimSpace(a.Stdout), "=")
	text := d.Run(0, append(d.Socket(), "ca")...).Stdout
	for _, want := range []string{"root ", "signing ", "SHA-256 " + sum, "epoch 1"} {
		if !strings.Contains(text, want) {
			d.t.Errorf("%q does not say %q", text, want)
		}
	}
	if over := d.Run(0, append(d.Admin(), "ca")...).Stdout; over != text {
		d.t.Errorf("over the network it is %q, not %q", over, text)
	}
	// Public: no credentials.
	bundle := d.Run(0, "ca", "--bundle", "--server", d.address, "--ca-fingerprint", sum).Stdout
	if bundle != string(readFile(d.t, d.m.Path("envoy", caFile))) {
		d.t.Error("the bundle is not the services' ca.crt")
	}
}
