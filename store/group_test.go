package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// holdUp opens a store and begins an update that holds up its commit until n others wait for it; then it does
// what last says.
func holdUp(t *testing.T, group *sync.WaitGroup, n int, last func(b *Bolt)) *Bolt {
	t.Helper()
	b, err := OpenBolt(filepath.Join(t.TempDir(), "a.db"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	begun := make(chan bool)
	group.Go(func() {
		if err := b.Update(func(Writer) error {
			close(begun)
			defer last(b)
			return awaitQueue(b, n)
		}); err != nil {
			t.Error(err)
		}
	})
	<-begun
	return b
}

func awaitQueue(b *Bolt, n int) error {
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		b.queue.mu.Lock()
		waiting := len(b.queue.waiting)
		b.queue.mu.Unlock()
		if waiting >= n {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d wait, want %d", waiting, n)
		}
	}
}

// TestGroup: whoever arrives during a commit joins the next; one that fails or panics fails alone, and what the
// others wrote is there, in one commit.
func TestGroup(t *testing.T) {
	const n = 20
	mine := errors.New("mine")
	results := make([]error, n)
	panics := make([]any, n)
	var group sync.WaitGroup
	b := holdUp(t, &group, n, func(*Bolt) {})
	before := txid(t, b)
	for i := range n {
		group.Go(func() {
			defer func() { panics[i] = recover() }()
			results[i] = b.Update(func(w Writer) error {
				w.Put(fmt.Sprint("key", i), []byte("value"))
				switch i {
				case 7:
					return mine
				case 8:
					panic("my panic")
				case 9:
					w.Put("", nil) // no key: the writer keeps that error
				}
				return nil
			})
		})
	}
	group.Wait()
	for i := range n {
		bad := i >= 7 && i <= 9
		if there := has(t, b, fmt.Sprint("key", i)); there == bad {
			t.Errorf("update %d: written %t", i, there)
		}
		switch {
		case i == 7 && results[i] != mine, i == 8 && panics[i] != "my panic", i == 9 && results[i] == nil:
			t.Errorf("update %d: %v, panic %v", i, results[i], panics[i])
		case !bad && (results[i] != nil || panics[i] != nil):
			t.Errorf("update %d: %v, panic %v", i, results[i], panics[i])
		}
	}
	if commits := txid(t, b) - before; commits > 2 {
		t.Errorf("%d commits for %d updates, want the first one's and one for all others", commits, n)
	}
}

// TestGroupFails: a commit that fails fails each of its callers, and the store goes on.
func TestGroupFails(t *testing.T) {
	const n = 5
	damage := errors.New("the disk is full")
	var group sync.WaitGroup
	b := holdUp(t, &group, n, func(b *Bolt) { b.damaged.Store(&damage) })
	for i := range n {
		group.Go(func() {
			if err := b.Update(func(w Writer) error { w.Put(fmt.Sprint(i), nil); return nil }); !errors.Is(err, damage) {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	group.Wait()
	b.damaged.Store(nil)
	if err := b.Update(func(w Writer) error { w.Put("after", nil); return nil }); err != nil || has(t, b, "0") {
		t.Errorf("after it: %v, or something of it was written", err)
	}
}

func has(t *testing.T, b *Bolt, key string) (there bool) {
	t.Helper()
	if err := b.View(func(r Reader) error { _, there = r.Get(key); return nil }); err != nil {
		t.Fatal(err)
	}
	return there
}

// txid is the number of the newest commit.
func txid(t *testing.T, b *Bolt) int {
	t.Helper()
	tx, err := b.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tx.Rollback(); err != nil {
			t.Error(err)
		}
	}()
	return tx.ID()
}
