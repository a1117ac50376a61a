package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/meshca/meshca/test/need"
)

// TestIncidentByOpenSSL makes the incident that meshca exists for, by openssl commands alone: five services,
// and pgadmin trusts another CA than the one that signed all leaves. The program has never seen the folders.
func TestIncidentByOpenSSL(t *testing.T) {
	t.Parallel()
	o := opensslMesh{t: t, openssl: need.Program(t, "openssl"), dir: t.TempDir()}
	o.ca("ca-one")
	o.ca("ca-two")
	for _, service := range fiveServices {
		o.leaf(service, "ca-one")
	}
	o.leaf("pgadmin-by-two", "ca-two")

	t.Run("pgadmin trusts another CA", func(t *testing.T) {
		dir := o.folders(t, map[string]string{"pgadmin": "ca-two"})
		checkIncident(t, dir, "pgadmin", []string{o.short("ca-two"), o.short("ca-one")})
	})
	t.Run("pgadmin has the other CA's leaf, flat", func(t *testing.T) {
		dir := o.flat(t, "pgadmin-by-two")
		checkIncident(t, dir, "pgadmin", []string{o.short("ca-one")})
	})
	t.Run("good folders", func(t *testing.T) { checkGood(t, o.folders(t, nil)) })
	t.Run("good flat folder", func(t *testing.T) { checkGood(t, o.flat(t, "pgadmin")) })
	t.Run("one service's folder", func(t *testing.T) { checkGood(t, filepath.Join(o.folders(t, nil), "envoy")) })
	t.Run("unreadable", func(t *testing.T) {
		for _, dir := range []string{filepath.Join(o.dir, "missing"), t.TempDir()} {
			if a := runCommand(t, o.dir, program, "verify", dir); a.Code != 2 || !strings.Contains(a.Stderr, dir) {
				t.Errorf("exit code %d, want 2: %s", a.Code, a.Stderr)
			}
		}
	})
}

// A report is the part of `meshca verify -o json` that the tests look at.
type report struct {
	Services []struct {
		Name    string   `json:"name"`
		CA      []string `json:"ca"`
		Serial  string   `json:"serial"`
		Verdict string   `json:"verdict"`
	} `json:"services"`
	Pairs    int `json:"pairs"`
	Findings []struct {
		Code     string `json:"code"`
		Service  string `json:"service"`
		Sentence string `json:"sentence"`
	} `json:"findings"`
	Refusals []struct {
		Refuser     string `json:"refuser"`
		Refused     string `json:"refused"`
		RefuserRole string `json:"refuserRole"`
		Reason      string `json:"reason"`
	} `json:"refusals"`
}

// verifyJSON asks what services lies in a folder.
func verifyJSON(t *testing.T, dir string) (r report, code int) {
	t.Helper()
	a := runCommand(t, "", program, "verify", dir, "-o", "json")
	if err := json.Unmarshal([]byte(a.Stdout), &r); err != nil {
		t.Fatalf("%v: %s%s", err, a.Stdout, a.Stderr)
	}
	return r, a.Code
}

// checkIncident sees that verify finds the odd one out, says what its users saw, and in which direction.
func checkIncident(t *testing.T, dir, odd string, fingerprints []string) {
	t.Helper()
	before := snapshot(t, dir)
	a := runCommand(t, "", program, "verify", dir)
	if a.Code != 1 {
		t.Errorf("exit code %d, want 1", a.Code)
	}
	for _, part := range append([]string{"CERTIFICATE_VERIFY_FAILED", "client refuses", "server refuses", odd + ": "}, fingerprints...) {
		if !strings.Contains(a.Stdout, part) {
			t.Errorf("it does not say %q", part)
		}
	}
	if t.Failed() {
		t.Logf("it says\n%s", a.Stdout)
	}
	r, code := verifyJSON(t, dir)
	if code != 1 || len(r.Services) != 5 || r.Pairs != 20 || len(r.Findings) == 0 {
		t.Errorf("exit code %d, %d services, %d pairs, %d findings", code, len(r.Services), r.Pairs, len(r.Findings))
	}
	for _, f := range r.Findings {
		if f.Service != odd && !strings.Contains(f.Sentence, odd) {
			t.Errorf("a finding that is not about %s: %+v", odd, f)
		}
	}
	// Each of the eight pairs with the odd one fails, in both directions, and no other.
	pairs := make(map[string]bool)
	for _, x := range r.Refusals {
		if x.Refuser != odd && x.Refused != odd || !strings.Contains(x.Reason, "CERTIFICATE_VERIFY_FAILED") {
			t.Errorf("a refusal that is none: %+v", x)
		}
		client, server := x.Refuser, x.Refused
		if x.RefuserRole == "server" {
			client, server = server, client
		}
		pairs[client+" → "+server] = true
	}
	if len(pairs) != 8 {
		t.Errorf("%d pairs are refused, want 8: %v", len(pairs), pairs)
	}
	checkUnchanged(t, before, snapshot(t, dir))
}

func checkGood(t *testing.T, dir string) {
	t.Helper()
	r, code := verifyJSON(t, dir)
	if code != 0 || len(r.Refusals) != 0 || len(r.Findings) != 0 {
		t.Errorf("exit code %d, findings %v, refusals %v", code, r.Findings, r.Refusals)
	}
	if a := runCommand(t, "", program, "verify", dir); a.Code != 0 || strings.Contains(a.Stdout, "CERTIFICATE_VERIFY_FAILED") {
		t.Errorf("exit code %d\n%s", a.Code, a.Stdout)
	}
}

// An opensslMesh makes CAs and leaves in dir by openssl commands: NAME.crt and NAME.key.
type opensslMesh struct {
	t       *testing.T
	openssl string
	dir     string
}

func (o *opensslMesh) run(args ...string) string {
	o.t.Helper()
	a := runCommand(o.t, o.dir, o.openssl, args...)
	if a.Code != 0 {
		o.t.Fatalf("openssl %s: %s", strings.Join(args, " "), a.Stderr)
	}
	return a.Stdout
}

// ca makes a self-signed CA. All have the same subject, as CAs made twice by one script do.
func (o *opensslMesh) ca(name string) {
	o.t.Helper()
	o.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
		"-subj", "/CN=mesh-ca", "-keyout", name+".key", "-out", name+".crt",
		"-addext", "keyUsage=critical,keyCertSign,cRLSign")
}

func (o *opensslMesh) leaf(name, ca string) {
	o.t.Helper()
	service := strings.TrimSuffix(name, "-by-two")
	o.run("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-subj", "/CN="+service, "-keyout", name+".key", "-out", name+".csr")
	extensions := filepath.Join(o.dir, name+".ext")
	writeFile(o.t, extensions, []byte("subjectAltName=DNS:"+service+"\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n"))
	o.run("x509", "-req", "-in", name+".csr", "-CA", ca+".crt", "-CAkey", ca+".key", "-CAcreateserial", "-days", "20",
		"-extfile", extensions, "-out", name+".crt")
}

// short is the beginning of a certificate's fingerprint, as openssl prints it.
func (o *opensslMesh) short(name string) string {
	o.t.Helper()
	out := o.run("x509", "-in", name+".crt", "-noout", "-fingerprint", "-sha256")
	_, value, _ := strings.Cut(strings.TrimSpace(out), "=")
	return value[:11]
}

// folders lays the services out in a folder each; trust names the CA of those that do not trust ca-one.
func (o *opensslMesh) folders(t *testing.T, trust map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, service := range fiveServices {
		ca := trust[service]
		if ca == "" {
			ca = "ca-one"
		}
		must(t, os.Mkdir(filepath.Join(dir, service), 0o755))
		for to, from := range map[string]string{certFile: service + ".crt", keyFile: service + ".key", caFile: ca + ".crt"} {
			writeFile(t, filepath.Join(dir, service, to), readFile(t, filepath.Join(o.dir, from)))
		}
	}
	return dir
}

// flat lays them out as certs/ of the incident: NAME.crt, NAME.key and one ca.crt.
func (o *opensslMesh) flat(t *testing.T, pgadmin string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	must(t, os.Mkdir(dir, 0o755))
	writeFile(t, filepath.Join(dir, caFile), readFile(t, filepath.Join(o.dir, "ca-one.crt")))
	for _, name := range fiveServices {
		from := name
		if name == "pgadmin" {
			from = pgadmin
		}
		for _, ending := range []string{".crt", ".key"} {
			writeFile(t, filepath.Join(dir, name+ending), readFile(t, filepath.Join(o.dir, from+ending)))
		}
	}
	return dir
}

// TestVerifyOfWhatIsNoFile ends, and says so: a pipe has no writer, and a device no end.
func TestVerifyOfWhatIsNoFile(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(path string) error{
		"pipe":   func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"folder": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		dir := t.TempDir()
		must(t, make(filepath.Join(dir, "tls.crt")))
		a := runCommand(t, dir, program, "verify", dir)
		if a.Code != 2 || !strings.Contains(a.Stderr, "not a regular file") {
			t.Errorf("%s: exit code %d, %q", name, a.Code, a.Stderr)
		}
	}
}
