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

// see looks at all places whose processes may have to be waited for, and notes what trust they hold, before the gate is
// judged: what was seen in the pass before may have changed since, and others would be signed anew on it. The turns of
// this pass use the same looks.
func (e *Engine) see(ctx context.Context, now time.Time) {
	if !e.takingOver() {
		return
	}
	awaited := slices.DeleteFunc(e.names(), func(name string) bool { s := e.services[name]; return s.Known && !s.consumed() })
	served := e.look(ctx, slices.DeleteFunc(slices.Clone(awaited), func(name string) bool {
		s := e.services[name]
		return s.ahead != nil || s.throttled && s.backsOff(now)
	}))
	for _, name := range awaited {
		s := e.services[name]
		if served[name] {
			continue // its turn has noted what it saw
		}
		if s.unseen = s.ahead == nil || s.ahead.err != nil; s.unseen {
			continue
		}
		s.looked, s.ca = true, s.ahead.CA
		s.unseen = e.noteTrust(s, s.ahead.Seen, now) != nil // its turn says why
	}
}

// takingOver says whether a leaf waits to be signed anew.
func (e *Engine) takingOver() bool {
	for _, s := range e.services {
		if s.waiting() {
			return true
		}
	}
	return false
}

// waiting says whether the service's leaf waits to be signed anew.
func (s *service) waiting() bool { return s.Takeover != nil && s.Takeover.Leaf != LeafNone }

// trusted says whether every process that reads a place which is, or was, taken over is known to have loaded a
// ca.crt with our root, so that leaves may be signed anew. What each place waits for is kept for the status.
func (e *Engine) trusted(ctx context.Context, now time.Time) bool {
	var asked []string
	for _, name := range e.names() {
		s := e.services[name]
		s.waits = ""
		if s.consumed() {
			asked = append(asked, name)
		}
	}
	if !e.takingOver() {
		return true
	}
	var readers map[string]Readers
	_ = e.work(ctx, []job{{askingWho, func() error { // as in look
		readers = e.Target.Readers(ctx, asked)
		return nil
	}}})
	open := true
	for _, name := range e.names() {
		s := e.services[name]
		if s.waits = e.waitsFor(s, readers[name], now); s.waits != "" && e.continued(s) {
			s.waits = ""
		}
		open = open && s.waits == ""
	}
	return open
}

// askingWho is the job that asks the target who reads. It is no service's name.
const askingWho = "who reads"

// waitsFor says what stands between the service and the certainty that its readers trust our root, "" if nothing
// does.
func (e *Engine) waitsFor(s *service, r Readers, now time.Time) string {
	switch {
	case s.unread:
		return "its records cannot be read, so it is not known whom its processes trust"
	case !s.Known:
		return e.mayRefuse(s, now)
	case !s.consumed():
		return ""
	case r.Err != nil:
		return fmt.Sprintf("it is not known who reads it: %v", r.Err)
	}
	return s.waitsForAll(r, e.HoldDown, now)
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
			return "its place is left alone, and its " + CAFile + " does not hold our root: its processes would refuse leaves that are signed anew, and accept " + name +
				" now; go on all the same by meshca adopt " + s.Service + " --continue"
		}
	}
	return ""
}

// trusts says whether a ca.crt holds the certificate.
func trusts(bundle []byte, c *x509.Certificate) bool {
	return slices.ContainsFunc(certificates(bundle), c.Equal)
}

// waitsForAll is waitsFor for a place that was taken over.
func (s *service) waitsForAll(r Readers, hold time.Duration, now time.Time) string {
	t := s.taken
	switch {
	case s.unseen || !s.looked:
		return "it cannot be read, so it is not known whom its processes trust"
	case t.InPlace.IsZero():
		return "the union of trust is not in place"
	case len(r.Known) > 0: // what is declared counts for those that cannot be seen
		return waitsForReaders(r.Known, t.Written, hold)
	case r.Declared == ReadersNone:
		return ""
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
		next.Placed, next.InPlace, next.Written = true, now.UTC(), next.writtenAt(seen)
		e.changedAgain("") // the pass that follows acts on it
	case holds && seen.Proven && next.Written.IsZero() && !seen.Written.IsZero():
		next.Written = next.writtenAt(seen)
	case !holds && !next.InPlace.IsZero():
		next.InPlace, next.Written, next.Missing = time.Time{}, time.Time{}, now.UTC()
		next.Continued = false // it was said of readers that had loaded something else
	default:
		return nil
	}
	e.moved.Store(true)
	return e.keepTakeover(map[*service]*Takeover{s: &next})
}

// clocksApart is by how much the target's clock may be behind ours.
const clocksApart = time.Minute

// writtenAt is when the ca.crt with our root was written, by the target's clock, zero where that is not known. What the
// target keeps of it may be forged by whoever writes to the place, so that his own processes are not waited for: it was
// not there yet when it was last seen to be missing.
func (t *Takeover) writtenAt(seen Seen) time.Time {
	if seen.Written.IsZero() {
		return time.Time{}
	}
	return later(seen.Written, later(t.Since, t.Missing).Add(-clocksApart)).UTC()
}

// keepTakeover records what is known of places that are taken over.
func (e *Engine) keepTakeover(next map[*service]*Takeover) error {
	if len(next) == 0 {
		return nil
	}
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

// Continue is an operator's word that the processes of the service, or of all that are waited for where it is "",
// need not be. It is recorded, and the status tells at once who still is. Of a named service whose place brings another
// CA it is the word that this CA is let in.
func (e *Engine) Continue(ctx context.Context, only string) error {
	return e.do(ctx, func(now time.Time) error {
		taken := make(map[*service]*Takeover)
		var left, strange []*service
		for _, name := range e.names() {
			s := e.services[name]
			switch {
			case only != "" && only != name || s.waits == "" && s.Takeover == nil && (only == "" || s.brings == ""):
			case s.taken != nil:
				next := *s.taken
				next.Continued = true
				taken[s] = &next
			case only != "" && s.brings != "": // it is let in by its name alone, and its readers are waited for then
				strange = append(strange, s)
			default:
				left = append(left, s)
			}
		}
		if len(taken)+len(left)+len(strange) == 0 {
			return errNothingWaits(only)
		}
		if err := errors.Join(e.keepTakeover(taken), e.keepWords(left), e.letIn(strange)); err != nil {
			return err
		}
		e.trusted(ctx, now)
		e.publish(now)
		return nil
	})
}

// continued says whether an operator has said that the service's processes need not be waited for.
func (e *Engine) continued(s *service) bool {
	if s.taken != nil {
		return s.taken.Continued
	}
	var word []byte
	err := e.Store.View(func(r store.Reader) error { word, _ = r.Get(wordPrefix + s.Service); return nil })
	return err == nil && word != nil && (!s.looked || string(word) == s.saidOf())
}

// wordPrefix begins the keys of what operators have said of places that are left alone.
const wordPrefix = "continued/"

// keepWords records what an operator has said of places that are left alone.
func (e *Engine) keepWords(left []*service) error {
	if len(left) == 0 {
		return nil
	}
	return e.Store.Update(func(w store.Writer) error {
		for _, s := range left {
			w.Put(wordPrefix+s.Service, []byte(s.saidOf()))
		}
		return nil
	})
}

// saidOf is what an operator's word on a place that is left alone is of: its ca.crt as it was seen last. Somebody
// else's in its stead has other readers.
func (s *service) saidOf() string {
	if !s.looked {
		return "a place that was not seen"
	}
	return digest(s.ca)
}

// ErrNothingToDo is what commands wrap that find nothing to do.
var ErrNothingToDo = errors.New("there is nothing to do")

func errNothingWaits(only string) error {
	if only == "" {
		return fmt.Errorf("no service is being taken over: %w", ErrNothingToDo)
	}
	return fmt.Errorf("service %q is not being taken over: %w", only, ErrNothingToDo)
}
