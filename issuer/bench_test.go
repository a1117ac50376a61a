package issuer

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/test/bench/measure"
)

// The parts of the work, each as it is measured and as a floor beside it. `go test -bench Issue` prints
// them in one run; make bench interleaves several and prints the ratios.

type bench struct {
	issuer *Issuer
	next   atomic.Int64
	keys   []crypto.PublicKey
	store  string // its path
	now    time.Time

	template, parent *x509.Certificate
	key              crypto.Signer
	file             *os.File
	grouped          grouped
}

// keysOfCallers is how many keys take turns: more than are needed in a run, since callers make new ones.
const keysOfCallers = 20_000

func newBench(b *testing.B) *bench {
	b.Helper()
	now := time.Now()
	f := catest.New(b, now)
	i := New(f.Store, f.Authority)
	i.SetCatalogue([]Policy{{
		Service: "pgadmin",
		Identity: profile.Identity{CommonName: "pgadmin",
			DNSNames: []string{"pgadmin", "pgadmin.default.svc", "pgadmin.default.svc.cluster.local"},
			URI:      profile.SPIFFEID("mesh.local", "default", "pgadmin")},
		Key: profile.ECDSAP256, Lifetime: 720 * time.Hour, Backdate: 5 * time.Minute, MinRemaining: time.Hour,
	}})
	s := &bench{issuer: i, now: now, store: f.StorePath}
	for range keysOfCallers {
		key, err := profile.ECDSAP256.Generate()
		if err != nil {
			b.Fatal(err)
		}
		s.keys = append(s.keys, key.Public())
	}
	s.floor(b, f.Authority)
	return s
}

// request asks as the next caller does.
func (s *bench) request() Request {
	return Request{Service: "pgadmin", PublicKey: s.keys[s.next.Add(1)%keysOfCallers], Reason: "bench", Caller: "admin"}
}

// floor prepares the same certificate for plain crypto/x509, with a key of the same type, and a file for a
// plain append, in the folder of the store.
func (s *bench) floor(b *testing.B, authority *ca.Authority) {
	b.Helper()
	var err error
	if s.key, err = profile.ECDSAP256.Generate(); err != nil {
		b.Fatal(err)
	}
	s.parent = authority.Issuing().Certificate
	policy, _ := s.issuer.Policy("pgadmin")
	window := profile.LeafWindow(s.now, policy.Lifetime, policy.Backdate, s.parent)
	if s.template, err = profile.LeafTemplate(policy.Identity, s.keys[0], window, s.parent); err != nil {
		b.Fatal(err)
	}
	parent := *s.parent
	parent.PublicKey = s.key.Public()
	s.parent = &parent
	if s.file, err = os.Create(filepath.Join(b.TempDir(), "floor")); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.file.Close() })
	s.grouped.file, s.grouped.next = s.file, newBatch()
}

func (s *bench) sign(b *testing.B) []byte {
	der, err := x509.CreateCertificate(rand.Reader, s.template, s.parent, s.keys[0], s.key)
	if err != nil {
		b.Fatal(err)
	}
	return der
}

func BenchmarkIssue(b *testing.B) {
	s := newBench(b)
	b.Run("floor=sign", func(b *testing.B) {
		for b.Loop() {
			s.sign(b)
		}
	})
	b.Run("without-store", func(b *testing.B) {
		for b.Loop() {
			if _, _, err := s.issuer.sign(s.request(), s.now); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint("floor=sign+fdatasync/writers=", writers), func(b *testing.B) {
			before := s.grouped.syncs
			s.together(b, writers, func() error { return s.grouped.append(s.sign(b)) })
			b.ReportMetric(float64(s.grouped.syncs-before)/float64(b.N), "fdatasync/op")
		})
		b.Run(fmt.Sprint("with-store/writers=", writers), func(b *testing.B) {
			before := s.commits(b)
			s.together(b, writers, func() error {
				_, err := s.issuer.Issue(s.request(), s.now)
				return err
			})
			b.ReportMetric(measure.SyncsOfCommit*float64(s.commits(b)-before)/float64(b.N), "fdatasync/op")
		})
	}
}

// together has the writers do the work b.N times between them.
func (s *bench) together(b *testing.B, writers int, do func() error) {
	var done atomic.Int64
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for done.Add(1) <= int64(b.N) {
				if err := do(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func (s *bench) commits(b *testing.B) uint64 {
	n, err := measure.Commits(s.store)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// grouped is a file whose appends share their syncs: whoever comes during one joins the next.
type grouped struct {
	file  *os.File
	sync  sync.Mutex // held by who syncs
	syncs int        // held by the same

	mu   sync.Mutex
	next *batch
}

type batch struct {
	data []byte
	done chan struct{}
	err  error
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// append returns when the data is durable. The first of a batch writes it for all.
func (g *grouped) append(data []byte) error {
	g.mu.Lock()
	mine := g.next
	first := len(mine.data) == 0
	mine.data = append(mine.data, data...)
	g.mu.Unlock()
	if first {
		g.write(mine)
	}
	<-mine.done
	return mine.err
}

func (g *grouped) write(b *batch) {
	defer close(b.done)
	g.sync.Lock()
	defer g.sync.Unlock()
	g.mu.Lock()
	g.next = newBatch()
	g.mu.Unlock()
	g.syncs++
	if _, b.err = g.file.Write(b.data); b.err == nil {
		b.err = fdatasync(g.file)
	}
}
