package rotation

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/verify"
)

// State is what the store knows of one service, and the memory that its healing needs.
type State struct {
	Service  string
	Known    bool         // the store has a record of it, or a claim to it
	Accepted []string     // tokens of what an operator has said may be written over
	Leaf     *issuer.Leaf // the newest certificate that a live process may hold; nil: none
	Fits     bool         // Leaf carries what the catalogue grants now
	Owed     bool         // a run of the schedule found Leaf due, and it is not renewed yet
	Takeover *Takeover    // its place held another CA's set, and it has no leaf of ours yet; nil otherwise
	Subject  string       // of its place, for marks
	Pending  *Pending     // Leaf is issued and not known to be written yet
	Placed   uint64       // the newest epoch whose trust bundle is known to have been in place
	Resumed  bool         // an operator has said that healing goes on
	Asked    string       // who has asked for Leaf to be renewed, while that is done; "" nobody
	Heals    bucket
	Foreign  []time.Time // foreign writes within the alarm's window
}

// Pending is a leaf whose key is nowhere but here: it was issued, and could not be written yet.
type Pending struct {
	Key    []byte // PEM
	Reason string // why it was issued
}

// World is what all services share at one moment.
type World struct {
	Authority *ca.Authority
	RenewAt   float64
	Run       bool      // a run of the schedule is due: what is due is renewed now
	NextRun   time.Time // the next one after this moment
	Trusted   bool      // every process that reads a place that is being taken over is known to trust our root
	Older     string    // which places prove that the store is older than what it serves, "" if none does
}

// Seen is an observation with what the store says of the leaf in it.
type Seen struct {
	Observation
	Leaf     *x509.Certificate // first certificate of tls.crt, nil where there is none
	Ours     bool              // one of this store's issuing CAs signed Leaf
	Recorded bool              // the store has its record
	Proven   bool              // the mark was made under this store's seal, for this place
	Marked   bool              // the store has a record of what the mark names, under the service that it names
	Barred   string            // strangers that it would bring to all, and that no operator has let in
	Claim    Remark            // on another program's marks that are no obstacle, since ours is proven
}

// asMarked says whether the ca.crt that is there is the one that this store's seal says it wrote there.
func (s *Seen) asMarked() bool {
	return s.Proven && s.Mark.Bundle == digest(s.CA)
}

// An Action is what to do for one service.
type Action struct {
	Do         Do
	Reason     string      // in words for people
	Hint       string      // how to go on, with Refuse and Rest
	Deviations []Deviation // what is put right, with Put and Issue
	Key        []byte      // with Put: the leaf's key as it is written, PEM; nil: leaf and key stay as they are
	Until      time.Time   // with Wait
}

// Do is the kind of an action.
type Do int

// The kinds of action.
const (
	Keep   Do = iota // all is as it should be
	Put              // write the set with the leaf and key that are there
	Issue            // issue a new leaf and write the set
	Wait             // heals are metered: look again at Until
	Rest             // an operator wants it left alone for now
	Adopt            // another CA's set is there: take it over
	Refuse           // what is there is not ours to change
)

// Reasons to issue, as the records keep them.
const (
	ReasonFirst     = "first"
	ReasonRenewal   = "renewal"
	ReasonAsked     = "renewal asked for" // followed by whom
	ReasonCatalogue = "catalogue"         // names or key type have changed
	ReasonHeal      = "heal"              // the private key was lost or replaced
	ReasonLost      = "undelivered"
	ReasonClock     = "not valid yet" // issued by a clock that was ahead
	ReasonRevoked   = "revoked"
	ReasonTakeover  = "taken over"
	ReasonTrust     = "trust changed" // of a set that is only written anew
)

// Step decides what to do for one service. It is pure: the same state, world, observation and time give
// the same answer.
func Step(s State, w World, seen Seen, now time.Time) (State, Action) {
	s.Foreign = recent(s.Foreign, now)
	s.Resumed = s.Resumed && seen.Rests != "" // the word is for the glass that is broken now, not for another time
	next, action := s.decide(w, seen, now)
	if w.Older != "" && action.writes() {
		return s, Action{Do: Refuse, Reason: "is not written: " + w.Older, Hint: putBack}
	}
	return next, action
}

// writes says whether the action changes a place, or what is known of one.
func (a *Action) writes() bool { return a.Do == Put || a.Do == Issue || a.Do == Adopt }

// decide is Step for a service by itself.
func (s State) decide(w World, seen Seen, now time.Time) (State, Action) {
	if o := object(s, w, seen, now); o.reason != "" {
		return s, Action{Do: Refuse, Reason: o.reason, Hint: o.hint}
	}
	if seen.Rests != "" && !s.Resumed {
		return s, Action{Do: Rest, Reason: "rests, since somebody has broken the glass: " + seen.Rests,
			Hint: "when that is done: meshca heal --resume " + s.Service}
	}
	switch {
	case !s.Known && seen.Empty():
		return s, Action{Do: Issue, Reason: ReasonFirst}
	case !s.Known && seen.Barred != "":
		return s, Action{Do: Refuse, Reason: "holds the set of a CA that this mesh does not trust, and every service would if it were taken over: " + seen.Barred,
			Hint: "if they are to: meshca adopt " + s.Service + " --continue; else take away what is there, and a new set is made"}
	case !s.Known:
		return s, Action{Do: Adopt}
	case s.Leaf == nil && s.Takeover == nil:
		return s, Action{Do: Issue, Reason: ReasonLost}
	}
	return s.keep(w, seen, now)
}

// keep decides for a service that the store knows, and that is ours to write. What others can bring about as often as
// they like, by writing to the place or by revoking its leaf, is metered.
func (s State) keep(w World, seen Seen, now time.Time) (State, Action) {
	deviations := compare(s, w, seen)
	reason := s.dueReason(w, seen, now)
	asFound, again := s.asFound(seen), reason == "" && s.renewedElsewhere(w, seen, now)
	switch {
	case len(deviations) == 0 && !again && reason == "":
		return s, Action{Do: Keep}
	case len(deviations) == 0 && !again && reason != ReasonRevoked, asFound && reason != "":
		return s, Action{Do: Issue, Reason: reason}
	case s.Pending != nil && reason == "":
		return s, Action{Do: Put, Reason: s.Pending.Reason, Key: s.Pending.Key}
	}
	left, ok, at := s.Heals.take(heals, now)
	if !ok {
		s.Heals = left
		return s, Action{Do: Wait, Until: at, Reason: "too many heals: somebody writes here, or revokes its certificates, again and again"}
	}
	if again {
		return s, Action{Do: Adopt} // which is metered when it is done
	}
	s.Heals = left
	if len(deviations) == 0 { // nobody wrote here
		return s, Action{Do: Issue, Reason: reason}
	}
	key, ok := s.key(seen)
	stays := ok || s.Leaf == nil || s.waitsBroken(seen)
	switch {
	case asFound:
		return s, Action{Do: Put, Reason: ReasonTakeover, Deviations: deviations, Key: key}
	case reason == "" && stays && s.outdated(w, seen, deviations):
		return s, Action{Do: Put, Reason: ReasonTrust, Deviations: deviations, Key: key}
	}
	s.Foreign = append(s.Foreign, now)
	if reason == "" && stays {
		return s, Action{Do: Put, Reason: ReasonHeal, Deviations: deviations, Key: key}
	}
	return s, Action{Do: Issue, Reason: cmp.Or(reason, ReasonHeal), Deviations: deviations}
}

// outdated says whether all that is to be put right is ours: the trust bundle has changed since it was written. Where
// the newest one has been in place, somebody has put the old one back.
func (s *State) outdated(w World, seen Seen, deviations []Deviation) bool {
	return s.Placed < w.Authority.Epoch() && seen.asMarked() && seen.Mark.Epoch < w.Authority.Epoch() &&
		!slices.ContainsFunc(deviations, func(d Deviation) bool { return d.File != CAFile && d.File != seen.MarkIn })
}

// An objection is why a place is not ours to write; one without a reason is none.
type objection struct {
	reason, hint string
	// Only who has the seal or the CA's key can have made what is there: the store is older than what it serves, or
	// another one has its seal, and no place may be written.
	proof bool
}

// putBack is how to go on where the store is older than what it serves.
const putBack = "put the newest copy of the store back, or start with --accept, which says first what breaks"

// object finds what is not ours to change. Where the store has a record of the service, the store decides, and
// a mark that anybody could have made is content like any other. One that was made under our seal, or a leaf
// that our own CA signed, and that the store has no record of, means in either case that the store is older
// than what is there.
func object(s State, w World, seen Seen, now time.Time) objection {
	if seen.Foreign.Reason != "" {
		return objection{seen.Foreign.Reason, seen.Foreign.Hint, false}
	}
	if seen.Ours && !seen.Recorded && !now.After(seen.Leaf.NotAfter) && !s.accepts(leafToken(seen.Leaf)) {
		return objection{fmt.Sprintf("holds leaf %s, which this CA signed and the store has no record of: the store is older than what it serves",
			issuer.SerialString(seen.Leaf)), putBack, true}
	}
	mark, identity := seen.Mark, w.Authority.Identity()
	switch {
	case mark == nil || s.accepts(mark.token()) || s.Known && !seen.Proven:
		return objection{}
	case mark.Store != identity:
		return objection{fmt.Sprintf("was written by another meshca, whose store is %s; this store is %s", mark.Store, identity),
			"put that store back, or take the place away from it: move it away, or start with --accept, which says first what breaks",
			seen.Proven && mark.mayProve(now)}
	case !seen.Proven:
		return objection{"says that this store wrote it, and its seal did not: it was copied here, or forged",
			"take " + seen.MarkIn + " away there, or start with --accept, which says first what breaks", false}
	}
	return objectToOurs(s, w, seen, now)
}

// objectToOurs is object for a mark that was made under our seal, for this place, by this store.
func objectToOurs(s State, w World, seen Seen, now time.Time) objection {
	mark := seen.Mark
	switch {
	case mark.Epoch > w.Authority.Epoch():
		return objection{fmt.Sprintf("was written by this store at epoch %d, and the store is at %d: it is older than what it serves",
			mark.Epoch, w.Authority.Epoch()), putBack, true}
	case !s.Known && seen.Marked && mark.Service != s.Service:
		return objection{fmt.Sprintf("was written by this store for service %q: was that renamed?", mark.Service),
			"if so, take " + seen.MarkIn + " away there, or start with --accept, which says first what breaks; else give one of the two another place", false}
	case mark.outlived(now):
		return objection{}
	case !s.Known:
		return objection{"was written by this store, which has no record of it: the store is older than what it serves", putBack, mark.mayProve(now)}
	case !seen.Marked:
		return objection{fmt.Sprintf("says that this store wrote leaf %s, of which the store has no record: the store is older than what it serves",
			mark.Serial), putBack, mark.mayProve(now)}
	}
	return objection{}
}

// accepts says whether an operator has said that what the token names may be written over.
func (s *State) accepts(token string) bool { return slices.Contains(s.Accepted, token) }

// dueReason says why the leaf must be replaced now, "" where it need not.
func (s *State) dueReason(w World, seen Seen, now time.Time) string {
	if s.Takeover != nil {
		return s.Takeover.dueReason(w, seen, now)
	}
	record := s.Leaf.Record()
	if record.Revoked != nil {
		return ReasonRevoked
	}
	if !s.Fits {
		return ReasonCatalogue
	}
	if now.Before(record.NotBefore) {
		return ReasonClock
	}
	if s.Asked != "" {
		return ReasonAsked + " by " + s.Asked
	}
	due := Due(record, w.RenewAt)
	if !now.Before(due) && (w.Run || s.Owed || cannotWait(due, record.NotAfter, w.NextRun)) {
		return ReasonRenewal
	}
	return ""
}

// mark is the mark of the set that the service should have.
func (s *State) mark(w World) Mark {
	bundle := w.Authority.BundleFor(s.Service)
	m := Mark{Store: w.Authority.Identity(), Service: s.Service, Epoch: w.Authority.Epoch(), Bundle: bundle.SHA256()}
	if s.Leaf != nil {
		record := s.Leaf.Record()
		m.Serial, m.NotBefore, m.NotAfter = record.Serial, record.NotBefore, record.NotAfter
		m.Issuer = s.Leaf.Certificate().Issuer.CommonName
	}
	m.MAC = m.sign(w.Authority, s.Subject)
	return m
}

// compare lists what is not as it should be, with fingerprints of certificates and never a key. Where the leaf
// that is there cannot be used and waits to be replaced, only the trust is compared.
func compare(s State, w World, seen Seen) []Deviation {
	var found []Deviation
	if s.Leaf != nil && !s.waitsBroken(seen) {
		if chain := s.chain(seen); !bytes.Equal(seen.Cert, chain) {
			found = append(found, Deviation{CertFile, describe(seen.Cert, chain), describe(chain, nil)})
		}
		if key, ok := s.key(seen); !ok {
			found = append(found, Deviation{KeyFile, describeKey(seen.Key), "the leaf's key"})
		} else if !bytes.Equal(seen.Key, key) {
			found = append(found, Deviation{KeyFile, "the leaf's key with other bytes around it", "the leaf's key"})
		}
	}
	if bundle := w.Authority.BundleFor(s.Service).PEM(); !bytes.Equal(seen.CA, bundle) {
		found = append(found, Deviation{CAFile, describe(seen.CA, bundle), describe(bundle, nil)})
	}
	if want := s.mark(w); !seen.Mark.same(want) {
		found = append(found, Deviation{seen.MarkIn, describeMark(seen.Mark), "epoch " + fmt.Sprint(want.Epoch) + " serial " + want.Serial})
	}
	for _, d := range seen.Deviations {
		if !slices.ContainsFunc(found, func(f Deviation) bool { return f.File == d.File }) {
			found = append(found, d)
		}
	}
	return found
}

// maxKey bounds what is parsed as a private key, in bytes of PEM: RSA-4096 has some 3,300. Checking a key
// takes time that grows with the cube of its size, and others may have written it.
const maxKey = 8 << 10

// key is the private key of the recorded leaf, if the target holds it, in the form in which it is written.
// The record has the certificate, so with the key alone the leaf is kept.
func (s *State) key(seen Seen) (encoded []byte, ok bool) {
	if s.Pending != nil {
		return s.Pending.Key, true
	}
	if s.Leaf == nil || len(seen.Key) == 0 || len(seen.Key) > maxKey {
		return nil, false
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Leaf.Certificate().Raw})
	pair, err := tls.X509KeyPair(leaf, seen.Key)
	if err != nil {
		return nil, false
	}
	if record := s.Leaf.Record(); record.Adopted() {
		return seen.Key, true // whoever reads it may want it in the form that it has
	}
	encoded, err = encodeKey(pair.PrivateKey)
	return encoded, err == nil
}

// encodeKey writes a private key as it stands in tls.key: PKCS #8 in PEM.
func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// describe tells a file of certificates by the fingerprint of its first one.
func describe(data, wanted []byte) string {
	switch {
	case data == nil:
		return "absent"
	case len(bytes.TrimSpace(data)) == 0:
		return "empty"
	}
	cert := firstCertificate(data)
	if cert == nil {
		return fmt.Sprintf("no certificate in %d bytes", len(data))
	}
	words := verify.ShortFingerprint(cert)
	if other := firstCertificate(wanted); other != nil && other.Equal(cert) {
		words += " with other bytes around it"
	}
	return words
}

func describeKey(data []byte) string {
	if data == nil {
		return "absent"
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return "empty"
	}
	return fmt.Sprintf("%d bytes that are not it", len(data))
}

func describeMark(m *Mark) string {
	if m == nil {
		return "absent"
	}
	return fmt.Sprintf("epoch %d serial %q of store %q for %q", m.Epoch, m.Serial, m.Store, m.Service)
}

// firstCertificate is the first certificate of a PEM file, nil where there is none that parses.
func firstCertificate(data []byte) *x509.Certificate {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := verify.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		return cert
	}
	return nil
}
