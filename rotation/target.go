// Package rotation says when and in which order services get their certificates, and keeps them so.
//
// # What it guarantees
//
// What to do is decided by [Step], a pure function of what the store knows, what a target was seen to hold
// and the time; the [Engine] around it only observes, calls it, commits and acts. A target is written only
// after the certificate's record is durable, and only with a set whose key matches its leaf and whose chain
// verifies against the very ca.crt that is written. A folder or Secret that is not ours is never touched.
//
// # Failure
//
// A service that cannot be served is named in the status and tried again with back-off while the others go
// on. After a crash at any point the next start finds out from store and target what was done.
package rotation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// A Target is where the services' certificates are written: folders, or Secrets of a cluster. Its methods
// may be called from any goroutine, those for one service never at the same time.
type Target interface {
	// Observe reads what the service has now. Where that cannot be read it returns an error that names the
	// place; where it can be read and could not be written, the error wraps ErrNotWritable: nothing is
	// issued for a place that cannot take it.
	Observe(ctx context.Context, service string) (Observation, error)
	// Write replaces the whole set in one step: a reader sees the old set or the new one. When it returns
	// nil the new set is in place and survives a power cut; after an error Observe tells what is there.
	Write(ctx context.Context, service string, m Material) error
	// Watch calls changed with the name of a service, or with "" for all, soon after what they have may
	// have changed, also by Write. It returns when ctx ends, or with an error where it cannot watch: then
	// changes are found by the sweep.
	Watch(ctx context.Context, services []string, changed func(service string)) error
	// Tidy removes what Write has replaced and readers no longer need.
	Tidy(ctx context.Context, service string) error
	// Ready says whether the target as a whole answers.
	Ready(ctx context.Context) error
	// Place names where the service's set lies, for people.
	Place(service string) string
}

// ErrNotWritable is what Observe wraps for a place that can be read, and could not be written.
var ErrNotWritable = errors.New("cannot be written")

// The parts of a set, as people know them.
const (
	CertFile = "tls.crt" // the chain that the service presents: leaf, then issuing CA
	KeyFile  = "tls.key" // the leaf's private key, PKCS #8
	CAFile   = "ca.crt"  // the trust bundle
)

// Material is the whole set of one service, written together.
type Material struct {
	Cert, Key, CA []byte // PEM
	Mark          Mark
}

// A Mark says which store wrote a set, and which: it is kept beside it in the target's own form.
type Mark struct {
	Store   string // identity of the store
	Service string
	Epoch   uint64
	Bundle  string // SHA-256 of ca.crt, hexadecimal
	Serial  string // of the leaf
}

// An Observation is what a target holds of one service. A nil slice is an absent file.
type Observation struct {
	Cert, Key, CA []byte
	Mark          *Mark       // nil: no meshca wrote here, or its mark cannot be read
	MarkIn        string      // where the target keeps the mark, for people
	Deviations    []Deviation // from the target's own form: modes, links, spelling of the mark
}

// Empty says that nothing is there.
func (o *Observation) Empty() bool {
	return o.Cert == nil && o.Key == nil && o.CA == nil && o.Mark == nil
}

// A Deviation is one difference between what is there and what should be, in words for people; private
// keys are never in it.
type Deviation struct {
	File, Seen, Wanted string
}

// check verifies a set before it is written: the key is the leaf's, and the chain verifies at now, in both
// roles, against the very bundle of the set.
func (m *Material) check(now time.Time) error {
	pair, err := tls.X509KeyPair(m.Cert, m.Key)
	if err != nil {
		return errors.New("the key does not match the leaf") // the parser's words may quote the key
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(m.CA) {
		return errors.New("the trust bundle holds no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		intermediates.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		}); err != nil {
			return fmt.Errorf("the chain does not verify against its own bundle: %w", err)
		}
	}
	return nil
}
