package verify

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Service is what one service presents and trusts, as found.
type Service struct {
	// Name is how the service is shown.
	Name string
	// Cert, Key and CA are the bytes of tls.crt, tls.key and ca.crt; nil means that the file is absent.
	Cert, Key, CA []byte
	// CertName, KeyName and CAName are how people know the files; when empty, "tls.crt", "tls.key" and
	// "ca.crt". They are for the sentences only.
	CertName, KeyName, CAName string
}

// A party is a service as read.
type party struct {
	name          string
	cert, key, ca file
	chain         []*x509.Certificate // what it presents, leaf first; nil if the leaf cannot be read
	anchors       []*x509.Certificate
	signer        string // who signed the chain, for a sentence
	findings      []Finding
	refusers      int // how many others refuse it
}

// A checker holds one call of Check.
type checker struct {
	now      time.Time
	parties  []*party // in name order
	compared []*party // those of them with a leaf
	bundles  []*bundle
	refusals []Refusal
}

// Check says which of the services would refuse which at the instant now, and what is wrong with their
// files. The services may come in any order; each has its own name.
func Check(services []Service, now time.Time) *Report {
	c := &checker{now: now, refusals: []Refusal{}}
	for _, s := range services {
		c.parties = append(c.parties, &party{
			name: s.Name,
			cert: newFile(s.CertName, "tls.crt", s.Cert),
			key:  newFile(s.KeyName, "tls.key", s.Key),
			ca:   newFile(s.CAName, "ca.crt", s.CA),
		})
	}
	slices.SortStableFunc(c.parties, func(a, b *party) int { return strings.Compare(a.name, b.name) })
	for _, p := range c.parties {
		c.read(p)
		if p.chain != nil {
			c.compared = append(c.compared, p)
		}
	}
	c.nameSigners()
	c.checkBundles()
	c.groupBundles()
	for _, b := range c.bundles {
		c.refuse(b)
	}
	c.compareSets()
	c.compareBytes()
	return c.report()
}

// add notes a finding of a party.
func (p *party) add(code Code, peers []string, format string, args ...any) {
	p.findings = append(p.findings, Finding{
		Code:     code,
		Service:  p.name,
		Sentence: fmt.Sprintf(format, args...),
		Hint:     code.Hint(),
		Peers:    peers,
	})
}

func (p *party) addProblems(f file, problems ...problem) {
	for _, problem := range problems {
		p.add(problem.code, nil, "%s %s", f.name, problem.text)
	}
}

// read reads the three files of a party and looks at each by itself.
func (c *checker) read(p *party) {
	chain, first, problems := p.cert.certificates()
	p.addProblems(p.cert, problems...)
	if first {
		p.chain = chain
		c.checkLeaf(p)
	}
	p.anchors, _, problems = p.ca.certificates()
	p.addProblems(p.ca, problems...)
	for _, a := range p.anchors {
		c.checkAnchor(p, a)
	}
	pub, problem := p.key.publicKey()
	if problem != nil {
		p.addProblems(p.key, *problem)
	} else if p.chain != nil && !sameKey(p.chain[0].PublicKey, pub) {
		p.add(KeyMismatch, nil, "%s is not the key of the certificate %s in %s", p.key.name, ShortFingerprint(p.chain[0]), p.cert.name)
	}
}

func sameKey(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// checkLeaf looks at the leaf's dates (RFC 5280, section 4.1.2.5) and at whether it is one.
func (c *checker) checkLeaf(p *party) {
	leaf := p.chain[0]
	if leaf.IsCA {
		p.add(RootInPlaceOfLeaf, nil, "%s begins with the certificate of a CA, %s, in place of the service's own", p.cert.name, ShortFingerprint(leaf))
	}
	left := leaf.NotAfter.Sub(c.now)
	switch {
	case c.now.Before(leaf.NotBefore):
		p.add(NotYetValid, nil, "the certificate in %s is not valid before %s", p.cert.name, stamp(leaf.NotBefore))
	case c.now.After(leaf.NotAfter):
		p.add(Expired, nil, "the certificate in %s expired on %s", p.cert.name, stamp(leaf.NotAfter))
	case left < leaf.NotAfter.Sub(leaf.NotBefore)/10:
		p.add(ExpiresSoon, nil, "the certificate in %s expires on %s, less than a tenth of its life remains", p.cert.name, stamp(leaf.NotAfter))
	}
}

func (c *checker) checkAnchor(p *party, a *x509.Certificate) {
	fp := ShortFingerprint(a)
	// A certificate of version 1 has no extensions to say that it is a CA's; self-signed, it is an old root.
	if !a.IsCA && (a.Version > 1 || !selfSigned(a)) {
		p.add(LeafInBundle, nil, "%s holds %s, which is not the certificate of a CA", p.ca.name, fp)
	} else if !selfSigned(a) {
		p.add(IntermediateInBundle, nil, "%s holds %s, which is not self-signed: an intermediate", p.ca.name, fp)
	}
	switch {
	case c.now.Before(a.NotBefore):
		p.add(CANotYetValid, nil, "the certificate %s in %s is not valid before %s", fp, p.ca.name, stamp(a.NotBefore))
	case c.now.After(a.NotAfter):
		p.add(CAExpired, nil, "the certificate %s in %s expired on %s", fp, p.ca.name, stamp(a.NotAfter))
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// nameSigners finds who signed each chain among all the CA certificates seen anywhere: a leaf does not say
// its root's fingerprint, but the service beside it may hold that root.
func (c *checker) nameSigners() {
	seen := known{}
	for _, p := range c.parties {
		seen.add(p.anchors...)
		if p.chain != nil {
			seen.add(p.chain[1:]...)
		}
	}
	seen.sort()
	for _, p := range c.compared {
		switch s := seen.signer(p.chain[0]); {
		case s == nil:
			p.signer = fmt.Sprintf("a CA that no file holds (%.80q)", p.chain[0].Issuer.String())
		case s.Equal(p.chain[0]):
			p.signer = "itself (" + ShortFingerprint(s) + ")"
		default:
			p.signer = ShortFingerprint(s)
		}
	}
}

// report puts together what was found.
func (c *checker) report() *Report {
	r := &Report{Now: c.now, Services: []Row{}, Findings: []Finding{}, Refusals: c.refusals}
	r.Pairs = len(c.compared) * max(len(c.compared)-1, 0)
	order := Codes()
	for _, p := range c.parties {
		slices.SortStableFunc(p.findings, func(a, b Finding) int {
			return cmp.Compare(slices.Index(order, a.Code), slices.Index(order, b.Code))
		})
		r.Findings = append(r.Findings, p.findings...)
		r.Services = append(r.Services, p.row(len(c.compared)-1))
	}
	slices.SortStableFunc(r.Refusals, func(a, b Refusal) int {
		return cmp.Or(strings.Compare(a.Refuser, b.Refuser), strings.Compare(a.Refused, b.Refused),
			strings.Compare(string(a.RefuserRole), string(b.RefuserRole)))
	})
	return r
}

func (p *party) row(others int) Row {
	row := Row{Name: p.name, CA: shorts(p.anchors), Compared: p.chain != nil, Verdict: verdictOK}
	if p.ca.data != nil {
		sum := sha256.Sum256(p.ca.data)
		row.BundleSHA256 = hex.EncodeToString(sum[:])
	}
	var codes []string
	for _, f := range p.findings {
		codes = append(codes, string(f.Code))
	}
	if len(codes) > 0 {
		row.Verdict = strings.Join(slices.Compact(codes), ", ")
	} else if p.refusers > 0 {
		row.Verdict = fmt.Sprintf(refusedBy+"%d of %d", p.refusers, others)
	}
	if p.chain == nil {
		row.Verdict = "not compared: " + row.Verdict
		return row
	}
	row.Serial = p.chain[0].SerialNumber.Text(16)
	row.NotAfter = p.chain[0].NotAfter.UTC()
	return row
}

func shorts(certs []*x509.Certificate) []string {
	s := make([]string, len(certs))
	for i, c := range certs {
		s[i] = ShortFingerprint(c)
	}
	return s
}
