package rotation

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/verify"
)

// A Takeover is what the store knows of a place that held another CA's set when meshca came. It is removed when
// a leaf of ours is in place.
//
// First every ca.crt gets the union of the trust that live leaves need and our root, and the leaves stay. Leaves
// are signed anew when every process that reads one of these places is known to have loaded that union, or when
// an operator says so: until then somebody would refuse them.
type Takeover struct {
	Since     time.Time `json:"since"`
	Leaf      FoundLeaf `json:"leaf"`
	Why       string    `json:"why,omitempty"`       // what is wrong with the leaf
	Due       time.Time `json:"due,omitzero"`        // when the leaf would be renewed in any case
	NotAfter  time.Time `json:"notAfter,omitzero"`   // of the leaf
	Continued bool      `json:"continued,omitempty"` // an operator has said that its readers need not be waited for
}

// A FoundLeaf says of what use the leaf is that was found.
type FoundLeaf string

// The kinds of leaf.
const (
	LeafUsable FoundLeaf = "usable" // it stays until it is signed anew
	LeafBroken FoundLeaf = "broken" // it cannot be used as it lies there; processes may hold it and its key all the same
	LeafNone   FoundLeaf = "none"   // there is none that anybody could use: it is simply written
)

// first says whether the place still is as it was found: meshca has not written there yet.
func (t *Takeover) first(seen Seen) bool { return t != nil && !seen.Proven }

// dueReason says why the leaf is replaced now, "" where it need not be.
func (t *Takeover) dueReason(w World, now time.Time) string {
	if t.Leaf == LeafNone || w.Trusted || cannotWait(t.Due, t.NotAfter, w.NextRun) && !now.Before(t.Due) {
		return ReasonTakeover
	}
	return ""
}

const takeoverPrefix = "takeover/"

func putTakeover(w store.Writer, service string, t *Takeover) error {
	value, err := json.Marshal(t)
	if err != nil {
		return err
	}
	w.Put(takeoverPrefix+service, value)
	return nil
}

func getTakeover(r store.Reader, service string) (*Takeover, error) {
	value, ok := r.Get(takeoverPrefix + service)
	if !ok {
		return nil, nil
	}
	t := &Takeover{}
	if err := json.Unmarshal(value, t); err != nil {
		return nil, fmt.Errorf("record %s%s: %w", takeoverPrefix, service, err)
	}
	return t, nil
}

// An adoption is what taking over one service means.
type adoption struct {
	service  string
	takeover Takeover
	leaf     *x509.Certificate // the one that stays, with LeafUsable
	chain    []byte            // tls.crt as found
}

// maxChain bounds the tls.crt of another CA that the store keeps, in bytes.
const maxChain = 128 << 10

// audit decides how places that hold other CAs' sets are taken over, and which trust anchors their live leaves
// need. It is pure. known are the anchors that are in the bundle already.
func audit(seen map[string]Seen, known []ca.Anchor, renewAt float64, now time.Time) ([]adoption, []ca.Anchor) {
	var adoptions []adoption
	found := newAnchors(seen, known)
	for _, service := range sorted(seen) {
		a := adoption{service: service, chain: seen[service].Cert, takeover: Takeover{Since: now.UTC().Truncate(time.Second)}}
		a.takeover.Leaf, a.takeover.Why = usable(seen[service], now)
		leaf := seen[service].Leaf
		if a.takeover.Leaf != LeafNone {
			a.takeover.NotAfter = leaf.NotAfter
			a.takeover.Due = leaf.NotBefore.Add(time.Duration(renewAt * float64(leaf.NotAfter.Sub(leaf.NotBefore))))
			if needed := found.need(service, seen[service], now); !needed && a.takeover.Leaf == LeafUsable {
				a.takeover.Leaf, a.takeover.Why = LeafBroken, "the CA that signed it is in no ca.crt"
			}
		}
		if a.takeover.Leaf == LeafUsable {
			a.leaf = leaf
		}
		adoptions = append(adoptions, a)
	}
	return adoptions, found.anchors(now)
}

// usable judges the leaf that was found, by itself.
func usable(seen Seen, now time.Time) (FoundLeaf, string) {
	leaf := seen.Leaf
	switch {
	case leaf == nil:
		return LeafNone, "no certificate in " + CertFile
	case now.After(leaf.NotAfter):
		return LeafNone, "expired at " + leaf.NotAfter.UTC().Format(time.RFC3339)
	case seen.Ours:
		return LeafNone, "a leaf of this CA for another service"
	case now.Before(leaf.NotBefore):
		return LeafBroken, "not valid before " + leaf.NotBefore.UTC().Format(time.RFC3339)
	case leaf.IsCA:
		return LeafNone, "the certificate of a CA in place of the service's own"
	case len(seen.Key) == 0:
		return LeafBroken, KeyFile + " is missing"
	case len(seen.Cert) > maxChain || len(seen.Key) > maxKey:
		return LeafBroken, "larger than certificates and keys are"
	}
	if _, err := tls.X509KeyPair(seen.Cert, seen.Key); err != nil {
		return LeafBroken, KeyFile + " is not the key of " + CertFile
	}
	return LeafUsable, ""
}

func sorted(seen map[string]Seen) []string {
	var names []string
	for name := range seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// anchors are the CA certificates that any ca.crt holds, and who needs them.
type anchors struct {
	held   map[string][]*x509.Certificate // by service, in the order of its ca.crt
	needed map[string]*need               // by DER
}

// A need says whose live leaves chain to an anchor.
type need struct {
	cert     *x509.Certificate
	services []string
	since    time.Time
	noAKI    bool     // one of these leaves does not say which key signed it
	only     []string // as the store has it already
	known    bool
}

func newAnchors(seen map[string]Seen, known []ca.Anchor) *anchors {
	a := &anchors{held: make(map[string][]*x509.Certificate), needed: make(map[string]*need)}
	for service, s := range seen {
		a.held[service] = authorities(s.CA)
	}
	for _, k := range known {
		a.needed[string(k.Certificate.Raw)] = &need{cert: k.Certificate, services: k.Services, since: k.Since, only: k.Only, known: true}
	}
	return a
}

// maxAnchors bounds what is read of one ca.crt: each is a signature to check for each leaf.
const maxAnchors = 50

// authorities are the certificates of a ca.crt that could be a trust anchor.
func authorities(data []byte) (certs []*x509.Certificate) {
	for block, rest := pem.Decode(data); block != nil && len(certs) < maxAnchors; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err == nil && (cert.IsCA || cert.Version < 3) && !slices.ContainsFunc(certs, cert.Equal) {
			certs = append(certs, cert)
		}
	}
	return certs
}

// need finds the anchors by which any service accepts this one's leaf now, and says whether there is one: those
// must stay in the union. An anchor that no live leaf chains to does not enter it.
func (a *anchors) need(service string, seen Seen, now time.Time) (found bool) {
	presented := chainOf(seen.Cert)
	for _, held := range a.held {
		if len(held) == 0 {
			continue
		}
		for _, anchor := range reached(presented, held, now) {
			found = true
			n := a.needed[string(anchor.Raw)]
			if n == nil {
				n = &need{cert: anchor, since: now}
				a.needed[string(anchor.Raw)] = n
			}
			if !slices.Contains(n.services, service) {
				n.services = append(n.services, service)
			}
			n.noAKI = n.noAKI || len(presented[len(presented)-1].AuthorityKeyId) == 0 || len(presented[0].AuthorityKeyId) == 0
		}
	}
	return found
}

// chainOf parses the certificates of a tls.crt, leaf first.
func chainOf(data []byte) (certs []*x509.Certificate) {
	for block, rest := pem.Decode(data); block != nil && len(certs) < maxAnchors; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
	return certs
}

// reached are the anchors among held at which a path from the presented chain ends.
func reached(presented, held []*x509.Certificate, now time.Time) (ends []*x509.Certificate) {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range held {
		roots.AddCert(c)
	}
	for _, c := range presented[1:] {
		intermediates.AddCert(c)
	}
	chains, err := presented[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil
	}
	for _, chain := range chains {
		if end := chain[len(chain)-1]; !slices.ContainsFunc(ends, end.Equal) {
			ends = append(ends, end)
		}
	}
	return ends
}

// anchors lists what the union holds beside our roots. Two anchors of one subject are told apart by verifiers
// only where each leaf below them says which key signed it (RFC 5280, section 4.2.1.1); where one does not, each
// service gets only its own, as before.
func (a *anchors) anchors(now time.Time) (list []ca.Anchor) {
	for _, n := range a.needed {
		anchor := ca.Anchor{Certificate: n.cert, Services: n.services, Since: n.since, Only: n.only}
		if a.confused(n) {
			anchor.Only = a.holders(n)
		}
		slices.Sort(anchor.Services)
		list = append(list, anchor)
	}
	slices.SortFunc(list, func(x, y ca.Anchor) int { return bytes.Compare(x.Certificate.Raw, y.Certificate.Raw) })
	return list
}

// confused says whether a verifier that has all anchors could take n for another one.
func (a *anchors) confused(n *need) bool {
	for _, other := range a.needed {
		if other != n && bytes.Equal(other.cert.RawSubject, n.cert.RawSubject) && !bytes.Equal(other.cert.RawSubjectPublicKeyInfo, n.cert.RawSubjectPublicKeyInfo) &&
			(n.noAKI || other.noAKI || len(n.cert.SubjectKeyId) == 0 || len(other.cert.SubjectKeyId) == 0) {
			return true
		}
	}
	return false
}

// holders are the services that keep a confusable anchor: those whose own leaf chains to it, and those that hold
// it and no other of its subject.
func (a *anchors) holders(n *need) []string {
	holders := slices.Clone(n.only)
	for service, held := range a.held {
		holds, others := false, false
		for _, c := range held {
			if c.Equal(n.cert) {
				holds = true
			} else if bytes.Equal(c.RawSubject, n.cert.RawSubject) && a.needed[string(c.Raw)] != nil {
				others = true
			}
		}
		if holds && (!others || slices.Contains(n.services, service)) && !slices.Contains(holders, service) {
			holders = append(holders, service)
		}
	}
	slices.Sort(holders)
	return holders
}

// selfSigned says whether a verifier that wants a path to end in a self-signed certificate takes the anchor.
func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// describeAnchor tells of a foreign anchor and of why it is in the bundle.
func describeAnchor(a ca.Anchor) string {
	words := fmt.Sprintf("%s %q, trusted since live leaves of %s chain to it", verify.ShortFingerprint(a.Certificate),
		a.Certificate.Subject.String(), strings.Join(a.Services, ", "))
	if !selfSigned(a.Certificate) {
		words += "; it is not self-signed"
	}
	if len(a.Only) > 0 {
		words += "; only in the ca.crt of " + strings.Join(a.Only, ", ") + ", since verifiers would take it for another of its subject"
	}
	return words
}
