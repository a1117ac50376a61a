package profile

import (
	"crypto"
	"crypto/rand"
	_ "crypto/sha256" // SHA-256 and SHA-384 are what leaves are signed with
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	tag "golang.org/x/crypto/cryptobyte/asn1"
)

// A signature algorithm is what a CA's key signs with: the hash as long as the key is strong.
type algorithm struct {
	hash crypto.Hash
	oid  asn1.ObjectIdentifier
	null bool // its parameters are NULL (RFC 4055, section 5); ECDSA's are absent (RFC 5758, section 3.2)
}

var (
	oidECDSAWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSAWithSHA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidSHA256WithRSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}
)

// algorithmOf is what a CA of that key signs with.
func algorithmOf(pub crypto.PublicKey) (algorithm, error) {
	k, err := TypeOf(pub)
	switch {
	case err != nil:
		return algorithm{}, err
	case k == ECDSAP256:
		return algorithm{crypto.SHA256, oidECDSAWithSHA256, false}, nil
	case k == ECDSAP384:
		return algorithm{crypto.SHA384, oidECDSAWithSHA384, false}, nil
	case k == Ed25519:
		return algorithm{}, fmt.Errorf("an %s key is no CA's", k)
	}
	return algorithm{crypto.SHA256, oidSHA256WithRSA, true}, nil
}

// SignLeaf makes the certificate of a leaf's template, signed by key, which is issuer's, in DER. It writes the fields
// of [LeafTemplate] and no others, the same bytes as x509.CreateCertificate does before it signs. That verifies each
// signature that it has made, which takes twice as long as to make it: it is for keys that others keep, and may keep
// badly. This one is in this process.
func SignLeaf(template, issuer *x509.Certificate, key crypto.Signer) ([]byte, error) {
	alg, err := algorithmOf(issuer.PublicKey)
	if err != nil {
		return nil, err
	}
	tbs, err := leafTBS(template, issuer, alg)
	if err != nil {
		return nil, err
	}
	h := alg.hash.New()
	h.Write(tbs)
	signature, err := key.Sign(rand.Reader, h.Sum(nil), alg.hash)
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(signature)+32))
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		alg.add(b)
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

func (a algorithm) add(b *cryptobyte.Builder) {
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(a.oid)
		if a.null {
			b.AddASN1NULL()
		}
	})
}

// leafTBS is the TBSCertificate (RFC 5280, section 4.1) of a leaf's template.
func leafTBS(t, issuer *x509.Certificate, alg algorithm) ([]byte, error) {
	key, err := x509.MarshalPKIXPublicKey(t.PublicKey)
	if err != nil {
		return nil, err
	}
	subject, err := asn1.Marshal(t.Subject.ToRDNSequence())
	if err != nil {
		return nil, err
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 1<<10))
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(tag.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) }) // version 3
		b.AddASN1BigInt(t.SerialNumber)
		alg.add(b)
		b.AddBytes(issuer.RawSubject)
		b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, t.NotBefore)
			addTime(b, t.NotAfter)
		})
		b.AddBytes(subject)
		b.AddBytes(key)
		b.AddASN1(tag.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) { addLeafExtensions(b, t) })
		})
	})
	return b.Bytes()
}

// addTime writes years until 2049 as UTCTime and later ones as GeneralizedTime (RFC 5280, section 4.1.2.5).
func addTime(b *cryptobyte.Builder, t time.Time) {
	if t = t.UTC(); t.Year() < 2050 {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidAltNames         = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidServerAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	oidClientAuth       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// addLeafExtensions writes the extensions of a leaf. Which of them are critical, and what is in them, the lint of the
// result says again.
func addLeafExtensions(b *cryptobyte.Builder, t *x509.Certificate) {
	addExtension(b, oidKeyUsage, true, func(b *cryptobyte.Builder) { addKeyUsage(b, t.KeyUsage) })
	addExtension(b, oidExtKeyUsage, false, func(b *cryptobyte.Builder) {
		b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(oidServerAuth)
			b.AddASN1ObjectIdentifier(oidClientAuth)
		})
	})
	addExtension(b, oidBasicConstraints, true, func(b *cryptobyte.Builder) {
		b.AddASN1(tag.SEQUENCE, func(*cryptobyte.Builder) {}) // cA is FALSE, which DER leaves out
	})
	addExtension(b, oidSubjectKeyID, false, func(b *cryptobyte.Builder) { b.AddASN1OctetString(t.SubjectKeyId) })
	addExtension(b, oidAuthorityKeyID, false, func(b *cryptobyte.Builder) {
		b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) { addString(b, 0, t.AuthorityKeyId) }) // keyIdentifier
	})
	addExtension(b, oidAltNames, false, func(b *cryptobyte.Builder) {
		b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) { addNames(b, t) })
	})
}

func addExtension(b *cryptobyte.Builder, oid asn1.ObjectIdentifier, critical bool, value func(*cryptobyte.Builder)) {
	b.AddASN1(tag.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oid)
		if critical {
			b.AddASN1Boolean(true) // FALSE is the default, which DER leaves out
		}
		b.AddASN1(tag.OCTET_STRING, value)
	})
}

// addKeyUsage writes the bits of a key usage, of which the first is the highest, without the zeros at their end (X.690,
// section 11.2.2). Those of the profile are among the first eight.
func addKeyUsage(b *cryptobyte.Builder, usage x509.KeyUsage) {
	var bits byte
	for n := range 8 {
		if usage&(1<<n) != 0 {
			bits |= 0x80 >> n
		}
	}
	unused := 0
	for bits != 0 && bits>>unused&1 == 0 {
		unused++
	}
	b.AddASN1(tag.BIT_STRING, func(b *cryptobyte.Builder) {
		b.AddUint8(uint8(unused))
		b.AddUint8(bits)
	})
}

// addNames writes a leaf's alternative names (RFC 5280, section 4.2.1.6).
func addNames(b *cryptobyte.Builder, t *x509.Certificate) {
	for _, name := range t.DNSNames {
		addText(b, 2, name) // dNSName
	}
	for _, ip := range t.IPAddresses {
		addString(b, 7, ip) // iPAddress, of 4 or 16 bytes, as the template has it
	}
	for _, uri := range t.URIs {
		addText(b, 6, uri.String()) // uniformResourceIdentifier
	}
}

// addText is addString for an IA5String, which is ASCII.
func addText(b *cryptobyte.Builder, n uint8, text string) {
	if strings.ContainsFunc(text, func(r rune) bool { return r > 0x7f }) {
		b.SetError(fmt.Errorf("name %q is not of ASCII alone", text))
	}
	addString(b, n, []byte(text))
}

// addString writes a value whose tag is implicit.
func addString(b *cryptobyte.Builder, n uint8, value []byte) {
	b.AddASN1(tag.Tag(n).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(value) })
}
