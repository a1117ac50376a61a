// Package catest founds CAs for tests.
package catest

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// Params are the default lifetimes, with P-256 keys.
var Params = ca.Params{
	Key:             profile.ECDSAP256,
	RootLifetime:    87600 * time.Hour,
	IssuingLifetime: 2160 * time.Hour,
	LeafBackdate:    5 * time.Minute,
}

// A Fixture is a CA in a store of its own, with what is needed to open it again.
type Fixture struct {
	Store     store.Store
	Seal      *ca.Seal
	Authority *ca.Authority

	StorePath, SealPath string
}

// New founds a CA at now, in files that end with the test.
func New(t testing.TB, now time.Time) *Fixture {
	t.Helper()
	return NewWithKey(t, now, Params.Key)
}

// NewWithKey founds one with keys of a type.
func NewWithKey(t testing.TB, now time.Time, k profile.KeyType) *Fixture {
	t.Helper()
	f := Empty(t)
	params := Params
	params.Key = k
	var err error
	if f.Authority, err = ca.Found(f.Store, f.Seal, params, now); err != nil {
		t.Fatal(err)
	}
	return f
}

// Empty makes a store and a seal in which no CA was founded.
func Empty(t testing.TB) *Fixture {
	t.Helper()
	dir := t.TempDir()
	f := &Fixture{
		StorePath: filepath.Join(dir, "data", "meshca.db"),
		SealPath:  filepath.Join(dir, "seal", "seal.key"),
	}
	bolt, err := store.OpenBolt(f.StorePath, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	f.Store = bolt
	t.Cleanup(func() {
		if err := bolt.Close(); err != nil {
			t.Error(err)
		}
	})
	if f.Seal, err = ca.CreateSeal(f.SealPath); err != nil {
		t.Fatal(err)
	}
	return f
}

// ForgetRootCRL makes of the store one that was founded before there were CRLs, and opens it.
func ForgetRootCRL(t testing.TB, f *Fixture) {
	t.Helper()
	err := f.Store.Update(func(w store.Writer) error {
		const key = "ca/root/00000001"
		value, _ := w.Get(key)
		var record map[string]any
		if err := json.Unmarshal(value, &record); err != nil {
			return err
		}
		delete(record, "crl")
		value, err := json.Marshal(record)
		w.Put(key, value)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if f.Authority, err = ca.Open(f.Store, f.Seal); err != nil {
		t.Fatal(err)
	}
}
