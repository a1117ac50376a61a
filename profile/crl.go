package profile

import (
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// A Reason says why a certificate was revoked, by its name in RFC 5280, section 5.3.1.
type Reason string

// The reasons for which a leaf can be revoked. The others of the RFC are a CA's (cACompromise, aACompromise), or
// take a revocation back (certificateHold, removeFromCRL), which meshca never does.
const (
	Unspecified          Reason = "unspecified"
	KeyCompromise        Reason = "keyCompromise"
	AffiliationChanged   Reason = "affiliationChanged"
	Superseded           Reason = "superseded"
	CessationOfOperation Reason = "cessationOfOperation"
	PrivilegeWithdrawn   Reason = "privilegeWithdrawn"
)

// reasonCodes are the numbers by which a CRL names the reasons.
var reasonCodes = map[Reason]int{
	Unspecified: 0, KeyCompromise: 1, AffiliationChanged: 3, Superseded: 4, CessationOfOperation: 5, PrivilegeWithdrawn: 9,
}

// Reasons lists them in the order of the RFC.
func Reasons() []Reason {
	return []Reason{Unspecified, KeyCompromise, AffiliationChanged, Superseded, CessationOfOperation, PrivilegeWithdrawn}
}

// ParseReason reads a reason by its name. The error lists what is allowed.
func ParseReason(s string) (Reason, error) {
	if r := Reason(s); slices.Contains(Reasons(), r) {
		return r, nil
	}
	var names []string
	for _, r := range Reasons() {
		names = append(names, string(r))
	}
	return "", fmt.Errorf("the reason is not one of %s", strings.Join(names, ", ")) // not quoted: it may be anything
}

// CRLLifetime is how long after its making the CRL of an issuing CA ends. A new one is made long before.
const CRLLifetime = 7 * 24 * time.Hour

// CRLWindow is the time for which a CRL made at now by issuer speaks: NotBefore is its thisUpdate, backdated like
// a leaf's for verifiers whose clocks are behind, and NotAfter its nextUpdate.
func CRLWindow(now time.Time, backdate time.Duration, issuer *x509.Certificate) Window {
	w := LeafWindow(now, CRLLifetime, backdate, issuer)
	w.NotAfter = now.Add(CRLLifetime).UTC().Truncate(time.Second) // it may be later than the issuer's end: that decides
	return w
}

// CRLNumber is the number of a CRL made at now by an issuer whose last one had the number last, 0 for none. It
// counts microseconds, which no CA outruns: so numbers grow although the store was put back to an older copy.
func CRLNumber(last uint64, now time.Time) uint64 {
	return max(last+1, uint64(max(now.UnixMicro(), 0)))
}

// Revoked is one entry of a CRL.
type Revoked struct {
	Serial *big.Int
	At     time.Time
	Reason Reason
}

// CRLTemplate is the template of a CRL, to be signed by issuer. Its entries are sorted by serial number.
func CRLTemplate(number uint64, w Window, revoked []Revoked, issuer *x509.Certificate) *x509.RevocationList {
	t := &x509.RevocationList{
		Issuer:         issuer.Subject,
		AuthorityKeyId: issuer.SubjectKeyId,
		Number:         new(big.Int).SetUint64(number),
		ThisUpdate:     w.NotBefore,
		NextUpdate:     w.NotAfter,
	}
	for _, r := range revoked {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber:   r.Serial,
			RevocationTime: r.At.UTC().Truncate(time.Second),
			ReasonCode:     reasonCodes[r.Reason],
		})
	}
	slices.SortFunc(t.RevokedCertificateEntries, func(a, b x509.RevocationListEntry) int {
		return a.SerialNumber.Cmp(b.SerialNumber)
	})
	return t
}
