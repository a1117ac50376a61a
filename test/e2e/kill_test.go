package e2e

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// lively is a mesh in which something happens all the time: a sweep each second, renewals each minute, and
// records that are pruned as soon as their certificates have expired.
var lively = Settings{
	Sweep:    "1s",
	Retain:   "0s",
	Leaf:     "lifetime: 90s, renewAt: 0.1, minRemaining: 1s, backdate: 9s",
	Schedule: "* * * * *",
}

// TestKill kills the program at random points and starts it again. Whatever it was doing, the next start
// serves at once, all folders stand, and no invariant is broken: at the kill those of the store, then all.
//
// MESHCA_KILL_ROUNDS is how many times, MESHCA_KILL_SEED repeats the points and the damage of a run.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds, seed := int(number(t, "MESHCA_KILL_ROUNDS", 25)), number(t, "MESHCA_KILL_SEED", rand.Uint64())
	t.Logf("MESHCA_KILL_ROUNDS=%d MESHCA_KILL_SEED=%d", rounds, seed)
	k := &killer{t: t, rng: rand.New(rand.NewPCG(seed, 0)), foreign: newForeignCA(t).PEM()}
	for round := range rounds {
		began := time.Now()
		k.round(round < rounds/4)
		t.Logf("round %d: %s, %d records, %s", round, k.did, k.records, time.Since(began).Round(time.Millisecond))
	}
}

// number reads a number from the environment.
func number(t *testing.T, name string, byDefault uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return byDefault
	}
	n, err := strconv.ParseUint(text, 10, 64)
	must(t, err)
	return n
}

// A killer is one run of TestKill. Between rounds its mesh is served and sound.
type killer struct {
	t       *testing.T
	rng     *rand.Rand
	foreign []byte
	m       *Mesh
	p       *Process
	did     string // in the newest round, for people
	records int
}

// round kills once or twice, starts again and looks.
func (k *killer) round(first bool) {
	k.t.Helper()
	first = first || k.m == nil
	if first {
		k.did = "first start killed"
		if k.p != nil {
			k.p.Kill()
		}
		k.m = NewMesh(k.t, lively)
		k.killStart()
	} else {
		k.did = "killed while healing"
		within := 300 * time.Millisecond
		if k.rng.IntN(8) == 0 {
			within = 1200 * time.Millisecond // long enough for a sweep of its own
		}
		k.killAtWork(within)
	}
	if k.rng.IntN(3) == 0 {
		k.did += ", next start killed too"
		k.killStart()
	}
	k.p = k.m.Start()
	CheckInvariants(k.t, k.m)
	s, err := readStore(k.m.Store())
	must(k.t, err)
	k.records = s.count()
	if first {
		checkSettled(k.t, s)
	}
}

// checkSettled sees that of each certificate it is known whether its key can be in use: where nobody but the
// program wrote, a start always finds out.
func checkSettled(t *testing.T, s *storeCopy) {
	t.Helper()
	for _, r := range s.records {
		if r.State == "issued" {
			t.Errorf("record %d of %s is still neither delivered nor undelivered", r.Seq, r.Service)
		}
	}
}

// killStart starts the program and kills it at a random point: after a while, or at a change of its folder.
func (k *killer) killStart() {
	k.t.Helper()
	if k.rng.IntN(2) == 0 {
		k.killAtChange(1 + k.rng.IntN(1+k.rng.IntN(80)))
		return
	}
	wait := time.Duration(k.rng.Int64N(int64(80 * time.Millisecond)))
	p := k.m.Serve()
	time.Sleep(wait) // the random point
	k.kill(p)
}

// killAtChange starts the program and kills it as soon as n things have come or gone in the mesh's folder, or
// when it serves.
func (k *killer) killAtChange(n int, flags ...string) {
	k.t.Helper()
	paths := pathsIn(k.m.Dir)
	p := k.m.Serve(flags...)
	for n > 0 && p.Lines("serving") == nil && !p.Ended() {
		now := pathsIn(k.m.Dir)
		n -= changes(paths, now) + changes(now, paths)
		paths = now
	}
	k.kill(p)
}

// pathsIn is what lies in a folder, at any depth, while somebody writes there.
func pathsIn(dir string) map[string]bool {
	paths := make(map[string]bool)
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error { paths[path] = true; return nil })
	return paths
}

// changes counts what is in one set and not in the other.
func changes(in, notIn map[string]bool) (n int) {
	for path := range in {
		if !notIn[path] {
			n++
		}
	}
	return n
}

// killAtWork kills the program that serves while somebody damages its folders.
func (k *killer) killAtWork(within time.Duration) {
	k.t.Helper()
	ctx, cancel := context.WithCancel(k.t.Context())
	v := &vandal{m: k.m, rng: rand.New(rand.NewPCG(k.rng.Uint64(), 0)), foreign: k.foreign}
	wait := v.rampage(k.t, ctx, 10*time.Millisecond)
	time.Sleep(time.Duration(k.rng.Int64N(int64(within)))) // the random point
	k.kill(k.p)
	cancel()
	wait()
}

// kill kills the program, which must not have ended on its own, and looks at what it left.
func (k *killer) kill(p *Process) {
	k.t.Helper()
	if p.Ended() {
		k.t.Fatalf("the process ended on its own with %d", p.cmd.ProcessState.ExitCode())
	}
	p.Kill()
	info, err := os.Stat(k.m.Store())
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return // killed before there was a store
	}
	s, err := readStore(k.m.Store())
	must(k.t, err)
	for _, err := range InspectRecords(k.m, s) {
		k.t.Errorf("at the kill: %v", err)
	}
}

// TestKillFirstStart kills first starts one after the other, each at a later change of the disk: at every one
// while seal, store and CA are made, then at every fourth, or at all of them in a long run.
func TestKillFirstStart(t *testing.T) {
	t.Parallel()
	all := number(t, "MESHCA_KILL_ROUNDS", 25) >= 100
	for n := 1; n <= 80; n++ {
		if n > 16 && n%4 != 0 && !all {
			continue
		}
		k := &killer{t: t, m: NewMesh(t, lively)}
		k.killAtChange(n)
		p := k.m.Start()
		CheckInvariants(t, k.m)
		s, err := readStore(k.m.Store())
		must(t, err)
		checkSettled(t, s)
		p.Kill()
		if t.Failed() {
			t.Fatalf("the first start was killed at change %d", n)
		}
	}
}

// TestKillNewRoot kills the founding of a new root over the folders of a lost one, each time at a later change
// of the disk. What follows is never a new root in silence: the next start refuses and leads to --accept
// again, or goes on with the root that was founded before the kill.
func TestKillNewRoot(t *testing.T) {
	t.Parallel()
	k := &killer{t: t, m: stopped(t)}
	for n := 1; n <= 10; n++ {
		removeStore(t, k.m)
		k.m.root = "" // another one from here on
		k.killAtChange(n, "--new-root", "--yes")
		founded := k.m.root != ""
		p := k.m.Serve()
		serves := p.AwaitDecision()
		if serves != founded {
			t.Errorf("killed at change %d: a root was founded before: %v; the next start serves: %v", n, founded, serves)
		}
		if !serves {
			if out := p.out.String(); p.Wait() != 1 || !strings.Contains(out, "start with --accept") {
				t.Errorf("exit code %d: %s", p.Wait(), out)
			}
			p = k.m.Start("--new-root", "--yes")
		}
		CheckInvariants(t, k.m)
		p.Stop()
	}
}
