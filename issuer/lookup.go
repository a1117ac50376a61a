package issuer

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"

	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// SerialString is a certificate's serial number as meshca writes it: lower-case hexadecimal without
// leading zeros.
func SerialString(c *x509.Certificate) string { return fmt.Sprintf("%x", c.SerialNumber) }

// KeyString identifies a public key by the hexadecimal SHA-256 of its SubjectPublicKeyInfo.
func KeyString(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// claimPrefix marks services whose place an operator gave to this store, whoever wrote there before.
const claimPrefix = "claim/"

func claimKey(service, place string) string { return claimPrefix + service + "/" + place }

// Claim records, in the transaction, that the service's place is this store's from now on, although it holds
// what would be refused otherwise: tokens identify that, and nothing else is accepted by the claim. It is for an
// operator who has said so.
func Claim(w store.Writer, service, place string, tokens []string) error {
	value, err := json.Marshal(tokens)
	if err != nil {
		return err
	}
	w.Put(claimKey(service, place), value)
	return nil
}

// Claimed lists the tokens that the service's place was claimed with, nil where it was not.
func (i *Issuer) Claimed(service, place string) (tokens []string, err error) {
	err = i.store.View(func(r store.Reader) error {
		value, ok := r.Get(claimKey(service, place))
		if !ok || len(value) == 0 {
			return nil
		}
		return json.Unmarshal(value, &tokens)
	})
	return tokens, err
}

// Current is the service's newest certificate at the place that a live process may hold: undelivered ones are
// passed over. It is nil where there is none. known says whether the store has any record of the service at that
// place, or a claim to it.
func (i *Issuer) Current(service, place string) (leaf *Leaf, known bool, err error) {
	return i.held(service, place, math.MaxUint64)
}

// Before is the service's newest certificate at its place older than l that a live process may hold, nil where
// there is none.
func (i *Issuer) Before(l *Leaf) (*Leaf, error) {
	leaf, _, err := i.held(l.record.Service, l.record.Place, l.record.Seq)
	return leaf, err
}

// held is Current among the records before a sequence number.
func (i *Issuer) held(service, place string, before uint64) (leaf *Leaf, known bool, err error) {
	err = i.store.View(func(r store.Reader) error {
		var found *Record
		_, known = r.Get(claimKey(service, place))
		err := newest(r, service, func(record *Record) bool {
			if !record.isAt(place) {
				return true
			}
			known = true
			if record.Seq < before && record.State != Undelivered {
				found = record
			}
			return found == nil
		})
		if err != nil || found == nil {
			return err
		}
		leaf, err = i.load(found)
		return err
	})
	return leaf, known, err
}

// Fresh says whether the store has no record of any certificate.
func (i *Issuer) Fresh() (fresh bool, err error) {
	fresh = true
	err = i.store.View(func(r store.Reader) error {
		for range r.Scan(store.Prefix(recordPrefix)) {
			fresh = false
			break
		}
		return nil
	})
	return fresh, err
}

// Recorded says whether the store has the record of what was signed in this certificate. The signature itself may be
// another: nobody signs it, and of one that verifies anybody can make others that do (of ECDSA's (r, s) it is (r, n-s)).
func (i *Issuer) Recorded(c *x509.Certificate) (recorded bool, err error) {
	err = i.store.View(func(r store.Reader) error {
		record, err := recordBySerial(r, c)
		if err != nil || record == nil {
			return err
		}
		if recorded = bytes.Equal(record.Cert, c.Raw); recorded {
			return nil
		}
		own, err := x509.ParseCertificate(record.Cert)
		if err != nil {
			return fmt.Errorf("record %d: %w", record.Seq, err)
		}
		recorded = bytes.Equal(own.RawTBSCertificate, c.RawTBSCertificate)
		return nil
	})
	return recorded, err
}

// recordOf is the record of exactly this certificate, nil where there is none.
func recordOf(r store.Reader, c *x509.Certificate) (*Record, error) {
	record, err := recordBySerial(r, c)
	if err != nil || record == nil || !bytes.Equal(record.Cert, c.Raw) {
		return nil, err
	}
	return record, nil
}

// recordBySerial is the record of a certificate of ours with the same serial number, nil where there is none.
func recordBySerial(r store.Reader, c *x509.Certificate) (*Record, error) {
	seq, ok := r.Get(serialPrefix + SerialString(c))
	if !ok {
		return nil, nil
	}
	n, err := seqOf(string(seq))
	if err != nil {
		return nil, err
	}
	return getRecord(r, n)
}

// Fits says whether the certificate carries what the catalogue grants its service now: names, subject and
// key type. One that does not is due at once; one that another CA signed is due in its own time.
func (i *Issuer) Fits(l *Leaf) bool {
	policy, ok := i.Policy(l.record.Service)
	if !ok {
		return false
	}
	if l.record.Adopted() {
		return true
	}
	key, err := profile.TypeOf(l.cert.PublicKey)
	if err != nil || key != policy.Key || l.cert.Subject.CommonName != policy.Identity.CommonName {
		return false
	}
	return sameNames(l.cert, policy.Identity) == nil
}
