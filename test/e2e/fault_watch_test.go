package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// noInitialEvents is how an API server answers a watch that is to begin with all that is there, where it does not offer
// that.
const noInitialEvents = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,` +
	`"message":"ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",` +
	`"details":{"group":"meta.k8s.io","kind":"ListOptions","causes":[{"reason":"FieldValueForbidden","message":"Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled","field":"sendInitialEvents"}]}}`

// testPlainWatches has an API server that does not offer watches which begin with all that is there: what happens
// while it is watched is healed all the same, and what has happened while it was not.
func testPlainWatches(t *testing.T, k *kubernetes) {
	c := newCell(t, k, clusterSettings{Sweep: "1h"})
	c.gate.Do((*exchange).passPlain)
	p := c.start()
	v := newClusterVandal(t, c, nil, 1)
	follows := func() error { return c.follows(len(c.Services) + 1) }
	p.Await("all watches are open", follows)
	p.Await("it is kept that they are", func() error { return c.remarks(0) })
	v.strikeAll("ca.crt another")
	c.awaitStanding(p)
	v.strikeAll("deleted")
	v.removeBundle()
	c.awaitStanding(p)

	c.gate.Do(func(x *exchange) {
		if x.Verb == "watch" {
			x.Drop()
		}
		x.Pass()
	})
	c.gate.EndWatches()
	p.Await("no watch is open", func() error { return c.follows(0) })
	v.strikeAll("deleted")
	v.removeBundle()
	c.gate.Do((*exchange).passPlain)
	c.awaitStanding(p)
	if lines := p.Lines("service not kept"); len(lines) > 0 {
		t.Errorf("said %v", lines)
	}
}

// passPlain passes on what an API server without watches that begin with all that is there would.
func (x *exchange) passPlain() {
	query := x.r.URL.Query()
	if x.Verb == "watch" && query.Get("sendInitialEvents") != "" {
		x.note(http.StatusUnprocessableEntity)
		x.Hand(&apiAnswer{http.StatusUnprocessableEntity, http.Header{"Content-Type": {"application/json"}}, []byte(noInitialEvents)})
		return
	}
	query.Del("allowWatchBookmarks") // one that does offer them marks the end of the beginning all the same
	x.r.URL.RawQuery = query.Encode()
	x.Pass()
}

// remarks says whether so many services have a remark that has all the words.
func (c *cell) remarks(want int, words ...string) error {
	c.t.Helper()
	text := c.Run("status", "--config", c.Config()).Stdout
	n := 0
	for line := range strings.Lines(text) {
		has := strings.Contains(line, "remark ")
		for _, word := range words {
			has = has && strings.Contains(line, word)
		}
		if has {
			n++
		}
	}
	if n != want {
		return fmt.Errorf("%d services have a remark of %q:\n%s", n, words, text)
	}
	return nil
}

// testWatchesThatFail: what keeps watches from being opened for a while is named in the status of each service with
// what follows from it, and said in the log once, until they are open again.
func testWatchesThatFail(t *testing.T, k *kubernetes) {
	const gone = "the watch's place in history is no longer known"
	atOnce(t, map[string]func(*testing.T){
		"410":             func(t *testing.T) { watchesFail(t, k, gone, func(x *exchange) { x.Answer(http.StatusGone, "") }) },
		"410 as an event": func(t *testing.T) { watchesFail(t, k, gone, (*exchange).expire) },
		"429": func(t *testing.T) {
			watchesFail(t, k, "the API server asks to come later", func(x *exchange) { x.Answer(http.StatusTooManyRequests, "1") })
		},
		"500": func(t *testing.T) {
			watchesFail(t, k, "the API server fails at it (status 500 InternalError)", func(x *exchange) { x.Answer(http.StatusInternalServerError, "") })
		},
	})
}

// watchesFail has fn answer every watch for a while.
func watchesFail(t *testing.T, k *kubernetes, words string, fn func(*exchange)) {
	c := newCell(t, k, clusterSettings{Sweep: "1h"})
	p := c.start()
	p.Await("all watches are open", func() error { return c.follows(len(c.Services) + 1) })
	c.gate.Do(func(x *exchange) {
		if x.Verb == "watch" {
			fn(x)
			return
		}
		x.Pass()
	})
	c.gate.EndWatches()
	words = "changes are noticed in the sweep alone: watch WHAT in namespace " + c.namespace + ": " + words
	p.Await("each watch is named", func() error {
		// That of its Secret on each service, and that of the ConfigMap on all.
		err := c.remarks(len(c.Services), strings.Replace(words, "WHAT", `configmaps "meshca-ca"`, 1))
		for _, service := range c.Services {
			err = errors.Join(err, c.remarks(1, "remark "+service+":", strings.Replace(words, "WHAT", fmt.Sprintf("secrets %q", secretName(service)), 1)))
		}
		return err
	})
	c.gate.Do(nil)
	p.Await("none is named any more", func() error { return c.remarks(0) })
	for _, msg := range []string{"a watch fails: changes are noticed in the sweep alone", "watches again"} {
		if n := len(p.Lines(msg)); n != len(c.Services)+1 {
			t.Errorf("%q is said %d times, want it once for each watch", msg, n)
		}
	}
}

// expire opens the watch and tells it at once that its place in history is no longer known.
func (x *exchange) expire() {
	x.note(http.StatusOK)
	x.Hand(&apiAnswer{http.StatusOK, http.Header{"Content-Type": {"application/json"}}, []byte(expiredEvent)})
}
