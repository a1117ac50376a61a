// Package ca keeps the roots and the issuing CAs, the trust bundle and the sealed keys.
//
// # What it guarantees
//
// A root is made by [Found] alone, once in a store, together with the first issuing CA and in one
// transaction; a lost one is never replaced in silence. Private keys lie in the store encrypted by a
// [Seal] that lives apart from it, each bound to its store and record. The root's key is not in an
// [Authority]: it is opened only to sign an issuing CA.
//
// # Concurrency
//
// An Authority is immutable; its methods may be called from any goroutine, and sign in parallel.
package ca

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// ErrEmpty is what Open returns for a store in which no CA was ever founded.
var ErrEmpty = errors.New("the store holds no CA")

// ErrWrongSeal is what Open wraps for a seal that belongs to another store.
var ErrWrongSeal = errors.New("another store's seal")

// An Authority is the CA as the store holds it at one epoch.
type Authority struct {
	identity string
	epoch    uint64
	roots    []Root              // in the order of their generations
	trusted  []*x509.Certificate // our roots that are trusted now
	anchors  []Anchor            // those of other CAs
	bundles  Bundles
	markKey  []byte       // authenticates what is written outside the store
	issuing  []*IssuingCA // in the order of their ids
	current  *IssuingCA   // signs new leaves
}

// A Root is a trust anchor of one generation.
type Root struct {
	Generation  int
	Certificate *x509.Certificate
	CRL         *x509.RevocationList // nil for a root that was founded before there were CRLs
}

// An IssuingCA signs leaves below the root of its generation.
type IssuingCA struct {
	ID          int
	Generation  int // of the root above
	Certificate *x509.Certificate
	key         crypto.Signer
	pem         []byte
}

// The records, JSON under these keys. Several roots and several issuing CAs can live at once; state names
// those that are in use.
const (
	stateKey   = "ca/state"
	rootKey    = "ca/root/%08d"
	issuingKey = "ca/issuing/%08d"
)

type stateRecord struct {
	Identity string `json:"identity"` // of the store, 32 hexadecimal digits
	Epoch    uint64 `json:"epoch"`    // raised by every change of the bundle or of the signing root
	Trusted  []int  `json:"trusted"`  // generations in the bundle
	Issuing  int    `json:"issuing"`  // id of the issuing CA that signs new leaves
}

type caRecord struct {
	Generation  int    `json:"generation"`
	ID          int    `json:"id,omitempty"`  // of an issuing CA
	Certificate []byte `json:"certificate"`   // DER
	SealedKey   []byte `json:"sealedKey"`     // PKCS #8, encrypted
	CRL         []byte `json:"crl,omitempty"` // of a root, DER
}

// Open reads the CA from the store, opens the keys of the issuing CAs, and checks what it read: each key
// matches its certificate, and each chain and each root's CRL verifies. It returns ErrEmpty where no CA was founded, and
// refuses a seal that belongs to another store. Where the seal does not yet know the store (a crash
// between the two writes of a first start), it learns it now.
func Open(st store.Store, s *Seal) (*Authority, error) {
	a := &Authority{}
	var issuing []caRecord
	var state stateRecord
	err := st.View(func(r store.Reader) error {
		var err error
		if state, err = getState(r); err != nil {
			return err
		}
		if a.anchors, err = getAnchors(r); err != nil {
			return err
		}
		for key, value := range r.Scan(store.Prefix("ca/root/")) {
			root, err := parseRoot(key, value)
			if err != nil {
				return err
			}
			a.roots = append(a.roots, root)
		}
		for key, value := range r.Scan(store.Prefix("ca/issuing/")) {
			record, _, err := parseRecord(key, value)
			if err != nil {
				return err
			}
			issuing = append(issuing, record)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	a.identity, a.epoch = state.Identity, state.Epoch
	if err := a.checkSeal(s); err != nil {
		return nil, err
	}
	if err := a.assemble(s, state, issuing); err != nil {
		return nil, err
	}
	return a, nil
}

func parseRecord(key string, value []byte) (caRecord, *x509.Certificate, error) {
	var record caRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return record, nil, fmt.Errorf("record %s: %w", key, err)
	}
	cert, err := x509.ParseCertificate(record.Certificate)
	if err != nil {
		return record, nil, fmt.Errorf("record %s: %w", key, err)
	}
	return record, cert, nil
}

func parseRoot(key string, value []byte) (Root, error) {
	record, cert, err := parseRecord(key, value)
	if err != nil {
		return Root{}, err
	}
	root := Root{Generation: record.Generation, Certificate: cert}
	if len(record.CRL) > 0 {
		if root.CRL, err = x509.ParseRevocationList(record.CRL); err != nil {
			return Root{}, fmt.Errorf("record %s: %w", key, err)
		}
	}
	return root, nil
}

// check verifies what the root has signed itself: its certificate and its CRL.
func (r Root) check() error {
	if err := r.Certificate.CheckSignatureFrom(r.Certificate); err != nil {
		return fmt.Errorf("root g%d does not verify: %w", r.Generation, err)
	}
	if r.CRL == nil {
		return nil
	}
	if err := profile.LintCRL(r.CRL, r.Certificate); err != nil {
		return fmt.Errorf("the CRL of root g%d does not verify: %w", r.Generation, err)
	}
	return nil
}

// checkSeal compares the store that the seal remembers with the one that was opened.
func (a *Authority) checkSeal(s *Seal) error {
	remembered, err := StoreIdentity(s.path)
	switch {
	case err != nil:
		return fmt.Errorf("read the store's identity beside the seal: %w", err)
	case remembered != "" && remembered != a.identity:
		return fmt.Errorf("%w: %s belongs to store %s, this is store %s", ErrWrongSeal, s.path, remembered, a.identity)
	}
	return nil
}

// assemble opens the keys, checks every chain, and puts the parts in their places.
func (a *Authority) assemble(s *Seal, state stateRecord, issuing []caRecord) error {
	byGeneration := make(map[int]*x509.Certificate)
	for _, root := range a.roots {
		if err := root.check(); err != nil {
			return err
		}
		byGeneration[root.Generation] = root.Certificate
	}
	for _, g := range state.Trusted {
		if byGeneration[g] == nil {
			return fmt.Errorf("root g%d is in the bundle, but the store does not hold it", g)
		}
		a.trusted = append(a.trusted, byGeneration[g])
	}
	if len(a.trusted) == 0 {
		return errors.New("the trust bundle is empty")
	}
	a.bundles = NewBundles(a.trusted, a.anchors)
	for _, record := range issuing {
		i, err := openIssuing(s, a.identity, record, byGeneration[record.Generation])
		if err != nil {
			return fmt.Errorf("issuing CA %d: %w", record.ID, err)
		}
		a.issuing = append(a.issuing, i)
		if i.ID == state.Issuing {
			a.current = i
		}
	}
	if a.current == nil {
		return fmt.Errorf("issuing CA %d signs new leaves, but the store does not hold it", state.Issuing)
	}
	// The seal has opened this store's keys, so it is this store's.
	var err error
	if a.markKey, err = s.markKey(); err != nil {
		return err
	}
	if remembered, err := StoreIdentity(s.path); err != nil || remembered == a.identity {
		return err
	}
	return s.remember(a.identity)
}

func openIssuing(s *Seal, identity string, record caRecord, root *x509.Certificate) (*IssuingCA, error) {
	cert, err := x509.ParseCertificate(record.Certificate)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, fmt.Errorf("its root g%d is not in the store", record.Generation)
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("does not verify below root g%d: %w", record.Generation, err)
	}
	plain, err := s.open(identity, fmt.Sprintf(issuingKey, record.ID), record.SealedKey)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(plain)
	clear(plain)
	if err != nil {
		return nil, errors.New("its key does not parse") // the parser's words may quote the key
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("its key is a %T", parsed)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, errors.New("its key does not match its certificate")
	}
	return &IssuingCA{ID: record.ID, Generation: record.Generation, Certificate: cert, key: key, pem: certificatePEM(cert)}, nil
}

// Identity is the store's identity: 32 hexadecimal digits, drawn when the CA was founded.
func (a *Authority) Identity() string { return a.identity }

// Epoch is 1 at the first start, and raised by every change of the trust bundle or the signing root.
func (a *Authority) Epoch() uint64 { return a.epoch }

// Authenticate is the hexadecimal HMAC-SHA-256 of the parts, each with its length, under a key that only the
// seal gives: who can write to a target cannot make it.
func (a *Authority) Authenticate(parts ...string) string {
	mac := hmac.New(sha256.New, a.markKey)
	for _, part := range parts {
		fmt.Fprintf(mac, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(mac.Sum(nil))
}

// Roots lists the roots that the store holds, oldest first.
func (a *Authority) Roots() []Root { return append([]Root(nil), a.roots...) }

// Root is the root above the issuing CA that signs new leaves.
func (a *Authority) Root() Root {
	for _, r := range a.roots {
		if r.Generation == a.current.Generation {
			return r
		}
	}
	panic("ca: an opened authority has the root of each issuing CA")
}

// Issuing is the issuing CA that signs new leaves.
func (a *Authority) Issuing() *IssuingCA { return a.current }

// IssuingByID is the issuing CA of that id; ok is false where the store does not hold it.
func (a *Authority) IssuingByID(id int) (i *IssuingCA, ok bool) {
	for _, i := range a.issuing {
		if i.ID == id {
			return i, true
		}
	}
	return nil, false
}

// Signed says whether one of this store's issuing CAs signed c.
func (a *Authority) Signed(c *x509.Certificate) bool {
	for _, i := range a.issuing {
		if bytes.Equal(c.RawIssuer, i.Certificate.RawSubject) &&
			i.Certificate.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil {
			return true
		}
	}
	return false
}

// HasKey says whether the public key, a SubjectPublicKeyInfo, is that of a CA which the store holds, or trusts.
func (a *Authority) HasKey(spki []byte) bool {
	for _, r := range a.roots {
		if bytes.Equal(r.Certificate.RawSubjectPublicKeyInfo, spki) {
			return true
		}
	}
	for _, i := range a.issuing {
		if bytes.Equal(i.Certificate.RawSubjectPublicKeyInfo, spki) {
			return true
		}
	}
	return slices.ContainsFunc(a.anchors, func(f Anchor) bool {
		return bytes.Equal(f.Certificate.RawSubjectPublicKeyInfo, spki)
	})
}

// CheckTime refuses a root or issuing CA that has expired or is not valid yet at now.
func (a *Authority) CheckTime(now time.Time) error {
	root := a.Root()
	for _, c := range []*x509.Certificate{root.Certificate, a.current.Certificate} {
		switch {
		case now.After(c.NotAfter):
			return fmt.Errorf("%s expired at %s", c.Subject.CommonName, c.NotAfter.Format(time.RFC3339))
		case now.Before(c.NotBefore):
			return fmt.Errorf("%s is valid from %s, the clock says %s", c.Subject.CommonName,
				c.NotBefore.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// Sign signs a leaf's template with this issuing CA and returns the certificate's DER. Package issuer is
// the one caller: it checks the template before, the result after, and records it.
func (i *IssuingCA) Sign(template *x509.Certificate) ([]byte, error) {
	return profile.SignLeaf(template, i.Certificate, i.key)
}

// TestKey signs random bytes, which are no certificate, to find out whether the key works.
func (i *IssuingCA) TestKey() error {
	digest := make([]byte, crypto.SHA256.Size())
	rand.Read(digest)
	_, err := i.key.Sign(rand.Reader, digest, crypto.SHA256)
	return err
}

// PEM is the issuing CA's certificate, as it follows a leaf's in tls.crt. It must not be changed.
func (i *IssuingCA) PEM() []byte { return i.pem }
