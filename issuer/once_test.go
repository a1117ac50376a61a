package issuer_test

import (
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
)

// TestOnce: the same request has the same leaf for a day, and is forgotten then.
func TestOnce(t *testing.T) {
	i, _ := newIssuer(t, "pgadmin")
	once := &issuer.Once{Key: "one", Body: sha256.Sum256([]byte("body"))}
	other := &issuer.Once{Key: "one", Body: sha256.Sum256([]byte("another"))}
	leaf, done, err := i.Replay("a", once, now)
	if leaf != nil || err != nil {
		t.Fatalf("before the first: %v, %v", leaf, err)
	}
	if _, _, err := i.Replay("a", once, now); !errors.Is(err, issuer.ErrUnderWay) {
		t.Errorf("a second one meanwhile: %v", err)
	}
	asked := request(t, "pgadmin", profile.ECDSAP256)
	asked.Place, asked.Caller, asked.Once = "", "a", once
	issued, err := i.Issue(asked, now)
	if err != nil {
		t.Fatal(err)
	}
	done()
	for _, tt := range []struct {
		name, caller string
		once         *issuer.Once
		after        time.Duration
		same         bool
		want         error
	}{
		{"again", "a", once, time.Hour, true, nil},
		{"another body", "a", other, time.Hour, false, issuer.ErrOtherBody},
		{"another caller", "b", once, time.Hour, false, nil},
		{"a day later", "a", once, 24 * time.Hour, false, nil},
	} {
		leaf, done, err := i.Replay(tt.caller, tt.once, now.Add(tt.after))
		done()
		if same := leaf != nil && leaf.Record().Serial == issued.Record().Serial; same != tt.same || !errors.Is(err, tt.want) {
			t.Errorf("%s: the same %t, %v", tt.name, same, err)
		}
	}
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{{23 * time.Hour, 0}, {25 * time.Hour, 1}, {26 * time.Hour, 0}} {
		if n, err := i.PruneAnswers(now.Add(tt.after), 10); n != tt.want || err != nil {
			t.Errorf("after %s: %d pruned, want %d, %v", tt.after, n, tt.want, err)
		}
	}
	if current, _, err := i.Current("pgadmin", ""); err != nil || current != nil {
		t.Errorf("what a caller was handed counts as the place's: %v, %v", current, err)
	}
}

// TestOnceOfPruned: what was answered is never another's certificate, also where its own is forgotten sooner than the
// answer.
func TestOnceOfPruned(t *testing.T) {
	i, _ := newIssuer(t, "pgadmin", "envoy")
	short := policy("pgadmin")
	short.Lifetime = 2 * time.Hour
	i.SetCatalogue([]issuer.Policy{short, policy("envoy")})
	once := &issuer.Once{Key: "one", Body: sha256.Sum256([]byte("body"))}
	asked := request(t, "pgadmin", profile.ECDSAP256)
	asked.Place, asked.Caller, asked.Once = "", "a", once
	if _, err := i.Issue(asked, now); err != nil {
		t.Fatal(err)
	}
	later := now.Add(3 * time.Hour)
	if _, err := i.Prune(later, 10); err != nil {
		t.Fatal(err)
	}
	issue(t, i, "envoy", later)
	if _, err := i.Prune(later, 10); err != nil {
		t.Fatal(err)
	}
	leaf, done, err := i.Replay("a", once, later)
	done()
	if leaf != nil || !errors.Is(err, issuer.ErrGoneForOnce) {
		t.Errorf("%v, %v, want none", leaf, err)
	}
}

// TestList: pages go on where the one before ended, whatever was issued meanwhile.
func TestList(t *testing.T) {
	i, _ := newIssuer(t, "pgadmin", "envoy")
	var want []string
	issue(t, i, "envoy", now)
	for n := range 5 {
		asked := request(t, "pgadmin", profile.ECDSAP256)
		if n%2 == 1 {
			asked.Place, asked.Caller = "", "somebody"
		}
		leaf, err := i.Issue(asked, now)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, leaf.Record().Serial)
	}
	var got []string
	after := uint64(0)
	for {
		page, next, err := i.List(issuer.Filter{Services: []string{"pgadmin"}}, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			got = append(got, r.Serial)
		}
		issue(t, i, "envoy", now)
		if after = next; next == 0 {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	if page, _, err := i.List(issuer.Filter{}, 0, 3); err != nil || len(page) != 3 || page[0].Service != "envoy" {
		t.Errorf("all: %v, %v", page, err)
	}
}
