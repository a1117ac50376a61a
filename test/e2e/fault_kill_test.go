package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testLateWrite: the write of a process that was killed arrives when the next one has found that it never came, and
// has issued another certificate. What was in a Secret is not recorded as something that nobody has.
func testLateWrite(t *testing.T, k *kubernetes) {
	c := newCell(t, k, clusterSettings{})
	p := c.start()
	w := newWitness(c)
	v := newClusterVandal(t, c, w, 1)
	service := c.Services[0]
	killer := &clusterKiller{t: t, c: c, w: w, v: v}
	reached := killer.arm(1, delayed, func(x *exchange) bool { return x.Verb == "patch" && x.Resource == "secrets" })
	secretHarms["tls.key another"](v, service)
	p.Await("the write is on its way", reached.look)
	p.Kill()
	late := killer.delayed.Load()
	late.wait(t, "gone")
	c.gate.Do(onlyFirst(1, "patch", func(x *exchange) {
		if x.Name == secretName(service) {
			close(late.release)
			<-late.done
		}
		x.Pass()
	}))
	c.start()
	for _, err := range w.Judge() {
		t.Error(err)
	}
	t.Logf("records: %v", c.records())
}

// testClusterKill kills the program at its calls to the API server, before them and after them, at commits of its
// store, and at random, while Secrets are damaged. After each the next start finds out what was done: all Secrets
// stand, no reader has ever seen a half set, and nothing that anybody can have seen is without its record.
//
// MESHCA_KILL_ROUNDS is how many times, MESHCA_KILL_SEED repeats the points and the damage of a run.
func testClusterKill(t *testing.T, k *kubernetes) {
	const workers = 3
	rounds, seed := int64(number(t, "MESHCA_KILL_ROUNDS", 25)), number(t, "MESHCA_KILL_SEED", rand.Uint64())
	t.Logf("MESHCA_KILL_ROUNDS=%d MESHCA_KILL_SEED=%d", rounds, seed)
	var next, firsts atomic.Int64
	sum := &killSum{kinds: make(map[string]int)}
	tests := make(map[string]func(*testing.T))
	for i := range workers {
		tests[fmt.Sprint(i)] = func(t *testing.T) {
			k := &clusterKiller{t: t, api: k, rng: rand.New(rand.NewPCG(seed, uint64(i))), firsts: &firsts, sum: sum}
			for round := next.Add(1) - 1; round < rounds; round = next.Add(1) - 1 {
				began := time.Now()
				k.round(k.c == nil || round%4 == 0)
				t.Logf("round %d: %s, %s", round, k.did, since(began))
			}
			k.leave()
		}
	}
	atOnce(t, tests)
	t.Logf("%d rounds: %s", rounds, sum)
}

// A killSum is what a run has done, for people.
type killSum struct {
	mu                                  sync.Mutex
	kinds                               map[string]int // kills
	seen, foreign, records, undelivered int
}

func (s *killSum) add(kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds[kind]++
}

func (s *killSum) String() string {
	kills, words := 0, []string{}
	for _, kind := range slices.Sorted(maps.Keys(s.kinds)) {
		kills += s.kinds[kind]
		words = append(words, fmt.Sprintf("%d %s", s.kinds[kind], kind))
	}
	return fmt.Sprintf("%d kills (%s); %d versions of Secrets seen, %d of others; %d certificates, %d of them undelivered",
		kills, strings.Join(words, ", "), s.seen, s.foreign, s.records, s.undelivered)
}

// leave counts what is left of a mesh that is given up.
func (k *clusterKiller) leave() {
	k.t.Helper()
	if k.c == nil {
		return
	}
	k.p.Kill()
	records := k.c.records()
	seen, foreign := k.w.Versions()
	k.sum.mu.Lock()
	defer k.sum.mu.Unlock()
	k.sum.seen, k.sum.foreign = k.sum.seen+seen, k.sum.foreign+foreign
	k.sum.records += records["delivered"] + records["undelivered"] + records["issued"]
	k.sum.undelivered += records["undelivered"]
}

// A clusterKiller is one run of testClusterKill. Between rounds its mesh is served and sound.
type clusterKiller struct {
	t       *testing.T
	api     *kubernetes
	rng     *rand.Rand
	firsts  *atomic.Int64 // first starts so far: each is killed at a later call
	c       *cell
	w       *witness
	v       *clusterVandal
	p       *Process
	delayed atomic.Pointer[delayedCall] // set by the gate
	sum     *killSum
	did     string // in the newest round, for people
}

// clusterLively is a mesh in which leaves are renewed each minute.
var clusterLively = clusterSettings{Leaf: "lifetime: 10m, renewAt: 0.1, minRemaining: 1m", Schedule: "* * * * *"}

// A fate is what becomes of the call at which the program is killed.
type fate string

const (
	never      fate = "never arrives"
	afterDeath fate = "arrives when the program is dead"
	unanswered fate = "is done and not answered"
	delayed    fate = "arrives while the next process is at work"
)

var fates = []fate{never, afterDeath, unanswered, delayed}

// round kills once or twice, starts again and looks.
func (k *clusterKiller) round(first bool) {
	k.t.Helper()
	k.did = ""
	if first {
		k.leave()
		k.c = newCell(k.t, k.api, clusterLively)
		k.w = newWitness(k.c)
		k.v = newClusterVandal(k.t, k.c, k.w, k.rng.Uint64())
		n := int(k.firsts.Add(1))
		k.killStart(1+(n-1)/len(fates), fates[n%len(fates)], anyCall)
	} else {
		k.killAtWork()
	}
	if k.rng.IntN(3) == 0 {
		k.did += "; the next start: "
		k.killAnyStart()
	}
	k.settle(first)
}

// settle starts the program, lets what is still on its way arrive, and judges.
func (k *clusterKiller) settle(first bool) {
	k.t.Helper()
	k.p = k.c.start()
	if late := k.delayed.Swap(nil); late != nil {
		late.letGo()
		late.wait(k.t, "done")
		k.c.awaitStanding(k.p)
	}
	k.c.gate.Do(nil)
	for _, err := range k.w.Judge() {
		k.t.Errorf("after %s: %v", k.did, err)
	}
	if n := k.c.records(); first && n["issued"] > 0 {
		k.t.Errorf("after %s: of %d certificates it is not known whether anybody has them", k.did, n["issued"])
	}
	if k.t.Failed() {
		k.t.FailNow()
	}
}

func anyCall(x *exchange) bool      { return x.Verb != "watch" && x.Resource != "readyz" }
func onlyWrites(x *exchange) bool   { return x.writes() }
func notEvents(x *exchange) bool    { return anyCall(x) && x.Resource != "events" }
func (k *clusterKiller) fate() fate { return fates[k.rng.IntN(len(fates))] }

// killAtWork kills the program that serves while somebody damages its Secrets.
func (k *clusterKiller) killAtWork() {
	k.t.Helper()
	switch k.rng.IntN(4) {
	case 0:
		n := 1 + k.rng.IntN(6)
		k.did = fmt.Sprintf("killed at commit %d", n)
		k.killAtCommit(n, k.v.Strike)
	case 1:
		wait := time.Duration(k.rng.Int64N(int64(100 * time.Millisecond)))
		k.did = fmt.Sprintf("killed after %s", wait)
		k.v.Strike()
		k.v.Strike()
		time.Sleep(wait) // the random point
		k.kill(k.p, "at random")
	default:
		which, n, fate := onlyWrites, 1+k.rng.IntN(4), k.fate()
		if k.rng.IntN(3) == 0 {
			which = notEvents
		}
		k.did = fmt.Sprintf("killed at call %d, which %s", n, fate)
		at := k.arm(n, fate, which)
		for i := 0; i < 20 && at.look() != nil; i++ {
			k.v.Strike()
		}
		k.awaitPoint(at)
		k.kill(k.p, at.kind(fate))
	}
}

// killAnyStart kills a start at one point or another.
func (k *clusterKiller) killAnyStart() {
	k.t.Helper()
	switch k.rng.IntN(3) {
	case 0:
		n := 1 + k.rng.IntN(8)
		k.did += fmt.Sprintf("killed at commit %d", n)
		k.p = k.c.Serve()
		k.killAtCommit(n, func() {})
	case 1:
		wait := time.Duration(k.rng.Int64N(int64(150 * time.Millisecond)))
		k.did += fmt.Sprintf("killed after %s", wait)
		p := k.c.Serve()
		time.Sleep(wait) // the random point
		k.kill(p, "at random")
	default:
		k.killStart(1+k.rng.IntN(12), k.fate(), notEvents)
	}
}

// killStart starts the program and kills it at its n-th call, or when it serves and makes no more.
func (k *clusterKiller) killStart(n int, fate fate, which func(*exchange) bool) {
	k.t.Helper()
	k.did += fmt.Sprintf("start killed at call %d, which %s", n, fate)
	at := k.arm(n, fate, which)
	p := k.c.Serve()
	await(k.t, "the point is reached, or it serves", func() error {
		if p.Lines("serving") != nil {
			return nil
		}
		return at.look()
	})
	k.kill(p, at.kind(fate))
}

// awaitPoint waits until the point is reached, or until there is nothing left to do on the way to it.
func (k *clusterKiller) awaitPoint(at *point) {
	k.t.Helper()
	await(k.t, "the point is reached, or all is healed", func() error {
		if err := at.look(); err == nil {
			return nil
		}
		return errors.Join(k.c.inspect()...)
	})
}

// kill kills the program, which must not have ended on its own, and looks at what it left.
func (k *clusterKiller) kill(p *Process, kind string) {
	k.t.Helper()
	if p.Ended() {
		k.t.Fatalf("after %s: the process ended on its own with %d", k.did, p.cmd.ProcessState.ExitCode())
	}
	p.Kill()
	k.sum.add(kind)
	if k.delayed.Load() == nil {
		k.c.gate.Do(nil)
	}
	info, err := os.Stat(k.c.Store())
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return // killed before there was a store
	}
	s, err := readStore(k.c.Store())
	must(k.t, err)
	for _, err := range InspectRecords(k.c.Mesh, s) {
		k.t.Errorf("at the kill: %v", err)
	}
}

// A point is where the program is to be killed.
type point struct{ reached chan struct{} }

// look returns nil when it is reached.
func (p *point) look() error {
	select {
	case <-p.reached:
		return nil
	default:
		return errors.New("not yet")
	}
}

// kind says for people at what the program was killed: it may have had no more calls to make.
func (p *point) kind(fate fate) string {
	if p.look() != nil {
		return "when all was done"
	}
	return "at a call that " + string(fate)
}

// A delayedCall was made by a program that is dead, and arrives when release is closed.
type delayedCall struct {
	gone, release, done chan struct{}
	released            atomic.Bool
}

// letGo lets the call arrive, once.
func (d *delayedCall) letGo() {
	if d.released.CompareAndSwap(false, true) {
		close(d.release)
	}
}

// wait waits until the program is seen to be dead, or the call is done.
func (d *delayedCall) wait(t *testing.T, what string) {
	t.Helper()
	until := map[string]chan struct{}{"gone": d.gone, "done": d.done}[what]
	select {
	case <-until:
	case <-time.After(2 * patience):
		t.Fatalf("the delayed call is not %s", what)
	}
}

// arm has the gate stop the n-th call that fits, and sees to its fate.
func (k *clusterKiller) arm(n int, fate fate, which func(*exchange) bool) *point {
	at := &point{make(chan struct{})}
	var count atomic.Int64
	k.c.gate.Do(func(x *exchange) {
		if !which(x) {
			x.Pass()
			return
		}
		if count.Add(1) != int64(n) {
			x.Pass()
			return
		}
		switch fate {
		case afterDeath:
			close(at.reached)
			x.Gone()
			x.Ask()
		case unanswered:
			x.Ask()
			close(at.reached)
			x.Gone()
		case delayed:
			k.delay(x, at)
		default:
			close(at.reached)
			x.Gone()
		}
	})
	return at
}

// delay holds a call back until the next process has made some calls.
func (k *clusterKiller) delay(x *exchange, at *point) {
	d := &delayedCall{gone: make(chan struct{}), release: make(chan struct{}), done: make(chan struct{})}
	k.delayed.Store(d)
	after := int64(1)
	if k.rng != nil {
		after += k.rng.Int64N(16)
	}
	var count atomic.Int64
	k.c.gate.Do(func(next *exchange) {
		if notEvents(next) && count.Add(1) == after {
			d.letGo()
			<-d.done
		}
		next.Pass()
	})
	close(at.reached)
	x.Gone()
	close(d.gone)
	<-d.release
	x.Ask()
	close(d.done)
}

// killAtCommit kills the process that runs as soon as its store has committed n times.
func (k *clusterKiller) killAtCommit(n int, cause func()) {
	k.t.Helper()
	from := commits(k.c.Store())
	cause()
	for deadline := time.Now().Add(500 * time.Millisecond); time.Now().Before(deadline); {
		if commits(k.c.Store()) >= from+uint64(n) {
			break
		}
	}
	k.kill(k.p, "at a commit")
}

// commits is the number of the newest commit of a store file, as its two root pages have it; 0 where there is none.
func commits(path string) (newest uint64) {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	for _, page := range []int64{0, int64(os.Getpagesize())} {
		var id [8]byte
		if _, err := f.ReadAt(id[:], page+64); err == nil {
			newest = max(newest, binary.LittleEndian.Uint64(id[:]))
		}
	}
	return newest
}
