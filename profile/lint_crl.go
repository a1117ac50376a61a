package profile

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A crlRule is one demand on a CRL, with the clause that it comes from. Rules read only what a template and a
// parsed CRL both have, unless they say otherwise.
type crlRule struct {
	clause string
	check  func(l *x509.RevocationList, issuer *x509.Certificate) error
}

// That the version is 2 (RFC 5280 5.1.2.1) is crypto/x509's rule: it parses no other.
var crlRules = []crlRule{
	{"RFC 5280 5.1.2.2 signature", checkCRLSignature},
	{"RFC 5280 5.1.2.3 issuer", checkCRLIssuer},
	{"RFC 5280 5.1.2.4 and 5.1.2.5 updates", checkCRLUpdates},
	{"RFC 5280 5.1.2.6 revoked certificates", checkCRLEntries},
	{"RFC 5280 5.2 extensions", checkCRLExtensions},
	{"RFC 5280 5.2.1 authority key identifier", checkCRLAuthorityKeyID},
	{"RFC 5280 5.2.3 number", checkCRLNumber},
	{"RFC 5280 5.3.1 reason", checkCRLReasons},
}

// LintCRL runs every rule on l, a template or a parsed CRL, below issuer. The error joins all violations, each with
// its clause; nil means that l keeps the profile.
func LintCRL(l *x509.RevocationList, issuer *x509.Certificate) error {
	var broken []error
	for _, r := range crlRules {
		if err := r.check(l, issuer); err != nil {
			broken = append(broken, fmt.Errorf("%s: %w", r.clause, err))
		}
	}
	return errors.Join(broken...)
}

// checkCRLSignature reads the result only: a template has none.
func checkCRLSignature(l *x509.RevocationList, issuer *x509.Certificate) error {
	if len(l.Raw) == 0 {
		return nil
	}
	return l.CheckSignatureFrom(issuer)
}

func checkCRLIssuer(l *x509.RevocationList, issuer *x509.Certificate) error {
	if got, want := l.Issuer.String(), issuer.Subject.String(); got != want || got == "" {
		return fmt.Errorf("is %q, its issuer's subject is %q", got, want)
	}
	if len(l.RawIssuer) > 0 && !bytes.Equal(l.RawIssuer, issuer.RawSubject) { // verifiers may compare bytes
		return errors.New("is encoded otherwise than its issuer's subject")
	}
	return nil
}

func checkCRLUpdates(l *x509.RevocationList, issuer *x509.Certificate) error {
	for _, t := range []time.Time{l.ThisUpdate, l.NextUpdate} {
		if err := checkInstant(t); err != nil {
			return err
		}
	}
	switch {
	case !l.ThisUpdate.Before(l.NextUpdate):
		return fmt.Errorf("nextUpdate %s is not after thisUpdate %s", l.NextUpdate, l.ThisUpdate)
	case l.ThisUpdate.Before(issuer.NotBefore) || l.ThisUpdate.After(issuer.NotAfter):
		return fmt.Errorf("thisUpdate %s is not in its issuer's time, %s to %s", l.ThisUpdate, issuer.NotBefore, issuer.NotAfter)
	}
	return nil
}

// checkCRLEntries wants each serial once, in their order, so that the same entries are the same bytes.
func checkCRLEntries(l *x509.RevocationList, _ *x509.Certificate) error {
	for n, e := range l.RevokedCertificateEntries {
		if err := checkSerialNumber(e.SerialNumber); err != nil {
			return fmt.Errorf("serial number %d %w", n, err)
		}
		if n > 0 && e.SerialNumber.Cmp(l.RevokedCertificateEntries[n-1].SerialNumber) <= 0 {
			return fmt.Errorf("serial %x stands twice, or not in its order", e.SerialNumber)
		}
		if err := checkInstant(e.RevocationTime); err != nil {
			return fmt.Errorf("serial %x: %w", e.SerialNumber, err)
		}
		if e.RevocationTime.After(l.ThisUpdate) {
			return fmt.Errorf("serial %x is revoked at %s, after thisUpdate %s", e.SerialNumber, e.RevocationTime, l.ThisUpdate)
		}
	}
	return nil
}

// crlExtensions are those of a CRL, none of them critical: no delta, no partition, no indirect CRL.
var crlExtensions = []string{"2.5.29.20", "2.5.29.35"}

// checkCRLExtensions reads the result only: on a template nothing is encoded yet.
func checkCRLExtensions(l *x509.RevocationList, _ *x509.Certificate) error {
	if len(l.ExtraExtensions) > 0 {
		return fmt.Errorf("extension %s is not of the profile", l.ExtraExtensions[0].Id)
	}
	if len(l.Raw) == 0 {
		return nil
	}
	if err := checkPlainExtensions(l.Extensions, crlExtensions); err != nil {
		return err
	}
	if len(l.Extensions) != len(crlExtensions) {
		return fmt.Errorf("there are %d, want %d", len(l.Extensions), len(crlExtensions))
	}
	return nil
}

// checkPlainExtensions wants each of the extensions known, once, and not critical: a verifier must refuse what has
// a critical one that it does not know.
func checkPlainExtensions(extensions []pkix.Extension, known []string) error {
	seen := make(map[string]bool, len(extensions))
	for _, e := range extensions {
		switch oid := e.Id.String(); {
		case !slices.Contains(known, oid):
			return fmt.Errorf("extension %s is not of the profile", oid)
		case seen[oid]:
			return fmt.Errorf("extension %s stands twice", oid)
		case e.Critical:
			return fmt.Errorf("extension %s is critical", oid)
		default:
			seen[oid] = true
		}
	}
	return nil
}

func checkCRLAuthorityKeyID(l *x509.RevocationList, issuer *x509.Certificate) error {
	if len(l.AuthorityKeyId) == 0 || !bytes.Equal(l.AuthorityKeyId, issuer.SubjectKeyId) {
		return fmt.Errorf("is %x, its issuer's identifier is %x", l.AuthorityKeyId, issuer.SubjectKeyId)
	}
	return nil
}

func checkCRLNumber(l *x509.RevocationList, _ *x509.Certificate) error {
	switch {
	case l.Number == nil:
		return errors.New("is missing")
	case l.Number.Sign() <= 0:
		return errors.New("is not positive")
	case !l.Number.IsUint64():
		return fmt.Errorf("has %d bits, at most 64 are counted", l.Number.BitLen())
	}
	return nil
}

// checkCRLReasons wants the reasons of leaves, and none where it is unspecified.
func checkCRLReasons(l *x509.RevocationList, _ *x509.Certificate) error {
	for _, e := range l.RevokedCertificateEntries {
		if len(e.ExtraExtensions) > 0 {
			return fmt.Errorf("serial %x: extension %s is not of the profile", e.SerialNumber, e.ExtraExtensions[0].Id)
		}
		if err := checkPlainExtensions(e.Extensions, []string{"2.5.29.21"}); err != nil {
			return fmt.Errorf("serial %x: %w", e.SerialNumber, err)
		}
		if !legalReason(e.ReasonCode) {
			return fmt.Errorf("serial %x: code %d is no reason to revoke a leaf", e.SerialNumber, e.ReasonCode)
		}
		if e.ReasonCode == 0 && len(e.Extensions) > 0 {
			return fmt.Errorf("serial %x: unspecified is said by saying nothing", e.SerialNumber)
		}
	}
	return nil
}

func legalReason(code int) bool {
	for _, c := range reasonCodes {
		if c == code {
			return true
		}
	}
	return false
}
