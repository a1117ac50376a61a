package rotation

import (
	"bytes"
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
type audit struct {
	parties []*party
	ours    []*x509.Certificate // our roots, which every ca.crt gets
	now     time.Time
	needs   map[string]*needed   // by DER
	until   map[string]time.Time // by a leaf's DER: until when anybody accepts it
}

// needed is an anchor that stays, and whose live leaves chain to it.
type needed struct {
	ca.Anchor
	fixed bool // it was for some services only before
}

// maxCertificates bounds what is read of one file: as many as the biggest collections of the web's roots hold.
const maxCertificates = 1000

// newAudit finds the needs. known are the anchors that are in the bundle already: they stay. blind says that
// there are places that could not be read: then no service's trust is taken away.
func newAudit(parties []*party, ours []*x509.Certificate, known []ca.Anchor, blind bool, now time.Time) *audit {
	a := &audit{parties: parties, ours: ours, now: now, needs: make(map[string]*needed), until: make(map[string]time.Time)}
	for _, anchor := range known {
		a.needs[string(anchor.Certificate.Raw)] = &needed{Anchor: anchor, fixed: len(anchor.Only) > 0}
	}
	times := a.beginnings()
	for _, held := range a.distinct() {
		for _, p := range parties {
			for _, chain := range p.chains {
				for _, at := range times {
					end := a.follow(p.service, chain, held, at)
					leaf := string(chain[0].Raw)
					a.until[leaf] = later(a.until[leaf], end)
				}
			}
		}
	}
	if blind {
		a.keepAll()
	}
	return a
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

func identity(certs []*x509.Certificate) string {
	var id strings.Builder
	for _, c := range certs {
		id.Write(c.Raw)
	}
	return id.String()
}

// follow notes the anchors among held at which a path from the chain ends, and says until when the longest-lived
// path holds. Some verifiers want a path to end in a self-signed certificate: from an anchor that is not, they
// go on.
func (a *audit) follow(service string, chain, held []*x509.Certificate, at time.Time) (until time.Time) {
	for _, path := range paths(chain, held, at) {
		end := path[len(path)-1]
		a.need(end, service)
		lasts := end.NotAfter
		for _, c := range path {
			lasts = earlier(lasts, c.NotAfter)
		}
		until = later(until, lasts)
		if !ca.SelfSigned(end) {
			rest := slices.DeleteFunc(slices.Clone(held), end.Equal)
			a.follow(service, append([]*x509.Certificate{end}, chain[1:]...), rest, at)
		}
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

// keepAll notes all that is held and has not expired as needed.
func (a *audit) keepAll() {
	for _, p := range a.parties {
		for _, c := range p.held {
			if !p.fixed && !a.now.After(c.NotAfter) {
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
		if list := a.place(apart); !a.worse(list) {
			return list
		}
	}
	a.keepAll()
	return a.place(func(*needed) bool { return true })
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
// is ours to write the anchors of the list.
func (a *audit) worse(list []ca.Anchor) bool {
	done, next, times := make(map[string]bool), make(map[string]*verify.Trust), a.turns()
	bundles := ca.NewBundles(a.ours, list)
	for _, p := range a.parties {
		after := bundles.For(p.service)
		sum, id := after.SHA256(), after.SHA256()+identity(p.held)
		if next[sum] == nil {
			next[sum] = verify.NewTrust(after.Certificates())
		}
		if !p.fixed && !done[id] && a.refusesMore(verify.NewTrust(p.held), next[sum], times) {
			return true
		}
		done[id] = true
	}
	return false
}

func (a *audit) refusesMore(old, next *verify.Trust, times []time.Time) bool {
	for _, q := range a.parties {
		for _, chain := range q.chains {
			for _, at := range times {
				if had := old.Accepts(chain, at); had != 0 && had.Except(next.Accepts(chain, at)) != 0 {
					return true
				}
			}
		}
	}
	return false
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
	case len(seen.Cert) > maxChain || len(seen.Key) > maxKey:
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
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
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
