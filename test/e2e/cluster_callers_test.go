package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// testCallersAway has the API server away, throttling, and of an age that knows of no audiences: who was known a moment
// ago goes on, and nobody is let in for want of an answer.
func testCallersAway(t *testing.T, k *kubernetes) {
	const ns = "callers-away"
	m := k.callers(t, ns, nil)
	g := newGate(t, k, m.account.token)
	m.account.kubeconfig = g.Kubeconfig
	p := m.Start()
	fresh := func() *apiClient { return m.as(p, k.token(t, ns, "bookapi", "meshca", nil), nil) }
	reviewed := func(do func()) int {
		_, before := g.Calls(0)
		do()
		calls, _ := g.Calls(before)
		return tally(calls)["post tokenreviews"]
	}
	if n := reviewed(func() { manyAtOnce(t, fresh()) }); n != 1 {
		t.Errorf("many requests with one token ask %d times", n)
	}

	checkWhileAway(t, m, g, p, fresh)

	g.Do(answerReviews(func(x *exchange) { x.Answer(http.StatusTooManyRequests, "7") }))
	answer := fresh().do("GET", "/v1/services/bookapi", "")
	answer.refused(t, http.StatusServiceUnavailable, "unavailable")
	if after, err := strconv.Atoi(answer.header.Get("Retry-After")); err != nil || after < 7 {
		t.Errorf("Retry-After %q, and the API server said 7", answer.header.Get("Retry-After"))
	}
	checkAudiences(t, k, m, g, p)
}

// checkWhileAway has the API server away, and back again.
func checkWhileAway(t *testing.T, m *clusterMesh, g *gate, p *Process, fresh func() *apiClient) {
	certified, known, asked := m.as(p, "", m.held("envoy")), fresh(), time.Time{}
	p.Await("it asks twice within the seconds that a yes is good for", func() error {
		known, asked = fresh(), time.Now()
		if answer := known.do("GET", "/v1/services/bookapi", ""); answer.status != http.StatusOK {
			return fmt.Errorf("it is answered %d", answer.status)
		}
		g.Refuse()
		answer := known.do("GET", "/v1/services/bookapi", "")
		if time.Since(asked) > 4*time.Second {
			g.Mend()
			return errors.New("the machine is too slow")
		}
		if answer.status != http.StatusOK {
			t.Errorf("a known token is answered %d while the API server is away: %s", answer.status, answer.body)
		}
		return nil
	})
	p.Await("a yes is forgotten", func() error {
		if answer := known.do("GET", "/v1/services/bookapi", ""); answer.status != http.StatusServiceUnavailable {
			return fmt.Errorf("it is answered %d", answer.status)
		}
		return nil
	})
	if answer := fresh().do("GET", "/v1/services/bookapi", ""); answer.header.Get("Retry-After") == "" {
		t.Error("it is not said when to try again")
	} else {
		answer.refused(t, http.StatusServiceUnavailable, "unavailable")
	}
	if answer := certified.do("GET", "/v1/services/bookapi", ""); answer.status != http.StatusOK {
		t.Errorf("a certificate is answered %d while the API server is away: %s", answer.status, answer.body)
	}
	g.Mend()
	p.Await("callers are known again", func() error {
		if answer := known.do("GET", "/v1/services/bookapi", ""); answer.status != http.StatusOK {
			return fmt.Errorf("it is answered %d: %s", answer.status, answer.body)
		}
		return nil
	})
}

// checkAudiences has an API server that does not look at the audiences pass a token that is meant for itself: one that
// says for whom it found it good, and one that has never heard of audiences.
func checkAudiences(t *testing.T, k *kubernetes, m *clusterMesh, g *gate, p *Process) {
	for _, says := range []bool{true, false} {
		g.Do(answerReviews(func(x *exchange) {
			x.body = without(t, x.body, "spec", "audiences")
			if a := x.Ask(); a != nil {
				if !bytes.Contains(a.body, []byte(`"authenticated":true`)) {
					t.Errorf("the API server does not pass it: %s", a.body)
				}
				if !says {
					a.body = without(t, a.body, "status", "audiences")
				}
				x.Hand(a)
			}
		}))
		m.as(p, k.token(t, m.namespace, "bookapi", "", nil), nil).do("GET", "/v1/services/bookapi", "").refused(t, http.StatusUnauthorized, "unauthenticated")
	}
}

// without is an object in JSON without a field of one of its parts.
func without(t testing.TB, text []byte, part, field string) []byte {
	var whole map[string]any
	if err := json.Unmarshal(text, &whole); err != nil {
		t.Error(err)
		return text
	}
	if fields, ok := whole[part].(map[string]any); ok {
		delete(fields, field)
	}
	rest, err := json.Marshal(whole)
	if err != nil {
		t.Error(err)
	}
	return rest
}

// answerReviews has something done with every TokenReview, and passes all else on.
func answerReviews(do func(*exchange)) func(*exchange) {
	return func(x *exchange) {
		if x.Resource == "tokenreviews" {
			do(x)
		} else {
			x.Pass()
		}
	}
}

// manyAtOnce sends twenty requests of one caller at the same time.
func manyAtOnce(t *testing.T, c *apiClient) {
	t.Helper()
	transport := c.transport()
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			r, err := http.NewRequest("GET", c.address+"/v1/services/bookapi", nil)
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer "+c.token)
			answer, err := client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("it is answered %d", answer.StatusCode)
			}
		})
	}
	group.Wait()
}
