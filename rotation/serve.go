package rotation

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/verify"
)

// serve brings one service to where it should be: observe, decide, act.
func (e *Engine) serve(ctx context.Context, s *service, w World, now time.Time) {
	s.turns++
	if w.Run && s.Leaf != nil && !now.Before(Due(s.Leaf.Record(), w.RenewAt)) {
		s.Owed = true // also if it cannot be done now: a run is not lost to a failure
	}
	// What could not be read is looked at whenever there is a reason to look: that costs nothing. What
	// could not be issued or written waits its time, also where its own attempts are the reason to look.
	if s.backsOff(now) {
		return
	}
	if s.unread {
		if err := e.reread(s); err != nil {
			e.failed(s, err, now)
			return
		}
		s.unread = false
	}
	defer func() { s.ahead = nil }()
	for tries := 1; ; tries++ {
		err := e.turn(ctx, s, w, now)
		if err == nil {
			return
		}
		switch {
		case !errors.Is(err, ErrChanged):
			e.failed(s, err, now)
			return
		case tries == maxTries: // who writes faster than we do is at work too, though nothing of theirs was healed
			s.Foreign = append(recent(s.Foreign, now), now)
			e.failed(s, err, now)
			e.alarm(s)
			return
		}
	}
}

// backsOff says whether the service is left alone for now. A look at what could not be seen costs nothing, unless the
// target has asked to come later.
func (s *service) backsOff(now time.Time) bool {
	return now.Before(s.retryAt) && now.Add(retryLast).After(s.retryAt) && (!s.unseen || s.throttled)
}

// maxTries is how often a turn begins anew because the place changed in the middle of it.
const maxTries = 3

// turn is one attempt of serve.
func (e *Engine) turn(ctx context.Context, s *service, w World, now time.Time) error {
	seen, err := e.newest(ctx, s)
	s.unseen = err != nil
	if err == nil {
		err = e.note(s, seen, now)
	}
	if err != nil {
		return err
	}
	s.remarks, s.rests, s.brings = s.remarksOn(seen, now), false, seen.Barred
	e.noteClaim(s, seen)
	var action Action
	before := s.State
	w.Older = e.weigh(s, object(s.State, w, seen, now))
	s.State, action = Step(s.State, w, seen, now)
	if action.writes() && !e.surveyed {
		s.State = before
		return errUnsurveyed
	}
	switch action.Do {
	case Keep:
		e.settled(s)
		return nil
	case Wait:
		s.retryAt = action.Until
		e.find(s, action.Reason, "find out who writes to "+e.Target.Place(s.Service)+", or who revokes: the log says by whom", "")
		return nil
	case Rest, Refuse:
		e.leave(s, w, action, now)
		return nil
	case Adopt: // it was not there when the pass began
		e.changedAgain(s.Service)
		return nil
	}
	if err := e.act(ctx, s, w, action, seen, now); err != nil {
		s.Heals, s.Foreign = before.Heals, before.Foreign // one foreign write, however often its heal is tried
		return err
	}
	e.settled(s)
	return nil
}

// note records what the observation tells of leaves, form and trust, before anything is decided on it.
func (e *Engine) note(s *service, seen Seen, now time.Time) error {
	err := e.noteLate(s, seen)
	if err == nil && s.Leaf != nil && s.Leaf.Record().State == issuer.Issued {
		err = e.settle(s, seen)
	}
	if err != nil {
		return err
	}
	s.looked, s.ca = true, seen.CA
	if seen.asMarked() {
		s.Placed = max(s.Placed, seen.Mark.Epoch)
	}
	return errors.Join(e.keepForm(s, seen, now), e.noteTrust(s, seen, now))
}

// leave lets a place alone: it is looked at when it changes, and in the sweep.
func (e *Engine) leave(s *service, w World, action Action, now time.Time) {
	s.retryAt, s.failures = time.Time{}, 0
	kind := NoticeRefused
	if s.rests = action.Do == Rest; s.rests {
		kind = NoticeResting
	}
	e.find(s, action.Reason, action.Hint, kind)
	status := e.serviceStatus(s, now)
	overdue := !status.Due.IsZero() && !now.Before(status.Due)
	if overdue && (w.Run || !s.overdue) { // again in each run that should renew it: Events do not last
		text := fmt.Sprintf("its leaf expires at %s and is not renewed, since its place %s", status.NotAfter.UTC().Format(time.RFC3339), action.Reason)
		e.Log.Warn(text, "service", s.Service, "place", e.Target.Place(s.Service), "hint", action.Hint)
		e.Target.Tell(Notice{s.Service, kind, "", text + "; " + action.Hint})
	}
	s.overdue = overdue
}

// noteClaim says, once, that another program's marks have come to a place that is kept all the same.
func (e *Engine) noteClaim(s *service, seen Seen) {
	claim := seen.Claim
	if claim != s.claim && claim != (Remark{}) {
		e.Log.Warn(claim.Text, "service", s.Service, "place", e.Target.Place(s.Service), "hint", claim.Hint)
		e.Target.Tell(Notice{s.Service, NoticeAlarm, "", claim.Text + "; " + claim.Hint})
	}
	s.claim = claim
}

// changedAgain has the service looked at in another pass, at once; "" is all.
func (e *Engine) changedAgain(service string) { e.again.add(service) }

// remarksOn are what people should know of the place: also that a leaf which waits to be signed anew cannot be
// used meanwhile.
func (s *service) remarksOn(seen Seen, now time.Time) []Remark {
	if s.Takeover == nil {
		return seen.Remarks
	}
	why := ""
	if there, reason := usable(seen, now); there == LeafBroken {
		why = reason
	} else if s.Takeover.Leaf == LeafBroken {
		why = s.Takeover.Why
	}
	if why == "" {
		return seen.Remarks
	}
	return append(slices.Clone(seen.Remarks), Remark{Text: "its leaf cannot be used: " + why,
		Hint: "it is signed anew as those are that can be used; at once after: meshca adopt --continue"})
}

// newest is the observation that was made ahead of the turn, or one made now.
func (e *Engine) newest(ctx context.Context, s *service) (Seen, error) {
	if ahead := s.ahead; ahead != nil {
		s.ahead = nil
		return ahead.Seen, ahead.err
	}
	return e.observe(ctx, s)
}

// observe reads the target, and finds out whose leaf lies there unless it is the expected one. What was
// seen counts also with an error that wraps ErrNotWritable.
func (e *Engine) observe(ctx context.Context, s *service) (Seen, error) {
	o, err := e.Target.Observe(ctx, s.Service)
	return e.judge(s, o, err)
}

// judge finds out what the store knows of what was observed.
func (e *Engine) judge(s *service, o Observation, err error) (Seen, error) {
	if err != nil && !errors.Is(err, ErrNotWritable) {
		return Seen{}, err
	}
	authority := e.Issuer.Authority()
	seen := Seen{Observation: o, Leaf: firstCertificate(o.Cert), Proven: o.Mark.proven(authority, s.Subject)}
	if o.Instance != "" && o.Instance == s.form.Made {
		seen.Form.Made = s.form.Made // whatever has become of the signs of it
	}
	seen.Barred = e.barredBy(s, seen)
	if seen.Form.Made != "" {
		seen.Deviations = slices.Concat(o.Deviations, o.IfMade)
	}
	if seen.Proven && o.Foreign.Claimant != "" {
		seen.disregard(o.Foreign)
	}
	if seen.Proven {
		marked, lookup := e.marked(s, o.Mark)
		seen.Marked, err = marked, errors.Join(err, lookup)
	}
	if seen.Leaf == nil {
		return seen, err
	}
	if s.Leaf != nil && seen.Leaf.Equal(s.Leaf.Certificate()) {
		record := s.Leaf.Record()
		seen.Ours, seen.Recorded = !record.Adopted(), true
		return seen, err
	}
	if seen.Ours = authority.Signed(seen.Leaf); seen.Ours {
		recorded, lookup := e.Issuer.Recorded(seen.Leaf)
		seen.Recorded, err = recorded, errors.Join(err, lookup)
	}
	return seen, err
}

// disregard makes a remark of what is no obstacle where our mark is proven.
func (s *Seen) disregard(o Obstacle) {
	s.Foreign = Obstacle{}
	s.Claim = Remark{Hint: o.Hint,
		Text: "has marks of " + o.Claimant + ", and is kept all the same since meshca's own stamp is on it: what " + o.Claimant + " writes there is put back"}
	s.Remarks = append(slices.Clone(s.Remarks), s.Claim)
}

// marked says whether the store has a record of what a mark of ours names.
func (e *Engine) marked(s *service, m *Mark) (marked bool, err error) {
	switch {
	case m.Service == s.Service && (m.Serial == "" || s.Leaf != nil && s.Leaf.Record().Serial == m.Serial):
		return true, nil
	case m.Serial != "":
		return e.Issuer.HasSerial(m.Service, m.Serial)
	}
	err = e.Store.View(func(r store.Reader) error { // another service's, which was being taken over
		t, err := getTakeover(r, m.Service, s.Subject)
		marked = t != nil
		return err
	})
	return marked, err
}

// noteLate corrects the record of a leaf that lies there although it counted as never written: a write that a killed
// process had sent may arrive when the next one has looked.
func (e *Engine) noteLate(s *service, seen Seen) error {
	if !seen.Recorded || s.Leaf != nil && seen.Leaf.Equal(s.Leaf.Certificate()) {
		return nil
	}
	news, err := e.Issuer.MarkSeen(seen.Leaf)
	if err != nil || !news {
		return err
	}
	e.Log.Warn("leaf was written after all, late: no longer counted as undelivered", "service", s.Service,
		"serial", issuer.SerialString(seen.Leaf))
	return e.reread(s)
}

// settle finds out whether the newest leaf was written before a crash or a lost answer. It was, where the
// target holds it. It was not, where the target still holds what was there before, whole or nothing: then
// nobody can have its key. Anything else proves neither, and it stays accounted for until it expires.
func (e *Engine) settle(s *service, seen Seen) error {
	if seen.Leaf != nil && seen.Leaf.Equal(s.Leaf.Certificate()) {
		s.Pending = nil
		e.deliver(s)
		return nil
	}
	if s.Pending != nil {
		return nil // its key is at hand: it is written now
	}
	if seen.Proven && seen.Mark.Serial == s.Leaf.Record().Serial {
		e.deliver(s) // it was there: somebody has put another one in its place since
		return nil
	}
	before, err := e.Issuer.Before(s.Leaf)
	if err != nil {
		return err
	}
	if untouched := before == nil && seen.Empty() || before != nil && seen.holds(before); !untouched {
		return nil
	}
	if err := e.Issuer.MarkUndelivered(s.Leaf); err != nil {
		return err
	}
	e.Log.Info("leaf was never written: marked undelivered", "service", s.Service, "serial", s.Leaf.Record().Serial)
	if err := e.reread(s); err != nil || s.Leaf == nil || s.Leaf.Record().State != issuer.Issued {
		return err
	}
	return e.settle(s, seen) // the one before it was left open by a crash too
}

// holds says whether the leaf is in place as it was written there, or as it was found. Without its mark it may have been
// put back over a newer one.
func (s *Seen) holds(leaf *issuer.Leaf) bool {
	record := leaf.Record()
	return s.Leaf != nil && s.Leaf.Equal(leaf.Certificate()) &&
		(s.Proven && s.Mark.Serial == record.Serial || s.Mark == nil && record.Adopted())
}

// deliver notes that the newest leaf is in place. The pass records it for many services at once; a crash before
// that is settled at the next start, by what the target holds.
func (e *Engine) deliver(s *service) {
	s.arrived = true
}

// recordDelivered records which leaves have come to their places since it was called last.
func (e *Engine) recordDelivered() error {
	var arrived []*service
	var leaves []*issuer.Leaf
	for _, name := range e.names() {
		if s := e.services[name]; !e.busy(name) && s.arrived {
			arrived, leaves = append(arrived, s), append(leaves, s.Leaf)
		}
	}
	if len(arrived) == 0 {
		return nil
	}
	if err := e.Issuer.MarkDelivered(leaves...); err != nil {
		return fmt.Errorf("record what was delivered: %w", err)
	}
	for _, s := range arrived {
		s.Leaf, s.arrived = s.Leaf.AsDelivered(), false
	}
	return nil
}

// reread takes what the store knows of the service from it anew: what is recorded of another place, where the service
// was before, is not of this one.
func (e *Engine) reread(s *service) (err error) {
	s.Subject = e.Target.Subject(s.Service)
	if s.Leaf, s.Known, err = e.Issuer.Current(s.Service, s.Subject); err == nil {
		s.Accepted, err = e.Issuer.Claimed(s.Service, s.Subject)
	}
	if err == nil {
		err = e.Store.View(func(r store.Reader) error {
			form, err := getForm(r, s.Subject)
			s.form = form
			if err == nil {
				s.taken, err = getTakeover(r, s.Service, s.Subject)
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("read the records of %q: %w", s.Service, err)
	}
	s.Takeover = s.taken
	if s.Leaf != nil {
		if record := s.Leaf.Record(); !record.Adopted() {
			s.Takeover = nil // a leaf of ours is there, or on its way
			if record.State == issuer.Delivered {
				s.Placed = max(s.Placed, record.Epoch) // the leaf was written with it
			}
		}
	}
	s.Known = s.Known || s.Takeover != nil
	s.Fits = s.Leaf != nil && e.Issuer.Fits(s.Leaf)
	return nil
}

// act writes the set: with the leaf and key that are there, or with new ones.
func (e *Engine) act(ctx context.Context, s *service, w World, action Action, seen Seen, now time.Time) error {
	key := action.Key
	if action.Do == Issue {
		var err error
		if key, err = e.issue(s, action.Reason, now); err != nil {
			return err
		}
		s.Pending = &Pending{Key: key, Reason: action.Reason}
	}
	m := Material{CA: w.Authority.BundleFor(s.Service).PEM(), Mark: s.mark(w), Form: s.form}
	if key != nil {
		m.Cert, m.Key = s.chain(seen), key
		if err := e.checks.check(&m, now, s.usages()...); err != nil {
			return fmt.Errorf("not written: %w", err)
		}
	}
	if err := e.Target.Write(ctx, s.Service, m, seen.Version); err != nil {
		return err
	}
	s.Resumed, s.Pending, s.Placed = false, nil, w.Authority.Epoch()
	e.tell(s, action, seen, now)
	if s.Leaf != nil && s.Leaf.Record().State == issuer.Issued {
		e.deliver(s)
	}
	return nil
}

// usages are what the service's leaf must be good for with its own ca.crt. Who accepts another CA's leaf is the
// audit's matter: the service itself may never have.
func (s *State) usages() []x509.ExtKeyUsage {
	if record := s.Leaf.Record(); record.Adopted() {
		return nil
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
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
	leaf, err := e.Issuer.Issue(issuer.Request{Service: s.Service, Place: s.Subject, PublicKey: signer.Public(), Reason: reason}, now)
	if err != nil {
		// The record may be there all the same: what the store says counts.
		return nil, errors.Join(err, e.reread(s))
	}
	s.Leaf, s.Known, s.Fits, s.Owed, s.Asked, s.Takeover, s.arrived = leaf, true, true, false, "", nil, false
	s.issued++
	return encodeKey(signer)
}

// tell says what was done, in one line, to the log and beside the place.
func (e *Engine) tell(s *service, action Action, seen Seen, now time.Time) {
	switch action.Reason {
	case ReasonTakeover:
		e.tellTakeover(s)
		return
	case ReasonTrust:
		e.Log.Info("ca.crt written anew, since the trust has changed", "service", s.Service, "epoch", e.Issuer.Authority().Epoch())
		return
	}
	if len(action.Deviations) == 0 {
		record := s.Leaf.Record()
		e.Log.Info("issued", "service", s.Service, "serial", record.Serial,
			"expires", record.NotAfter.Format(time.RFC3339), "reason", action.Reason)
		kind := NoticeIssued
		if action.Reason == ReasonRenewal || strings.HasPrefix(action.Reason, ReasonAsked) {
			kind = NoticeRenewed
		}
		first := e.Issuer.Authority().BundleFor(s.Service).Certificates()[0] // a bundle is never empty
		e.Target.Tell(Notice{s.Service, kind, record.Serial, fmt.Sprintf("leaf %s, valid until %s (%s); ca.crt %s", record.Serial,
			record.NotAfter.Format(time.RFC3339), action.Reason, verify.ShortFingerprint(first))})
		return
	}
	e.tellHeal(s, action, seen, now)
}

// tellHeal says what was put right: whose doing it seems to be, and the fingerprints seen and wanted.
func (e *Engine) tellHeal(s *service, action Action, seen Seen, now time.Time) {
	s.healed++
	s.lastHeal = now
	var files, was, wanted, parts []string
	for _, d := range action.Deviations {
		if action.Do == Issue {
			d.Wanted = s.wanted(d, seen.MarkIn)
		}
		files, was, wanted = append(files, d.File), append(was, d.Seen), append(wanted, d.Wanted)
		parts = append(parts, fmt.Sprintf("%s: %s → %s", d.File, d.Seen, d.Wanted))
	}
	leaf, serial := "kept", ""
	if action.Do == Issue {
		serial = s.Leaf.Record().Serial
		leaf = "new, serial " + serial
	}
	line := []any{"service", s.Service, "file", strings.Join(files, ", "),
		"seen", strings.Join(was, ", "), "wanted", strings.Join(wanted, ", "), "leaf", leaf}
	text := strings.Join(parts, "; ") + "; leaf " + leaf
	if by := seen.By; by != "" {
		line, text = append(line, "by", by), text+"; by "+by
	}
	if seen.Empty() && len(s.form.Keys) > 0 {
		gone := strings.Join(s.form.Keys, ", ")
		line, text = append(line, "gone", gone), text+"; gone with it, and not kept: "+gone
	}
	if action.Reason != ReasonHeal {
		line = append(line, "reason", action.Reason)
	}
	e.Log.Info("healed", line...)
	e.Target.Tell(Notice{s.Service, NoticeHealed, serial, text})
	e.alarm(s)
}

// alarm says, once, that somebody is at work.
func (e *Engine) alarm(s *service) {
	if len(s.Foreign) == alarmWrites {
		e.Log.Warn("somebody writes here again and again", "service", s.Service, "place", e.Target.Place(s.Service),
			"writes", len(s.Foreign), "within", alarmWindow.String())
		e.Target.Tell(Notice{s.Service, NoticeAlarm, "", fmt.Sprintf("somebody writes here again and again: %d times within %s",
			len(s.Foreign), alarmWindow)})
	}
}

// wanted is what a deviation was put right to, where that is a leaf which was not there when it was found.
func (s *service) wanted(d Deviation, mark string) string {
	switch d.File {
	case CertFile:
		return describe(s.Leaf.Chain(), nil)
	case mark:
		record := s.Leaf.Record()
		return fmt.Sprintf("epoch %d serial %s", record.Epoch, record.Serial)
	}
	return d.Wanted
}

// failed keeps an error for the status and tries again later. The same error is logged once.
func (e *Engine) failed(s *service, err error, now time.Time) {
	// From now, not from the pass's beginning: what fails after a long wait would be tried again at once.
	failed, wait := e.now(), asked(err)
	s.throttled = wait > 0
	if !now.Before(s.retryAt) { // an extra look in between does not lengthen the wait, unless it is asked to
		if s.failures++; errors.Is(err, ErrChanged) {
			s.failures = min(s.failures, contested)
		}
		wait = max(wait, retryAfter(s.failures, s.Service))
	}
	s.retryAt = later(s.retryAt, failed.Add(wait))
	if s.finding != err.Error() {
		e.Log.Error("service not kept", "service", s.Service, "error", err, "again", s.retryAt.UTC().Format(time.RFC3339))
	}
	s.finding, s.hint, s.refused = err.Error(), hintOf(err), false
}

// hintOf is what an error says about how to go on, "" where it says nothing.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// asked is how long a target asks to be left alone.
func asked(err error) time.Duration {
	var patient interface{ Wait() time.Duration }
	if errors.As(err, &patient) {
		return min(patient.Wait(), retryLast)
	}
	return 0
}

// find keeps what stands in the way of a service; it is logged once, and told as a notice of that kind unless it is
// "".
func (e *Engine) find(s *service, finding, hint string, kind NoticeKind) {
	if s.finding != finding {
		e.Log.Warn(finding, "service", s.Service, "place", e.Target.Place(s.Service), "hint", hint)
		if kind != "" {
			e.Target.Tell(Notice{s.Service, kind, "", finding + "; " + hint})
		}
	}
	s.finding, s.hint, s.refused = finding, hint, kind == NoticeRefused
}

// settled says, once, that nothing stands in the way any more.
func (e *Engine) settled(s *service) {
	if s.finding != "" {
		e.Log.Info("service is kept again", "service", s.Service)
	}
	s.finding, s.hint, s.refused, s.failures, s.retryAt = "", "", false, 0, time.Time{}
	s.throttled = false
}
