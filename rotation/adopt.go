package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/store"
)

// takeOver takes over the places among the named services' that hold another CA's set, all of them in one
// transaction: the leaves that stay, and the anchors that they need in every ca.crt. It says whether the trust
// bundle has changed. What it could not do is tried again in the next pass.
func (e *Engine) takeOver(ctx context.Context, names []string, now time.Time) (changed bool) {
	unknown := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		s := e.services[name]
		return s == nil || s.Known || s.unread || now.Before(s.retryAt) && !s.unseen
	})
	e.look(ctx, slices.DeleteFunc(slices.Clone(unknown), func(name string) bool { return e.services[name].ahead != nil }))
	w := e.world(now)
	found := make(map[string]Seen)
	for _, name := range unknown {
		if s := e.services[name]; s.ahead != nil && s.ahead.err == nil {
			if _, action := Step(s.State, w, s.ahead.Seen, now); action.Do == Adopt {
				found[name] = s.ahead.Seen
			}
		}
	}
	if len(found) == 0 {
		return false
	}
	changed, err := e.adopt(found, now)
	if err != nil {
		for name := range found {
			e.failed(e.services[name], fmt.Errorf("take over: %w", err), now)
		}
	}
	return changed
}

// adopt records how the found sets are taken over.
func (e *Engine) adopt(found map[string]Seen, now time.Time) (changed bool, err error) {
	authority := e.Issuer.Authority()
	known := authority.Anchors()
	adoptions, anchors := audit(found, known, e.RenewAt, now)
	anchors = slices.DeleteFunc(anchors, func(a ca.Anchor) bool { return authority.Root().Certificate.Equal(a.Certificate) })
	changed = !slices.EqualFunc(known, anchors, func(x, y ca.Anchor) bool {
		return x.Certificate.Equal(y.Certificate) && slices.Equal(x.Only, y.Only)
	})
	err = e.Store.Update(func(w store.Writer) error {
		for _, a := range adoptions {
			if err := putTakeover(w, a.service, &a.takeover); err != nil {
				return err
			}
			if a.leaf == nil {
				continue
			}
			if err := issuer.Adopt(w, a.service, a.leaf, a.chain, authority.Epoch()); err != nil {
				return err
			}
		}
		if !changed {
			return nil
		}
		return authority.Trust(w, anchors)
	})
	if err == nil {
		err = e.rereadAll(changed)
	}
	if err != nil {
		return false, err
	}
	e.tellAdoption(adoptions, known)
	return changed, nil
}

// rereadAll takes the CA from the store anew where its trust has changed, and then all services.
func (e *Engine) rereadAll(changed bool) error {
	if changed {
		authority, err := e.Issuer.Authority().Reread(e.Store)
		if err != nil {
			return err
		}
		e.Issuer.SetAuthority(authority)
	}
	for _, name := range e.names() {
		s := e.services[name]
		s.unread = e.reread(s) != nil
		if changed {
			s.inPlace = time.Time{}
		}
	}
	return nil
}

func (e *Engine) tellAdoption(adoptions []adoption, before []ca.Anchor) {
	for _, a := range adoptions {
		line := []any{"service", a.service, "place", e.Target.Place(a.service), "leaf", string(a.takeover.Leaf)}
		if a.takeover.Why != "" {
			line = append(line, "since", a.takeover.Why)
		}
		e.Log.Info("taking over what is there", line...)
	}
	for _, anchor := range e.Issuer.Authority().Anchors() {
		if !slices.ContainsFunc(before, func(b ca.Anchor) bool { return b.Certificate.Equal(anchor.Certificate) }) {
			e.Log.Warn("another CA is trusted from now on", "anchor", describeAnchor(anchor))
		}
	}
}

// tellTakeover says what was written to a place that is being taken over.
func (e *Engine) tellTakeover(s *service, action Action) {
	text := "ca.crt holds the union of what live leaves need and our root; leaf kept"
	if action.Do == Issue {
		record := s.Leaf.Record()
		text = fmt.Sprintf("leaf signed anew, serial %s, valid until %s", record.Serial, record.NotAfter.Format(time.RFC3339))
	}
	e.Log.Info("took over", "service", s.Service, "what", text)
	e.Target.Tell(Notice{s.Service, NoticeTakenOver, text})
}

// trusted says whether every process that reads a place which is being taken over is known to have loaded the
// union of trust, so that leaves may be signed anew. What each place waits for is kept for the status.
func (e *Engine) trusted(ctx context.Context, now time.Time) bool {
	var waiting []string
	for _, name := range e.names() {
		s := e.services[name]
		s.waits = ""
		if s.Takeover != nil && s.Takeover.Leaf != LeafNone {
			waiting = append(waiting, name)
		}
	}
	if len(waiting) == 0 {
		return true
	}
	readers, err := e.Target.Readers(ctx, waiting)
	open := true
	for _, name := range waiting {
		s := e.services[name]
		if err != nil {
			s.waits = fmt.Sprintf("it is not known who reads it: %v", err)
		} else {
			s.waits = s.waitsFor(readers[name], e.HoldDown, now)
		}
		open = open && s.waits == ""
	}
	return open
}

// waitsFor says what stands between the service and the certainty that its readers trust our root, "" if nothing
// does.
func (s *service) waitsFor(r Readers, hold time.Duration, now time.Time) string {
	t := s.Takeover
	switch {
	case s.inPlace.IsZero():
		return "the union of trust is not in place"
	case t.Continued || r.Declared == ReadersNone:
		return ""
	case len(r.Known) > 0:
		return waitsForReaders(r.Known, s.written, hold)
	case r.Declared == ReadersFollow:
		if until := s.inPlace.Add(hold); now.Before(until) {
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

// Continue is an operator's word that the readers of the service's place, or of all that wait where it is "",
// need not be waited for. It is recorded.
func (e *Engine) Continue(ctx context.Context, only string) error {
	return e.do(ctx, func(time.Time) error {
		var going []*service
		for _, name := range e.names() {
			if s := e.services[name]; s.Takeover != nil && (only == "" || only == name) {
				going = append(going, s)
			}
		}
		if len(going) == 0 {
			return errNothingWaits(only)
		}
		err := e.Store.Update(func(w store.Writer) error {
			for _, s := range going {
				next := *s.Takeover
				next.Continued = true
				if err := putTakeover(w, s.Service, &next); err != nil {
					return err
				}
			}
			return nil
		})
		for _, s := range going {
			err = errors.Join(err, e.reread(s))
		}
		return err
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

// Resume has the service's place healed again after somebody has broken the glass.
func (e *Engine) Resume(ctx context.Context, name string) error {
	return e.do(ctx, func(time.Time) error {
		s := e.services[name]
		switch {
		case s == nil:
			return fmt.Errorf("service %q: %w", name, issuer.ErrUnknownService)
		case !s.rests:
			return fmt.Errorf("service %q does not rest: %w", name, ErrNothingToDo)
		}
		s.Resumed = true
		return nil
	})
}

// accept makes the refused places this store's, after an operator has been shown what that breaks.
func (e *Engine) accept(refused *RefusedError, now time.Time) error {
	lines := []string{"These places were written by a store that this one does not know of, or by a newer state of it:"}
	for _, r := range refused.Refusals {
		lines = append(lines, fmt.Sprintf("  %s: %s %s", r.Service, r.Place, r.Reason))
	}
	lines = append(lines,
		"Each gets a new key, certificate and ca.crt of this store at once. Processes that hold what is there now refuse",
		"those that hold the new files, and are refused, with CERTIFICATE_VERIFY_FAILED, unless both have the same root;",
		"another meshca that still runs refuses to write there. If a newer copy of the store exists, putting it back",
		"breaks nothing.")
	if err := e.Accept(lines); err != nil {
		return err
	}
	authority := e.Issuer.Authority()
	epoch := authority.Epoch()
	err := e.Store.Update(func(w store.Writer) error {
		for _, r := range refused.Refusals {
			seen := e.services[r.Service].ahead
			var tokens []string
			if seen.Mark != nil {
				epoch = max(epoch, seen.Mark.Epoch)
				tokens = append(tokens, seen.Mark.token())
			}
			if seen.Leaf != nil {
				tokens = append(tokens, leafToken(seen.Leaf))
			}
			if err := issuer.Claim(w, r.Service, tokens); err != nil {
				return err
			}
		}
		return authority.RaiseEpoch(w, epoch+1)
	})
	if err == nil {
		err = e.rereadAll(true)
	}
	return err
}
