package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func addrPort(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// A cluster knows the tokens that begin with "good ", and counts how often it is asked.
type cluster struct {
	asked int
	away  error // instead of an answer
}

func (c *cluster) Review(_ context.Context, token string) (*User, error) {
	if c.asked++; c.away != nil {
		return nil, c.away
	}
	if name, ok := strings.CutPrefix(token, "good-"); ok {
		return &User{Name: "system:serviceaccount:default:" + name}, nil
	}
	return nil, ErrNoAccount
}

func (c *cluster) May(context.Context, *User, string) (bool, error) { return false, nil }

// A door is a V1 that refuses all it is asked for: 404 to whom it knows.
type door struct {
	*V1
	t       *testing.T
	now     time.Time
	cluster cluster
	tcp     http.Handler
}

func newDoor(t *testing.T) *door {
	d := &door{t: t, now: time.Unix(1_000_000, 0)}
	d.V1 = &V1{Engine: still{passed: d.now}, Grants: &Grants{}, Admin: NewAdminToken("the-admin"), Accounts: &d.cluster,
		Now: func() time.Time { return d.now }, Log: slog.New(slog.DiscardHandler)}
	d.tcp = d.Handler()
	return d
}

// The address and the tokens of those who ask, unless a test says otherwise.
const (
	home      = "192.0.2.1:1000"
	elsewhere = "198.51.100.1:1000"
)

func (d *door) ask(h http.Handler, path, from, token string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.RemoteAddr = from
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// want asks n times and wants that status each time.
func (d *door) want(what string, n, status int, from, token string) {
	d.t.Helper()
	for i := range n {
		if w := d.ask(d.tcp, "/nothing", from, token); w.Code != status {
			d.t.Errorf("%s: request %d of %d has status %d, want %d: %s", what, i+1, n, w.Code, status, w.Body)
			return
		}
	}
}

// The statuses of an answer to whom it knows, to whom it does not, and to whoever asks too often.
const (
	known   = http.StatusNotFound
	unknown = http.StatusUnauthorized
	refused = http.StatusTooManyRequests
)

// TestStrangersAreMetered by their address, of which whoever has one in a /64 has all.
func TestStrangersAreMetered(t *testing.T) {
	d := newDoor(t)
	d.want("at first", addressRate.burst, unknown, home, "")
	d.want("then", 1, refused, home, "")
	d.want("from another port", 1, refused, "192.0.2.1:2000", "")
	d.want("as IPv6", 1, refused, "[::ffff:192.0.2.1]:1000", "")
	d.want("from elsewhere", 1, unknown, elsewhere, "")
	d.now = d.now.Add(addressRate.every)
	d.want("after a while", 1, unknown, home, "")
	d.want("and then", 1, refused, home, "")
	d.now = d.now.Add(time.Hour)
	d.want("after an hour", addressRate.burst, unknown, home, "")
	d.want("and then", 1, refused, home, "")

	d.now = d.now.Add(time.Hour)
	for i := range addressRate.burst {
		d.want("from a net", 1, unknown, fmt.Sprintf("[2001:db8::%x]:1000", i+1), "")
	}
	d.want("from the same net", 1, refused, "[2001:db8::ffff]:1000", "")
	d.want("from another net", 1, unknown, "[2001:db8:0:1::1]:1000", "")
	if w := d.ask(d.tcp, "/", "[2001:db8::1]:1000", ""); w.Code != refused {
		t.Errorf("what is public has no limit: %d", w.Code)
	}
}

// TestRefusedForAWhile: the answer says when to come back, not to all the same, and the connection ends.
func TestRefusedForAWhile(t *testing.T) {
	d := newDoor(t)
	d.want("at first", addressRate.burst, unknown, home, "")
	after := make(map[int]int)
	for range 100 {
		w := d.ask(d.tcp, "/nothing", home, "")
		seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
		if err != nil || seconds < 1 || seconds > 5 {
			t.Fatalf("Retry-After: %q", w.Header().Get("Retry-After"))
		}
		after[seconds]++
		var p struct {
			Type   string
			Status int
		}
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Type != "urn:meshca:problem:too-many-requests" || p.Status != refused {
			t.Fatalf("%s (%v)", w.Body, err)
		}
		if w.Header().Get("Connection") != "close" {
			t.Fatal("the connection goes on")
		}
	}
	if len(after) < 3 {
		t.Errorf("a hundred are told to come back after %v", after)
	}
}

// TestGuessing: wrong tokens are metered before anybody is asked about them, and whoever was known goes on.
func TestGuessing(t *testing.T) {
	d := newDoor(t)
	d.want("a pod", 1, known, home, "good-pod")
	d.want("the admin", 1, known, home, "the-admin")
	d.cluster.asked = 0
	for i := range addressRate.burst {
		d.want("guessed", 1, unknown, home, fmt.Sprintf("bad-%d", i))
	}
	d.want("guessed", 100, refused, home, "bad")
	if d.cluster.asked != addressRate.burst {
		t.Errorf("the API server was asked %d times", d.cluster.asked)
	}
	d.want("a pod that was known", 100, known, home, "good-pod")
	d.want("the admin, who was known", 100, known, home, "the-admin")
	d.want("a pod that was not", 1, refused, home, "good-other")
	d.want("the same elsewhere", 1, known, elsewhere, "good-other")
	d.want("and back", 1, known, home, "good-other")
}

// TestKnownForLong: whoever goes on asking is not forgotten, and whoever was away for long is.
func TestKnownForLong(t *testing.T) {
	d := newDoor(t)
	for range 5 {
		d.want("every half hour", 1, known, home, "good-pod")
		d.now = d.now.Add(provenFor / 2)
		d.want("guessed", addressRate.burst, unknown, home, "bad")
	}
	d.now = d.now.Add(provenFor)
	d.want("guessed", addressRate.burst, unknown, home, "bad")
	d.want("after long", 1, refused, home, "good-pod")
}

// TestNoLongerGood: a token that was good and is not any more is metered like a guess.
func TestNoLongerGood(t *testing.T) {
	d := newDoor(t)
	d.want("at first", 1, known, home, "the-admin")
	d.Admin = NewAdminToken("another")
	d.want("then, unmetered and metered", 1+addressRate.burst, unknown, home, "the-admin")
	d.want("at last", 1, refused, home, "the-admin")
}

// TestKnownWhileAway: a cluster that did not answer says nothing of a token: whoever was known is when it answers again.
func TestKnownWhileAway(t *testing.T) {
	d := newDoor(t)
	d.want("a pod", 1, known, home, "good-pod")
	d.want("guessed", addressRate.burst, unknown, home, "bad")
	d.cluster.away = errors.New("dial tcp")
	d.want("while it is away", 1, http.StatusServiceUnavailable, home, "good-pod")
	d.cluster.away = nil
	d.want("when it answers", 1, known, home, "good-pod")
}

// TestCallersAreMetered by their name, wherever they ask from; what they paid before they were known they get back.
func TestCallersAreMetered(t *testing.T) {
	d := newDoor(t)
	d.want("at first", callerRate.burst/2, known, home, "good-pod")
	d.want("from elsewhere", callerRate.burst/2, known, elsewhere, "good-pod")
	d.want("then", 1, refused, elsewhere, "good-pod")
	d.want("another", 1, known, elsewhere, "good-other")
	d.now = d.now.Add(callerRate.every)
	d.want("after a while", 1, known, home, "good-pod")
	d.want("and then", 1, refused, home, "good-pod")
	d.want("a stranger", addressRate.burst, unknown, home, "")

	d.now = d.now.Add(time.Hour)
	for i := range strangersRate.burst + 1 {
		d.want("many from one address", 1, known, home, fmt.Sprintf("good-pod%d", i))
	}
}

// TestCredentials: a token is remembered once, whatever certificates come with it.
func TestCredentials(t *testing.T) {
	of := func(cert string, tokens ...string) (c credential, given bool) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		for _, token := range tokens {
			r.Header.Add("Authorization", token)
		}
		r.TLS = &tls.ConnectionState{}
		if cert != "" {
			r.TLS.PeerCertificates = []*x509.Certificate{{Raw: []byte(cert)}}
		}
		return credentialOf(r)
	}
	seen := make(map[credential]string)
	for name, c := range map[string]struct {
		cert   string
		tokens []string
	}{
		"a certificate": {cert: "x"}, "another": {cert: "y"}, "a token": {tokens: []string{"x"}}, "two tokens": {tokens: []string{"x", "y"}}, "one of both": {tokens: []string{"x, y"}},
	} {
		sum, given := of(c.cert, c.tokens...)
		if other, taken := seen[sum]; taken || !given {
			t.Errorf("%s: given %v, the same as %s", name, given, other)
		}
		seen[sum] = name
	}
	alone, _ := of("", "x")
	for _, cert := range []string{"x", "y"} {
		if with, _ := of(cert, "x"); with != alone {
			t.Errorf("a token counts twice, with certificate %s", cert)
		}
	}
	if _, given := of(""); given {
		t.Error("nothing is a credential")
	}
}

// TestAdminIsNotMetered, nor is the owner; all together are.
func TestAdminIsNotMetered(t *testing.T) {
	d := newDoor(t)
	d.want("the admin", everyoneRate.burst, known, home, "the-admin")
	d.want("beyond what all may", 1, refused, home, "the-admin")
	d.want("others too", 1, refused, elsewhere, "good-pod")
	d.want("strangers too", 1, refused, elsewhere, "")
	owner := d.Owner()
	for range 100 {
		if w := d.ask(owner, "/nothing", "@", ""); w.Code != known {
			t.Fatalf("the owner is refused: %d", w.Code)
		}
	}
	d.now = d.now.Add(100 * everyoneRate.every)
	d.want("after a while", 100, known, home, "the-admin")
}

// TestProbesAreAnswered whoever asks for whatever.
func TestProbesAreAnswered(t *testing.T) {
	d := newDoor(t)
	d.want("a stranger", addressRate.burst, unknown, home, "")
	d.want("and then", 1, refused, home, "")
	for range everyoneRate.burst {
		for _, path := range []string{"/healthz", "/readyz"} {
			if w := d.ask(d.tcp, path, home, ""); w.Code != http.StatusOK {
				t.Fatalf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	}
	d.want("elsewhere", 1, unknown, elsewhere, "") // they have taken nothing from others
}

// TestManyAddresses: strangers together are metered, callers who are known go on, the tables do not grow, and nobody
// gets a fresh bucket by it.
func TestManyAddresses(t *testing.T) {
	d := newDoor(t)
	d.want("a pod", 1, known, home, "good-pod")
	d.want("an attacker", addressRate.burst, unknown, elsewhere, "")
	d.now = d.now.Add(time.Second)
	d.want("an attacker", 50, unknown, elsewhere, "")
	answered := 0
	const addresses = 1_000_000
	for i := range addresses {
		from := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		if d.limits.stranger(from, d.now) == nil {
			answered++
		}
		if d.now = d.now.Add(time.Microsecond); len(d.limits.addresses.of) > maxAddresses {
			t.Fatalf("%d addresses are kept", len(d.limits.addresses.of))
		}
	}
	most := strangersRate.burst - addressRate.burst - 50 + int((time.Second+addresses*time.Microsecond)/strangersRate.every) // the attacker had his
	if answered < most-100 || answered > most {
		t.Errorf("%d of a million were answered, want %d", answered, most)
	}
	d.want("a pod that was known", 100, known, home, "good-pod")
}

// TestFreshBuckets: a table that is full of others does not forget who has asked often.
func TestFreshBuckets(t *testing.T) {
	l, now := newLimits(), time.Unix(1_000_000, 0)
	attacker := peerOf(home)
	for range addressRate.burst {
		l.addresses.set(attacker, addressRate.take(l.addresses.get(attacker), now), now)
	}
	for i := range 10 * maxAddresses {
		other := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		l.addresses.set(other, addressRate.take(l.addresses.get(other), now), now)
	}
	if err := l.stranger(attacker, now); err == nil {
		t.Error("the attacker has a fresh bucket")
	}
	if n := len(l.addresses.of); n != maxAddresses || n != len(l.addresses.order) {
		t.Errorf("%d addresses are kept, in a heap of %d", n, len(l.addresses.order))
	}
}

// TestLedger against a map that is looked through.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 4
		l, now := newLedger[int](most), time.Unix(1_000_000, 0)
		model := make(map[int]time.Time)
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				key := rapid.IntRange(0, 9).Draw(t, "key")
				at := now.Add(time.Duration(rapid.IntRange(-3, 100_000).Draw(t, "at")) * time.Millisecond)
				for k, other := range model {
					if other.Equal(at) && k != key { // which of two equal ones goes is not said
						return
					}
				}
				if _, there := model[key]; !there {
					for k, other := range model {
						if !other.After(now) {
							delete(model, k)
						}
					}
					if len(model) == most {
						first := -1
						for k, other := range model {
							if first < 0 || other.Before(model[first]) {
								first = k
							}
						}
						delete(model, first)
					}
				}
				model[key] = at
				l.set(key, at, now)
			},
			"drop": func(t *rapid.T) {
				key := rapid.IntRange(0, 9).Draw(t, "key")
				delete(model, key)
				l.drop(key)
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 50_000).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) {
				if len(model) != len(l.of) || len(model) != len(l.order) {
					t.Fatalf("%d keys in a heap of %d, want %d", len(l.of), len(l.order), len(model))
				}
				for k, at := range model {
					if !l.get(k).Equal(at) {
						t.Fatalf("key %d is at %v, want %v", k, l.get(k), at)
					}
				}
			},
		})
	})
}

// TestRate against tokens that are counted.
func TestRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rate{burst: rapid.IntRange(1, 20).Draw(t, "burst"), every: 10 * time.Millisecond}
		var full time.Time
		now := time.Unix(1_000_000, 0)
		most := time.Duration(r.burst) * r.every
		level := most // in time
		for _, step := range rapid.SliceOf(rapid.IntRange(0, 60)).Draw(t, "steps") {
			wait := r.wait(full, now)
			if want := max(r.every-level, 0); wait != want {
				t.Fatalf("waits %s, want %s", wait, want)
			}
			if wait == 0 {
				full, level = r.take(full, now), level-r.every
				if step%7 == 0 {
					full, level = r.give(full), min(level+r.every, most)
				}
			}
			passed := time.Duration(step) * time.Millisecond
			now, level = now.Add(passed), min(level+passed, most)
		}
	})
}

// A journal is a log that is written by several goroutines.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

// take is what was written since it was last asked.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.text.Reset()
	return j.text.String()
}

// TestRefusalsInTheLog: a flood does not fill it, and hides nobody else.
func TestRefusalsInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		d := newDoor(t)
		d.Log = slog.New(slog.NewJSONHandler(&log, nil))
		lines := func(when string, want ...string) {
			t.Helper()
			var got []string
			for line := range strings.Lines(log.take()) {
				var l struct {
					Msg, Problem, Caller string
					Times                int
				}
				if err := json.Unmarshal([]byte(line), &l); err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%s %s %q %d", l.Msg, l.Problem, l.Caller, l.Times))
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: the log has\n%s\nwant\n%s", when, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		few := func(line string) (all []string) {
			for range sieved {
				all = append(all, line)
			}
			return all
		}
		d.want("strangers", 400, unknown, home, "")
		lines("a flood", few(`refused unauthenticated "" 0`)...)
		d.want("a pod", sieved, known, elsewhere, "good-pod")
		lines("a pod", few(`refused not-found "serviceaccount:default/pod" 0`)...)
		d.want("another", 1, known, elsewhere, "good-other")
		lines("another", `refused not-found "serviceaccount:default/other" 0`)
		time.Sleep(time.Second)
		synctest.Wait()
		lines("a second later", `refused as well within a second unauthenticated "" 395`)
		d.want("strangers", sieved, unknown, home, "")
		time.Sleep(time.Second)
		synctest.Wait()
		lines("a few", few(`refused unauthenticated "" 0`)...)
		if len(d.refusals.seen) > 0 {
			t.Errorf("kept: %v", d.refusals.seen)
		}
	})
}
