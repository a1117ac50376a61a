package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// TestNewFile: a name is taken by one, whole, and by nobody after it.
func TestNewFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tls.key")
	contents := [][]byte{bytes.Repeat([]byte("a"), 1<<16), bytes.Repeat([]byte("b"), 1<<16), bytes.Repeat([]byte("c"), 1<<16)}
	failed := make([]error, len(contents))
	var group sync.WaitGroup
	for i, content := range contents {
		group.Go(func() { failed[i] = newFile(path, content, 0o600) })
	}
	group.Wait()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i, content := range contents {
		if won := bytes.Equal(got, content); won != (failed[i] == nil) || !won && !errors.Is(failed[i], fs.ErrExist) {
			t.Errorf("content %c: %v, and the file holds %c", content[0], failed[i], got[0])
		}
	}
	if err := replaceFile(path, []byte("next"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "next" {
		t.Errorf("%q, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
