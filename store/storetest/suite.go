// Package storetest holds what every backend of a store must do, and a store that fails on purpose.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshca/meshca/store"
)

// A Backend makes and reopens stores of one kind.
type Backend struct {
	// New makes an empty store; the test closes it.
	New func(t testing.TB) store.Store
	// Reopen closes the store and opens it again from what is durable.
	Reopen func(t testing.TB, s store.Store) store.Store
	// Restore opens a store from what Snapshot wrote.
	Restore func(t testing.TB, snapshot []byte) store.Store
}

// Run runs the suite.
func Run(t *testing.T, b Backend) {
	t.Run("ReadsWhatWasWritten", b.readsWhatWasWritten)
	t.Run("ReadsItsOwnWrites", b.readsItsOwnWrites)
	t.Run("FailedUpdateWritesNothing", b.failedUpdateWritesNothing)
	t.Run("BadKeySticks", b.badKeySticks)
	t.Run("ValuesAreCopies", b.valuesAreCopies)
	t.Run("Ranges", b.ranges)
	t.Run("ViewSeesOneInstant", b.viewSeesOneInstant)
	t.Run("UpdatesAreSerial", b.updatesAreSerial)
	t.Run("SurvivesReopening", b.survivesReopening)
	t.Run("SnapshotIsConsistent", b.snapshotIsConsistent)
	t.Run("BehavesLikeAMap", b.behavesLikeAMap)
}

func (b Backend) open(t testing.TB) store.Store {
	t.Helper()
	s := b.New(t)
	t.Cleanup(func() { mustClose(t, s) })
	return s
}

func mustClose(t testing.TB, s store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// put writes pairs in one Update.
func put(t testing.TB, s store.Store, pairs ...string) {
	t.Helper()
	err := s.Update(func(w store.Writer) error {
		for i := 0; i < len(pairs); i += 2 {
			w.Put(pairs[i], []byte(pairs[i+1]))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("update: %v", err)
	}
}

// scan reads a range as "key=value" strings.
func scan(t testing.TB, s store.Store, r store.Range) []string {
	t.Helper()
	found := []string{}
	err := s.View(func(tx store.Reader) error {
		for key, value := range tx.Scan(r) {
			found = append(found, key+"="+string(value))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("view: %v", err)
	}
	return found
}

func wantScan(t testing.TB, s store.Store, r store.Range, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), scan(t, s, r)); diff != "" {
		t.Errorf("scan of %+v (-want +got):\n%s", r, diff)
	}
}

func (b Backend) readsWhatWasWritten(t *testing.T) {
	s := b.open(t)
	put(t, s, "a", "1", "empty", "")
	err := s.View(func(r store.Reader) error {
		if v, ok := r.Get("a"); !ok || string(v) != "1" {
			t.Errorf("Get(a) = %q, %t; want 1, true", v, ok)
		}
		if v, ok := r.Get("empty"); !ok || len(v) != 0 {
			t.Errorf("Get(empty) = %q, %t; want an empty value that is there", v, ok)
		}
		if v, ok := r.Get("absent"); ok || v != nil {
			t.Errorf("Get(absent) = %q, %t; want nil, false", v, ok)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (b Backend) readsItsOwnWrites(t *testing.T) {
	s := b.open(t)
	put(t, s, "a", "1", "b", "2")
	err := s.Update(func(w store.Writer) error {
		w.Put("c", []byte("3"))
		w.Put("a", []byte("new"))
		w.Delete("b")
		w.Delete("absent")
		var keys []string
		for key, value := range w.Scan(store.Prefix("")) {
			keys = append(keys, key+"="+string(value))
		}
		if diff := cmp.Diff([]string{"a=new", "c=3"}, keys); diff != "" {
			t.Errorf("inside the update (-want +got):\n%s", diff)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantScan(t, s, store.Prefix(""), "a=new", "c=3")
}

func (b Backend) failedUpdateWritesNothing(t *testing.T) {
	s := b.open(t)
	put(t, s, "a", "1")
	refusal := errors.New("refused")
	err := s.Update(func(w store.Writer) error {
		w.Put("a", []byte("2"))
		w.Put("b", []byte("2"))
		return refusal
	})
	if !errors.Is(err, refusal) {
		t.Errorf("update returned %v, want the function's error", err)
	}
	wantScan(t, s, store.Prefix(""), "a=1")
}

func (b Backend) badKeySticks(t *testing.T) {
	s := b.open(t)
	for _, key := range []string{"", string(make([]byte, 1<<16))} {
		err := s.Update(func(w store.Writer) error {
			w.Put("good", []byte("1"))
			w.Put(key, []byte("1"))
			return nil
		})
		if err == nil {
			t.Errorf("a key of %d bytes was taken", len(key))
		}
	}
	wantScan(t, s, store.Prefix(""))
}

func (b Backend) valuesAreCopies(t *testing.T) {
	s := b.open(t)
	value := []byte("before")
	var got, scanned []byte
	err := s.Update(func(w store.Writer) error {
		w.Put("a", value)
		copy(value, "XXXXXX")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.View(func(r store.Reader) error {
		got, _ = r.Get("a")
		for _, v := range r.Scan(store.Prefix("a")) {
			scanned = v
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "after!") // what was read outlives the transaction
	copy(got, "Y")           // and may be changed
	if string(got) != "Yefore" || string(scanned) != "before" {
		t.Errorf("values read are %q and %q", got, scanned)
	}
	wantScan(t, s, store.Prefix(""), "a=after!")
}

func (b Backend) ranges(t *testing.T) {
	s := b.open(t)
	put(t, s, "a", "0", "p/1", "1", "p/2", "2", "p/3", "3", "p0", "4", "p\xff\xff", "5", "\xff", "6")
	wantScan(t, s, store.Prefix("p/"), "p/1=1", "p/2=2", "p/3=3")
	wantScan(t, s, store.Prefix("p/").Backwards(), "p/3=3", "p/2=2", "p/1=1")
	wantScan(t, s, store.Prefix("p\xff"), "p\xff\xff=5")
	wantScan(t, s, store.Prefix("\xff").Backwards(), "\xff=6")
	wantScan(t, s, store.Prefix("none"))
	wantScan(t, s, store.Prefix("none").Backwards())
	wantScan(t, s, store.Range{From: "p/2", To: "p0"}, "p/2=2", "p/3=3")
	wantScan(t, s, store.Range{From: "p/2", To: "p0", Descending: true}, "p/3=3", "p/2=2")
	wantScan(t, s, store.Range{From: "p/15"}.Backwards(), "\xff=6", "p\xff\xff=5", "p0=4", "p/3=3", "p/2=2")
	wantScan(t, s, store.Range{From: "p", To: "a"})
}

func (b Backend) viewSeesOneInstant(t *testing.T) {
	s := b.open(t)
	put(t, s, "a", "1", "b", "1")
	started, written := make(chan bool), make(chan bool)
	var seen []string
	var group sync.WaitGroup
	group.Go(func() {
		err := s.View(func(r store.Reader) error {
			first, _ := r.Get("a")
			close(started)
			<-written
			second, _ := r.Get("b")
			seen = []string{string(first), string(second)}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-started
	put(t, s, "a", "2", "b", "2") // a View does not hold up an Update
	close(written)
	group.Wait()
	if diff := cmp.Diff([]string{"1", "1"}, seen); diff != "" {
		t.Errorf("a view that began before the update (-want +got):\n%s", diff)
	}
}

func (b Backend) updatesAreSerial(t *testing.T) {
	s := b.open(t)
	const writers, each = 8, 25
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for range each {
				err := s.Update(func(w store.Writer) error {
					n, _ := w.Get("count")
					w.Put("count", append(n, '.'))
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if n := len(scan(t, s, store.Prefix("count"))[0]) - len("count="); n != writers*each {
		t.Errorf("%d of %d updates are there", n, writers*each)
	}
}

func (b Backend) survivesReopening(t *testing.T) {
	s := b.New(t)
	put(t, s, "a", "1", "b", "2")
	s = b.Reopen(t, s)
	defer mustClose(t, s)
	wantScan(t, s, store.Prefix(""), "a=1", "b=2")
}

func (b Backend) snapshotIsConsistent(t *testing.T) {
	s := b.open(t)
	put(t, s, "a", "0", "b", "0")
	stop := make(chan bool)
	var group sync.WaitGroup
	group.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				put(t, s, "a", fmt.Sprint(n), "b", fmt.Sprint(n))
			}
		}
	})
	var snapshot bytes.Buffer
	n, err := s.Snapshot(&snapshot)
	close(stop)
	group.Wait()
	if err != nil || n != int64(snapshot.Len()) {
		t.Fatalf("snapshot: %d bytes written, %d reported, error %v", snapshot.Len(), n, err)
	}
	restored := b.Restore(t, snapshot.Bytes())
	defer mustClose(t, restored)
	got := scan(t, restored, store.Prefix(""))
	if len(got) != 2 || got[0][2:] != got[1][2:] {
		t.Errorf("the snapshot mixes instants: %q", got)
	}
}

// behavesLikeAMap runs random transactions on the store and on a map, and compares.
func (b Backend) behavesLikeAMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := b.New(t)
		defer func() { mustClose(t, s) }()
		model := map[string]string{}
		key := rapid.StringMatching(`[ab]{1,3}`)
		for range rapid.IntRange(1, 8).Draw(rt, "transactions") {
			next := maps.Clone(model)
			fail := rapid.Bool().Draw(rt, "fail")
			err := s.Update(func(w store.Writer) error {
				for range rapid.IntRange(0, 5).Draw(rt, "writes") {
					k := key.Draw(rt, "key")
					if rapid.Bool().Draw(rt, "delete") {
						w.Delete(k)
						delete(next, k)
						continue
					}
					v := rapid.StringMatching(`[0-9]{0,3}`).Draw(rt, "value")
					w.Put(k, []byte(v))
					next[k] = v
				}
				if fail {
					return errors.New("no")
				}
				return nil
			})
			if (err != nil) != fail {
				rt.Fatalf("update: %v", err)
			}
			if !fail {
				model = next
			}
			if rapid.IntRange(0, 9).Draw(rt, "reopen") == 0 {
				s = b.Reopen(t, s)
			}
			compare(rt, t, s, model, key)
		}
	})
}

// compare scans a random range both ways, and looks for the same in the model.
func compare(rt *rapid.T, t *testing.T, s store.Store, model map[string]string, key *rapid.Generator[string]) {
	r := store.Range{From: key.Draw(rt, "from"), To: rapid.OneOf(rapid.Just(""), key).Draw(rt, "to")}
	want := []string{}
	for _, k := range slices.Sorted(maps.Keys(model)) {
		if k >= r.From && (r.To == "" || k < r.To) {
			want = append(want, k+"="+model[k])
		}
	}
	if diff := cmp.Diff(want, scan(t, s, r)); diff != "" {
		rt.Fatalf("range %+v (-want +got):\n%s", r, diff)
	}
	slices.Reverse(want)
	if diff := cmp.Diff(want, scan(t, s, r.Backwards())); diff != "" {
		rt.Fatalf("range %+v backwards (-want +got):\n%s", r, diff)
	}
}
