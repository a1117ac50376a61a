package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// holdUp opens a store and begins an update that holds up its commit until n others wait for it; then it does
// what last says.
func holdUp(t *testing.T, group *sync.WaitGroup, n int, last func(b *Bolt)) *Bolt {
	t.Helper()
	b := openBolt(t)
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

func openBolt(t *testing.T) *Bolt {
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

// TestGroupWaits: a commit waits for who is expected, as long as one is and for a millisecond at most.
func TestGroupWaits(t *testing.T) {
	for name, tt := range map[string]struct {
		others  []other
		waits   time.Duration
		commits int
	}{
		"nobody is expected":          {nil, 0, 1},
		"one comes":                   {[]other{{expected: true, comes: us(300), gone: never}}, us(300), 1},
		"one gives up":                {[]other{{expected: true, comes: never, gone: us(300)}}, us(300), 1},
		"one never comes":             {[]other{{expected: true, comes: never, gone: us(5000)}}, us(1000), 1},
		"one is late":                 {[]other{{expected: true, comes: us(1500), gone: never}}, us(1000), 2},
		"the last is waited for":      {[]other{{expected: true, comes: us(300), gone: never}, {expected: true, comes: us(800), gone: never}}, us(800), 1},
		"whoever comes ends no wait":  {[]other{{expected: true, comes: us(700), gone: never}, {comes: us(200), gone: never}}, us(700), 1},
		"whoever comes begins none":   {[]other{{comes: us(200), gone: never}}, 0, 2},
		"one says twice that it came": {[]other{{expected: true, comes: us(300), gone: us(200)}, {expected: true, comes: us(600), gone: never}}, us(600), 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testGroupWaits(t, tt.others, tt.waits, tt.commits) })
		})
	}
}

// An other is an update beside the one that leads, by the time since that began.
type other struct {
	expected    bool
	comes, gone time.Duration // gone: Done without an update
}

const never = time.Duration(-1)

func us(n int) time.Duration { return time.Duration(n) * time.Microsecond }

func testGroupWaits(t *testing.T, others []other, waits time.Duration, commits int) {
	b := openBolt(t)
	before, began := txid(t, b), time.Now()
	var group sync.WaitGroup
	for i, o := range others {
		var expected *Expected
		if o.expected {
			expected = b.Expect()
		}
		group.Go(func() {
			if o.gone != never {
				time.Sleep(o.gone)
				expected.Done()
			}
			if o.comes != never {
				time.Sleep(o.comes - time.Since(began))
				mustPut(t, b, fmt.Sprint("other", i), expected)
			}
		})
	}
	mustPut(t, b, "first")
	if waited := time.Since(began); waited != waits {
		t.Errorf("waited for %s, want %s", waited, waits)
	}
	group.Wait()
	if n := txid(t, b) - before; n != commits {
		t.Errorf("%d commits, want %d", n, commits)
	}
	began = time.Now()
	if mustPut(t, b, "last"); time.Since(began) != 0 {
		t.Errorf("a lone one waits for %s afterwards", time.Since(began))
	}
}

// TestGroupIsFull: a group that can take no more waits for nobody.
func TestGroupIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group sync.WaitGroup
		b := holdUp(t, &group, maxGroup, func(*Bolt) {})
		b.Expect() // and never comes
		began, before := time.Now(), txid(t, b)
		for i := range maxGroup {
			group.Go(func() { mustPut(t, b, fmt.Sprint(i)) })
		}
		group.Wait()
		if waited := time.Since(began); waited != 0 || txid(t, b) != before+2 {
			t.Errorf("%d commits waited for %s, want 2 that wait for nobody", txid(t, b)-before, waited)
		}
	})
}

func mustPut(t *testing.T, b *Bolt, key string, came ...*Expected) {
	t.Helper()
	if err := b.Update(func(w Writer) error { w.Put(key, nil); return nil }, came...); err != nil {
		t.Error(err)
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
