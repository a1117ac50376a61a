// Package csr reads what a caller sends who asks for a certificate: a PKCS #10 request (RFC 2986) in PEM.
//
// # What it guarantees
//
// A request gives its public key and nothing else. [Parse] returns one only if the text is one PEM block of
// strict DER, the key is of a type and of the quality that a certificate of meshca may have, and the
// signature proves that whoever made the request has the private key. The names that it asks for are
// returned so that they can be compared with what the catalogue grants ([Request.NotGranted]); all else that
// it asks for is named in Ignored and goes no further.
//
// crypto/x509 is not used to read: it takes headers, text around the block, a wrong signature, e = 3, moduli
// that anybody can factor, and NUL bytes in names without a complaint. The tests compare with it.
//
// # Cost
//
// What a sender can make the reader do is bounded by [MaxBytes], by a maximal depth, and by looking at the
// size of a key before any arithmetic. The signature, which is nearly all of the cost, is verified once.
//
// # Concurrency
//
// The package is pure: no clock, no I/O, no state but tables that are made once.
package csr

import (
	"bytes"
	"crypto"
	"fmt"

	"github.com/meshca/meshca/profile"
)

// MaxBytes is how long a request may be, in PEM. One with the largest key and a hundred names has some 8 KiB.
const MaxBytes = 16 << 10

// maxMembers bounds the attributes of a request, and its extensions.
const maxMembers = 64

// A Request is what is taken from a certificate request whose proof holds.
type Request struct {
	PublicKey crypto.PublicKey
	KeyType   profile.KeyType
	// RawSubjectPublicKeyInfo is the key in DER, byte for byte as a certificate will hold it.
	RawSubjectPublicKeyInfo []byte
	// Names are the alternative names that are asked for, in the order of the request.
	Names []Name
	// Ignored says in stable words what else is asked for, none of which a certificate will hold: "subject",
	// "extension 2.5.29.19 (basic constraints)", "attribute 1.2.840.113549.1.9.7 (challengePassword)". There are
	// at most some 130, of at most 300 bytes each.
	Ignored []string
}

// Parse reads one request. The error is an [*Error].
func Parse(text []byte) (*Request, error) {
	if len(text) > MaxBytes {
		return nil, &Error{CodeTooLong, fmt.Sprintf("the request has %d bytes, at most %d are read", len(text), MaxBytes)}
	}
	der, err := decodePEM(text)
	if err != nil {
		return nil, err
	}
	if err := check(der, 0, 1); err != nil {
		return nil, malformed("the request is not strict DER: " + err.Error())
	}
	signed, err := parse(der)
	if err != nil {
		return nil, err
	}
	if err := signed.prove(); err != nil {
		return nil, err
	}
	return &signed.request, nil
}

// A signedRequest is a request whose proof is still to be verified.
type signedRequest struct {
	request   Request
	info      []byte // what is signed
	algorithm []byte // the contents of the signature's AlgorithmIdentifier
	signature []byte
}

func parse(der []byte) (*signedRequest, error) {
	outer, ok := fields(der, tagSequence)
	if !ok {
		return nil, malformed("the PEM block is not one ASN.1 SEQUENCE with nothing after it")
	}
	parts, ok := fields(outer[0].body, tagSequence, tagSequence, tagBitString)
	if !ok {
		return nil, malformed("the request is not a SEQUENCE of information, algorithm and signature (RFC 2986, section 4.2)")
	}
	s := &signedRequest{info: parts[0].raw, algorithm: parts[1].body}
	if s.signature, ok = wholeBytes(parts[2]); !ok {
		return nil, malformed("the signature is not a whole number of bytes")
	}
	info, ok := fields(parts[0].body, tagInteger, tagSequence, tagSequence, tagAttributes)
	if !ok {
		return nil, malformed("the information is not version, subject, key and attributes (RFC 2986, section 4.1)")
	}
	if !bytes.Equal(info[0].body, []byte{0}) {
		return nil, malformed("the version is not 0")
	}
	return s, s.request.read(info[1], info[2], info[3])
}

// wholeBytes gives the contents of a BIT STRING that has no unused bits.
func wholeBytes(e element) ([]byte, bool) {
	return e.body[1:], e.body[0] == 0
}

// read fills r from the three parts of CertificationRequestInfo.
func (r *Request) read(subject, spki, attributes element) error {
	if err := checkSubject(subject.body); err != nil {
		return err
	}
	if len(subject.body) > 0 {
		r.Ignored = append(r.Ignored, "subject")
	}
	var err error
	if r.PublicKey, r.KeyType, err = parseKey(spki.body); err != nil {
		return err
	}
	r.RawSubjectPublicKeyInfo = spki.raw
	return r.readAttributes(attributes.body)
}

// checkSubject wants a Name (RFC 5280, section 4.1.2.4). What it says is nobody's business here.
func checkSubject(rdns []byte) error {
	for rdn := range members(rdns) {
		if rdn.tag != tagSet || len(rdn.body) == 0 {
			return malformed("the subject is not a row of sets of attributes")
		}
		for attribute := range members(rdn.body) {
			if attribute.tag != tagSequence || !typeAndValue(attribute.body) {
				return malformed("an attribute of the subject is not a type and one value")
			}
		}
	}
	return nil
}

func typeAndValue(b []byte) bool {
	oid, rest, problem := split(b)
	if problem != "" || oid.tag != tagOID {
		return false
	}
	_, rest, problem = split(rest)
	return problem == "" && len(rest) == 0
}

const (
	oidExtensionRequest = "1.2.840.113549.1.9.14"
	oidAlternativeNames = "2.5.29.17"
)

var attributeNames = map[string]string{
	"1.2.840.113549.1.9.2":   "unstructuredName",
	"1.2.840.113549.1.9.7":   "challengePassword",
	"1.2.840.113549.1.9.8":   "unstructuredAddress",
	"1.3.6.1.4.1.311.2.1.14": "Microsoft extension request",
	"1.3.6.1.4.1.311.13.2.2": "Microsoft enrollment provider",
	"1.3.6.1.4.1.311.13.2.3": "Microsoft system version",
	"1.3.6.1.4.1.311.21.20":  "Microsoft client information",
}

// readAttributes wants each attribute once: of two, another reader could take the other.
func (r *Request) readAttributes(attributes []byte) error {
	seen := map[string]bool{}
	for attribute := range members(attributes) {
		parts, ok := fields(attribute.body, tagOID, tagSet)
		if !ok || attribute.tag != tagSequence || len(parts[1].body) == 0 {
			return malformed("an attribute is not a type and a set of values (RFC 2986, section 4.1)")
		}
		oid := dotted(parts[0].body)
		switch {
		case seen[oid]:
			return malformed("attribute " + oid + " stands twice")
		case len(seen) == maxMembers:
			return malformed(fmt.Sprintf("there are more than %d attributes", maxMembers))
		}
		seen[oid] = true
		if oid != oidExtensionRequest {
			r.Ignored = append(r.Ignored, "attribute "+named(oid, attributeNames))
			continue
		}
		extensions, ok := fields(parts[1].body, tagSequence)
		if !ok || len(extensions[0].body) == 0 {
			return malformed("attribute " + oid + " (extensionRequest) is not one list of extensions")
		}
		if err := r.readExtensions(extensions[0].body); err != nil {
			return err
		}
	}
	return nil
}

func named(oid string, names map[string]string) string {
	if name, ok := names[oid]; ok {
		return oid + " (" + name + ")"
	}
	return oid
}

var extensionNames = map[string]string{
	"1.3.6.1.4.1.311.20.2":   "Microsoft certificate template name",
	"1.3.6.1.4.1.311.21.7":   "Microsoft certificate template",
	"1.3.6.1.5.5.7.1.1":      "authority information access",
	"1.3.6.1.5.5.7.1.24":     "TLS feature",
	"2.5.29.14":              "subject key identifier",
	"2.5.29.15":              "key usage",
	"2.5.29.18":              "issuer alternative name",
	"2.5.29.19":              "basic constraints",
	"2.5.29.30":              "name constraints",
	"2.5.29.31":              "CRL distribution points",
	"2.5.29.32":              "certificate policies",
	"2.5.29.35":              "authority key identifier",
	"2.5.29.36":              "policy constraints",
	"2.5.29.37":              "extended key usage",
	"2.5.29.54":              "inhibit anyPolicy",
	"2.16.840.1.113730.1.1":  "Netscape certificate type",
	"2.16.840.1.113730.1.13": "Netscape comment",
}

func (r *Request) readExtensions(extensions []byte) error {
	seen := map[string]bool{}
	for extension := range members(extensions) {
		oid, value, ok := extensionParts(extension)
		switch {
		case !ok:
			return malformed("an extension is not a type, a mark if it is critical, and an OCTET STRING (RFC 5280, section 4.2)")
		case seen[oid]:
			return malformed("extension " + oid + " stands twice")
		case len(seen) == maxMembers:
			return malformed(fmt.Sprintf("there are more than %d extensions", maxMembers))
		}
		seen[oid] = true
		if oid != oidAlternativeNames {
			r.Ignored = append(r.Ignored, "extension "+named(oid, extensionNames))
			continue
		}
		var err error
		if r.Names, err = parseNames(value); err != nil {
			return err
		}
	}
	return nil
}

// extensionParts gives type and value. In DER a mark that says "not critical" is left out.
func extensionParts(extension element) (oid string, value []byte, ok bool) {
	parts, ok := fields(extension.body, tagOID, tagOctetString)
	if !ok {
		parts, ok = fields(extension.body, tagOID, tagBoolean, tagOctetString)
		ok = ok && parts[1].body[0] == 0xff
	}
	if !ok || extension.tag != tagSequence {
		return "", nil, false
	}
	return dotted(parts[0].body), parts[len(parts)-1].body, true
}
