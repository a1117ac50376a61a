package rotation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/store"
)

// takeOver takes over the places among the named services' that hold another CA's set, all of them in one
// transaction: the leaves that stay, and the anchors that they need in every ca.crt. It says whether the trust
// bundle has changed. What it could not do is tried again in the next pass.
func (e *Engine) takeOver(ctx context.Context, names []string, now time.Time) (changed bool) {
	found := e.foundAmong(ctx, names, now)
	if len(found) == 0 {
		return false
	}
	// What no place is taken over for is part of the audit all the same: live leaves whose trust must stay.
	found = e.foundAmong(ctx, e.names(), now)
	changed, err := e.adopt(found, now)
	if err != nil {
		for name := range found {
			e.failed(e.services[name], fmt.Errorf("take over: %w", err), now)
		}
	}
	return changed
}

// foundAmong looks at those of the services that may have to be taken over, and says which must be.
func (e *Engine) foundAmong(ctx context.Context, names []string, now time.Time) map[string]Seen {
	candidates := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		s := e.services[name]
		return s == nil || s.unread || s.Known && s.Takeover == nil
	})
	// What could not be seen is looked at in its own turn first: the others' turns need not wait for it.
	e.look(ctx, slices.DeleteFunc(slices.Clone(candidates), func(name string) bool {
		s := e.services[name]
		return s.ahead != nil || s.unseen
	}))
	w := e.world(now)
	found := make(map[string]Seen)
	for _, name := range candidates {
		s := e.services[name]
		if s.ahead == nil || s.ahead.err != nil || now.Before(s.retryAt) && !s.unseen {
			continue
		}
		if _, action := Step(s.State, w, s.ahead.Seen, now); action.Do == Adopt {
			found[name] = s.ahead.Seen
		}
	}
	return found
}

// parties are all services as the audit sees them. blind says that of some it is not known what they hold.
func (e *Engine) parties(found map[string]Seen, now time.Time) (parties []*party, blind bool) {
	for _, name := range e.names() {
		s := e.services[name]
		p := &party{service: name}
		seen, adopted := found[name]
		switch {
		case s.unread:
			blind = true
			continue
		case s.Known:
			p.held = e.Issuer.Authority().BundleFor(name).Certificates()
		case s.ahead == nil:
			blind = true
			continue
		default:
			seen = s.ahead.Seen
			p.held, p.fixed = certificates(seen.CA), !adopted && !seen.Empty()
		}
		if s.taken != nil {
			p.chains = s.taken.live(now)
		}
		if seen.Leaf != nil {
			chain := presented(seen.Cert)
			if leaf, _ := usable(seen, now); leaf != LeafNone && len(chain) > 0 {
				p.chains = append(p.chains, chain)
			}
		}
		parties = append(parties, p)
	}
	return parties, blind
}

// audit finds which anchors the trust bundle must hold when the found places are taken over. Those that would bring
// strangers are no longer among them then.
func (e *Engine) audit(found map[string]Seen, known []ca.Anchor, now time.Time) (a *audit, anchors []ca.Anchor) {
	for {
		parties, blind := e.parties(found, now)
		a = newAudit(parties, e.Issuer.Authority().Trusted(), known, blind, now)
		a.closed = e.closed
		anchors = a.anchors()
		if !e.closed || !e.bar(found, anchors, known, now) {
			return a, anchors
		}
	}
}

// adopt records how the found sets are taken over.
func (e *Engine) adopt(found map[string]Seen, now time.Time) (changed bool, err error) {
	authority := e.Issuer.Authority()
	known := authority.Anchors()
	a, anchors := e.audit(found, known, now)
	if len(found) == 0 {
		return false, nil
	}
	takeovers := make(map[string]*Takeover)
	err = e.Store.Update(func(w store.Writer) error {
		for _, name := range sorted(found) {
			t := begin(e.services[name].taken, found[name], now)
			if leaf := found[name].Leaf; leaf != nil {
				t.accepted(leaf, a.until[string(leaf.Raw)], e.RenewAt)
			}
			takeovers[name] = t
			if err := putTakeover(w, name, e.services[name].Subject, t); err != nil {
				return err
			}
			if t.Leaf != LeafUsable {
				continue
			}
			if err := issuer.Adopt(w, name, e.services[name].Subject, presented(found[name].Cert), found[name].Cert, authority.Epoch()); err != nil {
				return err
			}
		}
		changed, err = authority.Trust(w, anchors)
		return err
	})
	// Also after an error: the records may be there all the same, and what the store says counts.
	if err = errors.Join(err, e.rereadAll()); err != nil {
		return false, err
	}
	for name := range found {
		if s := e.services[name]; s.Takeover != nil {
			s.Heals, _, _ = s.Heals.take(heals, now) // each costs a record: whoever writes again and again is metered
		}
	}
	e.tellAdoption(takeovers, known)
	e.changedAgain("") // when the union is written it is looked at again: a target need not tell of our own writes
	return changed, nil
}

// rereadAll takes the CA's trust and all services from the store anew.
func (e *Engine) rereadAll() error {
	authority, err := e.Issuer.Authority().Reread(e.Store)
	if err != nil {
		return err
	}
	e.Issuer.SetAuthority(authority)
	for _, name := range e.names() {
		s := e.services[name]
		s.unread = e.reread(s) != nil
	}
	return nil
}

func (e *Engine) tellAdoption(takeovers map[string]*Takeover, before []ca.Anchor) {
	for _, name := range sorted(takeovers) {
		t := takeovers[name]
		line := []any{"service", name, "place", e.Target.Place(name), "leaf", string(t.Leaf)}
		if t.Why != "" {
			line = append(line, "since", t.Why)
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
func (e *Engine) tellTakeover(s *service) {
	text, serial := "ca.crt holds the union of what live leaves need and our root; leaf kept", ""
	if s.Takeover == nil {
		record := s.Leaf.Record()
		serial = record.Serial
		text = fmt.Sprintf("leaf signed anew, serial %s, valid until %s", record.Serial, record.NotAfter.Format(time.RFC3339))
	}
	e.Log.Info("took over", "service", s.Service, "what", text)
	e.Target.Tell(Notice{s.Service, NoticeTakenOver, serial, text})
}

// Resume has the service's place healed again after somebody has broken the glass. The status says whether it is, where
// that takes no longer than ctx.
func (e *Engine) Resume(ctx context.Context, name string) error {
	err := e.order(ctx, command{only: name, after: func() error { return nil }, do: func(time.Time) error {
		s := e.services[name]
		switch {
		case s == nil:
			return fmt.Errorf("service %q: %w", name, issuer.ErrUnknownService)
		case !s.rests:
			return fmt.Errorf("service %q does not rest: %w", name, ErrNothingToDo)
		}
		s.Resumed = true
		return nil
	}})
	if errors.Is(err, ErrUnderWay) {
		return nil // the word is taken
	}
	return err
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
				tokens = append(tokens, seen.Mark.token())
			}
			if seen.Proven { // anybody can write any other
				epoch = max(epoch, seen.Mark.Epoch)
			}
			if seen.Leaf != nil {
				tokens = append(tokens, leafToken(seen.Leaf))
			}
			if err := issuer.Claim(w, r.Service, e.services[r.Service].Subject, tokens); err != nil {
				return err
			}
		}
		return authority.RaiseEpoch(w, epoch+1)
	})
	if err != nil {
		return err
	}
	return e.rereadAll()
}

func sorted[V any](byName map[string]V) []string { return slices.Sorted(maps.Keys(byName)) }
