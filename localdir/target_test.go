package localdir_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshca/meshca/localdir"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
)

func TestTarget(t *testing.T) {
	targettest.Run(t, func(t testing.TB) targettest.Subject {
		root := filepath.Join(t.TempDir(), "mesh")
		return targettest.Subject{
			Target: localdir.New(root, time.Now),
			Tamper: func(t testing.TB, service, file string, content []byte) {
				t.Helper()
				path := filepath.Join(root, service, file)
				var err error
				if content == nil {
					err = os.Remove(path)
				} else {
					err = os.WriteFile(path, content, 0o644) // through the link
				}
				if err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// clock is a clock that tests move.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { return c.at }

func newTarget(t *testing.T) (target *localdir.Target, dir string, c *clock) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "mesh")
	c = &clock{time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	return localdir.New(root, c.now), filepath.Join(root, "pgadmin"), c
}

var material = rotation.Material{
	Cert: []byte("chain"), Key: []byte("key"), CA: []byte("bundle"),
	Mark: rotation.Mark{Store: "0011", Service: "pgadmin", Epoch: 1, Bundle: "aa", Serial: "7f"},
}

func write(t *testing.T, target *localdir.Target) {
	t.Helper()
	if err := target.Write(t.Context(), "pgadmin", material, nil); err != nil {
		t.Fatal(err)
	}
}

func observe(t *testing.T, target *localdir.Target) rotation.Observation {
	t.Helper()
	o, err := target.Observe(t.Context(), "pgadmin")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLayout(t *testing.T) {
	target, dir, _ := newTarget(t)
	write(t, target)
	for link, want := range map[string]string{
		"..data": "..2026_11_24_12_00_00.000000000", "tls.crt": "..data/tls.crt", "tls.key": "..data/tls.key",
		"ca.crt": "..data/ca.crt", "meshca.json": "..data/meshca.json",
	} {
		if got, err := os.Readlink(filepath.Join(dir, link)); err != nil || got != want {
			t.Errorf("%s leads to %q (%v), want %q", link, got, err, want)
		}
	}
	for file, want := range map[string]os.FileMode{"tls.crt": 0o644, "tls.key": 0o600, "ca.crt": 0o644, "meshca.json": 0o644, ".": 0o755, "..data": 0o755} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", file, info.Mode().Perm(), err, want)
		}
	}
}

// TestGroup: a folder with the setgid bit gives its files to its group, the key too.
func TestGroup(t *testing.T) {
	target, dir, _ := newTarget(t)
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.Chmod(dir, 0o755|os.ModeSetgid))
	write(t, target)
	if info, err := os.Stat(filepath.Join(dir, "tls.key")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("tls.key has mode %v (%v), want 0640", info.Mode().Perm(), err)
	}
	if o := observe(t, target); len(o.Deviations) > 0 {
		t.Errorf("deviations of what was just written: %+v", o.Deviations)
	}
}

// TestKeyInTheChain: a tls.crt of another CA that holds the key too is read by nobody who may not read the key.
func TestKeyInTheChain(t *testing.T) {
	target, dir, _ := newTarget(t)
	m := material
	m.Cert = []byte("chain\n-----BEGIN EC PRIVATE KEY-----\nkey\n-----END EC PRIVATE KEY-----\n")
	must(t, target.Write(t.Context(), "pgadmin", m, nil))
	if info, err := os.Stat(filepath.Join(dir, "tls.crt")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("tls.crt has mode %v (%v), want 0600", info.Mode().Perm(), err)
	}
	if o := observe(t, target); len(o.Deviations) > 0 {
		t.Errorf("deviations of what was just written: %+v", o.Deviations)
	}
}

// TestDeviations: each is seen, and put right by the next write.
func TestDeviations(t *testing.T) {
	for name, tc := range map[string]struct {
		tamper func(dir string) error
		file   string
	}{
		"mode of the key":      {func(d string) error { return os.Chmod(filepath.Join(d, "tls.key"), 0o644) }, "tls.key"},
		"mode of the bundle":   {func(d string) error { return os.Chmod(filepath.Join(d, "ca.crt"), 0o666) }, "ca.crt"},
		"mode of the data":     {func(d string) error { return os.Chmod(filepath.Join(d, "..data"), 0o777) }, "..data"},
		"a file for a link":    {func(d string) error { return replace(filepath.Join(d, "ca.crt"), "bundle") }, "ca.crt"},
		"spelling of the mark": {func(d string) error { return respell(filepath.Join(d, "meshca.json")) }, "meshca.json"},
		"a link past ..data": {func(d string) error {
			return relink(filepath.Join(d, "ca.crt"), "..2026_11_24_12_00_00.000000000/ca.crt")
		}, "ca.crt"},
		"..data leads up":        {func(d string) error { return relink(filepath.Join(d, "..data"), "..") }, ""},
		"..data leads elsewhere": {func(d string) error { return relink(filepath.Join(d, "..data"), "/tmp") }, ""},
		"..data is gone":         {func(d string) error { return os.Remove(filepath.Join(d, "..data")) }, ""},
		"..data is a folder":     {func(d string) error { return remakeData(d) }, ""},
		"a folder for a file":    {func(d string) error { return folder(filepath.Join(d, "tls.crt")) }, ""},
		"a loop":                 {func(d string) error { return relink(filepath.Join(d, "tls.crt"), "tls.crt") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			target, dir, c := newTarget(t)
			write(t, target)
			must(t, tc.tamper(dir))
			o := observe(t, target)
			if tc.file != "" {
				if len(o.Deviations) != 1 || o.Deviations[0].File != tc.file {
					t.Errorf("deviations %+v, want one of %s", o.Deviations, tc.file)
				}
			} else if string(o.Cert) == "chain" && string(o.CA) == "bundle" && o.Mark != nil && len(o.Deviations) == 0 {
				t.Error("nothing was noticed")
			}
			c.at = c.at.Add(time.Second)
			write(t, target)
			if o := observe(t, target); string(o.Cert) != "chain" || string(o.Key) != "key" || o.Mark == nil || len(o.Deviations) > 0 {
				t.Errorf("after the next write: %+v", o)
			}
		})
	}
}

func replace(path, content string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

func respell(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.ReplaceAll(string(data), "  ", "    ")), 0o644)
}

func relink(path, to string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Symlink(to, path)
}

func remakeData(dir string) error {
	if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
		return err
	}
	return os.Mkdir(filepath.Join(dir, "..data"), 0o755)
}

func folder(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Mkdir(path, 0o755)
}

// TestForeignFilesStay: what is not of the set is nobody's business here.
func TestForeignFilesStay(t *testing.T) {
	target, dir, _ := newTarget(t)
	must(t, os.MkdirAll(dir, 0o755))
	foreign := filepath.Join(dir, "dhparam.pem")
	must(t, os.WriteFile(foreign, []byte("theirs"), 0o600))
	if o := observe(t, target); !o.Empty() {
		t.Errorf("a folder with a foreign file holds a set: %+v", o)
	}
	write(t, target)
	must(t, target.Tidy(t.Context(), "pgadmin"))
	if data, err := os.ReadFile(foreign); err != nil || string(data) != "theirs" {
		t.Errorf("the foreign file: %q, %v", data, err)
	}
}

// TestWriteStaysInside: a link in the folder cannot lead a write out of it.
func TestWriteStaysInside(t *testing.T) {
	target, dir, _ := newTarget(t)
	write(t, target)
	outside := t.TempDir()
	must(t, relink(filepath.Join(dir, "..data"), outside))
	for _, file := range []string{"tls.key", "..tmp_tls.key", "..tmp_..data"} {
		_ = os.Remove(filepath.Join(dir, file))
		must(t, os.Symlink(filepath.Join(outside, "stolen"), filepath.Join(dir, file)))
	}
	write(t, target)
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside the folder there is %v (%v)", entries, err)
	}
	if o := observe(t, target); string(o.Key) != "key" || len(o.Deviations) > 0 {
		t.Errorf("after the write: %+v", o)
	}
}

// TestHostileContent: whatever stands in place of a file is foreign content, seen without waiting for it or
// following it out of the folder, and put right by the next write.
func TestHostileContent(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("SECRET"), 0o600))
	for name, put := range map[string]func(path string) error{
		"a pipe":                 func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"a link to a device":     func(path string) error { return os.Symlink("/dev/zero", path) },
		"a link to kernel files": func(path string) error { return os.Symlink("/proc/self/mem", path) },
		"a link out":             func(path string) error { return os.Symlink(secret, path) },
		"a huge file":            func(path string) error { return hugeFile(path) },
		"a folder":               func(path string) error { return os.MkdirAll(filepath.Join(path, "deep", "er"), 0o755) },
	} {
		for _, file := range []string{"tls.crt", "tls.key", "ca.crt", "meshca.json"} {
			t.Run(name+" for "+file, func(t *testing.T) {
				target, dir, c := newTarget(t)
				write(t, target)
				must(t, os.Remove(filepath.Join(dir, file)))
				must(t, put(filepath.Join(dir, file)))
				o := observe(t, target)
				for _, content := range [][]byte{o.Cert, o.Key, o.CA} {
					if bytes.Contains(content, []byte("SECRET")) || len(content) > 2<<20 {
						t.Errorf("%d bytes were read from outside", len(content))
					}
				}
				if string(o.Cert) == "chain" && string(o.Key) == "key" && string(o.CA) == "bundle" && o.Mark != nil && len(o.Deviations) == 0 {
					t.Error("nothing was noticed")
				}
				c.at = c.at.Add(time.Second)
				write(t, target)
				if o := observe(t, target); string(o.Key) != "key" || len(o.Deviations) > 0 {
					t.Errorf("after the next write: %+v", o)
				}
			})
		}
	}
}

// hugeFile makes a file of 20 GiB that is all hole.
func hugeFile(path string) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	return os.Truncate(path, 20<<30)
}

// TestTheFolderItself must be a folder: a link could lead anywhere, a pipe would be waited for.
func TestTheFolderItself(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"a link": func(path string) error { return os.Symlink(t.TempDir(), path) },
		"a pipe": func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"a file": func(path string) error { return os.WriteFile(path, nil, 0o644) },
	} {
		target, dir, _ := newTarget(t)
		must(t, os.MkdirAll(filepath.Dir(dir), 0o755))
		must(t, put(dir))
		if _, err := target.Observe(t.Context(), "pgadmin"); !errors.Is(err, rotation.ErrNotWritable) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v, want it named", name, err)
		}
		if err := target.Write(t.Context(), "pgadmin", material, nil); err == nil {
			t.Errorf("%s was written", name)
		}
		if err := target.Tidy(t.Context(), "pgadmin"); err != nil {
			t.Errorf("%s: tidy: %v", name, err)
		}
	}
}

// TestMarksAreStrict: words that others wrote are not taken for a mark, since marks are shown to people.
func TestMarksAreStrict(t *testing.T) {
	target, dir, _ := newTarget(t)
	write(t, target)
	path := filepath.Join(dir, "meshca.json")
	good, err := os.ReadFile(path)
	must(t, err)
	for _, bad := range []string{"\u001b[31m0011", "SECRET", strings.Repeat("0", 1000), ""} {
		must(t, os.WriteFile(path, bytes.Replace(good, []byte(`"0011"`), []byte(`"`+bad+`"`), 1), 0o644))
		if o := observe(t, target); o.Mark != nil {
			t.Errorf("store %.20q passes for a mark", bad)
		}
	}
}

// TestTidy: the replaced folder stays for readers for a minute after it was replaced, however old it is.
func TestTidy(t *testing.T) {
	target, dir, c := newTarget(t)
	count := func() int {
		t.Helper()
		must(t, target.Tidy(t.Context(), "pgadmin"))
		entries, err := os.ReadDir(dir)
		must(t, err)
		n := 0
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "..2") {
				n++
			}
		}
		return n
	}
	want := func(when string, n int) {
		t.Helper()
		if got := count(); got != n {
			t.Errorf("%s: %d data folders, want %d", when, got, n)
		}
	}
	write(t, target)
	c.at = c.at.Add(time.Hour)
	write(t, target)
	want("just replaced", 2)
	c.at = c.at.Add(59 * time.Second)
	want("replaced 59 s ago", 2)
	must(t, os.Symlink("nowhere", filepath.Join(dir, "..tmp_ca.crt")))
	must(t, os.Mkdir(filepath.Join(dir, "..2026_11_24_13_00_30.000000000"), 0o755)) // a crash left it
	c.at = c.at.Add(2 * time.Second)
	want("replaced 61 s ago", 1)
	if _, err := os.Lstat(filepath.Join(dir, "..tmp_ca.crt")); err == nil {
		t.Error("a temporary link stayed")
	}
	c.at = c.at.Add(-24 * time.Hour) // the clock goes back
	write(t, target)
	if o := observe(t, target); o.Mark == nil {
		t.Error("no set after the clock went back")
	}
}

// TestObserveNamesWhatCannotBeWritten: nothing may be issued for a place that cannot take it.
func TestObserveNamesWhatCannotBeWritten(t *testing.T) {
	root := filepath.Join(t.TempDir(), "mesh")
	must(t, os.WriteFile(root, []byte("a file"), 0o644))
	target := localdir.New(root, time.Now)
	if _, err := target.Observe(t.Context(), "pgadmin"); err == nil || !strings.Contains(err.Error(), root) {
		t.Errorf("a file in place of the folder: %v", err)
	}
	if err := target.Ready(t.Context()); err == nil {
		t.Error("ready, although there is a file in place of the folder")
	}
}
