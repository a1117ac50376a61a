package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// testPartition cuts the program off, first with resets, then without a word, while Secrets are damaged again and again.
// MESHCA_FAULT_PARTITION is for how long.
func testPartition(t *testing.T, k *kubernetes) {
	length := partitionLength(t)
	c := newCell(t, k, clusterSettings{})
	p := c.start()
	w := newWitness(c)
	v := newClusterVandal(t, c, w, 1)
	_, from := c.gate.Calls(0)
	for _, cut := range []struct {
		name string
		do   func()
	}{{"reset", c.gate.Refuse}, {"silent", c.gate.Silence}} {
		began := time.Now()
		cut.do()
		p.Await("/readyz says what is away", func() error { return c.notReady(p, "target: ") })
		c.verifyElsewhere(t)
		ctx, cancel := context.WithTimeout(t.Context(), length/2-time.Since(began))
		strikes := v.Rampage(ctx, 100*time.Millisecond)
		cancel()
		span, dials := time.Since(began), c.gate.Dials(began)
		if most := c.mostDials(span); dials > most {
			t.Errorf("%s: %d attempts to connect within %s, want at most %d", cut.name, dials, span, most)
		}
		t.Logf("%s for %s: %d foreign writes, %d attempts to connect", cut.name, span.Round(time.Second), strikes, dials)
	}
	if writes := c.gate.Writes(from); len(writes) > 0 {
		t.Errorf("written through a cut: %v", writes)
	}
	v.strikeAll("ca.crt another") // so that all has to be healed
	v.removeBundle()
	mended := time.Now()
	c.gate.Mend()
	// A watch is tried again after half a minute at the latest.
	awaitFor(t, 5*patience, "all Secrets stand", func() error { return errors.Join(c.inspect()...) })
	healed := since(mended)
	calls, _ := c.gate.Calls(from)
	if most := 15 * len(c.Services); len(calls) > most {
		t.Errorf("%d calls until all was healed, want at most %d", len(calls), most)
	}
	t.Logf("mended: all healed in %s by %d calls: %s", healed, len(calls), tallyText(calls))
	p.Await("/readyz says that all is well", func() error { return c.isReady(p) })
	for _, err := range w.Judge() {
		t.Error(err)
	}
}

// partitionLength is how long the program is cut off.
func partitionLength(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("MESHCA_FAULT_PARTITION")
	if text == "" {
		return 24 * time.Second
	}
	length, err := time.ParseDuration(text)
	must(t, err)
	return length
}

// mostDials is the most that a program that is cut off may try: each watch and each service backs off by itself; a
// sweep each minute and whoever asks /readyz add to that.
func (c *cell) mostDials(span time.Duration) int {
	watches := (len(c.Services) + 1) * (attempts(span) + int(span/(15*time.Second))) // from the seventh on twice a minute at most
	sweeps := (len(c.Services) + 1) * (1 + int(span/time.Minute))
	return watches + sweeps + len(c.Services)*attempts(span/8) + 2*int(span/(5*time.Second)) + 2
}

// verifyElsewhere sees that what does not need the API server goes on: status answers, and folders are verified.
func (c *cell) verifyElsewhere(t *testing.T) {
	t.Helper()
	if status, answer := c.Status(); len(status.Services) != len(c.Services) {
		t.Errorf("status answers %q %q", answer.Stdout, answer.Stderr)
	}
	dir := t.TempDir()
	for _, service := range c.Services {
		live, err := c.secret(service)
		if err != nil {
			continue // just deleted by the vandal
		}
		must(t, os.Mkdir(filepath.Join(dir, service), 0o700))
		for _, name := range []string{certFile, keyFile, caFile} {
			writeFile(t, filepath.Join(dir, service, name), live.Data[name])
		}
	}
	if a := c.Run("verify", dir); a.Code != 0 && a.Code != 1 || a.Stdout == "" {
		t.Errorf("verify answers %d %q %q", a.Code, a.Stdout, a.Stderr)
	}
}
