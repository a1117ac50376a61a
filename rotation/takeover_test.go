package rotation_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/rotation/targettest"
	"github.com/meshca/meshca/store/storetest"
)

// TestIncident: the union is written at once; nothing is signed anew while one process is older than its write and
// the hold, also one that reads a set which is ours already; then all are.
func TestIncident(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.read(time.Now().Add(-time.Hour), incident...)
		stop := m.run(t)
		defer stop()
		m.wantUnion(t)
		written := time.Now()
		m.wait(10 * time.Minute)
		m.wantUnion(t)
		for _, name := range incident {
			m.wantWaits(t, name, "pod/"+name)
		}
		for _, name := range []string{"bookapi", "envoy", "search"} {
			if s := m.status(t, name); s.State != rotation.StateTaking {
				t.Errorf("%+v", s)
			}
		}
		m.wantAwaited(t, incident...)
		if got, want := m.engine.Status().Waiting, []string{"bookapi", "envoy", "search"}; !slices.Equal(got, want) {
			t.Errorf("%v wait to be signed anew, want %v", got, want)
		}
		if s := m.status(t, "search"); len(s.Remarks) != 1 || !strings.Contains(s.Remarks[0].Text, "tls.key is not the key of tls.crt") {
			t.Errorf("that search's leaf cannot be used is not said: %+v", s)
		}
		if s := m.engine.Status(); len(s.Foreign) != 2 || s.Foreign[0].Why == "" {
			t.Errorf("foreign anchors in the status: %+v", s.Foreign)
		}
		m.read(written.Add(hold), incident...) // as old as may be
		m.wait(2 * time.Minute)
		m.wantUnion(t)
		m.read(written.Add(hold+time.Second), "bookapi", "envoy", "search", "timescaledb")
		m.wait(2 * time.Minute)
		m.wantUnion(t) // pgadmin's old process still trusts what it trusted
		m.wantWaits(t, "pgadmin", "pod/pgadmin")
		m.wantWaits(t, "bookapi", "")
		m.wantAwaited(t, "pgadmin")
		m.read(written.Add(hold+time.Second), "pgadmin")
		m.wait(2 * time.Minute)
		m.wantAllAnew(t)
		for _, name := range incident {
			if s := m.status(t, name); s.ForeignWrites != 0 || s.Healed != 0 {
				t.Errorf("what meshca does is no foreign write: %+v", s)
			}
		}
	})
}

// TestTakeoverFaults breaks each write of the store on the way to the union, in both ways; other processes go on.
func TestTakeoverFaults(t *testing.T) {
	for _, fault := range storetest.Faults() {
		for n, reached := 1, true; reached; n++ {
			t.Run(fmt.Sprintf("%s, write %d", fault, n), func(t *testing.T) {
				broken(t, func(t *testing.T, m *mess) {
					m.read(time.Now().Add(-time.Hour), incident...)
					faulty := storetest.NewFaulty(m.Store, n, fault)
					m.store = faulty
					m.lives(t)
					reached = faulty.Updates() >= n
				})
			})
		}
	}
}

// TestSigningAnewFaults does the same while leaves are signed anew, in the process that lives on.
func TestSigningAnewFaults(t *testing.T) {
	for _, fault := range storetest.Faults() {
		for n, reached := 1, true; reached; n++ {
			t.Run(fmt.Sprintf("%s, write %d", fault, n), func(t *testing.T) {
				broken(t, func(t *testing.T, m *mess) {
					m.declare(rotation.ReadersNone, incident...)
					faulty := storetest.NewFaulty(m.Store, n, fault)
					m.store = faulty
					if m.start(t) == nil { // the first pass writes the union, the second signs anew
						stop := m.goOnRunning(t)
						if n%2 == 0 { // in the process that saw the failure, or in another
							m.wait(3 * time.Minute)
							m.wantAllAnew(t)
						}
						stop()
					}
					reached = faulty.Updates() >= n
					m.store = m.Store
					stop := m.run(t)
					m.wait(3 * time.Minute)
					stop()
					m.wantAllAnew(t)
				})
			})
		}
	}
}

// TestTakeoverTargetFails breaks each write of the target, before and after it took effect.
func TestTakeoverTargetFails(t *testing.T) {
	for _, written := range []bool{false, true} {
		for n, reached := 1, true; reached; n++ {
			t.Run(fmt.Sprintf("written=%t, write %d", written, n), func(t *testing.T) {
				broken(t, func(t *testing.T, m *mess) {
					m.read(time.Now().Add(-time.Hour), incident...)
					writes := 0
					var mu sync.Mutex
					m.target.Fail = func(string) (error, bool) {
						mu.Lock()
						defer mu.Unlock()
						if writes++; writes == n {
							return targettest.ErrDown, written
						}
						return nil, true
					}
					stop := m.run(t)
					m.wait(time.Minute)
					m.wantUnion(t)
					stop()
					m.read(time.Now().Add(hold), incident...)
					stop = m.run(t)
					m.wait(4 * time.Minute)
					stop()
					m.wantAllAnew(t)
					for _, name := range incident {
						if records := m.issued(t, name); records != 1 {
							t.Errorf("%d leaves were issued for %s", records, name)
						}
					}
					reached = writes >= n
				})
			})
		}
	}
}
