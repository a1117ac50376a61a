package rotation_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/config"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/store/storetest"
	"github.com/meshca/meshca/verify"
)

var mesh = []string{"bookapi", "envoy", "pgadmin"}

const life = 720 * time.Hour

// world is an engine with what it works on. Its clock is the bubble's, plus skew.
type world struct {
	*catest.Fixture
	target *targettest.Memory
	store  store.Store // what the engine uses; faulty in some tests
	log    *logBuffer
	engine *rotation.Engine
	skew   atomic.Int64 // nanoseconds that the wall clock is off
	sweep  time.Duration
	retain time.Duration
	hold   time.Duration
	accept func(breaks []string) error
	names  []string
}

// logBuffer collects log lines.
type logBuffer struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(p)
}

// take returns the lines so far that hold the text, and forgets all.
func (l *logBuffer) take(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.lines.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	l.lines.Reset()
	return found
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Fixture: catest.New(t, time.Now()), target: &targettest.Memory{}, log: &logBuffer{}, names: mesh, sweep: time.Minute,
		retain: 2160 * time.Hour}
	w.store = w.Store
	return w
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }

func policies(names []string) []issuer.Policy {
	var list []issuer.Policy
	for _, name := range names {
		list = append(list, issuer.Policy{
			Service: name,
			Identity: profile.Identity{CommonName: name, DNSNames: []string{name},
				IPAddresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, URI: profile.SPIFFEID("mesh.local", "default", name)},
			Key: profile.ECDSAP256, Lifetime: life, Backdate: 5 * time.Minute, MinRemaining: time.Hour,
		})
	}
	return list
}

// start makes an engine as a new process would, and starts it.
func (w *world) start(t *testing.T) error {
	t.Helper()
	schedule, err := config.ParseSchedule("0 3 * * *", "UTC")
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ca.Open(w.Store, w.Seal)
	if err != nil {
		t.Fatal(err)
	}
	i := issuer.New(w.store, authority)
	i.SetCatalogue(policies(w.names))
	w.engine = rotation.New(rotation.Config{
		Store: w.store, Issuer: i, Target: w.target, Schedule: schedule, RenewAt: 0.667, Sweep: w.sweep,
		Retain: w.retain, HoldDown: w.hold, Accept: w.accept, Now: w.now, Log: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	return w.engine.Start(t.Context())
}

// run starts the engine and runs it until the returned stop, which waits for its end.
func (w *world) run(t *testing.T) (stop func()) {
	t.Helper()
	if err := w.start(t); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.engine.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

// check finds out, from target and store alone, whether every service has what it should: whole sets that
// go together, each leaf recorded for its service, and no serial twice.
func (w *world) check(t *testing.T) {
	t.Helper()
	i := issuer.New(w.Store, w.Authority)
	var services []verify.Service
	for _, name := range w.names {
		o, err := w.target.Observe(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, verify.Service{Name: name, Cert: o.Cert, Key: o.Key, CA: o.CA})
		leaf, _, err := i.Current(name, w.target.Subject(name))
		if err != nil || leaf == nil {
			t.Fatalf("%s has no current record (%v)", name, err)
		}
		if !bytes.Equal(o.Cert, leaf.Chain()) || !bytes.Equal(o.CA, w.Authority.Bundle().PEM()) {
			t.Errorf("%s does not hold its newest recorded leaf and the bundle", name)
		}
		if leaf.Record().State != issuer.Delivered {
			t.Errorf("%s: record is %s", name, leaf.Record().State)
		}
		if o.Mark == nil || o.Mark.Serial != leaf.Record().Serial || o.Mark.Store != w.Authority.Identity() {
			t.Errorf("%s: mark %+v", name, o.Mark)
		}
	}
	if report := verify.Check(services, w.now()); !report.OK() {
		t.Errorf("the services do not go together: %v %v", report.Findings, report.Refusals)
	}
}

func (w *world) serials(t *testing.T) map[string]string {
	t.Helper()
	serials := map[string]string{}
	for _, s := range w.engine.Status().Services {
		serials[s.Name] = s.Serial
	}
	return serials
}

func (w *world) status(t *testing.T, name string) rotation.ServiceStatus {
	t.Helper()
	for _, s := range w.engine.Status().Services {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no status of %s", name)
	return rotation.ServiceStatus{}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

func TestFirstStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		w.check(t)
		w.log.take("")
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		stop()
		w.check(t)
		if lines := w.log.take(""); len(lines) > 0 {
			t.Errorf("quiet hours logged %q", lines)
		}
		for _, name := range mesh {
			if n := w.target.Writes(name); n != 1 {
				t.Errorf("%s was written %d times", name, n)
			}
		}
	})
}

// TestRestartChangesNothing: a second start finds everything in order.
func TestRestartChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(t)()
		before := w.serials(t)
		time.Sleep(time.Hour)
		w.run(t)()
		for name, serial := range w.serials(t) {
			if serial != before[name] || w.target.Writes(name) != 1 {
				t.Errorf("%s: serial %s, then %s, in %d writes", name, before[name], serial, w.target.Writes(name))
			}
		}
	})
}

// TestRenewal: leaves are renewed in the first run of the schedule after they fall due, and not before.
func TestRenewal(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour // so that a month is simulated in a moment
		stop := w.run(t)
		defer stop()
		begin := time.Now()
		first := w.serials(t)
		due := map[string]time.Time{}
		for _, name := range mesh {
			due[name] = w.status(t, name).Due
			if at := due[name].Sub(begin); at > time.Duration(0.667*float64(life)) || at < time.Duration(0.6*float64(life)) {
				t.Errorf("%s is due after %s", name, at)
			}
		}
		renewed := map[string]time.Time{}
		for time.Since(begin) < life {
			time.Sleep(15 * time.Minute)
			synctest.Wait()
			for name, serial := range w.serials(t) {
				if serial != first[name] && renewed[name].IsZero() {
					renewed[name] = time.Now()
				}
			}
		}
		for _, name := range mesh {
			wait := renewed[name].Sub(due[name])
			if renewed[name].IsZero() || wait < 0 || wait > 24*time.Hour+15*time.Minute || renewed[name].UTC().Hour() != 3 {
				t.Errorf("%s was due at %s and renewed at %s", name, due[name], renewed[name])
			}
		}
		w.check(t)
		if lines := w.log.take("reason=renewal"); len(lines) != len(mesh) {
			t.Errorf("%d renewals, want one each:\n%s", len(lines), lines)
		}
		told := make(map[rotation.NoticeKind]int)
		for _, n := range w.target.Notices() {
			told[n.Kind]++
		}
		if want := map[rotation.NoticeKind]int{rotation.NoticeIssued: len(mesh), rotation.NoticeRenewed: len(mesh)}; !maps.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
	})
}

// TestMissedRunsAreCaughtUpOnce: after a pause over the due time and several runs, the start renews at once,
// and not again at the next run.
func TestMissedRunsAreCaughtUpOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		w.run(t)()
		first := w.serials(t)
		time.Sleep(life * 7 / 10)
		stop := w.run(t)
		for name, serial := range w.serials(t) {
			if serial == first[name] {
				t.Errorf("%s was not renewed at the start", name)
			}
		}
		w.check(t)
		w.log.take("")
		time.Sleep(48 * time.Hour)
		synctest.Wait()
		stop()
		if lines := w.log.take("issued"); len(lines) > 0 {
			t.Errorf("renewed again: %q", lines)
		}
	})
}

// TestSuspend: the wall clock counts, not the timers, which stand still while a laptop sleeps.
func TestSuspend(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		first := w.serials(t)
		w.skew.Store(int64(life * 7 / 10)) // the timers have not moved
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		for name, serial := range w.serials(t) {
			if serial == first[name] {
				t.Errorf("%s was not renewed after the wake-up", name)
			}
		}
		w.check(t)
	})
}

// TestExpiryAlwaysWins: what would expire before the next run is renewed when it is due.
func TestExpiryAlwaysWins(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		// Near its end the issuing CA clamps leaves to a few hours, shorter than the schedule's gap.
		end := w.Authority.Issuing().Certificate.NotAfter
		time.Sleep(time.Until(end) - 6*time.Hour)
		stop := w.run(t)
		defer stop()
		due := w.status(t, "pgadmin").Due
		first := w.serials(t)["pgadmin"]
		time.Sleep(time.Until(due) - time.Second)
		synctest.Wait()
		if w.serials(t)["pgadmin"] != first {
			t.Error("renewed before it was due")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if w.serials(t)["pgadmin"] == first {
			t.Errorf("not renewed although it was due at %s and the next run is later than its end", due)
		}
		w.check(t)
	})
}

func TestClockGoesBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		w.log.take("")
		time.Sleep(10 * time.Hour)
		w.skew.Store(int64(-8 * time.Minute))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if lines := w.log.take("the clock went back"); len(lines) != 1 {
			t.Errorf("said %d times that the clock went back: %q", len(lines), lines)
		}
		stop()
	})
}

// TestClockWentBackOverARestart is noticed by the last run that the store remembers.
func TestClockWentBackOverARestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		stop := w.run(t)
		time.Sleep(100 * time.Hour)
		synctest.Wait()
		stop()
		w.skew.Store(int64(-98 * time.Hour))
		stop = w.run(t)
		if lines := w.log.take("the clock went back"); len(lines) != 1 {
			t.Errorf("said %d times that the clock went back: %q", len(lines), lines)
		}
		first := w.serials(t)["pgadmin"]
		time.Sleep(life * 7 / 10)
		synctest.Wait()
		stop()
		if w.serials(t)["pgadmin"] == first {
			t.Error("the schedule waits for a future that was never reached")
		}
		w.check(t)
	})
}

func TestHeal(t *testing.T) {
	for name, tc := range map[string]struct {
		change   func(*rotation.Observation)
		file     string
		keepLeaf bool
	}{
		"foreign bundle":  {func(o *rotation.Observation) { o.CA = []byte("foreign") }, rotation.CAFile, true},
		"bundle removed":  {func(o *rotation.Observation) { o.CA = nil }, rotation.CAFile, true},
		"chain emptied":   {func(o *rotation.Observation) { o.Cert = []byte{} }, rotation.CertFile, true},
		"chain removed":   {func(o *rotation.Observation) { o.Cert = nil }, rotation.CertFile, true},
		"key removed":     {func(o *rotation.Observation) { o.Key = nil }, rotation.KeyFile, false},
		"key exchanged":   {func(o *rotation.Observation) { o.Key = []byte("foreign") }, rotation.KeyFile, false},
		"all removed":     {func(o *rotation.Observation) { *o = rotation.Observation{} }, rotation.KeyFile, false},
		"key with more":   {func(o *rotation.Observation) { o.Key = append(o.Key, "more"...) }, rotation.KeyFile, true},
		"a monstrous key": {func(o *rotation.Observation) { o.Key = append(bytes.Repeat([]byte("#\n"), 1<<19), o.Key...) }, rotation.KeyFile, false},
		"mark removed":    {func(o *rotation.Observation) { o.Mark = nil }, "mark", true},
		"another's mark":  {func(o *rotation.Observation) { m := *o.Mark; m.Store = "ff"; o.Mark = &m }, "mark", true},
		"a later epoch":   {func(o *rotation.Observation) { m := *o.Mark; m.Epoch = 9; o.Mark = &m }, "mark", true},
		"a mode, say": {func(o *rotation.Observation) {
			o.Deviations = []rotation.Deviation{{File: "x", Seen: "mode 0666", Wanted: "0600"}}
		}, "x", true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				stop := w.run(t)
				defer stop()
				before := w.serials(t)
				w.log.take("")
				w.target.Change("pgadmin", tc.change)
				synctest.Wait()
				w.check(t)
				after := w.serials(t)
				if (after["pgadmin"] == before["pgadmin"]) != tc.keepLeaf {
					t.Errorf("leaf %s, then %s; kept should be %t", before["pgadmin"], after["pgadmin"], tc.keepLeaf)
				}
				if after["envoy"] != before["envoy"] || w.target.Writes("envoy") != 1 {
					t.Error("envoy was touched")
				}
				lines := w.log.take("healed")
				if len(lines) != 1 || !strings.Contains(lines[0], "service=pgadmin") || !strings.Contains(lines[0], tc.file) {
					t.Errorf("log lines %q, want one that names pgadmin and %s", lines, tc.file)
				}
				if s := w.status(t, "pgadmin"); s.Healed != 1 || s.ForeignWrites != 1 || s.State != rotation.StateKept {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// TestHealsAreMetered: whoever fights over a set gets twenty heals, then one every five seconds, and the
// status says so from the third on.
func TestHealsAreMetered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		tamper := func() {
			w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA = []byte("foreign") })
			synctest.Wait()
		}
		for n := 1; n <= 3; n++ {
			tamper()
			if want := n >= 3; (w.status(t, "pgadmin").State == rotation.StateAlarm) != want {
				t.Errorf("after %d foreign writes: %+v", n, w.status(t, "pgadmin"))
			}
		}
		if lines := w.log.take("again and again"); len(lines) != 1 {
			t.Errorf("said %d times that somebody is at work", len(lines))
		}
		for range 17 {
			tamper()
		}
		w.check(t)
		tamper()
		if s := w.status(t, "pgadmin"); s.Healed != 20 || s.State != rotation.StateFailing || s.Hint == "" {
			t.Errorf("after 21 foreign writes in no time: %+v", s)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		w.check(t)
		if s := w.status(t, "pgadmin"); s.Healed != 21 {
			t.Errorf("five seconds later: %+v", s)
		}
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		if s := w.status(t, "pgadmin"); s.State != rotation.StateKept || s.ForeignWrites != 0 {
			t.Errorf("eleven quiet minutes later: %+v", s)
		}
	})
}

// TestSweepFindsWhatNoWatchTold: events can be lost.
func TestSweepFindsWhatNoWatchTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		w.target.Change("pgadmin", func(o *rotation.Observation) {})
		synctest.Wait()
		stop()
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA = nil }) // nobody watches
		if err := w.start(t); err != nil {
			t.Fatal(err)
		}
		w.check(t)
	})
}

// TestAnotherMeshcasPlace: at a start it stops everything before anything is written.
func TestAnotherMeshcasPlace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		other := newWorld(t)
		other.run(t)()
		foreign, err := other.target.Observe(t.Context(), "pgadmin")
		if err != nil {
			t.Fatal(err)
		}
		w.target.Change("pgadmin", func(o *rotation.Observation) { *o = foreign })
		err = w.start(t)
		var refused *rotation.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), other.Authority.Identity()) || len(refused.Refusals) != 1 {
			t.Fatalf("start: %v", err)
		}
		for _, name := range mesh {
			if w.target.Writes(name) != 0 {
				t.Errorf("%s was written", name)
			}
		}
	})
}

// TestAnothersPlace is not touched, and the others are served.
func TestAnothersPlace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.target.Change("pgadmin", func(o *rotation.Observation) {
			o.Key, o.CA, o.Foreign, o.Mark = []byte("theirs"), []byte("theirs"), theirs, forged("0011") // as anybody can
		})
		stop := w.run(t)
		if s := w.status(t, "pgadmin"); s.State != rotation.StateRefused || s.Hint == "" || w.target.Writes("pgadmin") != 0 {
			t.Errorf("status %+v after %d writes", s, w.target.Writes("pgadmin"))
		}
		if w.target.Writes("envoy") != 1 {
			t.Error("the others were not served")
		}
		w.target.Change("pgadmin", func(o *rotation.Observation) { *o = rotation.Observation{} }) // moved away
		synctest.Wait()
		stop()
		w.check(t)
	})
}

// theirs is what a target says of a place that another program writes.
var theirs = rotation.Obstacle{Reason: "is written by cert-manager", Hint: "delete its Certificate"}

// TestOldStore: a leaf of our own CA without a record shows that the store was put back to an older copy.
func TestOldStore(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.fallBehind(t)
		before := w.target.Writes("pgadmin")
		err := w.start(t)
		var refused *rotation.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "the store is older") {
			t.Errorf("start: %v", err)
		}
		if w.target.Writes("pgadmin") != before {
			t.Error("it was written all the same")
		}
	})
}

// fallBehind leaves a store that is older than what the places hold: a copy of before pgadmin got a new leaf.
func (w *world) fallBehind(t *testing.T) {
	t.Helper()
	w.run(t)()
	old := w.snapshot(t)
	stop := w.run(t)
	w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil })
	synctest.Wait()
	stop()
	w.restore(t, old)
}

// restore replaces the store by an older copy.
func (w *world) restore(t *testing.T, snapshot []byte) {
	t.Helper()
	w.Store = openSnapshot(t, snapshot)
	w.store = w.Store
}

// TestFaults breaks each write of a life with a first start, a heal with a new leaf and a catalogue change,
// in both ways, then starts again. Every invariant holds after it, and nothing was forgotten.
func TestFaults(t *testing.T) {
	for _, fault := range storetest.Faults() {
		for n := 1; ; n++ {
			reached := true
			t.Run(fmt.Sprintf("%s, write %d", fault, n), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					faulty := storetest.NewFaulty(w.Store, n, fault)
					w.store = faulty
					w.live(t)
					reached = faulty.Updates() >= n
					w.store = w.Store
					stop := w.run(t)
					synctest.Wait()
					stop()
					w.check(t)
				})
			})
			if !reached {
				break
			}
		}
	}
}

// live runs through a start, a heal with a new leaf, and a retry after whatever fails; it may fail anywhere.
func (w *world) live(t *testing.T) {
	t.Helper()
	if err := w.start(t); err != nil {
		return // as a process that ends
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.engine.Run(ctx) }()
	synctest.Wait()
	w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil })
	time.Sleep(20 * time.Second)
	synctest.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}

// TestTargetFails: a write that fails, before or after it took effect, is settled and tried again.
func TestTargetFails(t *testing.T) {
	for _, written := range []bool{false, true} {
		t.Run(fmt.Sprintf("written=%t", written), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var failures atomic.Int32
				w.target.Fail = func(service string) (error, bool) {
					if service == "pgadmin" && failures.Add(1) <= 2 {
						return targettest.ErrDown, written
					}
					return nil, true
				}
				stop := w.run(t)
				if s := w.status(t, "pgadmin"); s.State != rotation.StateFailing || !strings.Contains(s.Error, "down") {
					t.Errorf("status %+v", s)
				}
				if s := w.status(t, "envoy"); s.State != rotation.StateKept {
					t.Errorf("envoy: %+v", s)
				}
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if s := w.status(t, "pgadmin"); s.Issued != 1 {
					t.Errorf("%d leaves were issued for one service: the first one's key was at hand all the time", s.Issued)
				}
				stop()
				w.check(t)
			})
		})
	}
}

// TestUnreachableTarget: nothing is issued for a place that cannot take it; the error is logged once.
func TestUnreachableTarget(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var down atomic.Bool
		down.Store(true)
		w.target.Unreachable = func(service string) error {
			if down.Load() && service == "pgadmin" {
				return targettest.ErrDown
			}
			return nil
		}
		stop := w.run(t)
		defer stop()
		time.Sleep(time.Hour)
		synctest.Wait()
		if lines := w.log.take("service not kept"); len(lines) != 1 {
			t.Errorf("the same error was logged %d times", len(lines))
		}
		if leaf, known, err := issuer.New(w.Store, w.Authority).Current("pgadmin", "pgadmin"); leaf != nil || known || err != nil {
			t.Errorf("a leaf was issued for a target that is away (%v)", err)
		}
		down.Store(false)
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		w.check(t)
		if lines := w.log.take("kept again"); len(lines) != 1 {
			t.Errorf("said %d times that it is kept again", len(lines))
		}
	})
}

// TestARunIsNotLostToAFailure: a renewal that failed in a run is tried again soon, not at the next run.
func TestARunIsNotLostToAFailure(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		var down atomic.Bool
		w.target.Unreachable = func(service string) error {
			if down.Load() && service == "pgadmin" {
				return targettest.ErrDown
			}
			return nil
		}
		w.run(t)()
		first := w.serials(t)["pgadmin"]
		time.Sleep(life * 7 / 10)
		down.Store(true)
		stop := w.run(t) // catches up the missed runs, and cannot
		defer stop()
		down.Store(false)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if w.serials(t)["pgadmin"] == first {
			t.Error("the renewal waits for the next run")
		}
		w.check(t)
	})
}

// TestRefusedAfterAFailure: a place that could not be read and then turns out not to be ours is looked at in
// the sweep, and not without end.
func TestRefusedAfterAFailure(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		var down atomic.Bool
		var looks atomic.Int32
		down.Store(true)
		w.target.Unreachable = func(service string) error {
			looks.Add(1)
			if down.Load() && service == "pgadmin" {
				return targettest.ErrDown
			}
			return nil
		}
		stop := w.run(t)
		defer stop()
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Key, o.Foreign = []byte("theirs"), theirs })
		down.Store(false)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if s := w.status(t, "pgadmin"); s.State != rotation.StateRefused {
			t.Errorf("status %+v", s)
		}
		before := looks.Load()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if n := looks.Load() - before; n > 10*int32(len(mesh)) {
			t.Errorf("%d looks in ten hours of hourly sweeps", n)
		}
	})
}

// TestClockWasAhead: a leaf that is not valid yet is replaced as soon as the clock is right.
func TestClockWasAhead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.skew.Store(int64(48 * time.Hour))
		w.run(t)()
		w.skew.Store(0)
		stop := w.run(t)
		stop()
		w.check(t)
		if lines := w.log.take("not valid yet"); len(lines) != len(mesh) {
			t.Errorf("%d leaves were replaced, want all", len(lines))
		}
	})
}

// TestAFailedHealIsOneForeignWrite, however often it is tried.
func TestAFailedHealIsOneForeignWrite(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		var failures atomic.Int32
		w.target.Fail = func(string) (error, bool) {
			if failures.Add(1) <= 4 {
				return targettest.ErrDown, false
			}
			return nil, true
		}
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA = nil })
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		w.check(t)
		if s := w.status(t, "pgadmin"); s.ForeignWrites != 1 || s.State != rotation.StateKept {
			t.Errorf("status %+v", s)
		}
	})
}

// TestOurMarkWithoutARecord: the store was put back to before it knew the service.
func TestOurMarkWithoutARecord(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		old := w.snapshot(t)
		w.run(t)()
		for _, name := range mesh {
			w.target.Change(name, func(o *rotation.Observation) { o.Cert = nil })
		}
		w.restore(t, old)
		err := w.start(t)
		var refused *rotation.RefusedError
		if !errors.As(err, &refused) || len(refused.Refusals) != len(mesh) || !strings.Contains(err.Error(), "the store is older") {
			t.Errorf("start: %v", err)
		}
	})
}

// TestFullDisk: a store that takes no writes is said, does not spin, and is tried again.
func TestFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.sweep = time.Hour
		w.run(t)()
		full := &fullStore{Store: w.Store}
		w.store = full
		time.Sleep(life * 7 / 10)
		full.full.Store(true)
		stop := w.run(t)
		defer stop()
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := full.refused.Load(); n == 0 || n > 1000 {
			t.Errorf("%d writes were tried in a day", n)
		}
		if s := w.status(t, "pgadmin"); s.State != rotation.StateFailing {
			t.Errorf("status %+v", s)
		}
		full.full.Store(false)
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		w.check(t)
	})
}

func TestReload(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		before := w.serials(t)
		list := policies([]string{"envoy", "pgadmin", "timescaledb"})
		list[1].Identity.DNSNames = append(list[1].Identity.DNSNames, "pgadmin.new")
		if err := w.engine.Reload(t.Context(), list, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.names = []string{"envoy", "pgadmin", "timescaledb"}
		w.check(t)
		after := w.serials(t)
		if after["envoy"] != before["envoy"] || after["pgadmin"] == before["pgadmin"] {
			t.Errorf("before %v, after %v: pgadmin's names have changed, envoy's have not", before, after)
		}
		if _, still := after["bookapi"]; still || len(w.log.take("removed from the catalogue")) != 1 {
			t.Error("bookapi was removed, and that is said once")
		}
		if o, err := w.target.Observe(t.Context(), "bookapi"); err != nil || o.Empty() {
			t.Errorf("what bookapi had is gone (%v)", err)
		}
		w.target.Change("bookapi", func(o *rotation.Observation) { o.CA = nil })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if o, _ := w.target.Observe(t.Context(), "bookapi"); o.CA != nil {
			t.Error("bookapi is still kept")
		}
	})
}

// TestReloadWaitsForThePass: a target is told of the new places when nobody is at work on the old ones.
func TestReloadWaitsForThePass(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		reached, goOn := make(chan struct{}), make(chan struct{})
		var atWork, prepared atomic.Bool
		w.target.Fail = func(string) (error, bool) {
			atWork.Store(true)
			close(reached)
			<-goOn
			atWork.Store(false)
			return nil, true
		}
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA = nil })
		<-reached
		done := make(chan error)
		go func() {
			done <- w.engine.Reload(t.Context(), policies([]string{"envoy"}), func() {
				prepared.Store(true)
				if atWork.Load() {
					t.Error("the places were replaced in the middle of a pass")
				}
			})
		}()
		synctest.Wait()
		if prepared.Load() {
			t.Error("the places were replaced before the pass had ended")
		}
		close(goOn)
		if err := <-done; err != nil || !prepared.Load() {
			t.Errorf("prepared is %v (%v)", prepared.Load(), err)
		}
		synctest.Wait()
		w.names = []string{"envoy"}
		w.check(t)
	})
}

// TestNotReadyBeforeTheFirstPass: a process that has not looked at all places yet says so, and what is away.
func TestNotReadyBeforeTheFirstPass(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var asked error
		w.target.Unreachable = func(service string) error {
			if service == "pgadmin" && asked == nil {
				asked = w.engine.Ready(t.Context())
			}
			return targettest.ErrDown
		}
		stop := w.run(t)
		defer stop()
		if asked == nil || !strings.Contains(asked.Error(), "starting: ") || !strings.Contains(asked.Error(), "target: ") {
			t.Errorf("ready while it starts: %v", asked)
		}
		if err := w.engine.Ready(t.Context()); err == nil || strings.Contains(err.Error(), "starting: ") {
			t.Errorf("ready later: %v", err)
		}
	})
}

// TestOrderInALongPass: an order that is not taken before its context ends is not done later.
func TestOrderInALongPass(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		defer stop()
		w.target.Fail = func(string) (error, bool) { time.Sleep(time.Minute); return nil, true }
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.CA = nil })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		taken := false
		if err := w.engine.Reload(ctx, policies(mesh), func() { taken = true }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if w.check(t); taken {
			t.Error("done all the same")
		}
	})
}

func TestReady(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(t)()
		if err := w.engine.Ready(t.Context()); err != nil {
			t.Errorf("ready: %v", err)
		}
		w.store = storetest.NewFaulty(w.Store, 1, storetest.NotPersisted)
		w.target.Unreachable = func(string) error { return targettest.ErrDown }
		if err := w.start(t); err != nil && !errors.Is(err, storetest.ErrInjected) {
			t.Fatal(err)
		}
		time.Sleep(time.Until(w.Authority.Issuing().Certificate.NotAfter))
		w.store = w.Store
		err := w.engine.Ready(t.Context())
		for _, want := range []string{"signing", "target", "store"} {
			if want == "store" {
				continue // its one fault is spent
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("ready: %v, want %s named", err, want)
			}
		}
	})
}

func TestStatusNamesTheCA(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.run(t)()
		s := w.engine.Status()
		if len(s.Roots) != 1 || s.Roots[0].Fingerprint != verify.Fingerprint(w.Authority.Root().Certificate) ||
			s.Bundle != w.Authority.Bundle().SHA256() || s.Store != w.Authority.Identity() || s.Epoch != 1 {
			t.Errorf("status %+v", s)
		}
		var names []string
		for _, v := range s.Services {
			names = append(names, v.Name)
		}
		if !slices.Equal(names, mesh) {
			t.Errorf("services %v", names)
		}
	})
}
