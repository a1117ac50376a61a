package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/store/storetest"
)

const timeout = 20 * time.Millisecond

func open(t testing.TB, path string) *store.Bolt {
	t.Helper()
	s, err := store.OpenBolt(path, timeout)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestBolt(t *testing.T) {
	paths := map[store.Store]string{}
	openAt := func(t testing.TB, path string) store.Store {
		s := open(t, path)
		paths[s] = path
		return s
	}
	storetest.Run(t, storetest.Backend{
		New: func(t testing.TB) store.Store { return openAt(t, filepath.Join(t.TempDir(), "data", "test.db")) },
		Reopen: func(t testing.TB, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openAt(t, paths[s])
		},
		Restore: func(t testing.TB, snapshot []byte) store.Store {
			path := filepath.Join(t.TempDir(), "restored.db")
			if err := os.WriteFile(path, snapshot, 0o600); err != nil {
				t.Fatal(err)
			}
			return openAt(t, path)
		},
	})
}

func TestBoltModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "test.db")
	defer open(t, path).Close()
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v (%v)", p, info.Mode().Perm(), want, err)
		}
	}
}

func TestBoltIsHeldByOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	defer open(t, path).Close()
	_, err := store.OpenBolt(path, timeout)
	if !errors.Is(err, store.ErrLocked) {
		t.Fatalf("a second opening: %v, want ErrLocked", err)
	}
	if _, statErr := os.Stat("/proc/locks"); statErr == nil && !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("%q does not name the holder's pid %d", err, os.Getpid())
	}
}

// TestBoltRefusesAnotherSchema: an older program must not write into a newer store, nor change it at all.
func TestBoltRefusesAnotherSchema(t *testing.T) {
	for _, version := range []uint64{0, store.Schema + 6} {
		t.Run(fmt.Sprint(version), func(t *testing.T) { refusesSchema(t, version) })
	}
}

func refusesSchema(t *testing.T, version uint64) {
	path := filepath.Join(t.TempDir(), "test.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	setSchema(t, path, version)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.OpenBolt(path, timeout)
	var schema *store.SchemaError
	if !errors.As(err, &schema) || schema.Is != version || schema.Want != store.Schema {
		t.Fatalf("opening a store of schema %d: %v", version, err)
	}
	for _, number := range []uint64{schema.Is, schema.Want} {
		if !strings.Contains(err.Error(), fmt.Sprintf("schema %d", number)) {
			t.Errorf("%q does not name schema %d", err, number)
		}
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the refused store was changed (%v)", err)
	}
}

func setSchema(t *testing.T, path string, version uint64) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), binary.BigEndian.AppendUint64(nil, version))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestBoltRefusesWhatIsNoStore(t *testing.T) {
	garbage := make([]byte, 64<<10)
	for i := range garbage {
		garbage[i] = byte(i * 7)
	}
	whole := filepath.Join(t.TempDir(), "whole.db")
	if err := open(t, whole).Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"garbage":   garbage,
		"text":      []byte("this is not a store\n"),
		"truncated": good[:3*os.Getpagesize()],
		"zeroed":    make([]byte, len(good)),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "test.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := store.OpenBolt(path, timeout)
			if err == nil {
				s.Close()
				t.Fatal("was opened")
			}
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%q does not name the file", err)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(content) {
				t.Errorf("the refused file was changed (%v)", err)
			}
		})
	}
}

// TestBoltMeetsDamage flips bits all over a store. Whatever they hit, opening, reading and writing end with
// what was written or with an error, never with a panic.
func TestBoltMeetsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := open(t, path)
	for i := range 300 {
		must(t, s.Update(func(w store.Writer) error {
			w.Put(fmt.Sprintf("key %03d", i), []byte(strings.Repeat("v", 200)))
			return nil
		}))
	}
	must(t, s.Close())
	good, err := os.ReadFile(path)
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	failed := 0
	for range 300 {
		damaged := bytes.Clone(good[:200<<10])
		page := random.IntN(len(damaged)/4096) * 4096
		for range 1 + random.IntN(8) {
			damaged[page+random.IntN(40)] ^= 1 << random.IntN(8) // headers and element tables
		}
		path := filepath.Join(t.TempDir(), "test.db")
		must(t, os.WriteFile(path, damaged, 0o600))
		if useDamaged(path) != nil {
			failed++
		}
	}
	if failed < 10 {
		t.Errorf("only %d of 300 damages were met: the test does not reach them", failed)
	}
}

// TestBoltLetsOthersPanic: a mistake in a caller's function is not the store's damage.
func TestBoltLetsOthersPanic(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "test.db"))
	defer s.Close()
	panics := func() (p any) {
		defer func() { p = recover() }()
		return s.Update(func(w store.Writer) error {
			w.Put("a", []byte("1"))
			for range w.Scan(store.Prefix("")) {
				panic("mine")
			}
			return nil
		})
	}
	if p := panics(); p != "mine" {
		t.Errorf("the function's panic became %v", p)
	}
	must(t, s.Update(func(w store.Writer) error {
		if _, ok := w.Get("a"); ok {
			t.Error("what it wrote is there")
		}
		return nil
	}))
}

// useDamaged opens, reads, and writes; it returns the first error.
func useDamaged(path string) error {
	s, err := store.OpenBolt(path, timeout)
	if err != nil {
		return err
	}
	defer s.Close()
	read := s.View(func(r store.Reader) error {
		for range r.Scan(store.Prefix("")) {
		}
		return nil
	})
	var wrote error
	for i := 0; i < 20 && wrote == nil; i++ {
		wrote = s.Update(func(w store.Writer) error {
			w.Put(fmt.Sprintf("key %03d", i*15), []byte("new"))
			return nil
		})
	}
	return errors.Join(read, wrote)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBoltRefusesAnotherProgramsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("somebody's"))
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenBolt(path, timeout); err == nil || !strings.Contains(err.Error(), "somebody's") {
		t.Errorf("another program's file: %v", err)
	}
}

func TestBoltExists(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(dir, "full")
	open(t, full).Close()
	for path, want := range map[string]bool{filepath.Join(dir, "none"): false, empty: false, full: true} {
		if got, err := store.BoltExists(path); err != nil || got != want {
			t.Errorf("BoltExists(%s) = %t, %v; want %t", path, got, err, want)
		}
	}
	if _, err := store.BoltExists(dir); err == nil {
		t.Error("a folder passes for a store")
	}
}
