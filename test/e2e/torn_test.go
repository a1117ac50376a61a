package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestTornReads reads the sets of all services again and again while they are damaged and healed. A reader
// who reads ..data once and then the files below it sees a whole set each time: of one leaf, with its key and
// its mark, and with the one bundle. He never finds one absent, since a replaced folder stays for a while.
func TestTornReads(t *testing.T) {
	t.Parallel()
	const each = 8 // heals a service; from the 21st on they are metered
	began := time.Now()
	m := NewMesh(t, Settings{Sweep: "1s"})
	p := m.Start()
	CheckInvariants(t, m)
	store, err := readStore(m.Store())
	must(t, err)
	bundle := string(m.View("envoy").File[caFile])

	ctx, cancel := context.WithCancel(t.Context())
	readers := make([]*reader, len(m.Services))
	for i, service := range m.Services {
		readers[i] = &reader{dir: m.Path(service), bundle: bundle, identity: store.state, done: make(chan struct{})}
		go readers[i].run(ctx) // ends with ctx; waited for below
	}
	var replaced []View
	for n := range each {
		for i, service := range m.Services {
			replaced = append(replaced, provoke(t, m, p, service, []string{markFile, keyFile}[n%2]))
			readers[i].awaitRead(t, m.View(service).Data)
		}
	}
	cancel()
	for i, r := range readers {
		<-r.done
		t.Logf("%s: %d sets read", m.Services[i], r.reads)
		if r.err != nil {
			t.Errorf("%s: %v", m.Services[i], r.err)
		}
	}
	CheckInvariants(t, m)
	m.AwaitSweep(p)
	if time.Since(began) < 50*time.Second {
		checkStillThere(t, replaced)
	}
}

// checkStillThere sees that sets which were replaced less than a minute ago can still be read.
func checkStillThere(t *testing.T, replaced []View) {
	t.Helper()
	for _, v := range replaced {
		for name, content := range v.File {
			if now := readFile(t, filepath.Join(v.Data, name)); !bytes.Equal(now, content) {
				t.Errorf("%s has changed in %s", name, v.Data)
			}
		}
	}
}

// TestTidy: replaced folders go when nobody can be reading them any more, and nothing else goes.
func TestTidy(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{Sweep: "1s"})
	p := m.Start()
	CheckInvariants(t, m)
	const longReplaced, justReplaced = "..2020_01_01_00_00_00.000000000", "..2020_01_02_00_00_00.000000000"
	for _, name := range []string{longReplaced, justReplaced, "..tmp_theirs", "..not_ours", "2020"} {
		must(t, os.Mkdir(m.Path("pgadmin", name), 0o755))
	}
	must(t, os.Symlink(".", m.Path("pgadmin", "..tmp_ours"))) // a crash left it
	m.AwaitSweep(p)
	for name, want := range map[string]bool{longReplaced: false, justReplaced: true, "..tmp_ours": false, "..tmp_theirs": true, "..not_ours": true, "2020": true} {
		if _, err := os.Stat(m.Path("pgadmin", name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
	CheckInvariants(t, m)
}

// provoke makes the program replace a service's set, and waits until it has. What it removes is a link beside
// the set, which itself stays whole: the link to the mark, after which the leaf is kept, or the one to the key,
// after which it is new. It returns the set that was replaced.
func provoke(t *testing.T, m *Mesh, p *Process, service, link string) (before View) {
	t.Helper()
	before = m.View(service)
	remove(service, link)(t, m)
	p.Await("the set of "+service+" is replaced", func() error {
		v, err := readView(m.Path(service))
		if err == nil && v.Data == before.Data {
			err = errors.New("it is not")
		}
		return err
	})
	return before
}

// A reader reads one service's sets.
type reader struct {
	dir, bundle string
	identity    storeState
	seen        atomic.Value // the data folder that it has read last
	reads       int
	err         error
	done        chan struct{}
}

func (r *reader) run(ctx context.Context) {
	defer close(r.done)
	for ctx.Err() == nil && r.err == nil {
		v, err := readView(r.dir)
		if err != nil {
			r.err = fmt.Errorf("a set that is not there: %w", err)
			return
		}
		r.err = r.judge(v)
		r.reads++
		r.seen.Store(v.Data)
	}
}

// awaitRead waits until the reader has read a data folder, or found what it must not find.
func (r *reader) awaitRead(t *testing.T, data string) {
	t.Helper()
	await(t, "the reader has read "+data, func() error {
		select {
		case <-r.done:
			return nil
		default:
		}
		if seen := r.seen.Load(); seen != data {
			return fmt.Errorf("it has read %v", seen)
		}
		return nil
	})
}

// judge says why a set is not whole.
func (r *reader) judge(v View) error {
	pair, err := v.pair()
	if err != nil {
		return fmt.Errorf("a mixed set: %w", err)
	}
	if string(v.File[caFile]) != r.bundle {
		return errors.New("another bundle")
	}
	return inspectMark(&storeCopy{state: r.identity}, v, pair.Leaf)
}
