package ca_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/store/storetest"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// checkChain verifies what a founded CA promises, from its certificates alone.
func checkChain(t *testing.T, a *ca.Authority) {
	t.Helper()
	root, issuing := a.Root().Certificate, a.Issuing().Certificate
	if err := profile.Lint(profile.Root, root, root); err != nil {
		t.Errorf("root: %v", err)
	}
	if err := profile.Lint(profile.Issuing, issuing, root); err != nil {
		t.Errorf("issuing CA: %v", err)
	}
	if err := issuing.CheckSignatureFrom(root); err != nil {
		t.Error(err)
	}
	block, rest := pem.Decode(a.Bundle().PEM())
	if block == nil || len(rest) > 0 || !bytes.Equal(block.Bytes, root.Raw) {
		t.Errorf("the bundle is not exactly the root:\n%s", a.Bundle().PEM())
	}
}

func TestFoundAndOpen(t *testing.T) {
	for _, k := range profile.CAKeyTypes() {
		t.Run(string(k), func(t *testing.T) {
			f := catest.Empty(t)
			params := catest.Params
			params.Key = k
			founded, err := ca.Found(f.Store, f.Seal, params, now)
			if err != nil {
				t.Fatal(err)
			}
			checkChain(t, founded)
			opened, err := ca.Open(f.Store, f.Seal)
			if err != nil {
				t.Fatal(err)
			}
			checkChain(t, opened)
			if !opened.Root().Certificate.Equal(founded.Root().Certificate) || opened.Bundle().SHA256() != founded.Bundle().SHA256() ||
				opened.Identity() != founded.Identity() || opened.Epoch() != 1 {
				t.Error("the opened CA is another than the founded one")
			}
			if id, err := ca.StoreIdentity(f.SealPath); err != nil || id != founded.Identity() {
				t.Errorf("beside the seal lies identity %q (%v), want %q", id, err, founded.Identity())
			}
		})
	}
}

func TestFoundOnlyOnce(t *testing.T) {
	f := catest.New(t, now)
	if _, err := ca.Found(f.Store, f.Seal, catest.Params, now); err == nil {
		t.Fatal("a second CA was founded in one store")
	}
	if a, err := ca.Open(f.Store, f.Seal); err != nil || !a.Root().Certificate.Equal(f.Authority.Root().Certificate) {
		t.Errorf("the first CA is no longer there (%v)", err)
	}
}

func TestOpenEmpty(t *testing.T) {
	f := catest.Empty(t)
	if _, err := ca.Open(f.Store, f.Seal); !errors.Is(err, ca.ErrEmpty) {
		t.Errorf("an empty store: %v, want ErrEmpty", err)
	}
	if founded, err := ca.Founded(f.Store); err != nil || founded {
		t.Errorf("Founded = %t, %v", founded, err)
	}
}

// TestFoundSurvivesFaults: whatever becomes of the one write of a first start, the next start finds either
// nothing or the whole CA, and never a second one.
func TestFoundSurvivesFaults(t *testing.T) {
	for _, fault := range storetest.Faults() {
		t.Run(fault.String(), func(t *testing.T) {
			f := catest.Empty(t)
			if _, err := ca.Found(storetest.NewFaulty(f.Store, 1, fault), f.Seal, catest.Params, now); !errors.Is(err, storetest.ErrInjected) {
				t.Fatalf("founding: %v, want the fault", err)
			}
			a, err := ca.Open(f.Store, f.Seal)
			if fault == storetest.NotPersisted {
				if !errors.Is(err, ca.ErrEmpty) {
					t.Fatalf("nothing was persisted: %v", err)
				}
				if a, err = ca.Found(f.Store, f.Seal, catest.Params, now); err != nil {
					t.Fatal(err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
			checkChain(t, a)
		})
	}
}

func TestSealIsAnothers(t *testing.T) {
	f, other := catest.New(t, now), catest.New(t, now)
	if _, err := ca.Open(f.Store, other.Seal); !errors.Is(err, ca.ErrWrongSeal) || !strings.Contains(err.Error(), other.Authority.Identity()) {
		t.Errorf("another store's seal: %v", err)
	}
	// The key alone was exchanged; the identity beside it still says that it is ours.
	key, err := os.ReadFile(other.SealPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.SealPath, key, 0o600); err != nil {
		t.Fatal(err)
	}
	wrong, err := ca.OpenSeal(f.SealPath)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Open(f.Store, wrong); !errors.Is(err, ca.ErrWrongSeal) {
		t.Errorf("another key: %v", err)
	}
}

func TestOpenSealRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tc := range []struct{ path, want string }{
		{write("group", 32, 0o640), "mode 0640"},
		{write("world", 32, 0o604), "mode 0604"},
		{write("short", 31, 0o600), "31 bytes"},
		{write("empty", 0, 0o600), "0 bytes"},
		{dir, "not a regular file"},
		{filepath.Join(dir, "none"), "missing"},
	} {
		if _, err := ca.OpenSeal(tc.path); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.path) {
			t.Errorf("%s: %v, want %q", tc.path, err, tc.want)
		}
	}
	if _, err := ca.CreateSeal(filepath.Join(dir, "short")); err == nil {
		t.Error("a seal was made over a file")
	}
}

// rewrite changes the record at key.
func rewrite(t *testing.T, st store.Store, key string, change func(map[string]any)) {
	t.Helper()
	err := st.Update(func(w store.Writer) error {
		value, ok := w.Get(key)
		if !ok {
			t.Fatalf("no record %s", key)
		}
		var record map[string]any
		if err := json.Unmarshal(value, &record); err != nil {
			return err
		}
		change(record)
		value, err := json.Marshal(record)
		w.Put(key, value)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSealedKeysAreBound: a sealed key opens only in its own record.
func TestSealedKeysAreBound(t *testing.T) {
	f := catest.New(t, now)
	var rootKey any
	rewrite(t, f.Store, "ca/root/00000001", func(r map[string]any) { rootKey = r["sealedKey"] })
	rewrite(t, f.Store, "ca/issuing/00000001", func(r map[string]any) { r["sealedKey"] = rootKey })
	if _, err := ca.Open(f.Store, f.Seal); !errors.Is(err, ca.ErrWrongSeal) {
		t.Errorf("the root's key in the issuing CA's record: %v", err)
	}
}

func TestOpenChecksWhatItReads(t *testing.T) {
	other := catest.New(t, now)
	for name, tc := range map[string]struct {
		key, want string
		change    func(map[string]any)
	}{
		"issuing CA of another root": {"ca/issuing/00000001", "does not verify", func(r map[string]any) {
			r["certificate"] = other.Authority.Issuing().Certificate.Raw
		}},
		"another root": {"ca/root/00000001", "does not verify", func(r map[string]any) {
			r["certificate"] = other.Authority.Root().Certificate.Raw
		}},
		"no such root":       {"ca/state", "does not hold", func(r map[string]any) { r["trusted"] = []int{7} }},
		"no root trusted":    {"ca/state", "empty", func(r map[string]any) { r["trusted"] = []int{} }},
		"no such issuing CA": {"ca/state", "does not hold", func(r map[string]any) { r["issuing"] = 7 }},
		"torn certificate":   {"ca/root/00000001", "ca/root/00000001", func(r map[string]any) { r["certificate"] = []byte{1, 2} }},
	} {
		t.Run(name, func(t *testing.T) {
			f := catest.New(t, now)
			rewrite(t, f.Store, tc.key, tc.change)
			if _, err := ca.Open(f.Store, f.Seal); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// TestKeysAreSealed: no byte string in the CA's records parses as a private key.
func TestKeysAreSealed(t *testing.T) {
	f := catest.New(t, now)
	sealed := 0
	err := f.Store.View(func(r store.Reader) error {
		for key, value := range r.Scan(store.Prefix("")) {
			var record map[string]any
			if err := json.Unmarshal(value, &record); err != nil {
				return err
			}
			for field, v := range record {
				text, _ := v.(string)
				der, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					continue
				}
				if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
					t.Errorf("%s of %s is a private key", field, key)
				}
				if field == "sealedKey" {
					sealed++
				}
			}
		}
		return nil
	})
	if err != nil || sealed != 2 {
		t.Errorf("found %d sealed keys, want those of root and issuing CA (%v)", sealed, err)
	}
}

func TestCheckTime(t *testing.T) {
	a := catest.New(t, now).Authority
	for at, want := range map[time.Time]string{
		now:                            "",
		now.Add(-9 * time.Minute):      "", // backdated by twice the leaf's backdate
		now.Add(-11 * time.Minute):     "valid from",
		now.Add(2160*time.Hour + 1):    "issuing CA 1",
		now.Add(87600*time.Hour + 1e9): "root g1",
	} {
		err := a.CheckTime(at)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("at %s: %v, want %q", at, err, want)
		}
	}
}

func TestSigned(t *testing.T) {
	f, other := catest.New(t, now), catest.New(t, now)
	key, err := profile.ECDSAP256.Generate()
	if err != nil {
		t.Fatal(err)
	}
	issuing := f.Authority.Issuing()
	template, err := profile.LeafTemplate(profile.Identity{CommonName: "a", DNSNames: []string{"a"}, URI: profile.SPIFFEID("m", "d", "a")},
		key.Public(), profile.LeafWindow(now, time.Hour, 0, issuing.Certificate), issuing.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	der, err := issuing.Sign(template)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Authority.Signed(leaf) || other.Authority.Signed(leaf) {
		t.Errorf("Signed: by its own CA %t, by another %t", f.Authority.Signed(leaf), other.Authority.Signed(leaf))
	}
	if f.Authority.Signed(issuing.Certificate) {
		t.Error("the issuing CA's certificate passes for a leaf that it signed")
	}
}
