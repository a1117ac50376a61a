package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/meshca/meshca/issuer"
)

// serve brings one service to where it should be: observe, decide, act.
func (e *Engine) serve(ctx context.Context, s *service, w World, now time.Time) {
	if w.Run && s.Leaf != nil && !now.Before(Due(s.Leaf.Record(), w.RenewAt)) {
		s.Owed = true // also if it cannot be done now: a run is not lost to a failure
	}
	// What could not be read is looked at whenever there is a reason to look: that costs nothing. What
	// could not be issued or written waits its time, also where its own attempts are the reason to look.
	if now.Before(s.retryAt) && now.Add(retryLast).After(s.retryAt) && !s.unseen {
		return
	}
	if s.unread {
		if err := e.reread(s); err != nil {
			e.failed(s, err, now)
			return
		}
		s.unread = false
	}
	seen, err := e.observe(ctx, s)
	s.unseen = err != nil
	if err == nil && s.Leaf != nil && s.Leaf.Record().State == issuer.Issued {
		err = e.settle(s, seen)
	}
	if err != nil {
		e.failed(s, err, now)
		return
	}
	var action Action
	before := s.State
	s.State, action = Step(s.State, w, seen, now)
	switch action.Do {
	case Keep:
		e.settled(s)
		return
	case Wait:
		s.retryAt = action.Until
		e.find(s, action.Reason, "find out who writes to "+e.Target.Place(s.Service), false)
		return
	case Refuse:
		s.retryAt, s.failures = time.Time{}, 0 // looked at when it changes, and in the sweep
		e.find(s, action.Reason, action.Hint, true)
		return
	}
	if err := e.act(ctx, s, w, action, now); err != nil {
		s.Heals, s.Foreign = before.Heals, before.Foreign // one foreign write, however often its heal is tried
		e.failed(s, err, now)
		return
	}
	e.settled(s)
}

// observe reads the target, and finds out whose leaf lies there unless it is the expected one. What was
// seen counts also with an error that wraps ErrNotWritable.
func (e *Engine) observe(ctx context.Context, s *service) (Seen, error) {
	o, err := e.Target.Observe(ctx, s.Service)
	if err != nil && !errors.Is(err, ErrNotWritable) {
		return Seen{}, err
	}
	seen := Seen{Observation: o, Leaf: firstCertificate(o.Cert)}
	if seen.Leaf == nil {
		return seen, err
	}
	if s.Leaf != nil && seen.Leaf.Equal(s.Leaf.Certificate()) {
		seen.Ours, seen.Recorded = true, true
		return seen, err
	}
	if seen.Ours = e.Issuer.Authority().Signed(seen.Leaf); seen.Ours {
		recorded, lookup := e.Issuer.Recorded(seen.Leaf)
		seen.Recorded, err = recorded, errors.Join(err, lookup)
	}
	return seen, err
}

// settle finds out whether the newest leaf was written before a crash or a lost answer. It was, where the
// target holds it. It was not, where the target still holds what was there before, whole or nothing: then
// nobody can have its key. Anything else proves neither, and it stays accounted for until it expires.
func (e *Engine) settle(s *service, seen Seen) error {
	if seen.Leaf != nil && seen.Leaf.Equal(s.Leaf.Certificate()) {
		return e.deliver(s)
	}
	before, err := e.Issuer.Before(s.Leaf)
	if err != nil {
		return err
	}
	untouched := before == nil && seen.Empty() ||
		before != nil && seen.Leaf != nil && seen.Leaf.Equal(before.Certificate())
	if !untouched {
		return nil
	}
	if err := e.Issuer.MarkUndelivered(s.Leaf); err != nil {
		return err
	}
	e.Log.Info("leaf was never written: marked undelivered", "service", s.Service, "serial", s.Leaf.Record().Serial)
	return e.reread(s)
}

// deliver records that the newest leaf is in place.
func (e *Engine) deliver(s *service) error {
	if err := e.Issuer.MarkDelivered(s.Leaf); err != nil {
		return err
	}
	return e.reread(s)
}

// reread takes the service's leaf from the store anew.
func (e *Engine) reread(s *service) (err error) {
	s.Leaf, s.Known, err = e.Issuer.Current(s.Service)
	s.Fits = err == nil && s.Leaf != nil && e.Issuer.Fits(s.Leaf)
	return err
}

// act writes the set: with the leaf and key that are there, or with new ones.
func (e *Engine) act(ctx context.Context, s *service, w World, action Action, now time.Time) error {
	key := action.Key
	if action.Do == Issue {
		var err error
		if key, err = e.issue(s, action.Reason, now); err != nil {
			return err
		}
	}
	m := Material{Cert: s.Leaf.Chain(), Key: key, CA: w.Bundle.PEM(), Mark: s.mark(w)}
	if err := m.check(now); err != nil {
		return fmt.Errorf("not written: %w", err)
	}
	if err := e.Target.Write(ctx, s.Service, m); err != nil {
		return err
	}
	e.tell(s, action, now)
	if s.Leaf.Record().State == issuer.Issued {
		return e.deliver(s)
	}
	return nil
}

// issue makes a key and a recorded leaf for it, and returns the key as PEM. The key is nowhere else.
func (e *Engine) issue(s *service, reason string, now time.Time) (key []byte, err error) {
	policy, ok := e.Issuer.Policy(s.Service)
	if !ok {
		return nil, issuer.ErrUnknownService
	}
	signer, err := policy.Key.Generate()
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	leaf, err := e.Issuer.Issue(issuer.Request{Service: s.Service, PublicKey: signer.Public(), Reason: reason}, now)
	if err != nil {
		// The record may be there all the same: what the store says counts.
		return nil, errors.Join(err, e.reread(s))
	}
	s.Leaf, s.Known, s.Fits, s.Owed = leaf, true, true, false
	s.issued++
	return encodeKey(signer)
}

// tell logs what was done, in one line.
func (e *Engine) tell(s *service, action Action, now time.Time) {
	record := s.Leaf.Record()
	if len(action.Deviations) == 0 {
		e.Log.Info("issued", "service", s.Service, "serial", record.Serial,
			"expires", record.NotAfter.Format(time.RFC3339), "reason", action.Reason)
		return
	}
	s.healed++
	s.lastHeal = now
	var files, seen, wanted []string
	for _, d := range action.Deviations {
		files, seen, wanted = append(files, d.File), append(seen, d.Seen), append(wanted, d.Wanted)
	}
	leaf := "kept"
	if action.Do == Issue {
		leaf = "new, serial " + record.Serial
	}
	line := []any{"service", s.Service, "file", strings.Join(files, ", "),
		"seen", strings.Join(seen, ", "), "wanted", strings.Join(wanted, ", "), "leaf", leaf}
	if action.Reason != ReasonHeal {
		line = append(line, "reason", action.Reason)
	}
	e.Log.Info("healed", line...)
	if len(s.Foreign) == alarmWrites {
		e.Log.Warn("somebody writes here again and again", "service", s.Service, "place", e.Target.Place(s.Service),
			"writes", len(s.Foreign), "within", alarmWindow.String())
	}
}

// failed keeps an error for the status and tries again later. The same error is logged once.
func (e *Engine) failed(s *service, err error, now time.Time) {
	if !now.Before(s.retryAt) { // an extra look in between does not lengthen the wait
		s.failures++
		s.retryAt = now.Add(retryAfter(s.failures))
	}
	if s.finding != err.Error() {
		e.Log.Error("service not kept", "service", s.Service, "error", err, "again", s.retryAt.UTC().Format(time.RFC3339))
	}
	s.finding, s.hint, s.refused = err.Error(), "", false
}

// find keeps what stands in the way of a service; it is logged once.
func (e *Engine) find(s *service, finding, hint string, refused bool) {
	if s.finding != finding {
		e.Log.Warn(finding, "service", s.Service, "place", e.Target.Place(s.Service), "hint", hint)
	}
	s.finding, s.hint, s.refused = finding, hint, refused
}

// settled says, once, that nothing stands in the way any more.
func (e *Engine) settled(s *service) {
	if s.finding != "" {
		e.Log.Info("service is kept again", "service", s.Service)
	}
	s.finding, s.hint, s.refused, s.failures, s.retryAt = "", "", false, 0, time.Time{}
}
