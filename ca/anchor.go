package ca

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meshca/meshca/store"
)

// An Anchor is a trust anchor of another CA: live leaves of a mesh that was taken over chain to it. It stands
// in the trust bundle beside our own roots.
type Anchor struct {
	Certificate *x509.Certificate
	Since       time.Time
	Services    []string // whose leaves chained to it when it was taken over
	// Only lists the services whose ca.crt carries it; empty is all of them. It is set where verifiers would
	// confuse it with another anchor of the same subject.
	Only []string
	// Order has, for services in Only, where the anchor stands among those that are not for all: verifiers that
	// confuse two take the first.
	Order map[string]int
}

// anchorPrefix begins the keys of anchors; the SHA-256 of the certificate's DER ends them.
const anchorPrefix = "ca/anchor/"

type anchorRecord struct {
	Certificate []byte         `json:"certificate"` // DER
	Since       time.Time      `json:"since"`
	Services    []string       `json:"services"`
	Only        []string       `json:"only,omitempty"`
	Order       map[string]int `json:"order,omitempty"`
}

// Trust writes anchors of other CAs, all that there are, into the transaction, and raises the epoch where that
// changes a bundle. An anchor that is known already is replaced. The authority itself stays as it is:
// [Authority.Reread] gives the new one when the transaction is durable.
func (a *Authority) Trust(w store.Writer, anchors []Anchor) (changed bool, err error) {
	for _, anchor := range anchors {
		sum := sha256.Sum256(anchor.Certificate.Raw)
		record := anchorRecord{anchor.Certificate.Raw, anchor.Since.UTC().Truncate(time.Second), anchor.Services, anchor.Only, anchor.Order}
		if err := putJSON(w, anchorPrefix+hex.EncodeToString(sum[:]), record); err != nil {
			return false, err
		}
	}
	if NewBundles(a.trusted, anchors).equal(a.bundles) {
		return false, nil
	}
	return true, a.RaiseEpoch(w, a.epoch+1)
}

// RaiseEpoch sets the epoch in the transaction. It never goes back.
func (a *Authority) RaiseEpoch(w store.Writer, epoch uint64) error {
	state, err := getState(w)
	if err != nil {
		return err
	}
	if epoch <= state.Epoch {
		return fmt.Errorf("epoch %d is not later than %d", epoch, state.Epoch)
	}
	state.Epoch = epoch
	return putJSON(w, stateKey, state)
}

// Reread is the authority with the epoch and the anchors as the store has them now, and the same keys.
func (a *Authority) Reread(st store.Store) (*Authority, error) {
	next := *a
	err := st.View(func(r store.Reader) error {
		state, err := getState(r)
		if err != nil {
			return err
		}
		next.epoch = state.Epoch
		next.anchors, err = getAnchors(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	next.bundles = NewBundles(next.trusted, next.anchors)
	return &next, nil
}

func getState(r store.Reader) (state stateRecord, err error) {
	value, ok := r.Get(stateKey)
	if !ok {
		return state, ErrEmpty
	}
	if err := json.Unmarshal(value, &state); err != nil {
		return state, fmt.Errorf("record %s: %w", stateKey, err)
	}
	return state, nil
}

func getAnchors(r store.Reader) (anchors []Anchor, err error) {
	for key, value := range r.Scan(store.Prefix(anchorPrefix)) {
		var record anchorRecord
		if err := json.Unmarshal(value, &record); err != nil {
			return nil, fmt.Errorf("record %s: %w", key, err)
		}
		cert, err := x509.ParseCertificate(record.Certificate)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("record %s", key), err)
		}
		anchors = append(anchors, Anchor{cert, record.Since, record.Services, record.Only, record.Order})
	}
	return anchors, nil
}

// Bundles are the trust bundle of an epoch, and those that differ from it for single services.
type Bundles struct {
	common Bundle
	own    map[string]Bundle // by service, where it is not the common one
}

// NewBundles are the bundles of these roots and anchors.
func NewBundles(roots []*x509.Certificate, anchors []Anchor) Bundles {
	b := Bundles{own: make(map[string]Bundle)}
	anchors = byUse(anchors)
	for _, anchor := range anchors {
		for _, service := range anchor.Only {
			b.own[service] = Bundle{}
		}
	}
	b.common = newBundle(roots, anchorsFor(anchors, ""))
	for service := range b.own {
		b.own[service] = newBundle(roots, anchorsFor(anchors, service))
	}
	return b
}

// For is the bundle that a service gets: the common one, unless an anchor is there for some services only.
func (b Bundles) For(service string) Bundle {
	if own, ok := b.own[service]; ok {
		return own
	}
	return b.common
}

// anchorsFor are the anchors that a service gets, in their order: first those that all get.
func anchorsFor(sorted []Anchor, service string) (certs []*x509.Certificate) {
	var own []Anchor
	for _, anchor := range sorted {
		if len(anchor.Only) == 0 {
			certs = append(certs, anchor.Certificate)
		} else if slices.Contains(anchor.Only, service) {
			own = append(own, anchor)
		}
	}
	slices.SortStableFunc(own, func(x, y Anchor) int { return cmp.Compare(x.Order[service], y.Order[service]) })
	for _, anchor := range own {
		certs = append(certs, anchor.Certificate)
	}
	return certs
}

// byUse sorts anchors so that the first of a name is the one that most verifiers can use, now and later: those
// that take the first do not come back for the next.
func byUse(anchors []Anchor) []Anchor {
	last := make(map[string]int, len(anchors)) // a signature is checked once, not at each comparison
	for _, anchor := range anchors {
		if !SelfSigned(anchor.Certificate) {
			last[string(anchor.Certificate.Raw)] = 1
		}
	}
	return slices.SortedFunc(slices.Values(anchors), func(x, y Anchor) int {
		a, b := x.Certificate, y.Certificate
		return cmp.Or(cmp.Compare(last[string(a.Raw)], last[string(b.Raw)]), b.NotAfter.Compare(a.NotAfter), bytes.Compare(a.Raw, b.Raw))
	})
}

// SelfSigned says whether a verifier that wants a path to end in a self-signed certificate takes the anchor.
func SelfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

func (b Bundles) equal(o Bundles) bool {
	return b.common.sum == o.common.sum && maps.EqualFunc(b.own, o.own, func(x, y Bundle) bool { return x.sum == y.sum })
}

// Anchors lists the trust anchors of other CAs.
func (a *Authority) Anchors() []Anchor { return slices.Clone(a.anchors) }

// Trusted lists our own roots that are trusted now.
func (a *Authority) Trusted() []*x509.Certificate { return slices.Clone(a.trusted) }

// Bundle is the trust bundle of the epoch.
func (a *Authority) Bundle() Bundle { return a.bundles.common }

// BundleFor is the trust bundle that a service gets: the common one, unless an anchor is there for some
// services only.
func (a *Authority) BundleFor(service string) Bundle { return a.bundles.For(service) }
