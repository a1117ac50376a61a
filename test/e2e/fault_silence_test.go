package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// testSilence has many services and an API server that takes connections and answers nothing, at the start and later:
// the process answers those who ask it, says what is away, does not wait for one service after the other, and all is
// healed when the API server answers again.
func testSilence(t *testing.T, k *kubernetes) {
	s := clusterSettings{Services: withFive(), Sweep: "1h"}
	for i := range 40 {
		s.Services = append(s.Services, fmt.Sprintf("service-%d", i))
	}
	c := newCell(t, k, s)
	c.start().Stop()
	v := newClusterVandal(t, c, nil, 1)

	c.gate.Silence()
	p := c.Serve()
	p.AwaitLine("starting")
	c.checkAlive(p)
	p.Await("/readyz says what is away", func() error {
		code, words, err := c.get(p, "/readyz")
		if err != nil || code != http.StatusServiceUnavailable || !strings.Contains(words, "starting: ") || !strings.Contains(words, "target: ") {
			return fmt.Errorf("it answers %d %q %v", code, words, err)
		}
		return nil
	})
	if s := c.Run("status", "--config", c.Config()); s.Code != 2 || !strings.Contains(s.Stderr, "starting: ") {
		t.Errorf("status of a process that starts: %+v", s)
	}
	p.AwaitServing() // within the time of some calls, not of one for each service
	c.checkAlive(p)
	p.Await("/readyz says that and no more", func() error { return c.notReady(p, "target: ") })
	p.Await("each service is named", c.allAway)

	v.strikeAll("ca.crt another")
	c.gate.Mend()
	c.awaitStanding(p)
	p.Await("/readyz says that all is well", func() error { return c.isReady(p) })
	p.Await("every service is kept", c.allKept)

	// The same while it runs: somebody has all places looked at, and the next order is answered all the same.
	c.gate.Silence()
	s.DNSNames = "another.example"
	c.Configure(s)
	p.AwaitLine("config file read again")
	for range 2 {
		if s := c.Run("heal", "--resume", "pgadmin", "--config", c.Config()); s.Code != 1 && (s.Code != 2 || !strings.Contains(s.Stderr, "busy: ")) {
			t.Errorf("an order meanwhile: %+v", s)
		}
	}
	p.Await("each service is named", c.allAway)
	c.gate.Mend()
	p.Await("every service is kept", c.allKept)
	c.awaitStanding(p)
}

// checkAlive sees that the process does not look dead.
func (c *cell) checkAlive(p *Process) {
	c.t.Helper()
	if code, words, err := c.get(p, "/healthz"); err != nil || code != http.StatusOK {
		c.t.Errorf("/healthz answers %d %q %v", code, words, err)
	}
}

// allAway says whether each service is named as one for which the API server does not answer.
func (c *cell) allAway() error {
	status, a := c.Status()
	var missing []error
	for _, service := range c.Services {
		if s := status.Of(service); s.State != "failing" || !strings.Contains(s.Error, "the API server does not answer (no answer in time)") {
			missing = append(missing, fmt.Errorf("%s is %s: %s (%d)", service, s.State, s.Error, a.Code))
		}
	}
	return errors.Join(missing...)
}
