package issuer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// A Revocation says when, why and by whom a certificate was revoked. It says nothing of the delivery, which is the
// record's state.
type Revocation struct {
	At     time.Time      `json:"at"`
	Reason profile.Reason `json:"reason"`
	By     string         `json:"by"` // who asked for it
}

// Why Revoke refuses.
var (
	ErrUnknownSerial = errors.New("the store has no certificate of this serial")
	ErrAdopted       = errors.New("another CA signed it, and only that one can revoke it")
	ErrExpired       = errors.New("it has expired, nobody accepts it any more")
)

// A RevokedError is what Revoke wraps for a certificate that was revoked for another reason before.
type RevokedError struct {
	Revocation Revocation
}

func (e *RevokedError) Error() string {
	return fmt.Sprintf("it was revoked at %s for %s: only %s may follow", e.Revocation.At.Format(time.RFC3339),
		e.Revocation.Reason, profile.KeyCompromise)
}

// The keys of what is revoked. The index of revoked certificates is by issuing CA and expiry, so that a CRL is made
// from those alone that it has to list.
const (
	revokedPrefix     = "revoked/"
	compromisedPrefix = "compromised/" // public keys that are never certified again, however long ago it was
	revocationsKey    = "revocations"  // how often what is revoked has changed
)

func revokedBy(issuing int) string { return fmt.Sprintf("%s%08d/", revokedPrefix, issuing) }

// revokedKey is the key under which the making of a CRL finds r.
func (r *Record) revokedKey() string {
	return revokedBy(r.Issuing) + expiryNumber(r.NotAfter) + "/" + number(r.Seq)
}

// Revoke records that the certificate of that serial is revoked. With keyCompromise all certificates of its key are,
// and the key is never certified again. When it returns, the revocation is durable and in every CRL that [Issuer.CRLs]
// returns from then on; after an error it may be.
//
// A second call with the same reason changes nothing and is no error. Another reason is a [RevokedError], except
// keyCompromise, which replaces any other: the date stays.
func (i *Issuer) Revoke(serial string, reason profile.Reason, by string, now time.Time) (*Record, error) {
	asked := Revocation{At: now.UTC().Truncate(time.Second), Reason: reason, By: by}
	var record *Record
	var changed bool
	err := i.store.View(func(r store.Reader) (err error) { // a repeated call commits nothing
		record, changed, err = revoked(r, serial, asked)
		return err
	})
	if err == nil && changed {
		err = i.store.Update(func(w store.Writer) (err error) {
			if record, changed, err = revoked(w, serial, asked); err != nil || !changed {
				return err
			}
			return revokeIn(w, record)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("revoke %s: %w", serial, err)
	}
	return record, nil
}

// revoked is the record of that serial as it is when it is revoked, and whether that is a change.
func revoked(r store.Reader, serial string, asked Revocation) (record *Record, changed bool, err error) {
	seq, ok := r.Get(serialPrefix + serial)
	if !ok {
		for range r.Scan(store.Prefix(adoptedPrefix + serial + "/")) {
			return nil, false, ErrAdopted
		}
		return nil, false, ErrUnknownSerial
	}
	n, err := seqOf(string(seq))
	if err != nil {
		return nil, false, err
	}
	if record, err = getRecord(r, n); err != nil {
		return nil, false, err
	}
	changed, err = record.revoke(asked)
	return record, changed, err
}

// revoke decides what the revocation changes in the record.
func (r *Record) revoke(asked Revocation) (changed bool, err error) {
	switch before := r.Revoked; {
	case before != nil && before.Reason == asked.Reason:
		return false, nil
	case asked.At.After(r.NotAfter):
		return false, ErrExpired
	case before != nil && asked.Reason != profile.KeyCompromise:
		return false, &RevokedError{*before}
	case before != nil:
		asked.At = before.At
	}
	r.Revoked = &asked
	return true, nil
}

// revokeIn writes a revoked record, and where its key is compromised the others of that key, into the transaction.
func revokeIn(w store.Writer, record *Record) error {
	if err := putRevoked(w, record); err != nil {
		return err
	}
	if record.Revoked.Reason == profile.KeyCompromise {
		w.Put(compromisedPrefix+record.Key, []byte(record.Serial))
		if err := revokeKey(w, record.Key, *record.Revoked); err != nil {
			return err
		}
	}
	n, err := revocations(w)
	if err != nil {
		return err
	}
	w.Put(revocationsKey, []byte(number(n+1)))
	return nil
}

// revokeKey revokes what else is certified with a key.
func revokeKey(w store.Writer, key string, asked Revocation) error {
	records, err := ofKey(w, key)
	if err != nil {
		return err
	}
	for _, record := range records {
		if record.Adopted() {
			continue
		}
		if changed, err := record.revoke(asked); err != nil || !changed { // an expired one need not be
			continue
		}
		if err := putRevoked(w, record); err != nil {
			return err
		}
	}
	return nil
}

func putRevoked(w store.Writer, r *Record) error {
	w.Put(r.revokedKey(), []byte(number(r.Seq)))
	return putRecord(w, r)
}

// Revocations counts how often what is revoked has changed in this store.
func (i *Issuer) Revocations() (n uint64, err error) {
	err = i.store.View(func(r store.Reader) error {
		n, err = revocations(r)
		return err
	})
	return n, err
}

func revocations(r store.Reader) (uint64, error) {
	value, ok := r.Get(revocationsKey)
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseUint(string(value), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("store key %q: %w", revocationsKey, err)
	}
	return n, nil
}

// revokedSince lists what a CRL of an issuing CA has to list: what is revoked and expires at an instant or later.
func revokedSince(r store.Reader, issuing int, from time.Time) (list []*Record, err error) {
	for key := range r.Scan(store.Range{From: revokedBy(issuing) + expiryNumber(from), To: store.Prefix(revokedBy(issuing)).To}) {
		record, err := recordAt(r, key)
		if err != nil {
			return nil, err
		}
		list = append(list, record)
	}
	return list, nil
}

// getJSON reads a record that may not be there.
func getJSON(r store.Reader, key string, v any) error {
	value, ok := r.Get(key)
	if !ok {
		return nil
	}
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("record %s: %w", key, err)
	}
	return nil
}

func putJSON(w store.Writer, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Put(key, value)
	return nil
}
