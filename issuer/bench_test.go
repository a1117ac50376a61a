package issuer

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/profile"
)

// The parts of the work, each as it is measured and as a floor beside it. `go test -bench Issue` prints
// them in one run; make bench interleaves several and prints the ratios.

type bench struct {
	issuer  *Issuer
	request Request
	now     time.Time

	template, parent *x509.Certificate
	key              crypto.Signer
	file             *os.File
}

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
	leafKey, err := profile.ECDSAP256.Generate()
	if err != nil {
		b.Fatal(err)
	}
	s := &bench{issuer: i, now: now, request: Request{Service: "pgadmin", PublicKey: leafKey.Public(), Reason: "bench"}}
	s.floor(b, f.Authority)
	return s
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
	if s.template, err = profile.LeafTemplate(policy.Identity, s.request.PublicKey, window, s.parent); err != nil {
		b.Fatal(err)
	}
	parent := *s.parent
	parent.PublicKey = s.key.Public()
	s.parent = &parent
	if s.file, err = os.Create(filepath.Join(b.TempDir(), "floor")); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.file.Close() })
}

func (s *bench) sign(b *testing.B) []byte {
	der, err := x509.CreateCertificate(rand.Reader, s.template, s.parent, s.request.PublicKey, s.key)
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
			if _, _, err := s.issuer.sign(s.request, s.now); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("floor=sign+fdatasync", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.file.Write(s.sign(b)); err != nil {
				b.Fatal(err)
			}
			if err := fdatasync(s.file); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("with-store", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.issuer.Issue(s.request, s.now); err != nil {
				b.Fatal(err)
			}
		}
	})
}
