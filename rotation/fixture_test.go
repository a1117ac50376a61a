package rotation_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshca/meshca/store"
)

// openSnapshot opens a copy of a store that Snapshot wrote.
func openSnapshot(t *testing.T, snapshot []byte) store.Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, snapshot, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenBolt(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fullStore takes no writes while it is full.
type fullStore struct {
	store.Store
	full    atomic.Bool
	refused atomic.Int32
}

func (f *fullStore) Update(fn func(store.Writer) error, came ...*store.Expected) error {
	if f.full.Load() {
		f.refused.Add(1)
		return errors.New("no space left on device")
	}
	return f.Store.Update(fn, came...)
}
