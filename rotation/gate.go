package rotation

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshca/meshca/store"
)

// trusted says whether every process that reads a place which is, or was, taken over is known to have loaded a
// ca.crt with our root, so that leaves may be signed anew. What each place waits for is kept for the status.
func (e *Engine) trusted(ctx context.Context, now time.Time) bool {
	waits := false
	var asked []string
	for _, name := range e.names() {
		s := e.services[name]
		s.waits = ""
		waits = waits || s.Takeover != nil && s.Takeover.Leaf != LeafNone
		if s.consumed() {
			asked = append(asked, name)
		}
	}
	if !waits {
		return true
	}
	readers, err := e.Target.Readers(ctx, asked)
	open := true
	for _, name := range e.names() {
		s := e.services[name]
		switch {
		case !s.Known:
			s.waits = e.mayRefuse(s, now)
		case !s.consumed():
		case err != nil:
			s.waits = fmt.Sprintf("it is not known who reads it: %v", err)
		default:
			s.waits = s.waitsFor(readers[name], e.HoldDown, now)
		}
		open = open && s.waits == ""
	}
	return open
}

// consumed says whether the service's processes may have loaded a ca.crt that is not ours.
func (s *service) consumed() bool {
	return s.taken != nil && (s.taken.Leaf != LeafNone || s.taken.Trusts)
}

// mayRefuse says why the processes of a place that is not ours to write may refuse our leaves and accept those of
// other CAs that we would replace, "" if they do not.
func (e *Engine) mayRefuse(s *service, now time.Time) string {
	switch {
	case s.unseen || !s.looked:
		return "it cannot be read, so it is not known whom its processes trust"
	case trusts(s.ca, e.Issuer.Authority().Root().Certificate):
		return ""
	}
	held := certificates(s.ca)
	accepts := func(chain []*x509.Certificate) bool { return len(paths(chain, held, now)) > 0 }
	for _, name := range e.names() {
		if other := e.services[name]; other.Takeover != nil && slices.ContainsFunc(other.Takeover.live(now), accepts) {
			return "its place is left alone, and its " + CAFile + " does not hold our root: its processes would refuse leaves that are signed anew, and accept " + name + " now"
		}
	}
	return ""
}

// trusts says whether a ca.crt holds the certificate.
func trusts(bundle []byte, c *x509.Certificate) bool {
	return slices.ContainsFunc(certificates(bundle), c.Equal)
}

// waitsFor says what stands between the service and the certainty that its readers trust our root, "" if nothing
// does.
func (s *service) waitsFor(r Readers, hold time.Duration, now time.Time) string {
	t := s.taken
	switch {
	case s.unseen || !s.looked:
		return "it cannot be read, so it is not known whom its processes trust"
	case t.InPlace.IsZero():
		return "the union of trust is not in place"
	case t.Continued || r.Declared == ReadersNone:
		return ""
	case len(r.Known) > 0:
		return waitsForReaders(r.Known, t.Written, hold)
	case r.Declared == ReadersFollow:
		if until := t.InPlace.Add(hold); now.Before(until) {
			return "its readers follow it: until " + until.UTC().Format(time.RFC3339)
		}
		return ""
	case !now.Before(t.Due):
		return "" // whoever reads it must read it anew about now in any case
	}
	return fmt.Sprintf("nobody is seen to read it, so an unknown reader may: say who does (consumers: none or api), "+
		"or go on by meshca adopt %s --continue; at the latest at %s", s.Service, t.Due.UTC().Format(time.RFC3339))
}

// waitsForReaders names the processes that may have started with older files than those of the write: a new
// one may be given a cached copy for as long as the hold.
func waitsForReaders(known []Reader, written time.Time, hold time.Duration) string {
	if written.IsZero() {
		return "when it was written is not known yet"
	}
	var old []string
	for _, reader := range known {
		if !reader.Created.After(written.Add(hold)) {
			old = append(old, reader.Name)
		}
	}
	if len(old) == 0 {
		return ""
	}
	slices.Sort(old)
	text := strings.Join(old[:min(len(old), 5)], ", ")
	if more := len(old) - 5; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("processes that started before %s and may not have loaded the union: %s",
		written.Add(hold).UTC().Format(time.RFC3339), text)
}

// noteTrust keeps, in the store, since when the ca.crt of a place that was taken over holds our root. A bundle
// that changes and holds it before and after changes nothing for who has loaded it.
func (e *Engine) noteTrust(s *service, seen Seen, now time.Time) error {
	if s.taken == nil {
		return nil
	}
	next := *s.taken
	authority := e.Issuer.Authority()
	asWritten := bytes.Equal(seen.CA, authority.BundleFor(s.Service).PEM()) // which need not be parsed
	switch holds := asWritten || trusts(seen.CA, authority.Root().Certificate); {
	case holds && seen.Proven && next.InPlace.IsZero():
		next.Placed, next.InPlace, next.Written = true, now.UTC(), seen.Written.UTC()
		e.changedAgain("") // the pass that follows acts on it
	case holds && seen.Proven && next.Written.IsZero() && !seen.Written.IsZero():
		next.Written = seen.Written.UTC()
	case !holds && !next.InPlace.IsZero():
		next.InPlace, next.Written = time.Time{}, time.Time{}
	default:
		return nil
	}
	e.moved.Store(true)
	return e.keepTakeover(map[*service]*Takeover{s: &next})
}

// keepTakeover records what is known of places that are taken over.
func (e *Engine) keepTakeover(next map[*service]*Takeover) error {
	err := e.Store.Update(func(w store.Writer) error {
		for s, t := range next {
			if err := putTakeover(w, s.Service, s.Subject, t); err != nil {
				return err
			}
		}
		return nil
	})
	for s := range next {
		err = errors.Join(err, e.reread(s)) // also after an error: what the store says counts
	}
	return err
}

// Continue is an operator's word that the readers of the service's place, or of all that wait where it is "",
// need not be waited for. It is recorded.
func (e *Engine) Continue(ctx context.Context, only string) error {
	return e.do(ctx, func(time.Time) error {
		going := make(map[*service]*Takeover)
		for _, name := range e.names() {
			if s := e.services[name]; s.taken != nil && (s.Takeover != nil || s.waits != "") && (only == "" || only == name) {
				next := *s.taken
				next.Continued = true
				going[s] = &next
			}
		}
		if len(going) == 0 {
			return errNothingWaits(only)
		}
		return e.keepTakeover(going)
	})
}

// ErrNothingToDo is what commands wrap that find nothing to do.
var ErrNothingToDo = errors.New("there is nothing to do")

func errNothingWaits(only string) error {
	if only == "" {
		return fmt.Errorf("no service is being taken over: %w", ErrNothingToDo)
	}
	return fmt.Errorf("service %q is not being taken over: %w", only, ErrNothingToDo)
}
