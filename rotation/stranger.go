package rotation

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/verify"
)

// A stranger is a CA that the mesh does not trust, and that a place would bring to every ca.crt if it were taken over.
// The first take-over lets in whatever live leaves need: that is the mesh as it was found. From then on whoever may
// write to one place could have all services trust a CA of his own, by writing there before meshca does, or after the
// program has gone that it was left to. So a stranger is let in by an operator's word alone, and on the very ca.crt that
// lay there when it was said.

const (
	// closedKey holds since when no stranger is let in without a word.
	closedKey = "takeover-closed"
	// admittedPrefix begins the keys of what operators have said of strangers, by service.
	admittedPrefix = "admitted/"
)

// barred is what a place was found to bring that must wait for an operator's word.
type barred struct {
	set   string // what lay there, and at which epoch: see setOf
	words string // of the strangers
}

// loadClosed reads whether the first take-over is over.
func (e *Engine) loadClosed() error {
	return e.Store.View(func(r store.Reader) error {
		_, e.closed = r.Get(closedKey)
		return nil
	})
}

// keepClosed records that the first take-over is over: every place of the catalogue is kept, or left alone for a reason.
func (e *Engine) keepClosed(now time.Time) error {
	if e.closed || len(e.services) == 0 { // whoever begins without a catalogue has not begun
		return nil
	}
	for _, s := range e.services {
		if !s.Known && !s.refused && !s.rests {
			return nil
		}
	}
	err := e.Store.Update(func(w store.Writer) error {
		w.Put(closedKey, []byte(now.UTC().Format(time.RFC3339)))
		return nil
	})
	if err != nil {
		return fmt.Errorf("record that the first take-over is over: %w", err)
	}
	e.closed = true
	return nil
}

// bar takes those of the found places out that would bring strangers among the anchors and that no operator has spoken
// for, and says whether there were any. Who brings others again and again is metered: each costs an audit.
func (e *Engine) bar(found map[string]Seen, anchors, known []ca.Anchor, now time.Time) (some bool) {
	unknown := strangers(anchors, known)
	for _, name := range sorted(found) {
		s, seen := e.services[name], found[name]
		brings := broughtBy(seen, unknown)
		if s.Known || len(brings) == 0 || e.admitted(name, seen) { // of a place that is known the ca.crt is ours
			continue
		}
		some = true
		delete(found, name)
		s.barred = barred{e.setOf(seen), strings.Join(brings, ", ")}
		if s.ahead != nil {
			s.ahead.Barred = s.barred.words
		}
		left, ok, at := s.Heals.take(heals, now)
		if s.Heals = left; !ok {
			s.retryAt = at
		}
	}
	return some
}

// strangers are those of the anchors that all would get, and nobody has yet.
func strangers(anchors, known []ca.Anchor) (certs []*x509.Certificate) {
	for _, a := range anchors {
		same := func(k ca.Anchor) bool { return k.Certificate.Equal(a.Certificate) }
		if len(a.Only) == 0 && !slices.ContainsFunc(known, same) {
			certs = append(certs, a.Certificate)
		}
	}
	return certs
}

// broughtBy tells of those of the strangers that the place's ca.crt holds.
func broughtBy(seen Seen, strangers []*x509.Certificate) (words []string) {
	held := certificates(seen.CA)
	for _, c := range strangers {
		if slices.ContainsFunc(held, c.Equal) {
			words = append(words, fmt.Sprintf("%s %q", verify.ShortFingerprint(c), c.Subject.String()))
		}
	}
	return words
}

// barredBy is what the place is known to bring, "" where it is nothing that has to wait.
func (e *Engine) barredBy(s *service, seen Seen) string {
	if s.Known || s.barred.words == "" || s.barred.set != e.setOf(seen) {
		return ""
	}
	return s.barred.words
}

// setOf names what a place holds and what the mesh trusts meanwhile: what the audit found is true of that alone.
func (e *Engine) setOf(seen Seen) string {
	return fmt.Sprintf("%d/%s/%s", e.Issuer.Authority().Epoch(), digest(seen.CA), digest(seen.Cert))
}

// admitted says whether an operator has let in what the place brings.
func (e *Engine) admitted(name string, seen Seen) bool {
	var word []byte
	err := e.Store.View(func(r store.Reader) error { word, _ = r.Get(admittedPrefix + name); return nil })
	return err == nil && string(word) == digest(seen.CA)
}

// letIn records an operator's word on the strangers that the services' places hold.
func (e *Engine) letIn(services []*service) error {
	if len(services) == 0 {
		return nil
	}
	return e.Store.Update(func(w store.Writer) error {
		for _, s := range services {
			w.Put(admittedPrefix+s.Service, []byte(digest(s.ca)))
		}
		return nil
	})
}

// digest names content: SHA-256, hexadecimal.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
