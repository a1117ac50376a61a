package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// testTwoProcesses: of two processes on one store the second refuses, and changes nothing.
func testTwoProcesses(t *testing.T, k *kubernetes) {
	c := newCell(t, k, clusterSettings{})
	p := c.start()
	before := c.versions()
	_, from := c.gate.Calls(0)
	second := c.Serve()
	if code := second.Wait(); code != 1 || !strings.Contains(second.out.String(), "one process holds a store") {
		t.Errorf("the second process ends with %d: %s", code, second.out.String())
	}
	if writes := c.gate.Writes(from); len(writes) > 0 || !maps.Equal(before, c.versions()) {
		t.Errorf("the second process has written %v", writes)
	}
	c.awaitStanding(p)
}

// testOldStore: a copy of the store from before a renewal of every leaf, and of a change of trust, refuses at the start,
// or, where the API server is away then, as soon as it is back. It writes nothing.
func testOldStore(t *testing.T, k *kubernetes) {
	c := newCell(t, k, clusterSettings{})
	c.start().Stop()
	old := c.twin(t)
	old.Configure(clusterSettings{Sweep: "1s"})
	c.changeAll(t, "renewed").Stop()
	before := c.versions()

	p := old.Serve()
	if code := p.Wait(); code != 1 || !strings.Contains(p.out.String(), "the store is older than what it serves") {
		t.Errorf("the old store ends with %d: %s", code, p.out.String())
	}
	old.gate.Refuse()
	p = old.Serve()
	p.AwaitServing()
	old.gate.Mend()
	old.awaitRefused(p)
	old.AwaitSweep(p)
	if writes := old.gate.Writes(0); len(writes) > 0 || !maps.Equal(before, c.versions()) {
		t.Errorf("the old store has written %v:\n%v\n%v", writes, before, c.versions())
	}
	p.Stop()
	c.start()
}

// changeAll renews every leaf, since their names change, and takes over another CA's set, so that the trust changes
// too. It returns the process, which goes on.
func (c *cell) changeAll(t *testing.T, name string) *Process {
	t.Helper()
	c.k.account(t, c.namespace, withFive("another"), nil)
	newForeignCA(t).makeSecret(t, c.clusterMesh, "another")
	before, err := c.bundle()
	must(t, err)
	serials := c.serials()
	c.Configure(clusterSettings{DNSNames: name, Services: withFive("another")})
	p := c.start()
	c.checkRenewed(t, serials)
	c.letIn(p, "another")
	p.Await("the trust is another", func() error {
		after, err := c.bundle()
		if err == nil && string(after) == string(before) {
			err = errors.New("it is what it was")
		}
		return err
	})
	return p
}

// checkRenewed sees that every leaf is another one.
func (c *cell) checkRenewed(t *testing.T, before map[string]string) {
	t.Helper()
	for service, serial := range c.serials() {
		if serial == before[service] {
			t.Fatalf("%s was not renewed", service)
		}
	}
}

// awaitRefused waits until every service is refused.
func (c *cell) awaitRefused(p *Process) {
	c.t.Helper()
	p.Await("every service is refused", func() error {
		status, _ := c.Status()
		for _, service := range c.Services {
			if s := status.Of(service); s.State != "refused" {
				return fmt.Errorf("%s is %s: %s", service, s.State, s.Error)
			}
		}
		return nil
	})
}

// testPaused: a process that stood still while another one, with a copy of its store and its seal, renewed every leaf
// writes nothing when it wakes, wherever it stood: at rest, before its write, or before the answer to its reading.
func testPaused(t *testing.T, k *kubernetes) {
	rounds := int(number(t, "MESHCA_FAULT_PAUSES", 3))
	c := newCell(t, k, clusterSettings{})
	p := c.start()
	for round := range rounds {
		other := c.twin(t)
		other.Configure(clusterSettings{DNSNames: fmt.Sprintf("pause-%d", round)})
		verb := []string{"", "patch", "get"}[round%3]
		serials := c.serials()
		held := c.holdOne(t, p, verb, round)
		var next *Process
		var before map[string]string
		from := 0
		p.Paused(func() {
			other.copyState(t, c)
			next = other.start()
			other.checkRenewed(t, serials)
			before = other.versions()
			_, from = c.gate.Calls(0)
			held()
		})
		c.awaitRefused(p)
		if now := other.versions(); !maps.Equal(before, now) {
			t.Errorf("round %d: written after it woke: %v\nwere %v\nare  %v", round, c.gate.Writes(from), before, now)
		}
		if writes := c.gate.Writes(from); len(writes) > 0 {
			t.Errorf("round %d: written after it woke: %v", round, writes)
		}
		if code := p.Stop(); code != 0 {
			t.Errorf("round %d: the one that woke ends with %d", round, code)
		}
		c, p = other, next
	}
	c.awaitStanding(p)
	t.Logf("%d times another one took over", rounds)
}

// holdOne has a Secret healed until the first call of a kind, which is held back until the returned function is called.
// The call goes on then.
func (c *cell) holdOne(t *testing.T, p *Process, verb string, round int) (release func()) {
	t.Helper()
	if verb == "" {
		return func() {}
	}
	reached, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c.gate.Do(func(x *exchange) {
		if x.Verb != verb || x.Resource != "secrets" {
			x.Pass()
			return
		}
		var answer *apiAnswer
		if verb == "get" {
			answer = x.Ask() // what it reads is what was there before
		}
		once.Do(func() { close(reached) })
		<-free
		if verb == "get" && answer != nil {
			x.Hand(answer)
			return
		}
		x.Pass()
	})
	v := newClusterVandal(t, c, nil, uint64(round))
	const sure = 8 // the first harms always change something
	secretHarms[harmNames[round%sure]](v, c.Services[round%len(c.Services)])
	p.Await("its call is held back", func() error {
		select {
		case <-reached:
			return nil
		default:
			return fmt.Errorf("no %s yet", verb)
		}
	})
	return func() { close(free); c.gate.Do(nil) }
}

// testPausedTrust: nor does it publish the trust that it knew.
func testPausedTrust(t *testing.T, k *kubernetes) {
	c := newCell(t, k, clusterSettings{Sweep: "1s"})
	p := c.start()
	other := c.twin(t)
	var next *Process
	var before map[string]string
	from := 0
	p.Paused(func() {
		other.copyState(t, c)
		next = other.changeAll(t, "renewed")
		before = other.versions()
		_, from = c.gate.Calls(0)
	})
	c.awaitRefused(p)
	// Somebody damages the bundle: the one whose it is puts it right, and the one that woke does not.
	newClusterVandal(t, other, nil, 1).write(http.MethodPatch, bundlePath(other.namespace), mergePatch,
		object{"data": map[string]string{caFile: "another"}})
	other.awaitStanding(next)
	c.AwaitSweep(p)
	if writes := c.gate.Writes(from); len(writes) > 0 {
		t.Errorf("written after it woke: %v\nwas %v", writes, before)
	}
	other.awaitStanding(next)
}
