package e2e

import (
	"errors"
	"fmt"
	"math/bits"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshca/meshca/test/cluster"
)

// TestFaults breaks what can break between the program and a real API server, and the program itself, while somebody
// damages Secrets. Each test has a namespace of its own, all share one API server; the one that restarts it is the last.
func TestFaults(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, cluster.Options{})
	tests := make(map[string]func(*testing.T))
	for name, test := range map[string]func(*testing.T, *kubernetes){
		"Answers": testAnswers, "OneSecret": testOneSecret, "Partition": testPartition, "Silence": testSilence,
		"Watches": testWatches, "PlainWatches": testPlainWatches, "WatchesThatFail": testWatchesThatFail,
		"Kill": testClusterKill, "LateWrite": testLateWrite, "Paused": testPaused, "PausedTrust": testPausedTrust,
		"TwoProcesses": testTwoProcesses, "OldStore": testOldStore, "ReloadInAPass": testReloadInAPass,
	} {
		tests[name] = func(t *testing.T) { test(t, k) }
	}
	atOnce(t, tests)
	t.Run("Hangs", func(t *testing.T) { testHangs(t, k) }) // which has the time of a call for what usually takes a moment
	t.Run("Restart", func(t *testing.T) { testRestart(t, k) })
}

// atOnce runs tests that wait for most of their time all at once: t.Parallel would run one for each core.
func atOnce(t *testing.T, tests map[string]func(*testing.T)) {
	t.Helper()
	var all sync.WaitGroup
	for name, test := range tests {
		all.Go(func() { t.Run(name, test) })
	}
	all.Wait()
}

// An episode is what one harm to all services cost.
type episode struct {
	calls []call
	took  time.Duration
	grown map[string]int // records, by state
}

// strike does one harm to every service while the gate does what fn says, and waits until all is healed.
func (c *cell) strike(p *Process, v *clusterVandal, harm string, fn func(*exchange)) episode {
	c.t.Helper()
	before := c.records()
	_, from := c.gate.Calls(0)
	began := time.Now()
	c.gate.Do(fn)
	v.strikeAll(harm)
	c.awaitStanding(p)
	e := episode{took: since(began), grown: c.records()}
	c.gate.Do(nil)
	e.calls, _ = c.gate.Calls(from)
	p.Await("every service is kept", c.allKept) // so that the next one begins without back-off
	for state, n := range before {
		e.grown[state] -= n
	}
	return e
}

// allKept says whether the program knows that all is healed.
func (c *cell) allKept() error {
	status, _ := c.Status()
	for _, service := range c.Services {
		if s := status.Of(service); s.State != "kept" && s.State != "alarm" {
			return fmt.Errorf("%s is %s: %s", service, s.State, s.Error)
		}
	}
	return nil
}

// onlyFirst does something with the first n calls of a kind for each Secret, and passes all others on.
func onlyFirst(n int, verb string, do func(*exchange)) func(*exchange) {
	var mu sync.Mutex
	done := make(map[string]int)
	return func(x *exchange) {
		if x.Verb != verb || x.Resource != "secrets" {
			x.Pass()
			return
		}
		mu.Lock()
		done[x.Name]++
		ours := done[x.Name] <= n
		mu.Unlock()
		if ours {
			do(x)
		} else {
			x.Pass()
		}
	}
}

// testAnswers: whatever the API server answers once, and whatever of it is lost, all is healed, and one lost key costs
// one certificate.
func testAnswers(t *testing.T, k *kubernetes) {
	atOnce(t, map[string]func(*testing.T){
		"trust": func(t *testing.T) { answers(t, k, "ca.crt another") },
		"key":   func(t *testing.T) { answers(t, k, "tls.key another") },
	})
}

func answers(t *testing.T, k *kubernetes, harm string) {
	c := newCell(t, k, clusterSettings{})
	p := c.start()
	v := newClusterVandal(t, c, nil, 1)
	answer := func(code int, after string) func(*exchange) { return func(x *exchange) { x.Answer(code, after) } }
	lost := func(x *exchange) { x.Ask(); x.Drop() }
	for _, tt := range []struct {
		name string
		fn   func(*exchange) // nil: all is passed on
	}{
		{"nothing", nil},
		{"503 to the write", onlyFirst(1, "patch", answer(http.StatusServiceUnavailable, ""))},
		{"500 to the read", onlyFirst(1, "get", answer(http.StatusInternalServerError, ""))},
		{"the write is lost", onlyFirst(1, "patch", (*exchange).Drop)},
		{"the answer to the write is lost", onlyFirst(1, "patch", lost)},
		{"the answer to the write does not come", onlyFirst(1, "patch", func(x *exchange) { x.Ask(); x.Gone() })},
		{"429 to the write", onlyFirst(1, "patch", answer(http.StatusTooManyRequests, "7"))},
		{"429 to the read", onlyFirst(1, "get", answer(http.StatusTooManyRequests, "7"))},
		{"another writes in between", onlyFirst(2, "get", c.conflict)},
		{"another writes in between again and again", onlyFirst(5, "get", c.conflict)},
	} {
		e := c.strike(p, v, harm, tt.fn)
		want := 0
		if breaksKey[harm] {
			want = len(c.Services)
		}
		if e.grown["delivered"] != want || e.grown["issued"]+e.grown["undelivered"] != 0 {
			t.Errorf("%s: the records grew by %v, want %d delivered", tt.name, e.grown, want)
		}
		if strings.HasPrefix(tt.name, "429") {
			checkPatience(t, tt.name, e.calls, 7*time.Second)
		}
		t.Logf("%s: healed in %s by %s", tt.name, e.took, tallyText(e.calls))
	}
}

// conflict has somebody write to the Secret between the program's reading and its writing.
func (c *cell) conflict(x *exchange) {
	seen := x.Ask()
	_, _, _ = c.k.call("", http.MethodPatch, x.r.URL.Path+"?fieldManager=somebody", mergePatch,
		object{"metadata": object{"labels": object{"somebody": fmt.Sprint(x.number)}}})
	if seen != nil {
		x.Hand(seen)
	}
}

// checkPatience sees that a Secret whose call was answered with 429 was left alone for as long as that asked.
func checkPatience(t *testing.T, what string, calls []call, wait time.Duration) {
	t.Helper()
	asked := make(map[string]time.Time)
	for _, c := range calls {
		if c.Resource != "secrets" || c.Verb == "watch" {
			continue
		}
		if at, throttled := asked[c.Name]; throttled && c.At.Sub(at) < wait {
			t.Errorf("%s: %s %s came %s after the 429, which asked for %s", what, c.Verb, c.Name, c.At.Sub(at), wait)
		}
		if delete(asked, c.Name); c.Code == http.StatusTooManyRequests {
			asked[c.Name] = c.At
		}
	}
}

// testWatches: watches that end, or cannot be opened, are opened again with back-off, and what happened meanwhile is
// healed.
func testWatches(t *testing.T, k *kubernetes) {
	c := newCell(t, k, clusterSettings{Sweep: "1h"})
	p := c.start()
	v := newClusterVandal(t, c, nil, 1)
	follows := func() error { return c.follows(len(c.Services) + 1) }
	p.Await("all watches are open", follows)
	if n := c.gate.EndWatches(); n != len(c.Services)+1 {
		t.Errorf("%d watches were open, want one for each Secret and one for the bundle", n)
	}
	e := c.strike(p, v, "ca.crt another", nil)
	t.Logf("all watches ended with 410: healed in %s by %s", e.took, tallyText(e.calls))
	p.Await("all watches are open", follows)

	// Nobody may watch any more: what is open ends, what is opened is told 410.
	began, from := time.Now(), 0
	_, from = c.gate.Calls(0)
	c.gate.Do(func(x *exchange) {
		if x.Verb == "watch" {
			x.Answer(http.StatusGone, "")
			return
		}
		x.Pass()
	})
	c.gate.EndWatches()
	v.strikeAll("ca.crt another")
	v.removeBundle()
	p.Await("every watch was tried three times", func() error { return c.triedWatches(from, 3) })
	span := time.Since(began)
	calls, _ := c.gate.Calls(from)
	for name, n := range watchesOf(calls) {
		if most := attempts(span); n > most {
			t.Errorf("%s was watched %d times within %s, want at most %d", name, n, span, most)
		}
	}
	t.Logf("no watch could be opened for %s: %s", span.Round(time.Millisecond), tallyText(calls))
	c.gate.Do(nil)
	c.awaitStanding(p)
}

// attempts is the most that back-off lets somebody try within a span: after half a second at the soonest, and twice as
// long each time.
func attempts(span time.Duration) int { return 2 + bits.Len(uint(span/(500*time.Millisecond))) }

// follows says whether so many watches are open.
func (c *cell) follows(want int) error {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	if n := len(c.gate.watches); n != want {
		return fmt.Errorf("%d are open", n)
	}
	return nil
}

func watchesOf(calls []call) map[string]int {
	n := make(map[string]int)
	for _, c := range calls {
		if c.Verb == "watch" {
			n[c.Resource+" "+c.Name]++
		}
	}
	return n
}

// triedWatches says whether every watch was tried so often since a call.
func (c *cell) triedWatches(from, times int) error {
	calls, _ := c.gate.Calls(from)
	n := watchesOf(calls)
	for name, tries := range n {
		if tries < times {
			return fmt.Errorf("%s: %d times", name, tries)
		}
	}
	if len(n) <= len(c.Services) {
		return fmt.Errorf("only %d are tried", len(n))
	}
	return nil
}

// testOneSecret: one Secret that the API server does not answer for, or refuses, does not keep the others from being
// healed, also those that are damaged while its answer is waited for.
func testOneSecret(t *testing.T, k *kubernetes) {
	c := newCell(t, k, clusterSettings{})
	p := c.start()
	v := newClusterVandal(t, c, nil, 1)
	sick, others := c.Services[0], c.Services[1:]
	for name, fn := range map[string]func(*exchange){
		"hangs": (*exchange).Gone, "refuses": func(x *exchange) { x.Answer(http.StatusServiceUnavailable, "") },
	} {
		_, from := c.gate.Calls(0)
		ofSick := func(x call) bool { return x.Verb != "watch" && x.Name == secretName(sick) }
		c.gate.Do(func(x *exchange) {
			if ofSick(x.call) {
				fn(x)
				return
			}
			x.Pass()
		})
		secretHarms["ca.crt another"](v, sick)
		p.Await("the program asks for it", func() error {
			if calls, _ := c.gate.Calls(from); !slices.ContainsFunc(calls, ofSick) {
				return errors.New("it does not")
			}
			return nil
		})
		began := time.Now()
		for _, service := range others {
			secretHarms["tls.key another"](v, service)
		}
		p.Await("the others are healed", func() error { return c.inspectOnly(others) })
		t.Logf("one Secret %s: the others are healed in %s", name, since(began))
		c.AwaitState(p, sick, "failing")
		if code, words, err := c.get(p, "/readyz"); err != nil || code != http.StatusOK {
			t.Errorf("one Secret %s: /readyz answers %d %q %v", name, code, words, err)
		}
		c.gate.Do(nil)
		c.awaitStanding(p)
	}
}

// inspectOnly judges only some of the services.
func (c *cell) inspectOnly(services []string) error {
	for _, err := range c.inspect() {
		if slices.ContainsFunc(services, func(s string) bool { return strings.HasPrefix(err.Error(), s+":") }) {
			return err
		}
	}
	return nil
}

// testRestart: the API server goes away and comes back, on the same etcd, while Secrets are damaged.
func testRestart(t *testing.T, k *kubernetes) {
	c := newCell(t, k, clusterSettings{})
	p := c.start()
	v := newClusterVandal(t, c, nil, 1)
	before := c.records()
	_, from := c.gate.Calls(0)
	v.strikeAll("tls.key another") // the program is at work when it goes
	must(t, k.RestartAPIServer(t.Context(), func() {
		p.Await("/readyz says what is away", func() error { return c.notReady(p, "target: ") })
	}))
	v.strikeAll("ca.crt another")
	began := time.Now()
	c.awaitStanding(p)
	p.Await("/readyz says that all is well", func() error { return c.isReady(p) })
	calls, _ := c.gate.Calls(from)
	after := c.records()
	if n := after["delivered"] - before["delivered"]; n != len(c.Services) || after["issued"] != 0 || after["undelivered"] != 0 {
		t.Errorf("the records were %v and are %v: want one more for each lost key", before, after)
	}
	t.Logf("API server restarted: healed %s after it came back, by %s", since(began), tallyText(calls))
}

// notReady says whether /readyz names what is away, and that alone.
func (c *cell) notReady(p *Process, what ...string) error {
	code, words, err := c.get(p, "/readyz")
	missing := slices.ContainsFunc(what, func(s string) bool { return !strings.Contains(words, s) })
	if err != nil || code != http.StatusServiceUnavailable || missing {
		return fmt.Errorf("it answers %d %q %v", code, words, err)
	}
	for _, other := range []string{"store: ", "signing: ", "engine: "} {
		if strings.Contains(words, other) {
			c.t.Errorf("/readyz says %q", words)
		}
	}
	return nil
}

func (c *cell) isReady(p *Process) error {
	if code, words, err := c.get(p, "/readyz"); err != nil || code != http.StatusOK {
		return fmt.Errorf("it answers %d %q %v", code, words, err)
	}
	return nil
}
