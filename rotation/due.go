package rotation

import (
	"hash/fnv"
	"time"

	"github.com/meshca/meshca/issuer"
)

// maxJitter is the part of a leaf's life by which its renewal may be earlier, so that leaves of one moment
// do not all fall due together.
const maxJitter = 0.05

// Due is when a leaf is due for renewal: at the fraction renewAt of its actual life, counted from the
// moment of issue, less a jitter of at most a twentieth of that life which is derived from the service's
// name and so is the same after each restart. A clamped leaf has a shorter life and is due earlier.
func Due(r issuer.Record, renewAt float64) time.Time {
	life := r.NotAfter.Sub(r.IssuedAt)
	jitter := maxJitter * spread(r.Service)
	fraction := max(renewAt-jitter, renewAt/2)
	return r.IssuedAt.Add(time.Duration(fraction * float64(life)))
}

// cannotWait says whether a leaf that is due must not wait for the next run of the schedule, because that
// would leave less than a quarter of the time between due and expiry. Expiry always wins.
func cannotWait(due, notAfter, nextRun time.Time) bool {
	return nextRun.IsZero() || nextRun.After(notAfter.Add(-notAfter.Sub(due)/4))
}

// A meter says how much a bucket holds, and how soon what was taken comes back.
type meter struct {
	burst  int
	refill time.Duration // of one
}

var (
	// heals of a service are metered, so that whoever fights over a folder cannot wear out the disk.
	heals = meter{20, 5 * time.Second}
	// renewals that are asked for are too: each is a record, and a change for whoever reads the place.
	renewals = meter{5, 10 * time.Minute}
)

// A bucket holds what a service may have of a meter now; the zero value is a full one.
type bucket struct {
	spent int
	since time.Time // when the oldest spent one began to come back
}

// take spends one. Where none is left, ok is false and at says when there is one again.
func (b bucket) take(m meter, now time.Time) (next bucket, ok bool, at time.Time) {
	if now.Before(b.since) { // the clock went back
		b.since = now
	}
	if back := int(now.Sub(b.since) / m.refill); back >= b.spent {
		b = bucket{since: now}
	} else {
		b.spent -= back
		b.since = b.since.Add(time.Duration(back) * m.refill)
	}
	if b.spent == m.burst {
		return b, false, b.since.Add(m.refill)
	}
	b.spent++
	return b, true, time.Time{}
}

// From the third foreign write within ten minutes somebody is at work: status and metrics say so.
const (
	alarmWrites = 3
	alarmWindow = 10 * time.Minute
)

// recent keeps the instants that are within the alarm's window before now.
func recent(writes []time.Time, now time.Time) []time.Time {
	var kept []time.Time
	for _, w := range writes {
		if now.Sub(w) < alarmWindow && !w.After(now) {
			kept = append(kept, w)
		}
	}
	return kept
}

// Failures are tried again after 5 s, doubling to 10 min.
const (
	retryFirst = 5 * time.Second
	retryLast  = 10 * time.Minute
)

// contested is as which failure in a row a lost race counts at most: the target answers, and whoever writes there may
// stop at any moment, so what they leave is put right within 10 s.
const contested = 2

// retryAfter is the wait after the n-th failure in a row, n ≥ 1, less a jitter of at most a fifth that is derived
// from the name: services that failed together do not all come back together.
func retryAfter(n int, name string) time.Duration {
	wait := min(retryFirst<<min(n-1, 10), retryLast)
	return wait - time.Duration(spread(name)*float64(wait)/5)
}

// spread is a number in [0, 1) that is derived from a name.
func spread(name string) float64 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return float64(h.Sum32()) / (1 << 32)
}
