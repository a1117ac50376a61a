package verify

// A Code names a kind of finding. Codes are stable: scripts match on them.
type Code string

// The codes, gravest first, which is also the order of the findings of one service. Each has a hint, in
// [Code.Hint].
const (
	// PrivateKeyInCertificateFile: tls.crt or ca.crt holds a private key. Those files are copied to where
	// keys must not go, so the key counts as known to others.
	PrivateKeyInCertificateFile Code = "private-key-in-certificate-file"
	// MissingFile: the file is absent.
	MissingFile Code = "missing-file"
	// EmptyFile: the file is there and holds nothing but white space.
	EmptyFile Code = "empty-file"
	// Placeholder: the file, or the body of a PEM block, is text that something was meant to replace.
	Placeholder Code = "placeholder"
	// TooLarge: the file is above 1 MiB or holds more than 200 certificates; it was not read.
	TooLarge Code = "too-large"
	// NotPEM: the file holds no PEM block of the kind it should (RFC 7468), or its text is not base64.
	NotPEM Code = "not-pem"
	// TruncatedPEM: a BEGIN line without its END line, or a body that ends early.
	TruncatedPEM Code = "truncated-pem"
	// BadCertificate: the PEM is whole and what is in it is not a certificate that can be used.
	BadCertificate Code = "bad-certificate"
	// EncryptedKey: the key needs a passphrase, which a service that starts by itself does not have.
	EncryptedKey Code = "encrypted-key"
	// BadKey: the key cannot be read as PKCS #8, PKCS #1 or SEC 1.
	BadKey Code = "bad-key"
	// KeyMismatch: the key is not that of the first certificate of tls.crt; TLS libraries refuse to start.
	KeyMismatch Code = "key-mismatch"
	// RootInPlaceOfLeaf: tls.crt begins with a CA certificate.
	RootInPlaceOfLeaf Code = "root-in-place-of-leaf"
	// Expired: the leaf's notAfter has passed.
	Expired Code = "expired"
	// NotYetValid: the leaf's notBefore is still to come.
	NotYetValid Code = "not-yet-valid"
	// BundleDiffers: ca.crt holds another set of certificates than that of most services.
	BundleDiffers Code = "bundle-differs"
	// LeafNotSignedByOwnBundle: tls.crt does not chain to the ca.crt beside it, so the two were not made
	// together.
	LeafNotSignedByOwnBundle Code = "leaf-not-signed-by-own-bundle"
	// WouldRefuse: this service would refuse others; the finding lists them.
	WouldRefuse Code = "would-refuse"
	// VerifierDependent: Go would accept the peers of the finding, other TLS libraries would not. They take
	// the first certificate of the issuer's name and do not try the next, or want the path to end in a
	// self-signed certificate.
	VerifierDependent Code = "verifier-dependent"
	// SameSubjectInBundle: ca.crt holds CAs of one name and of different keys. Libraries that look for an issuer
	// by its name may take the wrong one.
	SameSubjectInBundle Code = "same-subject-in-bundle"
	// CAExpired: a certificate in ca.crt has expired. If a path needs it, would-refuse says so as well.
	CAExpired Code = "ca-expired"
	// CANotYetValid: a certificate in ca.crt is not valid yet.
	CANotYetValid Code = "ca-not-yet-valid"
	// LeafInBundle: ca.crt holds a certificate that is no CA's (RFC 5280, section 4.2.1.9).
	LeafInBundle Code = "leaf-in-bundle"
	// IntermediateInBundle: ca.crt holds a CA certificate that is not self-signed. It is trusted by itself, also
	// after its root is taken out, and some libraries do not end a path there.
	IntermediateInBundle Code = "intermediate-in-bundle"
	// ExpiresSoon: less than a tenth of the leaf's life remains.
	ExpiresSoon Code = "expires-soon"
	// DuplicateInBundle: ca.crt holds a certificate more than once.
	DuplicateInBundle Code = "duplicate-in-bundle"
	// BundleBytesDiffer: ca.crt holds the same certificates as the others' in other bytes: another order,
	// comments, duplicates or line endings.
	BundleBytesDiffer Code = "bundle-bytes-differ"
)

// Codes lists every code, gravest first.
func Codes() []Code {
	return []Code{
		PrivateKeyInCertificateFile, MissingFile, EmptyFile, Placeholder, TooLarge, NotPEM, TruncatedPEM,
		BadCertificate, EncryptedKey, BadKey, KeyMismatch, RootInPlaceOfLeaf, Expired, NotYetValid,
		BundleDiffers, LeafNotSignedByOwnBundle, WouldRefuse, VerifierDependent, SameSubjectInBundle, CAExpired,
		CANotYetValid, LeafInBundle, IntermediateInBundle, ExpiresSoon, DuplicateInBundle, BundleBytesDiffer,
	}
}

// Hint is what to do about a finding of this code.
func (c Code) Hint() string {
	switch c {
	case PrivateKeyInCertificateFile:
		return "take the key out of the file now, and replace every certificate made for or signed by it"
	case MissingFile, EmptyFile:
		return "write tls.crt, tls.key and ca.crt together, in one step, from one issuance"
	case Placeholder:
		return "the step that fills this file in did not run, or ran in part: issue the certificate and write all three files"
	case TooLarge:
		return "a bundle for a mesh holds a few roots; look for a system trust store or a repeated append"
	case NotPEM:
		return "the file must hold PEM text, -----BEGIN … to -----END …, encoded once"
	case TruncatedPEM:
		return "the file was cut while it was copied or pasted: write it again from its source"
	case BadCertificate:
		return "look at it with: openssl x509 -noout -text; if that fails too, issue it again"
	case EncryptedKey:
		return "store the key without a passphrase, or issue a new one"
	case BadKey:
		return "the file must hold an ECDSA, Ed25519 or RSA key as PKCS #8, PKCS #1 or SEC 1"
	case KeyMismatch:
		return "tls.crt and tls.key are from two issuances: issue again and write both in one step"
	case RootInPlaceOfLeaf:
		return "put the service's own certificate first, then its intermediates; the root belongs in ca.crt"
	case Expired, ExpiresSoon:
		return "renew the certificate, and find out why its renewal has not run"
	}
	return c.trustHint()
}

// trustHint is Hint for the codes that are about whom a service trusts.
func (c Code) trustHint() string {
	switch c {
	case NotYetValid, CANotYetValid:
		return "compare the clock of this machine with that of the one that issued it"
	case BundleDiffers:
		return "give every service the same ca.crt: the roots of all certificates in use, before any of them is replaced"
	case LeafNotSignedByOwnBundle:
		return "issue the certificate again from the CA in ca.crt, or add the CA that signed it to every ca.crt"
	case WouldRefuse:
		return "the refuser's ca.crt must hold the root that signed the refused one's certificate, and that certificate must be valid for both roles"
	case VerifierDependent:
		return "list only valid, self-signed roots in ca.crt, one for each name, and give certificates an authority key identifier"
	case CAExpired:
		return "take it out of every ca.crt once no certificate in use was signed by it"
	case SameSubjectInBundle:
		return "keep one of them; where both are needed, the certificates they sign must carry an authority key identifier"
	case LeafInBundle:
		return "ca.crt is for CA certificates: take it out"
	case IntermediateInBundle:
		return "ca.crt is for roots: put its root there, and the intermediate into tls.crt of those that it signed"
	case DuplicateInBundle:
		return "nothing refuses because of it; look for a repeated append"
	case BundleBytesDiffer:
		return "nothing refuses because of it; write one file to all services so that a checksum can compare them"
	}
	return ""
}

// A Finding is one thing that is wrong with one service.
type Finding struct {
	// Code is the kind.
	Code Code `json:"code"`
	// Service is the service it was found at.
	Service string `json:"service"`
	// Sentence says what was found.
	Sentence string `json:"sentence"`
	// Hint says what to do about it.
	Hint string `json:"hint,omitempty"`
	// Peers are the other services it concerns, in name order.
	Peers []string `json:"peers,omitempty"`
}

// String gives the finding in one line, without its hint.
func (f Finding) String() string { return string(f.Code) + " " + f.Service + ": " + f.Sentence }
