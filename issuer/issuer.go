// Package issuer turns a request into a recorded leaf certificate.
//
// # What it guarantees
//
// A certificate leaves the package only as a [Leaf], and a Leaf is made only from a committed record: what
// is not durable cannot be released. Names, key type and lifetime come from the catalogue's policy, never
// from the request. Template and result pass the same lint, before the key is touched and before anything
// is recorded, and the result is compared with what was asked for.
//
// # Concurrency
//
// Issue may be called from any goroutine: signatures are made in parallel and outside any lock, and only
// the commit is serial.
package issuer

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// A Policy is what the catalogue grants one service.
type Policy struct {
	Service      string // name in the catalogue, a DNS label
	Identity     profile.Identity
	Key          profile.KeyType
	Lifetime     time.Duration // from the moment of issue to NotAfter; > MinRemaining
	Backdate     time.Duration // of NotBefore, for verifiers whose clocks are behind
	MinRemaining time.Duration // issuing is refused where the issuer's own end would leave less
}

// A Request asks for a leaf certificate.
type Request struct {
	Service   string
	Place     string // where it will be written: what is known of a service counts there alone
	PublicKey crypto.PublicKey
	Reason    string // why it is issued: kept in the record
	Caller    string // who asks, and gets it; "" where it is for the service's place
	Once      *Once  // nil where each request is one of its own
	Bearer    string // serial of the certificate of this CA by which the caller is known; "" where it presents none

	// Expected is what Expect returned when the request was admitted, nil where that was not said before.
	Expected *store.Expected
}

// A Leaf is a recorded certificate.
type Leaf struct {
	record Record
	cert   *x509.Certificate
	chain  []byte
}

// Record is a copy of what the store keeps.
func (l *Leaf) Record() Record { return l.record }

// Certificate is the parsed leaf. It must not be changed.
func (l *Leaf) Certificate() *x509.Certificate { return l.cert }

// Chain is the PEM of leaf and issuing CA: what a server presents, the content of tls.crt. Of a leaf that
// another CA signed it is the certificates that were found.
func (l *Leaf) Chain() []byte { return bytes.Clone(l.chain) }

// ErrUnknownService is what Issue wraps where the catalogue has no such service.
var ErrUnknownService = errors.New("the catalogue has no such service")

// ErrIssuerEnds is what Issue wraps where the CA has ended, or would end before the certificate could be of use.
var ErrIssuerEnds = errors.New("the CA ends too soon")

// An Issuer issues below one authority into one store.
type Issuer struct {
	store     store.Store
	underWay  underWay
	authority atomic.Pointer[ca.Authority]
	policies  atomic.Pointer[map[string]Policy]
	own       atomic.Pointer[Policy]
	crls      crls
}

// New makes an issuer with an empty catalogue. A store has one issuer at a time.
func New(st store.Store, authority *ca.Authority) *Issuer {
	i := &Issuer{store: st}
	i.authority.Store(authority)
	i.SetCatalogue(nil)
	return i
}

// Authority is the CA that it issues below.
func (i *Issuer) Authority() *ca.Authority { return i.authority.Load() }

// SetAuthority replaces the CA by a later epoch of the same one; requests in flight finish by the old one.
func (i *Issuer) SetAuthority(a *ca.Authority) { i.authority.Store(a) }

// SetCatalogue replaces all policies at once; requests in flight finish by the old ones.
func (i *Issuer) SetCatalogue(policies []Policy) {
	m := make(map[string]Policy, len(policies))
	for _, p := range policies {
		m[p.Service] = p
	}
	i.policies.Store(&m)
}

// Services lists the names in the catalogue, sorted.
func (i *Issuer) Services() []string { return slices.Sorted(maps.Keys(*i.policies.Load())) }

// SetOwn makes the policy for the program's own certificate, beside the catalogue. Its name is no DNS label, so that no
// service has it.
func (i *Issuer) SetOwn(p Policy) { i.own.Store(&p) }

// Policy is the catalogue's policy for a service, or the program's own.
func (i *Issuer) Policy(service string) (Policy, bool) {
	if own := i.own.Load(); own != nil && own.Service == service {
		return *own, true
	}
	p, ok := (*i.policies.Load())[service]
	return p, ok
}

// Expect says that a request was admitted and will soon be issued for, so that its record and those of others are
// committed together. The caller puts it into the Request, and calls its Done by defer: the request may still fail.
func (i *Issuer) Expect() *store.Expected { return i.store.Expect() }

// Issue signs, checks and records a certificate. When it returns a Leaf, the record is durable; when it
// returns an error, nothing was released, though a record of it may exist if the store's answer was lost.
func (i *Issuer) Issue(req Request, now time.Time) (*Leaf, error) {
	if req.Expected == nil {
		req.Expected = i.Expect()
		defer req.Expected.Done()
	}
	cert, record, err := i.sign(req, now)
	if err != nil {
		return nil, fmt.Errorf("issue for %q: %w", req.Service, err)
	}
	leaf, err := i.commit(req, cert, record, now)
	if err != nil {
		return nil, fmt.Errorf("issue for %q: record: %w", req.Service, err)
	}
	return leaf, nil
}

// sign goes from request to checked certificate: policy, template, lint, signature, parse, lint, compare.
func (i *Issuer) sign(req Request, now time.Time) (*x509.Certificate, Record, error) {
	policy, ok := i.Policy(req.Service)
	if !ok {
		return nil, Record{}, ErrUnknownService
	}
	if err := i.checkKey(req, policy, now); err != nil {
		return nil, Record{}, err
	}
	authority := i.Authority()
	issuing := authority.Issuing()
	if err := authority.CheckTime(now); err != nil {
		return nil, Record{}, fmt.Errorf("%w: %w", ErrIssuerEnds, err)
	}
	window, err := policyWindow(policy, issuing, now)
	if err != nil {
		return nil, Record{}, err
	}
	template, err := profile.LeafTemplate(policy.Identity, req.PublicKey, window, issuing.Certificate)
	if err != nil {
		return nil, Record{}, err
	}
	if err := profile.Lint(profile.Leaf, template, issuing.Certificate); err != nil {
		return nil, Record{}, fmt.Errorf("template: %w", err)
	}
	der, err := issuing.Sign(template)
	if err != nil {
		return nil, Record{}, fmt.Errorf("sign: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, Record{}, fmt.Errorf("parse what was signed: %w", err)
	}
	if err := profile.Lint(profile.Leaf, cert, issuing.Certificate); err != nil {
		return nil, Record{}, fmt.Errorf("signed certificate: %w", err)
	}
	if err := assertAsAsked(cert, template, policy.Identity); err != nil {
		return nil, Record{}, fmt.Errorf("signed certificate: %w", err)
	}
	return cert, Record{
		Serial:    SerialString(cert),
		Service:   policy.Service,
		Place:     req.Place,
		Issuing:   issuing.ID,
		Epoch:     authority.Epoch(),
		IssuedAt:  now.UTC().Truncate(time.Second),
		NotBefore: cert.NotBefore,
		NotAfter:  cert.NotAfter,
		Key:       KeyString(cert.RawSubjectPublicKeyInfo),
		Reason:    req.Reason,
		Caller:    req.Caller,
		State:     req.state(),
		Cert:      cert.Raw,
	}, nil
}

// state is what is known of the delivery when the certificate is recorded: a caller is handed it at once, and
// has its key already.
func (r *Request) state() State {
	if r.Caller != "" {
		return Delivered
	}
	return Issued
}

// assertAsAsked compares what was signed with the template and the names that were meant.
func assertAsAsked(cert, template *x509.Certificate, id profile.Identity) error {
	pub, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !pub.Equal(template.PublicKey):
		return errors.New("it carries another public key than the request")
	case cert.SerialNumber.Cmp(template.SerialNumber) != 0:
		return errors.New("it carries another serial than was drawn")
	case !cert.NotBefore.Equal(template.NotBefore) || !cert.NotAfter.Equal(template.NotAfter):
		return errors.New("it carries another validity than was computed")
	case cert.Subject.CommonName != id.CommonName:
		return errors.New("it carries another subject than the catalogue says")
	}
	return sameNames(cert, id)
}

// sameNames compares the names of a certificate with those of the catalogue, in order.
func sameNames(cert *x509.Certificate, want profile.Identity) error {
	if !slices.Equal(cert.DNSNames, want.DNSNames) {
		return errors.New("it carries other DNS names than the catalogue says")
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != want.URI.String() {
		return errors.New("it carries another URI than the catalogue says")
	}
	if !slices.EqualFunc(cert.IPAddresses, want.IPAddresses, func(got net.IP, want netip.Addr) bool {
		return got.Equal(want.AsSlice())
	}) {
		return errors.New("it carries other IP addresses than the catalogue says")
	}
	return nil
}

// commit records the certificate, and that its request is answered, and makes the Leaf that carries it out. Its key and
// the bearer are admitted in the same transaction: whatever is revoked or issued at the same time, one of the two sees
// the other.
func (i *Issuer) commit(req Request, cert *x509.Certificate, record Record, now time.Time) (*Leaf, error) {
	answered := req.once(now)
	err := i.store.Update(func(w store.Writer) error {
		if err := admitBearer(w, req.Bearer); err != nil {
			return err
		}
		if err := admitKey(w, i.Authority(), record.Service, cert.RawSubjectPublicKeyInfo, now); err != nil {
			return err
		}
		if err := appendRecord(w, &record); err != nil || answered == nil {
			return err
		}
		return answered.put(w, record.Seq)
	}, req.Expected)
	if err != nil {
		return nil, err
	}
	return i.leaf(record, cert)
}

// leaf makes a Leaf of a committed record.
func (i *Issuer) leaf(record Record, cert *x509.Certificate) (*Leaf, error) {
	if record.Adopted() {
		return &Leaf{record: record, cert: cert, chain: record.Chain}, nil
	}
	issuing, ok := i.Authority().IssuingByID(record.Issuing)
	if !ok {
		return nil, fmt.Errorf("record %d was issued by issuing CA %d, which the store does not hold", record.Seq, record.Issuing)
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	return &Leaf{record: record, cert: cert, chain: slices.Concat(leaf, issuing.PEM())}, nil
}

func (i *Issuer) load(record *Record) (*Leaf, error) {
	cert, err := x509.ParseCertificate(record.Cert)
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", record.Seq, err)
	}
	return i.leaf(*record, cert)
}

// Ready says whether a leaf could be signed at now for every service of the catalogue.
func (i *Issuer) Ready(now time.Time) error {
	authority := i.Authority()
	if err := errors.Join(authority.CheckTime(now), authority.Issuing().TestKey()); err != nil {
		return err
	}
	for _, policy := range *i.policies.Load() {
		if _, err := policyWindow(policy, authority.Issuing(), now); err != nil {
			return err
		}
	}
	return nil
}

// policyWindow is the validity that a leaf issued at now would have.
func policyWindow(policy Policy, by *ca.IssuingCA, now time.Time) (profile.Window, error) {
	issuing := by.Certificate
	w := profile.LeafWindow(now, policy.Lifetime, policy.Backdate, issuing)
	if remaining := w.NotAfter.Sub(now); remaining < policy.MinRemaining {
		return w, fmt.Errorf("%w: %s ends at %s, which would leave %s: less than leaf.minRemaining %s",
			ErrIssuerEnds, issuing.Subject.CommonName, issuing.NotAfter.Format(time.RFC3339), max(remaining, 0).Round(time.Second), policy.MinRemaining)
	}
	return w, nil
}
