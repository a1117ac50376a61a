package rotation

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/verify"
)

// A party is one service of the catalogue as the audit sees it: whom its processes may trust, and what they may
// present.
type party struct {
	service string
	held    []*x509.Certificate   // of its ca.crt, in order
	chains  [][]*x509.Certificate // other CAs' that are live, leaf first
	fixed   bool                  // its ca.crt is not ours to write now
}

// An audit finds which trust anchors of other CAs must be in which ca.crt, so that nobody who is accepted is
// refused after our root has come and the rest has gone. It is pure.
//
// What it reads may be made to keep it busy, so its work is bounded: a ca.crt that is too much to be judged stays
// whole with those who have it.
type audit struct {
	parties []*party
	ours    []*x509.Certificate // our roots, which every ca.crt gets
	now     time.Time
	needs   map[string]*needed   // by DER
	until   map[string]time.Time // by a leaf's DER: until when anybody accepts it
	// Contents of ca.crt, by identity: those that were not judged, and what the others accept.
	whole  map[string]bool
	judged map[string]*trust
	closed bool // strangers that only places hold which are not ours to write stay out
}

// needed is an anchor that stays, and whose live leaves chain to it.
type needed struct {
	ca.Anchor
	fixed bool // it was for some services only before
	known bool // it was in the bundle before
}

const (
	// maxCertificates bounds what is read of one file: as many as the biggest collections of the web's roots hold.
	maxCertificates = 1000
	// maxPresented bounds what is verified of a chain: ten are many, and each may stand below each.
	maxPresented = 16
	// maxNamesakes bounds how many anchors of one subject a ca.crt may hold to be judged: each is tried for each leaf
	// of that issuer.
	maxNamesakes = 16
	// maxNeeds and maxNeedsSize, in bytes of DER, bound the anchors that one ca.crt may bring into those of all.
	maxNeeds     = 32
	maxNeedsSize = 64 << 10
	// maxUnion bounds the anchors that all get, in bytes of DER: a Secret holds 1 MiB.
	maxUnion = 256 << 10
)

// newAudit finds the needs. known are the anchors that are in the bundle already: they stay. blind says that
// there are places that could not be read: then no service's trust is taken away.
func newAudit(parties []*party, ours []*x509.Certificate, known []ca.Anchor, blind bool, now time.Time) *audit {
	a := &audit{parties: parties, ours: ours, now: now,
		needs: make(map[string]*needed), until: make(map[string]time.Time), whole: make(map[string]bool), judged: make(map[string]*trust)}
	for _, anchor := range known {
		a.needs[string(anchor.Certificate.Raw)] = &needed{Anchor: anchor, fixed: len(anchor.Only) > 0, known: true}
	}
	times := a.beginnings()
	for _, held := range a.distinct() {
		a.study(held, times)
	}
	if blind {
		a.keepAll(func(*party) bool { return true })
	}
	return a
}

// study notes which anchors of one ca.crt the live leaves need, and until when it accepts them. Of one that is too
// much to be judged nothing is left out, and nothing is brought to others.
func (a *audit) study(held []*x509.Certificate, times []time.Time) {
	found := newSearch(held)
	users := make(map[string][]string)
	for _, p := range a.parties {
		for _, chain := range p.chains {
			for _, at := range times {
				first := paths(chain, held, at)
				leaf := string(chain[0].Raw)
				a.until[leaf] = later(a.until[leaf], lasts(first))
				if found.tooMuch() {
					break // now is enough to know whether anybody accepts it
				}
				for _, end := range found.follow(first, chain, at) {
					users[end] = append(users[end], p.service)
				}
			}
		}
	}
	if found.tooMuch() {
		id := identity(held)
		a.whole[id] = true
		a.keepAll(func(p *party) bool { return identity(p.held) == id })
		return
	}
	for end, services := range users {
		for _, service := range services {
			a.need(found.ends[end], service)
		}
	}
}

// beginnings are now, and when certificates become valid that are not yet: what is accepted only then counts too.
func (a *audit) beginnings() []time.Time {
	times := []time.Time{a.now}
	add := func(certs []*x509.Certificate) {
		for _, c := range certs {
			if c.NotBefore.After(a.now) {
				times = append(times, c.NotBefore)
			}
		}
	}
	for _, p := range a.parties {
		add(p.held)
		for _, chain := range p.chains {
			add(chain)
		}
	}
	return firsts(times)
}

// turns are the instants from which on others may be accepted than before: now, the beginnings, and when an anchor
// has expired: it may stand before another of its name.
func (a *audit) turns() []time.Time {
	times, last := a.beginnings(), a.now
	for _, p := range a.parties {
		for _, chain := range p.chains {
			last = later(last, chain[0].NotAfter)
		}
	}
	for _, p := range a.parties {
		for _, c := range p.held {
			if end := c.NotAfter.Add(time.Second); end.After(a.now) && !end.After(last) {
				times = append(times, end)
			}
		}
	}
	return firsts(times)
}

// maxTurns bounds the instants that are looked at, the soonest.
const maxTurns = 8

func firsts(times []time.Time) []time.Time {
	slices.SortFunc(times, time.Time.Compare)
	times = slices.CompactFunc(times, time.Time.Equal)
	return times[:min(len(times), maxTurns)]
}

// distinct lists the contents of ca.crt that differ. A mesh has few.
func (a *audit) distinct() (all [][]*x509.Certificate) {
	seen := make(map[string]bool)
	for _, p := range a.parties {
		if id := identity(p.held); !seen[id] {
			seen[id] = true
			all = append(all, p.held)
		}
	}
	return all
}

// identity is the same for the same certificates in the same order.
func identity(certs []*x509.Certificate) string {
	h := sha256.New()
	for _, c := range certs {
		h.Write(c.Raw) // DER says where it ends
	}
	return string(h.Sum(nil))
}

// A search is for the anchors of one ca.crt at which paths end.
type search struct {
	held    []*x509.Certificate
	crowded bool                         // more of one name than are tried
	size    int                          // of ends, in bytes
	ends    map[string]*x509.Certificate // found so far, by DER
	next    map[step][]*x509.Certificate // where the ways on from an anchor end
}

// A step goes on from an anchor: the same way for all leaves that are presented with the same certificates.
type step struct {
	from, presented string
	at              int64
}

func newSearch(held []*x509.Certificate) *search {
	s := &search{held: held, ends: make(map[string]*x509.Certificate), next: make(map[step][]*x509.Certificate)}
	count := make(map[string]int)
	for _, c := range held {
		name := string(c.RawSubject)
		count[name]++
		s.crowded = s.crowded || count[name] > maxNamesakes
	}
	return s
}

// tooMuch says whether the search is given up: certificates that sign each other in a circle, and many of one
// name, have more paths than can be walked.
func (s *search) tooMuch() bool {
	return s.crowded || len(s.ends) > maxNeeds || s.size > maxNeedsSize
}

// follow lists the anchors, by DER, at which the chain's paths end, each once. Some verifiers want a path to end in
// a self-signed certificate: from an anchor that is not, they go on.
func (s *search) follow(first [][]*x509.Certificate, chain []*x509.Certificate, at time.Time) (ends []string) {
	open := lastOf(first)
	for seen := make(map[string]bool); len(open) > 0 && len(s.ends) <= maxNeeds; {
		end := open[0]
		open = open[1:]
		id := string(end.Raw)
		if seen[id] {
			continue
		}
		if s.ends[id] == nil {
			s.size += len(id)
		}
		seen[id], s.ends[id] = true, end
		ends = append(ends, id)
		open = append(open, s.after(end, chain, at)...)
	}
	return ends
}

// after are the anchors at which the ways on from one end.
func (s *search) after(end *x509.Certificate, chain []*x509.Certificate, at time.Time) []*x509.Certificate {
	key := step{string(end.Raw), identity(chain[1:]), at.Unix()}
	next, known := s.next[key]
	if !known {
		if !ca.SelfSigned(end) {
			rest := slices.DeleteFunc(slices.Clone(s.held), end.Equal)
			next = lastOf(paths(append([]*x509.Certificate{end}, chain[1:]...), rest, at))
		}
		s.next[key] = next
	}
	return next
}

func lastOf(paths [][]*x509.Certificate) (ends []*x509.Certificate) {
	for _, path := range paths {
		ends = append(ends, path[len(path)-1])
	}
	return ends
}

// lasts says until when the longest-lived of the paths holds.
func lasts(paths [][]*x509.Certificate) (until time.Time) {
	for _, path := range paths {
		end := path[0].NotAfter
		for _, c := range path {
			end = earlier(end, c.NotAfter)
		}
		until = later(until, end)
	}
	return until
}

// paths are the ways from a presented chain, leaf first, to the anchors that are held.
func paths(presented, held []*x509.Certificate, at time.Time) [][]*x509.Certificate {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range held {
		// Most of a big collection has nothing to do with this chain.
		if slices.ContainsFunc(presented, func(p *x509.Certificate) bool { return p.Equal(c) || bytes.Equal(p.RawIssuer, c.RawSubject) }) {
			roots.AddCert(c)
		}
	}
	for _, c := range presented[1:] {
		intermediates.AddCert(c)
	}
	found, err := presented[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil
	}
	return found
}

func (a *audit) need(c *x509.Certificate, service string) {
	if slices.ContainsFunc(a.ours, c.Equal) {
		return
	}
	n := a.needs[string(c.Raw)]
	if n == nil {
		n = &needed{Anchor: ca.Anchor{Certificate: c, Since: a.now}}
		a.needs[string(c.Raw)] = n
	}
	if service != "" && !slices.Contains(n.Services, service) {
		n.Services = append(slices.Clone(n.Services), service)
	}
}

// keepAll notes all that some parties hold and that has not expired as needed.
func (a *audit) keepAll(by func(*party) bool) {
	for _, p := range a.parties {
		if p.fixed || !by(p) {
			continue
		}
		for _, c := range p.held {
			if !a.now.After(c.NotAfter) {
				a.need(c, "")
			}
		}
	}
}

// anchors lists what the trust bundle holds beside our roots. One bundle for all is tried first. Verifiers that
// know an issuer by its name alone take the first of that name and do not come back for the next, so where one
// bundle would have anybody refuse what it accepts now, as little as will do is left apart: the anchors that
// share a name or are no roots, then all, each service keeping those that it has, in their order.
func (a *audit) anchors() []ca.Anchor {
	for _, apart := range []func(*needed) bool{
		func(*needed) bool { return false },
		func(n *needed) bool { return a.named(n) > 1 || !ca.SelfSigned(n.Certificate) },
		func(*needed) bool { return true },
	} {
		if list := a.place(apart); common(list) <= maxUnion && !a.worse(list) {
			return list
		}
	}
	a.keepAll(func(*party) bool { return true })
	return a.place(func(*needed) bool { return true })
}

// common is the size of the anchors that all get.
func common(list []ca.Anchor) (size int) {
	for _, anchor := range list {
		if len(anchor.Only) == 0 {
			size += len(anchor.Certificate.Raw)
		}
	}
	return size
}

// named counts the needed anchors of the same subject.
func (a *audit) named(n *needed) (count int) {
	for _, other := range a.needs {
		if bytes.Equal(other.Certificate.RawSubject, n.Certificate.RawSubject) {
			count++
		}
	}
	return count
}

// place lists the needed anchors, with those set apart that are in a bundle for some services only.
func (a *audit) place(apart func(*needed) bool) (list []ca.Anchor) {
	for _, key := range slices.Sorted(maps.Keys(a.needs)) {
		n := a.needs[key]
		anchor := n.Anchor
		if n.fixed || len(n.Services) == 0 || apart(n) {
			if anchor.Only, anchor.Order = a.holders(n); len(anchor.Only) == 0 {
				continue // only places hold it that are not ours to write
			}
		} else if a.closed && !n.known {
			if holders, _ := a.holders(n); len(holders) == 0 {
				continue // likewise: it is a stranger, and nobody has spoken for it
			}
		}
		anchor.Services = slices.Sorted(slices.Values(anchor.Services))
		list = append(list, anchor)
	}
	return list
}

// holders are the services that keep an anchor which is not for all: those that have it, where it stands now.
func (a *audit) holders(n *needed) (only []string, order map[string]int) {
	order = maps.Clone(n.Order)
	if order == nil {
		order = make(map[string]int)
	}
	for _, p := range a.parties {
		if at := slices.IndexFunc(p.held, n.Certificate.Equal); at >= 0 && !p.fixed {
			order[p.service] = at
		}
	}
	return slices.Sorted(maps.Keys(order)), order
}

// worse says whether anybody would refuse what it accepts now, or would have accepted later, had every ca.crt that
// is ours to write the anchors of the list. Who keeps all that it has is not asked.
func (a *audit) worse(list []ca.Anchor) bool {
	done, next, times := make(map[string]bool), make(map[string]*trust), a.turns()
	bundles := ca.NewBundles(a.ours, list)
	for _, p := range a.parties {
		after := bundles.For(p.service)
		old := identity(p.held)
		sum, id := after.SHA256(), after.SHA256()+old
		if p.fixed || a.whole[old] || done[id] {
			continue
		}
		done[id] = true
		if next[sum] == nil {
			next[sum] = newTrust(after.Certificates())
		}
		if a.judged[old] == nil {
			a.judged[old] = newTrust(p.held)
		}
		if a.refusesMore(a.judged[old], next[sum], times) {
			return true
		}
	}
	return false
}

func (a *audit) refusesMore(old, next *trust, times []time.Time) bool {
	for _, q := range a.parties {
		for _, chain := range q.chains {
			for _, at := range times {
				if had := old.accepts(chain, at); had != 0 && had.Except(next.accepts(chain, at)) != 0 {
					return true
				}
			}
		}
	}
	return false
}

// A trust answers each question once.
type trust struct {
	*verify.Trust
	answers map[question]verify.Verifiers
}

type question struct {
	leaf *x509.Certificate // stands for the chain
	at   int64
}

func newTrust(anchors []*x509.Certificate) *trust {
	return &trust{verify.NewTrust(anchors), make(map[question]verify.Verifiers)}
}

func (t *trust) accepts(chain []*x509.Certificate, at time.Time) verify.Verifiers {
	q := question{chain[0], at.Unix()}
	answer, known := t.answers[q]
	if !known {
		answer = t.Accepts(chain, at)
		t.answers[q] = answer
	}
	return answer
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
	case len(seen.Key) == 0:
		return LeafBroken, KeyFile + " is missing"
	case len(presented(seen.Cert)) == 0 || len(seen.Key) > maxKey:
		return LeafBroken, "larger than certificates and keys are"
	}
	if _, err := tls.X509KeyPair(seen.Cert, seen.Key); err != nil {
		return LeafBroken, KeyFile + " is not the key of " + CertFile
	}
	return LeafUsable, ""
}

// certificates parses the certificates of a file, those that can be.
func certificates(data []byte) (certs []*x509.Certificate) {
	for block, rest := pem.Decode(data); block != nil && len(certs) < maxCertificates; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if cert, err := verify.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
	return certs
}

// describeAnchor tells of a foreign anchor and of why it is in the bundle.
func describeAnchor(a ca.Anchor) string {
	words := fmt.Sprintf("%s %q", verify.ShortFingerprint(a.Certificate), a.Certificate.Subject.String())
	if len(a.Services) > 0 {
		words += ", trusted since live leaves of " + strings.Join(a.Services, ", ") + " chain to it"
	} else {
		words += ", trusted as before, since it is not known that nobody needs it"
	}
	if !ca.SelfSigned(a.Certificate) {
		words += "; it is not self-signed"
	}
	if len(a.Only) > 0 {
		words += "; only in the ca.crt of " + strings.Join(a.Only, ", ")
		if len(a.Services) > 0 {
			words += ", since some verifiers would take it for another of its name"
		}
	}
	return words
}
