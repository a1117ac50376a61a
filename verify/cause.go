package verify

import (
	"crypto/x509"
	"errors"
	"slices"
	"time"
)

// A Cause is why a certificate is refused, in OpenSSL's words (X509_verify_cert_error_string), which
// BoringSSL, and so Envoy, shares.
type Cause string

// The causes.
const (
	NoLocalIssuer      Cause = "unable to get local issuer certificate"
	SelfSigned         Cause = "self-signed certificate"
	SelfSignedInChain  Cause = "self-signed certificate in certificate chain"
	SignatureFailure   Cause = "certificate signature failure"
	HasExpired         Cause = "certificate has expired"
	IsNotYetValid      Cause = "certificate is not yet valid"
	WrongPurpose       Cause = "unsuitable certificate purpose"
	InvalidCA          Cause = "invalid CA certificate"
	PathLengthExceeded Cause = "path length constraint exceeded"
	NameNotPermitted   Cause = "permitted subtree violation"
	UnhandledExtension Cause = "unhandled critical extension"
	IssuerMismatch     Cause = "subject issuer mismatch"
	ChainTooLong       Cause = "certificate chain too long"
)

// reasonPrefix is how Envoy begins to say that it refuses a certificate, as a client and as a server.
const reasonPrefix = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: "

// Reason is what the refuser's log says; the words before the cause are those of Envoy.
func (c Cause) Reason() string { return reasonPrefix + string(c) }

// Alert is what the refused end's log says: the TLS alert that it gets (RFC 8446, section 6.2).
func (c Cause) Alert() string {
	switch c {
	case NoLocalIssuer, SelfSigned, SelfSignedInChain, InvalidCA, PathLengthExceeded, ChainTooLong:
		return "tlsv1 alert unknown ca"
	case HasExpired:
		return "sslv3 alert certificate expired"
	case IsNotYetValid:
		return "sslv3 alert bad certificate"
	case WrongPurpose:
		return "sslv3 alert unsupported certificate"
	case SignatureFailure:
		return "tlsv1 alert decrypt error"
	}
	return "sslv3 alert certificate unknown"
}

// aboutIssuer says whether the cause is that no path leads to an anchor, whatever the time and purpose.
func (c Cause) aboutIssuer() bool {
	return c == NoLocalIssuer || c == SelfSigned || c == SelfSignedInChain || c == SignatureFailure
}

// verifyChain says why a chain, leaf first, is refused for the purpose; "" means that it is accepted.
func verifyChain(chain []*x509.Certificate, b *bundle, usage x509.ExtKeyUsage, now time.Time) Cause {
	opts := x509.VerifyOptions{
		Roots:         b.pool,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	if err == nil {
		return ""
	}
	cause := causeOf(err, chain, b.anchors, now)
	if cause != HasExpired && cause != IsNotYetValid {
		return cause
	}
	// crypto/x509 looks at the leaf's dates first, OpenSSL builds the path first: a leaf that is both too
	// old and nobody's is reported there for its issuer.
	leaf := chain[0]
	opts.CurrentTime = leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	if _, err := leaf.Verify(opts); err != nil {
		if c := causeOf(err, chain, b.anchors, now); c.aboutIssuer() {
			return c
		}
	}
	return cause
}

// causeOf maps an error of crypto/x509 to OpenSSL's words.
func causeOf(err error, chain, anchors []*x509.Certificate, now time.Time) Cause {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var critical x509.UnhandledCriticalExtension
	switch {
	case errors.As(err, &invalid):
		return causeOfInvalid(invalid, now)
	case errors.As(err, &unknown):
		return causeOfUnknown(unknown.Cert, chain, anchors)
	case errors.As(err, &critical):
		return UnhandledExtension
	}
	return ChainTooLong // the one error without a type: the limit on signature checks
}

func causeOfInvalid(e x509.CertificateInvalidError, now time.Time) Cause {
	switch e.Reason {
	case x509.Expired: // for both ends of the validity
		if e.Cert != nil && now.Before(e.Cert.NotBefore) {
			return IsNotYetValid
		}
		return HasExpired
	case x509.IncompatibleUsage, x509.CANotAuthorizedForExtKeyUsage:
		return WrongPurpose
	case x509.NotAuthorizedToSign:
		return InvalidCA
	case x509.TooManyIntermediates:
		return PathLengthExceeded
	case x509.NameMismatch:
		return IssuerMismatch
	case x509.TooManyConstraints:
		return ChainTooLong
	}
	return NameNotPermitted
}

// causeOfUnknown tells the ways apart in which no path leads to an anchor.
func causeOfUnknown(stuck *x509.Certificate, chain, anchors []*x509.Certificate) Cause {
	if selfSigned(chain[0]) {
		return SelfSigned
	}
	if slices.ContainsFunc(chain[1:], selfSigned) {
		return SelfSignedInChain
	}
	if stuck == nil {
		stuck = chain[0]
	}
	for _, a := range anchors {
		if namesIssuer(stuck, a) {
			switch {
			case !signedBy(stuck, a):
				return SignatureFailure // a CA was made again under its old name, with a new key
			case !a.IsCA:
				return InvalidCA
			}
		}
	}
	return NoLocalIssuer
}
