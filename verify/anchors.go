package verify

import (
	"bytes"
	"crypto/x509"
	"slices"
)

// checkBundles looks at what each ca.crt holds as a whole: certificates that are there twice, and roots that
// only their keys tell apart. It comes after all leaves are read, since those choose among the roots.
func (c *checker) checkBundles() {
	for _, p := range c.parties {
		set := asSet(p.anchors)
		for _, a := range set {
			if n := count(p.anchors, a); n > 1 {
				p.add(DuplicateInBundle, nil, "%s holds %s %d times", p.ca.name, ShortFingerprint(a), n)
			}
		}
		for _, namesakes := range bySubject(set) {
			c.addNamesakes(p, namesakes)
		}
	}
}

func count(certs []*x509.Certificate, cert *x509.Certificate) (n int) {
	for _, c := range certs {
		if c.Equal(cert) {
			n++
		}
	}
	return n
}

// bySubject gives the certificates that share their subject and differ in their keys, each group once.
func bySubject(set []*x509.Certificate) (groups [][]*x509.Certificate) {
	for i, a := range set {
		same := func(b *x509.Certificate) bool { return bytes.Equal(a.RawSubject, b.RawSubject) }
		if slices.ContainsFunc(set[:i], same) {
			continue
		}
		var group []*x509.Certificate
		otherKey := false
		for _, b := range set[i:] {
			if same(b) {
				group = append(group, b)
				otherKey = otherKey || !bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
			}
		}
		if otherKey {
			groups = append(groups, group)
		}
	}
	return groups
}

// addNamesakes notes roots of one name, and whose certificates do not say which of them they mean (RFC 5280,
// section 4.2.1.1): a library that takes the first of the name and stops there refuses those of the second.
func (c *checker) addNamesakes(p *party, namesakes []*x509.Certificate) {
	var mute []string
	for _, q := range c.compared {
		if slices.ContainsFunc(q.chain, func(cert *x509.Certificate) bool {
			return bytes.Equal(cert.RawIssuer, namesakes[0].RawSubject) && len(cert.AuthorityKeyId) == 0
		}) {
			mute = append(mute, q.name)
		}
	}
	tell := "certificates tell them apart by the authority key identifier alone"
	if len(mute) > 0 {
		tell = "without an authority key identifier that says which is meant are the certificates of " + listed(mute)
	}
	p.add(SameSubjectInBundle, mute, "%s holds %s, of one subject (%.80q) and of different keys; %s",
		p.ca.name, listed(shorts(namesakes)), namesakes[0].Subject.String(), tell)
}
