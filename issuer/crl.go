package issuer

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// A CRL is one that is in force.
type CRL struct {
	Issuer     string // its common name
	SKI        string // the issuer's subject key identifier, lower-case hexadecimal
	Root       bool   // it is a root's, which is made only together with an issuing CA
	DER        []byte
	Number     uint64
	ThisUpdate time.Time
	NextUpdate time.Time
	// Overdue is when there should long have been a newer one: at half of an issuing CA's, whose are made daily; at
	// a root's when a new leaf would outlive it, since the issuing CA should have been replaced before that.
	Overdue time.Time
}

// resign is the age at which a CRL is made anew.
const resign = 24 * time.Hour

// PEM are CRLs one after the other, as a verifier's file holds them.
func PEM(crls []CRL) []byte {
	var b bytes.Buffer
	for _, c := range crls {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: c.DER}))
	}
	return b.Bytes()
}

// crls are those that this process has made, by the id of the issuing CA. One of an earlier process is not handed
// out again: the store may have been put back to an older copy since.
type crls struct {
	mu   sync.Mutex // held while one is made: the others wait for it
	made map[int]made
}

type made struct {
	CRL
	at          time.Time
	revocations uint64 // in the store when it was made
}

// crlPrefix begins the keys under which the store has the newest CRL of an issuing CA, without its bytes: these can
// be made again, and are at every start.
const crlPrefix = "crl/"

type crlRecord struct {
	Number     uint64    `json:"number"`
	ThisUpdate time.Time `json:"thisUpdate"`
	NextUpdate time.Time `json:"nextUpdate"`
	From       time.Time `json:"from"` // what expired before this is not listed any more
}

func crlKey(issuing int) string { return fmt.Sprintf("%s%08d", crlPrefix, issuing) }

// CRLs are those in force at now: of each of our roots in the bundle, and of each issuing CA that the store holds and
// that has not expired. Those of issuing CAs are made anew after a revocation, when they are a day old, and at the
// start. What is revoked before the call is listed. Where one that is a day old cannot be made anew, it is in force until
// its nextUpdate; [Issuer.RefreshCRLs] says why.
//
// [ca.Authority.WithoutCRL] has the certificates in the bundle for which there is none.
func (i *Issuer) CRLs(now time.Time) ([]CRL, error) {
	list, missing, err := i.refresh(now)
	if missing {
		return nil, err
	}
	return list, nil
}

// RefreshCRLs is CRLs for whoever has them made in time: it returns those that are in force, and with them what could
// not be made.
func (i *Issuer) RefreshCRLs(now time.Time) ([]CRL, error) {
	list, _, err := i.refresh(now)
	return list, err
}

// refresh makes what is due. missing says whether one that there should be is not in the list.
func (i *Issuer) refresh(now time.Time) (list []CRL, missing bool, err error) {
	authority := i.Authority()
	for _, l := range authority.CRLs() {
		root := newCRL(l)
		root.Root, root.Overdue = true, l.NextUpdate.Add(-i.longestLife())
		list = append(list, root)
	}
	i.crls.mu.Lock()
	defer i.crls.mu.Unlock()
	var failed []error
	for _, by := range authority.IssuingCAs() {
		if now.After(by.Certificate.NotAfter) {
			continue // nobody accepts what it signed or signs
		}
		crl, ok, err := i.crlOf(by, now)
		if err != nil {
			failed = append(failed, fmt.Errorf("CRL of %s: %w", by.Certificate.Subject.CommonName, err))
		}
		if ok {
			list = append(list, crl)
		}
		missing = missing || !ok
	}
	return list, missing, errors.Join(failed...)
}

// crlOf is the CRL of one issuing CA, made anew where it is due. ok says whether there is one that may be used; with an
// error it is an older one.
func (i *Issuer) crlOf(by *ca.IssuingCA, now time.Time) (crl CRL, ok bool, err error) {
	n, err := i.Revocations()
	if err != nil {
		return crl, false, err
	}
	last, known := i.crls.made[by.ID]
	usable := known && last.revocations == n && !now.Before(last.ThisUpdate) && !now.After(last.NextUpdate)
	if usable && now.Sub(last.at) < resign {
		return last.CRL, true, nil
	}
	next, err := i.makeCRL(by, now)
	if err != nil {
		return last.CRL, usable, err
	}
	if i.crls.made == nil {
		i.crls.made = make(map[int]made)
	}
	i.crls.made[by.ID] = next
	return next.CRL, true, nil
}

// makeCRL signs a CRL of what the store says is revoked, and records it. It is not returned before its number is durable.
func (i *Issuer) makeCRL(by *ca.IssuingCA, now time.Time) (m made, err error) {
	var last crlRecord
	var revoked []*Record
	next := crlRecord{}
	err = i.store.View(func(r store.Reader) (err error) {
		last = crlRecord{}
		if err := getJSON(r, crlKey(by.ID), &last); err != nil {
			return err
		}
		next.From = listedFrom(last, now)
		if m.revocations, err = revocations(r); err != nil {
			return err
		}
		revoked, err = revokedSince(r, by.ID, next.From)
		return err
	})
	if err != nil {
		return made{}, err
	}
	backdate := i.backdate()
	window := profile.CRLWindow(now, backdate, by.Certificate)
	next.Number, next.ThisUpdate, next.NextUpdate = profile.CRLNumber(last.Number, now), window.NotBefore, window.NotAfter
	entries, err := crlEntries(revoked, backdate, window.NotBefore)
	if err != nil {
		return made{}, err
	}
	list, err := by.SignCRL(profile.CRLTemplate(next.Number, window, entries, by.Certificate))
	if err != nil {
		return made{}, err
	}
	m.CRL, m.at = newCRL(list), now
	m.Overdue = window.NotBefore.Add(window.NotAfter.Sub(window.NotBefore) / 2)
	return m, i.store.Update(func(w store.Writer) error { return putJSON(w, crlKey(by.ID), next) })
}

// listedFrom is the expiry from which on a revoked certificate is listed: it stays until it was in a CRL that says of itself
// that it was made after the expiry (RFC 5280, section 3.3), and for a day, in which whoever reads them daily has read one.
func listedFrom(last crlRecord, now time.Time) time.Time {
	from := now.Add(-resign)
	if last.ThisUpdate.Before(from) {
		from = last.ThisUpdate
	}
	return from.UTC().Truncate(time.Second)
}

// listed says whether the next CRL lists the certificate still. That of an issuing CA which the store does not hold, or
// which expired before the given instant, has been made for the last time.
func (i *Issuer) listed(r store.Reader, record *Record, before time.Time) (bool, error) {
	if record.Revoked == nil {
		return false, nil
	}
	by, ok := i.Authority().IssuingByID(record.Issuing)
	if !ok || by.Certificate.NotAfter.Before(before) {
		return false, nil
	}
	var newest crlRecord
	err := getJSON(r, crlKey(record.Issuing), &newest)
	return !record.NotAfter.Before(newest.From), err
}

// crlEntries are the entries of revoked certificates. Their dates are backdated like all that is signed: Java
// accepts a certificate until the date is past by its own clock. None is later than the CRL.
func crlEntries(revoked []*Record, backdate time.Duration, thisUpdate time.Time) (entries []profile.Revoked, err error) {
	for _, r := range revoked {
		serial, ok := new(big.Int).SetString(r.Serial, 16)
		if !ok || r.Revoked == nil {
			return nil, fmt.Errorf("record %d is in the index of revoked certificates, and is not revoked", r.Seq)
		}
		at := r.Revoked.At.Add(-backdate)
		if at.After(thisUpdate) { // the clock went back
			at = thisUpdate
		}
		entries = append(entries, profile.Revoked{Serial: serial, At: at, Reason: r.Revoked.Reason})
	}
	return entries, nil
}

func newCRL(l *x509.RevocationList) CRL {
	return CRL{
		Issuer: l.Issuer.CommonName, SKI: hex.EncodeToString(l.AuthorityKeyId), DER: l.Raw,
		Number: l.Number.Uint64(), ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate,
	}
}

// backdate is by how much CRLs are backdated: as the leaves are.
func (i *Issuer) backdate() (longest time.Duration) {
	for _, p := range *i.policies.Load() {
		longest = max(longest, min(p.Backdate, p.Lifetime/10))
	}
	return min(longest, profile.CRLLifetime/10)
}

// longestLife is how long a leaf may live that is issued now.
func (i *Issuer) longestLife() (longest time.Duration) {
	for _, p := range *i.policies.Load() {
		longest = max(longest, p.Lifetime)
	}
	return longest
}
