package rotation

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meshca/meshca/issuer"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// TestDue: never later than the fraction of the actual life, never much earlier, the same each time, and
// untouched by backdating.
func TestDue(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		life := time.Duration(rapid.Int64Range(int64(time.Minute), int64(9000*time.Hour)).Draw(rt, "life"))
		renewAt := rapid.Float64Range(0.1, 0.9).Draw(rt, "renewAt")
		r := issuer.Record{
			Service:   rapid.StringMatching(`[a-z]{1,10}`).Draw(rt, "service"),
			IssuedAt:  noon,
			NotBefore: noon.Add(-time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(rt, "backdate"))),
			NotAfter:  noon.Add(life),
		}
		due := Due(r, renewAt)
		latest := noon.Add(time.Duration(renewAt * float64(life)))
		earliest := noon.Add(time.Duration((renewAt - min(maxJitter, renewAt/2)) * float64(life)))
		if due.After(latest) || due.Before(earliest.Add(-time.Second)) {
			rt.Fatalf("due at %s, want within %s and %s", due, earliest, latest)
		}
		if again := Due(r, renewAt); !again.Equal(due) {
			rt.Fatalf("due at %s, then at %s", due, again)
		}
	})
}

func TestDueIsSpread(t *testing.T) {
	seen := map[time.Time]bool{}
	for _, service := range []string{"envoy", "pgadmin", "bookapi", "bookapi-mcp-server", "timescaledb"} {
		seen[Due(issuer.Record{Service: service, IssuedAt: noon, NotAfter: noon.Add(720 * time.Hour)}, 0.667)] = true
	}
	if len(seen) != 5 {
		t.Errorf("five services are due at %d instants", len(seen))
	}
}

func TestCannotWait(t *testing.T) {
	due, end := noon, noon.Add(8*time.Hour)
	for next, want := range map[time.Time]bool{
		noon.Add(time.Hour):                 false,
		noon.Add(6 * time.Hour):             false, // a quarter of the eight hours is left
		noon.Add(6*time.Hour + time.Second): true,
		noon.Add(24 * time.Hour):            true,
		{}:                                  true, // no next run at all
	} {
		if got := cannotWait(due, end, next); got != want {
			t.Errorf("next run at %s: %t, want %t", next, got, want)
		}
	}
}

// TestBucket: in any sequence of takes, no window of time gets more than the burst and one for each refill.
func TestBucket(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var b bucket
		now := noon
		var taken []time.Time
		for range rapid.IntRange(1, 200).Draw(rt, "attempts") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(7*time.Second)).Draw(rt, "wait")))
			next, ok, at := b.take(heals, now)
			b = next
			if ok {
				taken = append(taken, now)
				continue
			}
			if !at.After(now) || at.Sub(now) > heals.refill {
				rt.Fatalf("at %s there is none until %s", now, at)
			}
			if _, ok, _ := b.take(heals, at); !ok {
				rt.Fatalf("none at %s, although that was promised", at)
			}
		}
		for i := range taken {
			for j := i; j < len(taken); j++ {
				if most := heals.burst + 1 + int(taken[j].Sub(taken[i])/heals.refill); j-i+1 > most {
					rt.Fatalf("%d heals within %s", j-i+1, taken[j].Sub(taken[i]))
				}
			}
		}
	})
}

func TestBucketWhenTheClockGoesBack(t *testing.T) {
	var b bucket
	for range heals.burst {
		b, _, _ = b.take(heals, noon)
	}
	_, ok, at := b.take(heals, noon.Add(-time.Hour))
	if ok || at.After(noon.Add(-time.Hour).Add(heals.refill)) {
		t.Errorf("taken %t, next at %s: the hour that was never must not be waited for", ok, at)
	}
}

func TestRecent(t *testing.T) {
	writes := []time.Time{noon.Add(-11 * time.Minute), noon.Add(-10 * time.Minute), noon.Add(-9 * time.Minute), noon, noon.Add(time.Hour)}
	if got := recent(writes, noon); len(got) != 2 {
		t.Errorf("%d of %v are recent at %s, want those of nine minutes ago and now", len(got), writes, noon)
	}
}

func TestRetryAfter(t *testing.T) {
	for n, want := range map[int]time.Duration{1: 5 * time.Second, 2: 10 * time.Second, 4: 40 * time.Second, 8: 10 * time.Minute, 1000: 10 * time.Minute} {
		waits := map[time.Duration]bool{}
		for _, name := range []string{"envoy", "pgadmin", "bookapi"} {
			got := retryAfter(n, name)
			if got > want || got < want*4/5 {
				t.Errorf("%s after %d failures: %s, want at most a fifth less than %s", name, n, got, want)
			}
			waits[got] = true
		}
		if len(waits) != 3 {
			t.Errorf("after %d failures services come back together: %v", n, waits)
		}
	}
}
