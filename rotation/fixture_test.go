package rotation_test

import (
	"os"
	"path/filepath"
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
