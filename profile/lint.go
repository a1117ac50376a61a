package profile

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Kind is the part that a certificate plays in a chain.
type Kind int

// The three parts of a chain.
const (
	Root    Kind = 1 << iota // self-signed trust anchor
	Issuing                  // CA below a root, signs leaves
	Leaf                     // end entity
)

// MaxNames is how many DNS names and IP addresses together a leaf may carry.
const MaxNames = 100

// A rule is one demand on a certificate, with the clause that it comes from. Rules read only what a
// template and a parsed certificate both have, unless they say otherwise.
type rule struct {
	clause string
	kinds  Kind
	check  func(c, issuer *x509.Certificate) error
}

var rules = []rule{
	{"RFC 5280 4.1.2.2 serial number", Root | Issuing | Leaf, checkSerial},
	{"RFC 5280 4.1.2.5 validity", Root | Issuing | Leaf, checkValidity},
	{"invariant: nothing outlives its issuer", Issuing | Leaf, checkWithinIssuer},
	{"RFC 5280 4.1.2.4 issuer", Root | Issuing | Leaf, checkIssuerName},
	{"RFC 5280 4.1.2.6 subject", Root | Issuing | Leaf, checkSubject},
	{"RFC 5280 4.1.2.7 public key", Root | Issuing | Leaf, checkKeyType},
	{"RFC 5280 4.2 extensions", Root | Issuing | Leaf, checkExtensions},
	{"RFC 5280 4.2.1.1 authority key identifier", Root | Issuing | Leaf, checkAuthorityKeyID},
	{"RFC 5280 4.2.1.2 subject key identifier", Root | Issuing | Leaf, checkSubjectKeyID},
	{"RFC 5280 4.2.1.3 key usage of a CA", Root | Issuing, checkCAUsage},
	{"RFC 5280 4.2.1.3 key usage of a leaf", Leaf, checkLeafUsage},
	{"RFC 5280 4.2.1.6 alternative names of a CA", Root | Issuing, checkNoNames},
	{"RFC 5280 4.2.1.6 alternative names", Leaf, checkNames},
	{"SPIFFE X509-SVID 2 URI name", Leaf, checkURI},
	{"RFC 5280 4.2.1.9 basic constraints of a root", Root, checkRootConstraints},
	{"RFC 5280 4.2.1.9 basic constraints of an issuing CA", Issuing, checkIssuingConstraints},
	{"RFC 5280 4.2.1.9 basic constraints of a leaf", Leaf, checkLeafConstraints},
	{"RFC 5280 4.2.1.10 name constraints", Root | Issuing | Leaf, checkNoNameConstraints},
	{"RFC 5280 4.2.1.12 extended key usage", Root | Issuing | Leaf, checkExtKeyUsage},
	{"design: no revocation pointers", Root | Issuing | Leaf, checkNoPointers},
}

// Lint runs every rule of the kind on c, a template or a parsed certificate, below issuer (for a root: c
// itself). The error joins all violations, each with its clause; nil means that c keeps the profile.
func Lint(kind Kind, c, issuer *x509.Certificate) error {
	var broken []error
	for _, r := range rules {
		if r.kinds&kind == 0 {
			continue
		}
		if err := r.check(c, issuer); err != nil {
			broken = append(broken, fmt.Errorf("%s: %w", r.clause, err))
		}
	}
	return errors.Join(broken...)
}

func checkSerial(c, _ *x509.Certificate) error { return checkSerialNumber(c.SerialNumber) }

func checkSerialNumber(n *big.Int) error {
	switch {
	case n == nil:
		return errors.New("is missing")
	case n.Sign() <= 0:
		return errors.New("is not positive")
	case n.BitLen() > serialBits:
		return fmt.Errorf("has %d bits, at most %d are drawn", n.BitLen(), serialBits)
	case n.BitLen() < serialBits/2:
		return fmt.Errorf("has %d bits, too few to be random", n.BitLen())
	}
	return nil
}

func checkValidity(c, _ *x509.Certificate) error {
	for _, t := range []time.Time{c.NotBefore, c.NotAfter} {
		if err := checkInstant(t); err != nil {
			return err
		}
	}
	if !c.NotBefore.Before(c.NotAfter) {
		return fmt.Errorf("ends at %s, not after it begins at %s", c.NotAfter, c.NotBefore)
	}
	return nil
}

func checkInstant(t time.Time) error {
	if !t.Equal(t.Truncate(time.Second)) {
		return fmt.Errorf("%s is not a whole second", t.Format(time.RFC3339Nano))
	}
	if y := t.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("year %d cannot be written", y)
	}
	return nil
}

func checkWithinIssuer(c, issuer *x509.Certificate) error {
	if c.NotAfter.After(issuer.NotAfter) {
		return fmt.Errorf("ends at %s, after its issuer at %s", c.NotAfter, issuer.NotAfter)
	}
	if c.NotBefore.Before(issuer.NotBefore) {
		return fmt.Errorf("begins at %s, before its issuer at %s", c.NotBefore, issuer.NotBefore)
	}
	return nil
}

func checkIssuerName(c, issuer *x509.Certificate) error {
	if got, want := c.Issuer.String(), issuer.Subject.String(); got != want {
		return fmt.Errorf("is %q, its issuer's subject is %q", got, want)
	}
	return nil
}

// checkSubject wants one common name and nothing else: an organisation or unit is an authorization in
// some consumers (Kubernetes reads O as a group). It is never empty, so alternative names are not critical.
func checkSubject(c, _ *x509.Certificate) error {
	cn := c.Subject.CommonName
	switch {
	case cn == "":
		return errors.New("has no common name")
	case len(cn) > 64: // ub-common-name, RFC 5280 appendix A.1
		return fmt.Errorf("has a common name of %d bytes, at most 64", len(cn))
	case strings.ContainsFunc(cn, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }):
		return fmt.Errorf("has a control character in its common name %q", cn)
	case c.Subject.String() != "CN="+escapeRDN(cn):
		return fmt.Errorf("%q holds more than a common name", c.Subject.String())
	}
	return nil
}

func escapeRDN(cn string) string {
	named := x509.Certificate{}
	named.Subject.CommonName = cn
	return strings.TrimPrefix(named.Subject.String(), "CN=")
}

func checkKeyType(c, issuer *x509.Certificate) error {
	k, err := TypeOf(c.PublicKey)
	if err != nil {
		return err
	}
	if c.IsCA && !slices.Contains(CAKeyTypes(), k) {
		return fmt.Errorf("%s cannot be a CA's: PostgreSQL and Envoy refuse it there", k)
	}
	return nil
}

// checkExtensions reads the result only: on a template nothing is encoded yet.
func checkExtensions(c, _ *x509.Certificate) error {
	if len(c.ExtraExtensions) > 0 {
		return fmt.Errorf("extension %s is not of the profile", c.ExtraExtensions[0].Id)
	}
	if len(c.UnhandledCriticalExtensions) > 0 {
		return fmt.Errorf("critical extension %s is unknown", c.UnhandledCriticalExtensions[0])
	}
	seen := make(map[string]bool, len(c.Extensions))
	for _, e := range c.Extensions {
		oid := e.Id.String()
		critical, known := profileExtensions[oid]
		switch {
		case !known:
			return fmt.Errorf("extension %s is not of the profile", oid)
		case seen[oid]:
			return fmt.Errorf("extension %s stands twice", oid)
		case e.Critical != critical:
			return fmt.Errorf("extension %s is critical=%t, want %t", oid, e.Critical, critical)
		}
		seen[oid] = true
	}
	return nil
}

// profileExtensions maps each extension that a certificate of meshca may carry to whether it is critical.
var profileExtensions = map[string]bool{
	"2.5.29.14": false, // subject key identifier, 4.2.1.2: MUST be non-critical
	"2.5.29.15": true,  // key usage, 4.2.1.3: SHOULD be critical
	"2.5.29.17": false, // subject alternative name, 4.2.1.6: critical only if the subject is empty
	"2.5.29.19": true,  // basic constraints, 4.2.1.9: MUST be critical in a CA
	"2.5.29.35": false, // authority key identifier, 4.2.1.1: MUST be non-critical
	"2.5.29.37": false, // extended key usage, 4.2.1.12
}

func checkAuthorityKeyID(c, issuer *x509.Certificate) error {
	if len(c.AuthorityKeyId) == 0 {
		return errors.New("is missing")
	}
	if !bytes.Equal(c.AuthorityKeyId, issuer.SubjectKeyId) {
		return fmt.Errorf("is %x, its issuer's identifier is %x", c.AuthorityKeyId, issuer.SubjectKeyId)
	}
	return nil
}

func checkSubjectKeyID(c, _ *x509.Certificate) error {
	if len(c.SubjectKeyId) != 20 {
		return fmt.Errorf("has %d bytes, want 20", len(c.SubjectKeyId))
	}
	return nil
}

func checkCAUsage(c, _ *x509.Certificate) error {
	if want := x509.KeyUsageCertSign | x509.KeyUsageCRLSign; c.KeyUsage != want {
		return fmt.Errorf("is %#x, want keyCertSign and cRLSign alone", int(c.KeyUsage))
	}
	return nil
}

func checkLeafUsage(c, _ *x509.Certificate) error {
	k, err := TypeOf(c.PublicKey)
	if err != nil {
		return err
	}
	if want := leafUsage(k); c.KeyUsage != want {
		return fmt.Errorf("is %#x, want %#x for %s", int(c.KeyUsage), int(want), k)
	}
	return nil
}

func checkNoNames(c, _ *x509.Certificate) error {
	if len(c.DNSNames)+len(c.IPAddresses)+len(c.URIs)+len(c.EmailAddresses) > 0 {
		return errors.New("a CA has none")
	}
	return nil
}

func checkNames(c, _ *x509.Certificate) error {
	n := len(c.DNSNames) + len(c.IPAddresses)
	switch {
	case n == 0:
		return errors.New("there is no DNS name and no IP address")
	case n > MaxNames:
		return fmt.Errorf("there are %d, at most %d", n, MaxNames)
	case len(c.EmailAddresses) > 0:
		return errors.New("an e-mail address is not of the profile")
	}
	seen := make(map[string]bool, n)
	for _, name := range c.DNSNames {
		if err := CheckDNSName(name); err != nil {
			return fmt.Errorf("DNS name %q %w", name, err)
		}
		if seen[name] {
			return fmt.Errorf("DNS name %q stands twice", name)
		}
		seen[name] = true
	}
	for _, ip := range c.IPAddresses {
		a, _ := netip.AddrFromSlice(ip) // an invalid one is refused below
		a = a.Unmap()
		if err := CheckIPAddress(a, true); err != nil {
			return fmt.Errorf("IP address %s %w", ip, err)
		}
		if seen[a.String()] {
			return fmt.Errorf("IP address %s stands twice", ip)
		}
		seen[a.String()] = true
	}
	return nil
}

func checkURI(c, _ *x509.Certificate) error {
	if len(c.URIs) != 1 {
		return fmt.Errorf("there are %d, want one", len(c.URIs))
	}
	u := c.URIs[0]
	switch {
	case u == nil || u.Scheme != "spiffe":
		return fmt.Errorf("%q is no spiffe URI", u)
	case u.Host == "" || u.Port() != "" || u.User != nil:
		return fmt.Errorf("%q has no plain trust domain", u)
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return fmt.Errorf("%q holds more than a path", u)
	case len(u.String()) > 2048:
		return fmt.Errorf("has %d bytes, at most 2048", len(u.String()))
	}
	for segment := range strings.SplitSeq(strings.TrimPrefix(u.Path, "/"), "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("%q has an empty or relative path segment", u)
		}
	}
	return nil
}

func checkRootConstraints(c, _ *x509.Certificate) error {
	if !c.BasicConstraintsValid || !c.IsCA {
		return errors.New("it is no CA")
	}
	if c.MaxPathLen > 0 || c.MaxPathLenZero {
		return errors.New("a path length would forbid a cross-certificate for ever")
	}
	return nil
}

func checkIssuingConstraints(c, _ *x509.Certificate) error {
	if !c.BasicConstraintsValid || !c.IsCA {
		return errors.New("it is no CA")
	}
	if c.MaxPathLen != 0 || !c.MaxPathLenZero {
		return errors.New("its path length is not 0, so it could make another CA")
	}
	return nil
}

func checkLeafConstraints(c, _ *x509.Certificate) error {
	if !c.BasicConstraintsValid || c.IsCA {
		return errors.New("it must say that it is no CA")
	}
	return nil
}

// checkNoNameConstraints: verifiers refuse short names such as "pgadmin" below a constraint for
// svc.cluster.local.
func checkNoNameConstraints(c, _ *x509.Certificate) error {
	if len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+len(c.PermittedIPRanges)+len(c.ExcludedIPRanges)+
		len(c.PermittedURIDomains)+len(c.ExcludedURIDomains)+len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses) > 0 {
		return errors.New("there are some")
	}
	return nil
}

func checkExtKeyUsage(c, _ *x509.Certificate) error {
	var want []x509.ExtKeyUsage
	if !c.IsCA {
		want = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if !slices.Equal(c.ExtKeyUsage, want) || len(c.UnknownExtKeyUsage) > 0 {
		return errors.New("a leaf has serverAuth and clientAuth, a CA has none")
	}
	return nil
}

func checkNoPointers(c, _ *x509.Certificate) error {
	if len(c.OCSPServer)+len(c.IssuingCertificateURL)+len(c.CRLDistributionPoints)+len(c.Policies)+len(c.PolicyIdentifiers) > 0 {
		return errors.New("OCSP, issuer and CRL locations and policies are left out on purpose")
	}
	return nil
}
