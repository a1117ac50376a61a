package rotation

import (
	"bytes"
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
	Service string
	Known   bool         // the store has a record of it
	Leaf    *issuer.Leaf // the newest certificate that a live process may hold; nil: none
	Fits    bool         // Leaf carries what the catalogue grants now
	Owed    bool         // a run of the schedule found Leaf due, and it is not renewed yet
	Heals   bucket
	Foreign []time.Time // foreign writes within the alarm's window
}

// World is what all services share at one moment.
type World struct {
	Identity string // of the store
	Epoch    uint64
	Bundle   ca.Bundle
	RenewAt  float64
	Run      bool      // a run of the schedule is due: what is due is renewed now
	NextRun  time.Time // the next one after this moment
}

// Seen is an observation with what the store says of the leaf in it.
type Seen struct {
	Observation
	Leaf     *x509.Certificate // first certificate of tls.crt, nil where there is none
	Ours     bool              // one of this store's issuing CAs signed Leaf
	Recorded bool              // the store has its record
}

// An Action is what to do for one service.
type Action struct {
	Do         Do
	Reason     string      // in words for people
	Hint       string      // how to go on, with Refuse
	Deviations []Deviation // what is put right, with Put and Issue
	Key        []byte      // with Put: the leaf's key as it was found, PEM
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
	Refuse           // what is there is not ours to change
)

// Reasons to issue, as the records keep them.
const (
	ReasonFirst     = "first"
	ReasonRenewal   = "renewal"
	ReasonCatalogue = "catalogue" // names or key type have changed
	ReasonHeal      = "heal"      // the private key was lost or replaced
	ReasonLost      = "undelivered"
	ReasonClock     = "not valid yet" // issued by a clock that was ahead
)

// Step decides what to do for one service. It is pure: the same state, world, observation and time give
// the same answer.
func Step(s State, w World, seen Seen, now time.Time) (State, Action) {
	s.Foreign = recent(s.Foreign, now)
	if action, refused := refuse(s, w, seen, now); refused {
		return s, action
	}
	switch {
	case !s.Known:
		return s, Action{Do: Issue, Reason: ReasonFirst}
	case s.Leaf == nil:
		return s, Action{Do: Issue, Reason: ReasonLost}
	}
	deviations := compare(s, w, seen)
	reason := s.dueReason(w, now)
	if len(deviations) == 0 {
		if reason == "" {
			return s, Action{Do: Keep}
		}
		return s, Action{Do: Issue, Reason: reason}
	}
	heals, ok, at := s.Heals.take(now)
	s.Heals = heals
	if !ok {
		return s, Action{Do: Wait, Until: at, Reason: "too many heals: somebody writes here again and again"}
	}
	s.Foreign = append(s.Foreign, now)
	if key, ok := s.key(seen); ok && reason == "" {
		return s, Action{Do: Put, Reason: ReasonHeal, Deviations: deviations, Key: key}
	}
	if reason == "" {
		reason = ReasonHeal
	}
	return s, Action{Do: Issue, Reason: reason, Deviations: deviations}
}

// refuse finds what is not ours to change. Where the store has a record of the service the store decides,
// and the mark is content like any other; a leaf that our own CA signed and that has no record means, in
// either case, that the store is older than what is there.
func refuse(s State, w World, seen Seen, now time.Time) (Action, bool) {
	if seen.Ours && !seen.Recorded && !now.After(seen.Leaf.NotAfter) {
		return Action{Do: Refuse,
			Reason: fmt.Sprintf("holds leaf %s, which this CA signed and the store has no record of: the store is older than what it serves",
				issuer.SerialString(seen.Leaf)),
			Hint: "put the newest copy of the store back"}, true
	}
	if s.Known || seen.Empty() {
		return Action{}, false
	}
	if seen.Mark == nil {
		return Action{Do: Refuse,
			Reason: "holds key material that no meshca wrote: nothing is touched",
			Hint:   "move it away, and meshca writes its own"}, true
	}
	if seen.Mark.Store == w.Identity {
		return Action{Do: Refuse,
			Reason: "was written by this store, which has no record of it: the store is older than what it serves",
			Hint:   "put the newest copy of the store back"}, true
	}
	return Action{Do: Refuse,
		Reason: fmt.Sprintf("was written by another meshca, whose store is %s; this store is %s", seen.Mark.Store, w.Identity),
		Hint:   "put that store back, or move the folder away"}, true
}

// dueReason says why the leaf must be replaced now, "" where it need not.
func (s *State) dueReason(w World, now time.Time) string {
	if !s.Fits {
		return ReasonCatalogue
	}
	record := s.Leaf.Record()
	if now.Before(record.NotBefore) {
		return ReasonClock
	}
	due := Due(record, w.RenewAt)
	if !now.Before(due) && (w.Run || s.Owed || cannotWait(due, record.NotAfter, w.NextRun)) {
		return ReasonRenewal
	}
	return ""
}

// mark is the mark of the set that the service should have.
func (s *State) mark(w World) Mark {
	return Mark{Store: w.Identity, Service: s.Service, Epoch: w.Epoch, Bundle: w.Bundle.SHA256(), Serial: s.Leaf.Record().Serial}
}

// compare lists what is not as it should be, with fingerprints of certificates and never a key.
func compare(s State, w World, seen Seen) []Deviation {
	var found []Deviation
	if chain := s.Leaf.Chain(); !bytes.Equal(seen.Cert, chain) {
		found = append(found, Deviation{CertFile, describe(seen.Cert, chain), describe(chain, nil)})
	}
	if key, ok := s.key(seen); !ok {
		found = append(found, Deviation{KeyFile, describeKey(seen.Key), "the leaf's key"})
	} else if !bytes.Equal(seen.Key, key) {
		found = append(found, Deviation{KeyFile, "the leaf's key with other bytes around it", "the leaf's key"})
	}
	if bundle := w.Bundle.PEM(); !bytes.Equal(seen.CA, bundle) {
		found = append(found, Deviation{CAFile, describe(seen.CA, bundle), describe(bundle, nil)})
	}
	if want := s.mark(w); seen.Mark == nil || *seen.Mark != want {
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
	if len(seen.Key) == 0 || len(seen.Key) > maxKey {
		return nil, false
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Leaf.Certificate().Raw})
	pair, err := tls.X509KeyPair(leaf, seen.Key)
	if err != nil {
		return nil, false
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
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		return cert
	}
	return nil
}
