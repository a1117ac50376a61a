package verify

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// A bundle is one distinct content of ca.crt and the services that hold it. A mesh has few, so each chain is
// verified once for a bundle, not once for a service.
type bundle struct {
	anchors []*x509.Certificate // in the order of the file, which some libraries heed
	pool    *x509.CertPool
	holders []*party
}

// groupBundles groups the compared services by the certificates of their ca.crt, in order.
func (c *checker) groupBundles() {
	index := map[string]*bundle{}
	for _, p := range c.compared {
		id := identity(p.anchors)
		b := index[id]
		if b == nil {
			b = &bundle{anchors: p.anchors, pool: x509.NewCertPool()}
			for _, a := range p.anchors {
				b.pool.AddCert(a)
			}
			index[id] = b
			c.bundles = append(c.bundles, b)
		}
		b.holders = append(b.holders, p)
	}
}

// identity is the same for the same certificates in the same order.
func identity(certs []*x509.Certificate) string {
	var s strings.Builder
	for _, c := range certs {
		sum := sha256.Sum256(c.Raw)
		s.Write(sum[:])
	}
	return s.String()
}

// asSet sorts certificates by their bytes and drops duplicates.
func asSet(certs []*x509.Certificate) []*x509.Certificate {
	set := slices.SortedFunc(slices.Values(certs), func(a, b *x509.Certificate) int {
		return slices.Compare(a.Raw, b.Raw)
	})
	return slices.CompactFunc(set, (*x509.Certificate).Equal)
}

// groups gathers parties by a key, the largest group first; among equal ones first the one that more is to
// be said for, then the smaller key, so that the order is that of the bytes.
func groups(parties []*party, key func(*party) string, weight func([]*party) int) [][]*party {
	byKey := map[string][]*party{}
	for _, p := range parties {
		byKey[key(p)] = append(byKey[key(p)], p)
	}
	var all [][]*party
	for _, g := range byKey {
		all = append(all, g)
	}
	slices.SortFunc(all, func(a, b []*party) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(weight(b), weight(a)),
			strings.Compare(key(a[0]), key(b[0])))
	})
	return all
}

// compareSets finds the services whose ca.crt is not the majority's. A ca.crt without a certificate has its
// own finding and no vote.
func (c *checker) compareSets() {
	var voters []*party
	sets := map[*party]string{}
	for _, p := range c.parties {
		if len(p.anchors) > 0 {
			voters = append(voters, p)
			sets[p] = identity(asSet(p.anchors))
		}
	}
	// Between two bundles with as many holders each, the one that signed more of what is presented is more
	// likely the one that was meant.
	signed := func(g []*party) int {
		n, held := 0, shorts(g[0].anchors)
		for _, p := range c.compared {
			if slices.Contains(held, p.signer) {
				n++
			}
		}
		return n
	}
	all := groups(voters, func(p *party) string { return sets[p] }, signed)
	if len(all) < 2 {
		return
	}
	most := all[0]
	theirs := listed(shorts(asSet(most[0].anchors)))
	for _, g := range all[1:] {
		for _, p := range g {
			end := "the services do not agree on one bundle"
			if len(g) == 1 && len(all) == 2 && len(most) > 1 {
				end = p.name + " is the odd one out"
			}
			p.add(BundleDiffers, nil, "%s holds %s, while %d of %d services hold %s: %s",
				p.ca.name, listed(shorts(asSet(p.anchors))), len(most), len(voters), theirs, end)
		}
	}
}

// compareBytes finds, among services with the same set of certificates, those whose file is not the usual
// one byte for byte.
func (c *checker) compareBytes() {
	bySet := map[string][]*party{}
	for _, p := range c.parties {
		if len(p.anchors) > 0 {
			id := identity(asSet(p.anchors))
			bySet[id] = append(bySet[id], p)
		}
	}
	// Of as many files each, the shorter one is taken for the usual one: what differs is mostly added.
	shorter := func(g []*party) int { return -len(g[0].ca.data) }
	for _, parties := range bySet {
		all := groups(parties, func(p *party) string { return string(p.ca.data) }, shorter)
		for _, g := range all[1:] {
			for _, p := range g {
				p.add(BundleBytesDiffer, nil, "%s holds the same certificates as that of %s (%s), in other bytes",
					p.ca.name, all[0][0].name, listed(shorts(asSet(p.anchors))))
			}
		}
	}
}

// listed joins words as a sentence does: "a", "a and b", "a, b and c". Long lists are cut.
func listed(words []string) string {
	const shown = 8
	switch n := len(words); {
	case n == 0:
		return "nothing"
	case n == 1:
		return words[0]
	case n > shown+1:
		return strings.Join(words[:shown], ", ") + fmt.Sprintf(" and %d more", n-shown)
	default:
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
}
