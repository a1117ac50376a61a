package csr_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/meshca/meshca/csr"
)

// A row is one way to spoil a good request of a P-256 key, which is signed after the change: what refuses it
// is the one check, and not the signature.
type row struct {
	name  string
	code  csr.Code
	words string
	spoil func(*draft)
}

func TestRefusedInformation(t *testing.T) {
	run(t, informationRows)
}

func TestRefusedKeys(t *testing.T) {
	run(t, slices.Concat(keyRows, rsaRows))
}

func TestRefusedNames(t *testing.T) {
	run(t, nameRows)
}

func TestRefusedProofs(t *testing.T) {
	run(t, proofRows)
}

func run(t *testing.T, rows []row) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			d := newDraft(ecKey(elliptic.P256()))
			r.spoil(d)
			refused(t, d.pem(), r.code, r.words)
		})
	}
}

// infoOf makes the information of these elements.
func (d *draft) infoOf(elements ...[]byte) {
	d.version, d.subject, d.spki, d.attributes = nil, nil, nil, bytes.Join(elements, nil)
}

var informationRows = []row{
	{"no attributes", csr.CodeMalformed, "version, subject, key and attributes", func(d *draft) { d.attributes = nil }},
	{"no version", csr.CodeMalformed, "version, subject, key and attributes", func(d *draft) { d.version = nil }},
	{"no subject", csr.CodeMalformed, "version, subject, key and attributes", func(d *draft) { d.subject = nil }},
	{"no key", csr.CodeMalformed, "version, subject, key and attributes", func(d *draft) { d.spki = nil }},
	{"nothing", csr.CodeMalformed, "version, subject, key and attributes", func(d *draft) { d.infoOf() }},
	{"one thing more", csr.CodeMalformed, "version, subject, key and attributes", func(d *draft) { d.infoOf(d.version, d.subject, d.spki, d.attributes, null) }},
	{"another order", csr.CodeMalformed, "subject is not a row", func(d *draft) { d.infoOf(d.version, d.spki, d.subject, d.attributes) }},
	{"version 1", csr.CodeMalformed, "the version is not 0", func(d *draft) { d.version = value(0x02, "\x01") }},
	{"version 2, as of certificates", csr.CodeMalformed, "the version is not 0", func(d *draft) { d.version = value(0x02, "\x02") }},
	{"version -1", csr.CodeMalformed, "the version is not 0", func(d *draft) { d.version = value(0x02, "\xff") }},
	{"version 256", csr.CodeMalformed, "the version is not 0", func(d *draft) { d.version = value(0x02, "\x01\x00") }},
	{"a certificate's information", csr.CodeMalformed, "version, subject, key and attributes", func(d *draft) {
		d.infoOf(value(0xa0, string(d.version)), d.version, d.algorithm, d.subject, d.subject, d.subject, d.spki)
	}},

	{"subject of a string", csr.CodeMalformed, "subject is not a row of sets", func(d *draft) { d.subject = sequence(value(0x0c, "a")) }},
	{"subject with an empty set", csr.CodeMalformed, "subject is not a row of sets", func(d *draft) { d.subject = sequence(set()) }},
	{"subject of a sequence", csr.CodeMalformed, "subject is not a row of sets", func(d *draft) { d.subject = sequence(sequence()) }},
	{"subject's attribute not a sequence", csr.CodeMalformed, "attribute of the subject", func(d *draft) { d.subject = sequence(set(set(oid("2.5.4.3"), null))) }},
	{"subject's attribute empty", csr.CodeMalformed, "attribute of the subject", func(d *draft) { d.subject = sequence(set(sequence())) }},
	{"subject's attribute without value", csr.CodeMalformed, "attribute of the subject", func(d *draft) { d.subject = sequence(set(sequence(oid("2.5.4.3")))) }},
	{"subject's attribute with two", csr.CodeMalformed, "attribute of the subject", func(d *draft) { d.subject = sequence(set(sequence(oid("2.5.4.3"), null, null))) }},
	{"subject's attribute without type", csr.CodeMalformed, "attribute of the subject", func(d *draft) { d.subject = sequence(set(sequence(value(0x0c, "a"), value(0x0c, "a")))) }},
	{"second attribute of a set", csr.CodeMalformed, "attribute of the subject", func(d *draft) { d.subject = sequence(set(sequence(oid("2.5.4.3"), null), null)) }},

	{"NUL in UTF8String", csr.CodeMalformed, "NUL", subjectOf(0x0c, "pgadmin\x00.evil")},
	{"NUL in PrintableString", csr.CodeMalformed, "does not allow", subjectOf(0x13, "pgadmin\x00.evil")},
	{"NUL in NumericString", csr.CodeMalformed, "does not allow", subjectOf(0x12, "1\x002")},
	{"NUL in T61String", csr.CodeMalformed, "NUL", subjectOf(0x14, "pgadmin\x00.evil")},
	{"NUL in IA5String", csr.CodeMalformed, "NUL", subjectOf(0x16, "pgadmin\x00.evil")},
	{"NUL in VisibleString", csr.CodeMalformed, "NUL", subjectOf(0x1a, "pgadmin\x00.evil")},
	{"NUL in UniversalString", csr.CodeMalformed, "NUL", subjectOf(0x1c, "\x00\x00\x00a\x00\x00\x00\x00")},
	{"NUL in BMPString", csr.CodeMalformed, "NUL", subjectOf(0x1e, "\x00a\x00\x00")},
	{"no UTF-8", csr.CodeMalformed, "does not allow", subjectOf(0x0c, "\xff")},
	{"UTF-8 of a surrogate", csr.CodeMalformed, "does not allow", subjectOf(0x0c, "\xed\xa0\x80")},
	{"UTF-8 in two bytes for one", csr.CodeMalformed, "does not allow", subjectOf(0x0c, "\xc1\x81")},
	{"letters in NumericString", csr.CodeMalformed, "does not allow", subjectOf(0x12, "a")},
	{"at in PrintableString", csr.CodeMalformed, "does not allow", subjectOf(0x13, "a@b")},
	{"umlaut in PrintableString", csr.CodeMalformed, "does not allow", subjectOf(0x13, "ö")},
	{"umlaut in IA5String", csr.CodeMalformed, "does not allow", subjectOf(0x16, "ö")},
	{"umlaut in VisibleString", csr.CodeMalformed, "does not allow", subjectOf(0x1a, "ö")},
	{"half a character in BMPString", csr.CodeMalformed, "within a character", subjectOf(0x1e, "\x00a\x00")},
	{"half a character in UniversalString", csr.CodeMalformed, "within a character", subjectOf(0x1c, "\x00\x00a")},
	{"surrogate in BMPString", csr.CodeMalformed, "does not allow", subjectOf(0x1e, "\xd8\x00\xdc\x00")},
	{"noncharacter in BMPString", csr.CodeMalformed, "does not allow", subjectOf(0x1e, "\xff\xfe")},
	{"noncharacter FDD0 in BMPString", csr.CodeMalformed, "does not allow", subjectOf(0x1e, "\xfd\xd0")},
	{"beyond Unicode in UniversalString", csr.CodeMalformed, "does not allow", subjectOf(0x1c, "\x00\x11\x00\x00")},

	{"BOOLEAN of 01", csr.CodeMalformed, "BOOLEAN", valueOf(0x01, "\x01")},
	{"BOOLEAN empty", csr.CodeMalformed, "BOOLEAN", valueOf(0x01, "")},
	{"BOOLEAN of two bytes", csr.CodeMalformed, "BOOLEAN", valueOf(0x01, "\xff\xff")},
	{"INTEGER empty", csr.CodeMalformed, "INTEGER", valueOf(0x02, "")},
	{"INTEGER with a leading zero", csr.CodeMalformed, "INTEGER", valueOf(0x02, "\x00\x7f")},
	{"INTEGER with a leading FF", csr.CodeMalformed, "INTEGER", valueOf(0x02, "\xff\x80")},
	{"ENUMERATED with a leading zero", csr.CodeMalformed, "INTEGER", valueOf(0x0a, "\x00\x01")},
	{"BIT STRING empty", csr.CodeMalformed, "BIT STRING", valueOf(0x03, "")},
	{"BIT STRING of 8 unused bits", csr.CodeMalformed, "BIT STRING", valueOf(0x03, "\x08\x00")},
	{"BIT STRING of unused bits alone", csr.CodeMalformed, "BIT STRING", valueOf(0x03, "\x01")},
	{"BIT STRING with padding of ones", csr.CodeMalformed, "BIT STRING", valueOf(0x03, "\x04\xf8")},
	{"NULL of one byte", csr.CodeMalformed, "NULL", valueOf(0x05, "\x00")},
	{"OID empty", csr.CodeMalformed, "OBJECT IDENTIFIER", valueOf(0x06, "")},
	{"OID that ends early", csr.CodeMalformed, "OBJECT IDENTIFIER", valueOf(0x06, "\x2a\x83")},
	{"OID with a padded arc", csr.CodeMalformed, "OBJECT IDENTIFIER", valueOf(0x06, "\x2a\x80\x03")},
	{"OID with a padded first arc", csr.CodeMalformed, "OBJECT IDENTIFIER", valueOf(0x06, "\x80\x2a")},
	{"OID with an arc of 2^31", csr.CodeMalformed, "OBJECT IDENTIFIER", valueOf(0x06, "\x2a\x88\x80\x80\x80\x00")},
	{"OID of a UUID", csr.CodeMalformed, "OBJECT IDENTIFIER", valueOf(0x06, "\x69\x83\xff\xff\xff\xff\xff\xff\xff\xff\x7f")},
	{"OID of 65 bytes", csr.CodeMalformed, "OBJECT IDENTIFIER", valueOf(0x06, strings.Repeat("\x01", 65))},
	{"UTCTime without seconds", csr.CodeMalformed, "UTCTime", valueOf(0x17, "4912312359Z")},
	{"UTCTime with an offset", csr.CodeMalformed, "UTCTime", valueOf(0x17, "491231235959+0100")},
	{"UTCTime of 30 February", csr.CodeMalformed, "UTCTime", valueOf(0x17, "490230000000Z")},
	{"GeneralizedTime with a fraction", csr.CodeMalformed, "GeneralizedTime", valueOf(0x18, "20491231235959.5Z")},
	{"GeneralizedTime without a zone", csr.CodeMalformed, "GeneralizedTime", valueOf(0x18, "20491231235959")},
	{"GeneralizedTime of a second 60", csr.CodeMalformed, "GeneralizedTime", valueOf(0x18, "20491231235960Z")},
	{"end of contents", csr.CodeMalformed, "universal tag", valueOf(0x00, "")},
	{"REAL", csr.CodeMalformed, "universal tag", valueOf(0x09, "\x80\x00\x01")},
	{"EXTERNAL", csr.CodeMalformed, "universal tag", valueOf(0x28, "")},
	{"SEQUENCE that is primitive", csr.CodeMalformed, "universal tag", valueOf(0x10, "")},
	{"SET that is primitive", csr.CodeMalformed, "universal tag", valueOf(0x11, "")},
	{"string in pieces", csr.CodeMalformed, "universal tag", valueOf(0x24, string(value(0x04, "a")))},
	{"tag in two bytes", csr.CodeMalformed, "tag", rawValue("\xbf\x1f\x00")},
	{"tag in two bytes, primitive", csr.CodeMalformed, "tag", rawValue("\x9f\x81\x00\x00")},
	{"indefinite length", csr.CodeMalformed, "indefinite", rawValue("\x30\x80\x00\x00")},
	{"length in three bytes", csr.CodeMalformed, "longer than the request", rawValue("\x04\x83\x00\x00\x01a")},
	{"length of 4 GiB", csr.CodeMalformed, "longer than the request", rawValue("\x04\x84\xff\xff\xff\xff")},
	{"length of 2^64", csr.CodeMalformed, "longer than the request", rawValue("\x04\x88\xff\xff\xff\xff\xff\xff\xff\xff")},
	{"length of the reserved form", csr.CodeMalformed, "longer than the request", rawValue("\x04\xff")},
	{"length that ends early", csr.CodeMalformed, "ends early", rawValue("\x04\x82\x01")},
	{"value that ends early", csr.CodeMalformed, "longer than what follows", rawValue("\x04\x02a")},
	{"tag without length", csr.CodeMalformed, "ends early", rawValue("\x04")},
	{"length in two bytes for one", csr.CodeMalformed, "shortest", rawValue("\x04\x81\x01a")},
	{"length in three bytes for two", csr.CodeMalformed, "shortest", rawValue("\x04\x82\x00\x80" + strings.Repeat("a", 128))},
	{"12 levels in an attribute", csr.CodeMalformed, "nested too deep", rawValue(string(nested(12)))},
	{"2500 levels", csr.CodeMalformed, "nested too deep", rawValue(string(nested(2500)))},
	{"levels that end nowhere", csr.CodeMalformed, "longer than what follows", func(d *draft) {
		d.setAttributes([]byte(strings.Repeat("\x30\x82\x20\x00", 2000)))
	}},

	{"attribute not a sequence", csr.CodeMalformed, "attribute is not a type and a set", func(d *draft) { d.setAttributes(set(oid("1.2.3"), set(null))) }},
	{"attribute empty", csr.CodeMalformed, "attribute is not a type and a set", func(d *draft) { d.setAttributes(sequence()) }},
	{"attribute without values", csr.CodeMalformed, "attribute is not a type and a set", func(d *draft) { d.setAttributes(sequence(oid("1.2.3"))) }},
	{"attribute with an empty set", csr.CodeMalformed, "attribute is not a type and a set", func(d *draft) { d.setAttributes(sequence(oid("1.2.3"), set())) }},
	{"attribute with a sequence of values", csr.CodeMalformed, "attribute is not a type and a set", func(d *draft) { d.setAttributes(sequence(oid("1.2.3"), sequence(null))) }},
	{"attribute without type", csr.CodeMalformed, "attribute is not a type and a set", func(d *draft) { d.setAttributes(sequence(set(null))) }},
	{"attribute with two sets", csr.CodeMalformed, "attribute is not a type and a set", func(d *draft) { d.setAttributes(sequence(oid("1.2.3"), set(null), set(null))) }},
	{"attribute twice", csr.CodeMalformed, "attribute 1.2.3 stands twice", func(d *draft) { d.setAttributes(attribute("1.2.3", null), attribute("1.2.3", null)) }},
	{"challengePassword twice", csr.CodeMalformed, "attribute 1.2.840.113549.1.9.7 stands twice", func(d *draft) {
		d.setAttributes(attribute("1.2.840.113549.1.9.7", value(0x0c, "a")), attribute("1.2.3", null), attribute("1.2.840.113549.1.9.7", value(0x0c, "b")))
	}},
	{"extensionRequest twice", csr.CodeMalformed, "attribute 1.2.840.113549.1.9.14 stands twice", func(d *draft) {
		a := attribute("1.2.840.113549.1.9.14", sequence(extension("2.5.29.17", false, goodNames())))
		d.setAttributes(a, a)
	}},
	{"65 attributes", csr.CodeMalformed, "more than 64 attributes", func(d *draft) {
		var all [][]byte
		for i := range 65 {
			all = append(all, sequence(value(0x06, "\x2a\x03", string(rune(i))), set(null)))
		}
		d.setAttributes(all...)
	}},
	{"extensionRequest of two lists", csr.CodeMalformed, "not one list", func(d *draft) {
		d.setAttributes(attribute("1.2.840.113549.1.9.14", sequence(extension("2.5.29.17", false, goodNames())), sequence(extension("2.5.29.15", false, nil))))
	}},
	{"extensionRequest of an empty list", csr.CodeMalformed, "not one list", func(d *draft) { d.ask() }},
	{"extensionRequest not a list", csr.CodeMalformed, "not one list", func(d *draft) { d.setAttributes(attribute("1.2.840.113549.1.9.14", null)) }},
	{"extension not a sequence", csr.CodeMalformed, "an extension is not", func(d *draft) { d.ask(set(oid("1.2.3"), value(0x04))) }},
	{"extension empty", csr.CodeMalformed, "an extension is not", func(d *draft) { d.ask(sequence()) }},
	{"extension without value", csr.CodeMalformed, "an extension is not", func(d *draft) { d.ask(sequence(oid("1.2.3"))) }},
	{"extension critical without value", csr.CodeMalformed, "an extension is not", func(d *draft) { d.ask(sequence(oid("1.2.3"), value(0x01, "\xff"))) }},
	{"extension not wrapped", csr.CodeMalformed, "an extension is not", func(d *draft) { d.ask(sequence(oid("2.5.29.17"), goodNames())) }},
	{"extension with two values", csr.CodeMalformed, "an extension is not", func(d *draft) { d.ask(sequence(oid("1.2.3"), value(0x04), value(0x04))) }},
	{"extension that says it is not critical", csr.CodeMalformed, "an extension is not", func(d *draft) {
		d.ask(sequence(oid("2.5.29.17"), value(0x01, "\x00"), value(0x04, string(goodNames()))))
	}},
	{"extension critical twice", csr.CodeMalformed, "an extension is not", func(d *draft) {
		d.ask(sequence(oid("1.2.3"), value(0x01, "\xff"), value(0x01, "\xff"), value(0x04)))
	}},
	{"extension twice", csr.CodeMalformed, "extension 1.2.3 stands twice", func(d *draft) { d.ask(extension("1.2.3", false, nil), extension("1.2.3", true, nil)) }},
	{"names twice", csr.CodeMalformed, "extension 2.5.29.17 stands twice", func(d *draft) {
		d.ask(extension("2.5.29.17", false, goodNames()), extension("2.5.29.15", false, nil), extension("2.5.29.17", false, goodNames()))
	}},
	{"65 extensions", csr.CodeMalformed, "more than 64 extensions", func(d *draft) { d.ask(manyExtensions(65)...) }},
}

// subjectOf is a subject whose CN is this string.
func subjectOf(tag byte, text string) func(*draft) {
	return func(d *draft) { d.subject = sequence(rdn("2.5.4.3", value(tag, text))) }
}

// valueOf is an unknown attribute of this value: nothing looks at it but the rules of DER.
func valueOf(tag byte, contents string) func(*draft) {
	return rawValue(string(value(tag, contents)))
}

func rawValue(der string) func(*draft) {
	return func(d *draft) { d.setAttributes(attribute("1.2.3", []byte(der))) }
}

// keyOf replaces the key by this one, and keeps the signature that the P-256 key makes.
func keyOf(algorithm []byte, bits string) func(*draft) {
	return func(d *draft) { d.spki = sequence(algorithm, value(0x03, "\x00"+bits)) }
}

var (
	ecPublicKey = oid("1.2.840.10045.2.1")
	p256        = sequence(ecPublicKey, oid("1.2.840.10045.3.1.7"))
	p384        = sequence(ecPublicKey, oid("1.3.132.0.34"))
	ed25519ID   = sequence(oid("1.3.101.112"))
	point256    = string(must(ecKey(elliptic.P256()).PublicKey.Bytes()))
	point384    = string(must(ecKey(elliptic.P384()).PublicKey.Bytes()))
)

var keyRows = []row{
	{"key of one part", csr.CodeMalformed, "not an algorithm and a BIT STRING", func(d *draft) { d.spki = sequence(p256) }},
	{"key of three parts", csr.CodeMalformed, "not an algorithm and a BIT STRING", func(d *draft) { d.spki = sequence(p256, value(0x03, "\x00"+point256), null) }},
	{"key in an OCTET STRING", csr.CodeMalformed, "not an algorithm and a BIT STRING", func(d *draft) { d.spki = sequence(p256, value(0x04, point256)) }},
	{"key with unused bits", csr.CodeMalformed, "public key is not a whole number of bytes", func(d *draft) { d.spki = sequence(p256, value(0x03, "\x01"+point256[:64]+"\x00")) }},
	{"key without algorithm", csr.CodeMalformed, "has no type", keyOf(sequence(), point256)},
	{"key with an algorithm of NULL", csr.CodeMalformed, "has no type", keyOf(sequence(null), point256)},

	{"P-224", csr.CodeKey, "curve 1.3.132.0.33 is not", func(d *draft) { d.signAs(ecKey(elliptic.P224())) }},
	{"P-521", csr.CodeKey, "curve 1.3.132.0.35 is not", func(d *draft) { d.signAs(ecKey(elliptic.P521())) }},
	{"secp256k1", csr.CodeKey, "curve 1.3.132.0.10 is not", keyOf(sequence(ecPublicKey, oid("1.3.132.0.10")), point256)},
	{"brainpoolP256r1", csr.CodeKey, "curve 1.3.36.3.3.2.8.1.1.7 is not", keyOf(sequence(ecPublicKey, oid("1.3.36.3.3.2.8.1.1.7")), point256)},
	{"explicit curve", csr.CodeKey, "not given by its name", keyOf(sequence(ecPublicKey, explicitP256()), point256)},
	{"curve of NULL", csr.CodeKey, "not given by its name", keyOf(sequence(ecPublicKey, null), point256)},
	{"no curve", csr.CodeKey, "not given by its name", keyOf(sequence(ecPublicKey), point256)},
	{"two curves", csr.CodeKey, "not given by its name", keyOf(sequence(ecPublicKey, oid("1.2.840.10045.3.1.7"), oid("1.2.840.10045.3.1.7")), point256)},
	{"ecDH", csr.CodeKey, "algorithm 1.3.132.1.12", keyOf(sequence(oid("1.3.132.1.12"), oid("1.2.840.10045.3.1.7")), point256)},
	{"infinity on P-256", csr.CodeKey, "infinity", keyOf(p256, "\x00")},
	{"infinity on P-384", csr.CodeKey, "infinity", keyOf(p384, "\x00")},
	{"zeros on P-256", csr.CodeKey, "no point of its curve", keyOf(p256, "\x04"+strings.Repeat("\x00", 64))},
	{"compressed, even", csr.CodeKey, "compressed", keyOf(p256, "\x02"+point256[1:33])},
	{"compressed, odd", csr.CodeKey, "compressed", keyOf(p384, "\x03"+point384[1:49])},
	{"hybrid", csr.CodeKey, "no point of its curve", keyOf(p256, "\x06"+point256[1:])},
	{"no point", csr.CodeKey, "no point of its curve", keyOf(p256, "")},
	{"no coordinates", csr.CodeKey, "no point of its curve", keyOf(p256, "\x04")},
	{"one byte less", csr.CodeKey, "no point of its curve", keyOf(p256, point256[:64])},
	{"one byte more", csr.CodeKey, "no point of its curve", keyOf(p256, point256+"\x00")},
	{"off P-256", csr.CodeKey, "no point of its curve", keyOf(p256, point256[:64]+string(point256[64]^1))},
	{"off P-384", csr.CodeKey, "no point of its curve", keyOf(p384, point384[:96]+string(rune(point384[96]&0x7f^1)))},
	{"x above the prime", csr.CodeKey, "no point of its curve", keyOf(p256, "\x04"+strings.Repeat("\xff", 32)+point256[33:])},
	{"P-384's point as P-256", csr.CodeKey, "no point of its curve", keyOf(p256, point384)},
	{"P-256's point as P-384", csr.CodeKey, "no point of its curve", keyOf(p384, point256)},
	{"scalar 1 on P-256", csr.CodeKey, "small number", func(d *draft) { d.signAs(scalarKey(elliptic.P256(), big.NewInt(1))) }},
	{"scalar 255 on P-256", csr.CodeKey, "small number", func(d *draft) { d.signAs(scalarKey(elliptic.P256(), big.NewInt(255))) }},
	{"scalar -2 on P-256", csr.CodeKey, "small number", func(d *draft) {
		d.signAs(scalarKey(elliptic.P256(), new(big.Int).Sub(elliptic.P256().Params().N, big.NewInt(2))))
	}},
	{"scalar 3 on P-384", csr.CodeKey, "small number", func(d *draft) { d.signAs(scalarKey(elliptic.P384(), big.NewInt(3))) }},

	{"Ed25519 with NULL", csr.CodeKey, "algorithm 1.3.101.112, or with such parameters", keyOf(sequence(oid("1.3.101.112"), null), strings.Repeat("\x09", 32))},
	{"Ed25519 of 31 bytes", csr.CodeKey, "32 bytes", keyOf(ed25519ID, strings.Repeat("\x09", 31))},
	{"Ed25519 of 33 bytes", csr.CodeKey, "32 bytes", keyOf(ed25519ID, strings.Repeat("\x09", 33))},
	{"Ed25519 empty", csr.CodeKey, "32 bytes", keyOf(ed25519ID, "")},
	{"Ed25519 of y = p", csr.CodeKey, "canonical", keyOf(ed25519ID, "\xed"+strings.Repeat("\xff", 30)+"\x7f")},
	{"Ed25519 of y = 2^255-1, x odd", csr.CodeKey, "canonical", keyOf(ed25519ID, strings.Repeat("\xff", 32))},
	{"Ed448", csr.CodeKey, "algorithm 1.3.101.113", keyOf(sequence(oid("1.3.101.113")), strings.Repeat("\x09", 57))},
	{"X25519", csr.CodeKey, "algorithm 1.3.101.110", keyOf(sequence(oid("1.3.101.110")), strings.Repeat("\x09", 32))},
	{"DSA", csr.CodeKey, "algorithm 1.2.840.10040.4.1", keyOf(sequence(oid("1.2.840.10040.4.1"), sequence(value(0x02, "\x05"), value(0x02, "\x05"), value(0x02, "\x05"))), "\x02\x01\x05")},
	{"Diffie-Hellman", csr.CodeKey, "algorithm 1.2.840.10046.2.1", keyOf(sequence(oid("1.2.840.10046.2.1")), "\x02\x01\x05")},
	{"ML-DSA-44", csr.CodeKey, "algorithm 2.16.840.1.101.3.4.3.17", keyOf(sequence(oid("2.16.840.1.101.3.4.3.17")), strings.Repeat("\x09", 1312))},
	{"GOST R 34.10", csr.CodeKey, "algorithm 1.2.643.7.1.1.1.1", keyOf(sequence(oid("1.2.643.7.1.1.1.1")), strings.Repeat("\x09", 64))},
	{"an unknown algorithm", csr.CodeKey, "algorithm 1.2.3", keyOf(sequence(oid("1.2.3")), point256)},
}

// explicitP256 is P-256 by its numbers (RFC 3279, section 2.3.5), as openssl -param_enc explicit writes it.
func explicitP256() []byte {
	c := elliptic.P256().Params()
	number := func(n *big.Int) string { return string(n.FillBytes(make([]byte, 32))) }
	prime := value(0x02, "\x00"+number(c.P))
	a := number(new(big.Int).Sub(c.P, big.NewInt(3)))
	return sequence(value(0x02, "\x01"), sequence(oid("1.2.840.10045.1.1"), prime),
		sequence(value(0x04, a), value(0x04, number(c.B))), value(0x04, "\x04"+number(c.Gx)+number(c.Gy)),
		value(0x02, "\x00"+number(c.N)), value(0x02, "\x01"))
}

// rsaOf is a request that is signed with this key.
func rsaOf(e int64, factors ...*big.Int) func(*draft) {
	return func(d *draft) { d.signRaw(rsaKey(e, factors...)) }
}

// rsaBits is an RSA key of these bits, signed by the P-256 key.
func rsaBits(bits string) func(*draft) {
	return keyOf(sequence(oid("1.2.840.113549.1.1.1"), null), bits)
}

// exponent is a key of 2048 bits with this exponent, as it is encoded.
func exponent(e string) func(*draft) {
	return func(d *draft) {
		n := rsaKey(65537, prime("a1024"), prime("b1024")).n
		rsaBits(string(sequence(value(0x02, "\x00"+string(n.Bytes())), value(0x02, e))))(d)
	}
}

var big1 = big.NewInt(1)

var rsaRows = []row{
	{"RSA-512", csr.CodeKey, "512 bits is not 2048", rsaOf(65537, prime("a512"))},
	{"RSA-1024", csr.CodeKey, "1024 bits is not 2048", rsaOf(65537, prime("a512"), prime("b512"))},
	{"RSA-1536", csr.CodeKey, "1536 bits is not 2048", rsaOf(65537, prime("a1024"), prime("b512"))},
	{"RSA-2047", csr.CodeKey, "2047 bits is not 2048", rsaOf(65537, prime("a1024"), prime("b1023"))},
	{"RSA-2049", csr.CodeKey, "2049 bits is not 2048", rsaBits(string(sequence(value(0x02, "\x01"+strings.Repeat("\xff", 256)), value(0x02, "\x01\x00\x01"))))},
	{"RSA-2560", csr.CodeKey, "2560 bits is not 2048", rsaOf(65537, prime("a1024"), prime("b1536"))},
	{"RSA-4097", csr.CodeKey, "4097 bits is not 2048", rsaBits(string(sequence(value(0x02, "\x01"+strings.Repeat("\xff", 512)), value(0x02, "\x01\x00\x01"))))},
	{"RSA-8192", csr.CodeKey, "more than 4096 bits", rsaBits(string(sequence(value(0x02, "\x00"+strings.Repeat("\xff", 1024)), value(0x02, "\x01\x00\x01"))))},
	{"RSA-16384", csr.CodeKey, "more than 4096 bits", rsaBits(string(sequence(value(0x02, "\x00"+strings.Repeat("\xff", 2048)), value(0x02, "\x01\x00\x01"))))},
	{"RSA-65536", csr.CodeKey, "more than 4096 bits", rsaBits(string(sequence(value(0x02, "\x00"+strings.Repeat("\xff", 8192)), value(0x02, "\x01\x00\x01"))))},
	{"modulus 0", csr.CodeKey, "0 bits is not 2048", rsaBits(string(sequence(value(0x02, "\x00"), value(0x02, "\x01\x00\x01"))))},
	{"modulus 1", csr.CodeKey, "1 bits is not 2048", rsaBits(string(sequence(value(0x02, "\x01"), value(0x02, "\x01\x00\x01"))))},
	{"modulus negative", csr.CodeKey, "negative", rsaBits(string(sequence(value(0x02, strings.Repeat("\xaa", 256)), value(0x02, "\x01\x00\x01"))))},
	{"modulus padded", csr.CodeMalformed, "RSA key is not strict DER", rsaBits(string(sequence(value(0x02, "\x00\x00"+strings.Repeat("\xff", 256)), value(0x02, "\x01\x00\x01"))))},
	{"no exponent", csr.CodeMalformed, "not a modulus and an exponent", rsaBits(string(sequence(value(0x02, "\x05"))))},
	{"a third number", csr.CodeMalformed, "not a modulus and an exponent", rsaBits(string(sequence(value(0x02, "\x05"), value(0x02, "\x05"), value(0x02, "\x05"))))},
	{"bytes after it", csr.CodeMalformed, "not a modulus and an exponent", rsaBits(string(sequence(value(0x02, "\x05"), value(0x02, "\x05"))) + "\x05\x00")},
	{"a set", csr.CodeMalformed, "not a modulus and an exponent", rsaBits(string(set(value(0x02, "\x05"), value(0x02, "\x05"))))},
	{"nothing in it", csr.CodeMalformed, "not a modulus and an exponent", rsaBits("")},
	{"BER in it", csr.CodeMalformed, "RSA key is not strict DER: at byte 0 a length is indefinite", rsaBits("\x30\x80\x02\x01\x05\x02\x01\x05\x00\x00")},
	{"e = 1", csr.CodeKey, "not 65537", rsaOf(1, prime("a1024"), prime("b1024"))},
	{"e = 3", csr.CodeKey, "not 65537", rsaOf(3, prime("a1024"), prime("b1024"))},
	{"e = 65539", csr.CodeKey, "not 65537", exponent("\x01\x00\x03")},
	{"e = 65536", csr.CodeKey, "not 65537", exponent("\x01\x00\x00")},
	{"e = 0", csr.CodeKey, "not 65537", exponent("\x00")},
	{"e = 2", csr.CodeKey, "not 65537", exponent("\x02")},
	{"e = 257", csr.CodeKey, "not 65537", exponent("\x01\x01")},
	{"e = -1", csr.CodeKey, "not 65537", exponent("\xff")},
	{"e = 2^32+1", csr.CodeKey, "not 65537", exponent("\x01\x00\x00\x00\x01")},
	{"e = 2^64+65537", csr.CodeKey, "not 65537", exponent("\x01\x00\x00\x00\x00\x00\x01\x00\x01")},
	{"e of 2048 bits", csr.CodeKey, "not 65537", exponent("\x7f" + strings.Repeat("\xff", 255))},
	{"rsaEncryption without NULL", csr.CodeKey, "or with such parameters", keyOf(sequence(oid("1.2.840.113549.1.1.1")), "")},
	{"rsaEncryption with an OID", csr.CodeKey, "or with such parameters", keyOf(sequence(oid("1.2.840.113549.1.1.1"), oid("1.2.3")), "")},
	{"an RSASSA-PSS key", csr.CodeKey, "algorithm 1.2.840.113549.1.1.10", keyOf(sequence(oid("1.2.840.113549.1.1.10")), "")},

	{"even", csr.CodeKey, "a multiple of 2:", rsaOf(65537, big.NewInt(2), prime("half2047"))},
	{"a multiple of 3", csr.CodeKey, "a multiple of 3:", rsaOf(65537, big.NewInt(3), prime("cofactor3"))},
	{"a multiple of 751", csr.CodeKey, "a multiple of 751:", rsaOf(65537, big.NewInt(751), prime("cofactor751"))},
	{"ROCA", csr.CodeKey, "CVE-2017-15361", rsaOf(65537, prime("rocax"), prime("rocay"))},
	{"neighbours", csr.CodeKey, "so close", rsaOf(65537, prime("a1024"), prime("next1024"))},
	{"105 rounds apart", csr.CodeKey, "so close", rsaOf(65537, prime("a1024"), prime("fermat105"))},
	{"a square", csr.CodeKey, "so close", rsaOf(65537, power(prime("a1024"), 2)...)},
	{"a fourth power", csr.CodeKey, "so close", rsaOf(65537, power(prime("a512"), 4)...)},
	{"a square of 4096 bits", csr.CodeKey, "so close", rsaOf(65537, power(prime("b2048"), 2)...)},
	{"a cube", csr.CodeKey, "a power of a number", rsaOf(65537, power(prime("root3"), 3)...)},
	{"a fifth power", csr.CodeKey, "a power of a number", rsaOf(65537, power(prime("root5"), 5)...)},
	{"a seventh power", csr.CodeKey, "a power of a number", rsaOf(65537, power(prime("root7"), 7)...)},
	{"the 199th power of 1249", csr.CodeKey, "a power of a number", rsaOf(65537, power(big.NewInt(1249), 199)...)},
}

var nameRows = []row{
	{"NUL", csr.CodeName, "alternative name 1, a dNSName, holds a NUL", named("pgadmin\x00.evil")},
	{"NUL alone", csr.CodeName, "holds a NUL", named("\x00")},
	{"NUL at the end", csr.CodeName, "holds a NUL", named("pgadmin\x00")},
	{"empty", csr.CodeName, "is empty", named("")},
	{"two dots", csr.CodeName, "is not labels", named("..")},
	{"a dot", csr.CodeName, "is not labels", named(".")},
	{"leading dot", csr.CodeName, "is not labels", named(".pgadmin")},
	{"trailing dot", csr.CodeName, "is not labels", named("pgadmin.")},
	{"empty label", csr.CodeName, "is not labels", named("a..b")},
	{"label of 64", csr.CodeName, "is not labels", named(strings.Repeat("a", 64))},
	{"name of 254", csr.CodeName, "has 254 bytes", named(strings.Repeat("a.", 126) + "aa")},
	{"name of 363", csr.CodeName, "has 363 bytes", named(strings.Repeat("abcdefgh.", 40) + "com")},
	{"leading hyphen", csr.CodeName, "is not labels", named("-a")},
	{"trailing hyphen", csr.CodeName, "is not labels", named("a-.b")},
	{"space", csr.CodeName, "is not labels", named("pg admin")},
	{"space alone", csr.CodeName, "is not labels", named(" ")},
	{"space at the end", csr.CodeName, "is not labels", named("pgadmin ")},
	{"underscore", csr.CodeName, "is not labels", named("pg_admin")},
	{"line end", csr.CodeName, "is not labels", named("pgadmin\r\nx: y")},
	{"a URL", csr.CodeName, "is not labels", named("https://pgadmin/")},
	{"an e-mail address", csr.CodeName, "is not labels", named("root@pgadmin")},
	{"a port", csr.CodeName, "is not labels", named("pgadmin:443")},
	{"percent", csr.CodeName, "is not labels", named("pg%61dmin")},
	{"DEL", csr.CodeName, "is not labels", named("a\x7f")},
	{"a shell's words", csr.CodeName, "is not labels", named("$(id)")},
	{"markup", csr.CodeName, "is not labels", named("<script>")},
	{"quote", csr.CodeName, "is not labels", named(`a"b`)},
	{"U-label", csr.CodeName, "A-label", named("müller.example")},
	{"Latin-1", csr.CodeName, "A-label", named("m\xfcller")},
	{"Cyrillic а", csr.CodeName, "A-label", named("pg\u0430dmin")},
	{"Kelvin sign", csr.CodeName, "A-label", named("\u212a")},
	{"wildcard", csr.CodeName, "wildcard", named("*.svc")},
	{"wildcard alone", csr.CodeName, "wildcard", named("*")},
	{"wildcard of all services", csr.CodeName, "wildcard", named("*.svc.cluster.local")},
	{"wildcard in the middle", csr.CodeName, "wildcard", named("a.*.svc")},
	{"wildcard in a label", csr.CodeName, "wildcard", named("pg*")},
	{"IPv4 as a name", csr.CodeName, "ask for it as an iPAddress", named("10.0.0.1")},
	{"IPv6 as a name", csr.CodeName, "ask for it as an iPAddress", named("fd00::1")},
	{"the third one", csr.CodeName, "alternative name 3, a dNSName, is empty", func(d *draft) { d.name(dns("a"), dns("b"), dns("")) }},

	{"no bytes", csr.CodeName, "iPAddress, has 0 bytes", address("")},
	{"3 bytes", csr.CodeName, "has 3 bytes", address("\x0a\x00\x00")},
	{"5 bytes", csr.CodeName, "has 5 bytes", address("\x0a\x00\x00\x01\x00")},
	{"a subnet", csr.CodeName, "has 8 bytes", address("\x0a\x00\x00\x00\xff\x00\x00\x00")},
	{"text", csr.CodeName, "has 8 bytes", address("10.0.0.1")},
	{"15 bytes", csr.CodeName, "has 15 bytes", address(strings.Repeat("\x01", 15))},
	{"17 bytes", csr.CodeName, "has 17 bytes", address(strings.Repeat("\x01", 17))},
	{"a subnet of IPv6", csr.CodeName, "has 32 bytes", address(strings.Repeat("\xff", 32))},
	{"0.0.0.0", csr.CodeName, "unspecified", address("\x00\x00\x00\x00")},
	{"::", csr.CodeName, "unspecified", address(strings.Repeat("\x00", 16))},
	{"0.0.0.0 in IPv6", csr.CodeName, "unspecified", address(strings.Repeat("\x00", 10) + "\xff\xff\x00\x00\x00\x00")},
	{"multicast", csr.CodeName, "multicast", address("\xe0\x00\x00\x01")},
	{"multicast of IPv6", csr.CodeName, "multicast", address("\xff\x02" + strings.Repeat("\x00", 13) + "\x01")},

	{"URI empty", csr.CodeName, "uniformResourceIdentifier, is empty", identity("")},
	{"URI with NUL", csr.CodeName, "holds a NUL", identity(goodURI + "\x00")},
	{"URI relative", csr.CodeName, "not an absolute URI", identity("/ns/a/svc/b")},
	{"URI without scheme", csr.CodeName, "not an absolute URI", identity("//mesh.local/ns/a")},
	{"URI with a space", csr.CodeName, "not an absolute URI", identity("https://a/ b")},
	{"URI with a line end", csr.CodeName, "not an absolute URI", identity(goodURI + "\n")},
	{"URI with DEL", csr.CodeName, "not an absolute URI", identity("https://a/\x7f")},
	{"URI with a bad escape", csr.CodeName, "not an absolute URI", identity("https://a/%zz")},
	{"URI of a bad port", csr.CodeName, "not an absolute URI", identity("https://a:b/")},
	{"URI not ASCII", csr.CodeName, "A-label", identity("spiffe://mesh.local/ns/ä")},
	{"SPIFFE without trust domain", csr.CodeName, "not a SPIFFE ID", identity("spiffe:///ns/a/svc/b")},
	{"SPIFFE opaque", csr.CodeName, "not a SPIFFE ID", identity("spiffe:mesh.local")},
	{"SPIFFE one slash", csr.CodeName, "not a SPIFFE ID", identity("spiffe:/mesh.local/ns")},
	{"SPIFFE in upper case", csr.CodeName, "not a SPIFFE ID", identity("SPIFFE://mesh.local/ns/a/svc/b")},
	{"SPIFFE trust domain in upper case", csr.CodeName, "not a SPIFFE ID", identity("spiffe://Mesh.local/ns/a/svc/b")},
	{"SPIFFE trust domain of 256", csr.CodeName, "not a SPIFFE ID", identity("spiffe://" + strings.Repeat("a", 256) + "/b")},
	{"SPIFFE port", csr.CodeName, "not a SPIFFE ID", identity("spiffe://mesh.local:443/ns/a")},
	{"SPIFFE user", csr.CodeName, "not a SPIFFE ID", identity("spiffe://a@mesh.local/ns/a")},
	{"SPIFFE query", csr.CodeName, "not a SPIFFE ID", identity("spiffe://mesh.local/ns/a?b=c")},
	{"SPIFFE empty query", csr.CodeName, "not a SPIFFE ID", identity("spiffe://mesh.local/ns/a?")},
	{"SPIFFE fragment", csr.CodeName, "not a SPIFFE ID", identity("spiffe://mesh.local/ns/a#b")},
	{"SPIFFE parent", csr.CodeName, "not a SPIFFE ID", identity("spiffe://mesh.local/ns/../svc/b")},
	{"SPIFFE dot", csr.CodeName, "not a SPIFFE ID", identity("spiffe://mesh.local/./svc/b")},
	{"SPIFFE empty segment", csr.CodeName, "not a SPIFFE ID", identity("spiffe://mesh.local/ns//svc")},
	{"SPIFFE slash at the end", csr.CodeName, "not a SPIFFE ID", identity(goodURI + "/")},
	{"SPIFFE root path", csr.CodeName, "not a SPIFFE ID", identity("spiffe://mesh.local/")},
	{"SPIFFE escape", csr.CodeName, "not a SPIFFE ID", identity("spiffe://mesh.local/ns/%61")},
	{"SPIFFE IP address in brackets", csr.CodeName, "not a SPIFFE ID", identity("spiffe://[fd00::1]/ns/a")},
	{"SPIFFE of 2049", csr.CodeName, "has 2049 bytes", identity("spiffe://a/" + strings.Repeat("b", 2049-11))},

	{"e-mail empty", csr.CodeName, "rfc822Name, is empty", func(d *draft) { d.name(value(0x81)) }},
	{"e-mail with NUL", csr.CodeName, "rfc822Name, holds a NUL", func(d *draft) { d.name(value(0x81, "a\x00@b")) }},
	{"e-mail not ASCII", csr.CodeName, "rfc822Name, holds other than ASCII", func(d *draft) { d.name(value(0x81, "ä@b")) }},
	{"102 names", csr.CodeName, "more than 101 alternative names", func(d *draft) { d.name(slices.Repeat([][]byte{dns("a")}, 102)...) }},
	{"1000 names", csr.CodeName, "more than 101 alternative names", func(d *draft) { d.name(slices.Repeat([][]byte{dns("a")}, 1000)...) }},

	{"no names", csr.CodeMalformed, "names are not one list", func(d *draft) { d.name() }},
	{"no list of names", csr.CodeMalformed, "names are not one list", extended("")},
	{"a name without list", csr.CodeMalformed, "names are not one list", extended(string(dns("a")))},
	{"a set of names", csr.CodeMalformed, "names are not one list", extended(string(set(dns("a"))))},
	{"two lists of names", csr.CodeMalformed, "names are not one list", extended(string(sequence(dns("a"))) + string(sequence(dns("b"))))},
	{"bytes after the names", csr.CodeMalformed, "names are not strict DER", extended(string(goodNames()) + "\x00")},
	{"names of indefinite length", csr.CodeMalformed, "names are not strict DER: at byte 0 a length is indefinite", extended("\x30\x80\x82\x01a\x00\x00")},
	{"names with a long length", csr.CodeMalformed, "names are not strict DER: at byte 2 a length is not in its shortest form", extended(string(sequence([]byte("\x82\x81\x01a"))))},
	{"names that end early", csr.CodeMalformed, "names are not strict DER", extended(string(goodNames()[:20]))},
	{"a name of another class", csr.CodeMalformed, "name 1 is of no known kind", func(d *draft) { d.name(value(0x42, "a")) }},
	{"a UTF8String as a name", csr.CodeMalformed, "name 2 is of no known kind", func(d *draft) { d.name(dns("a"), value(0x0c, "a")) }},
	{"a name in pieces", csr.CodeMalformed, "name 1 is of no known kind", func(d *draft) { d.name(value(0xa2, string(value(0x16, "a")))) }},
	{"a name of tag 9", csr.CodeMalformed, "name 1 is of no known kind", func(d *draft) { d.name(value(0x89, "a")) }},
	{"a directoryName that is primitive", csr.CodeMalformed, "name 1 is of no known kind", func(d *draft) { d.name(value(0x84, string(sequence()))) }},
	{"an otherName with BER", csr.CodeMalformed, "names are not strict DER", func(d *draft) { d.name(value(0xa0, "\x06\x81\x01\x2a")) }},
	{"an otherName with NUL", csr.CodeMalformed, "NUL", func(d *draft) {
		d.name(value(0xa0, string(oid("1.2.3")), string(value(0xa0, string(value(0x0c, "a\x00"))))))
	}},
	{"an otherName too deep", csr.CodeMalformed, "nested too deep", func(d *draft) { d.name(value(0xa0, string(nested(16)))) }},
}

func named(name string) func(*draft)    { return func(d *draft) { d.name(dns(name)) } }
func address(a string) func(*draft)     { return func(d *draft) { d.name(ip(a)) } }
func identity(text string) func(*draft) { return func(d *draft) { d.name(uri(text)) } }

// extended is the alternative names' extension with this value.
func extended(contents string) func(*draft) {
	return func(d *draft) { d.ask(extension("2.5.29.17", false, []byte(contents))) }
}

// signedBy replaces the signature by these bytes.
func signedBy(s string) func(*draft) {
	return func(d *draft) { d.sign = func([]byte) []byte { return []byte(s) } }
}

// algorithmOf names another algorithm, and keeps the signature.
func algorithmOf(elements ...[]byte) func(*draft) {
	return func(d *draft) { d.algorithm = sequence(elements...) }
}

// rsaProof is a good RSA request, changed.
func rsaProof(change func(*draft)) func(*draft) {
	return func(d *draft) {
		d.signRaw(rsaKey(65537, prime("a1024"), prime("b1024")))
		change(d)
	}
}

// number is an INTEGER of DER.
func number(n *big.Int) []byte {
	b := n.Bytes()
	if len(b) == 0 || b[0] >= 0x80 {
		b = append([]byte{0}, b...)
	}
	return value(0x02, string(b))
}

const (
	notAccepted = "algorithm of the signature is not accepted"
	notOwn      = "not that of the request's own key"
)

var proofRows = []row{
	{"another key's", csr.CodeProof, notOwn, func(d *draft) {
		d.signWith(scalarKey(elliptic.P256(), big.NewInt(1000)), x509.ECDSAWithSHA256)
	}},
	{"of another request", csr.CodeProof, notOwn, func(d *draft) {
		s := d.sign(d.info())
		d.subject = value(0x30)
		d.sign = func([]byte) []byte { return s }
	}},
	{"of another hash", csr.CodeProof, notOwn, func(d *draft) {
		d.signWith(ecKey(elliptic.P256()), x509.ECDSAWithSHA384)
		d.algorithm = signatures[x509.ECDSAWithSHA256].identifier
	}},
	{"empty", csr.CodeProof, notOwn, signedBy("")},
	{"zeros", csr.CodeProof, notOwn, signedBy(string(sequence(number(new(big.Int)), number(new(big.Int)))))},
	{"r = 0", csr.CodeProof, notOwn, signedBy(string(sequence(number(new(big.Int)), number(big1))))},
	{"s = 0", csr.CodeProof, notOwn, signedBy(string(sequence(number(big1), number(new(big.Int)))))},
	{"r = s = n", csr.CodeProof, notOwn, signedBy(string(sequence(number(elliptic.P256().Params().N), number(elliptic.P256().Params().N))))},
	{"r = s = p", csr.CodeProof, notOwn, signedBy(string(sequence(number(elliptic.P256().Params().P), number(elliptic.P256().Params().P))))},
	{"no DER", csr.CodeProof, notOwn, signedBy(strings.Repeat("\x01", 64))},
	{"bytes after it", csr.CodeProof, notOwn, func(d *draft) { s := d.sign; d.sign = func(b []byte) []byte { return append(s(b), 0) } }},
	{"not whole bytes", csr.CodeMalformed, "signature is not a whole number of bytes", func(d *draft) {
		s := d.sign
		d.unusedBits, d.sign = 1, func(b []byte) []byte { return append(s(b), 0) }
	}},
	{"ECDSA with SHA-1", csr.CodeProof, notAccepted, func(d *draft) { d.signWith(ecKey(elliptic.P256()), x509.ECDSAWithSHA1) }},
	{"ECDSA with SHA-224", csr.CodeProof, notAccepted, algorithmOf(oid("1.2.840.10045.4.3.1"))},
	{"ECDSA with SHA3-256", csr.CodeProof, notAccepted, algorithmOf(oid("2.16.840.1.101.3.4.3.10"))},
	{"ECDSA with NULL", csr.CodeProof, notAccepted, algorithmOf(oid("1.2.840.10045.4.3.2"), null)},
	{"ECDSA as RSA", csr.CodeProof, notOwn, algorithmOf(oid("1.2.840.113549.1.1.11"), null)},
	{"ECDSA as PSS", csr.CodeProof, notOwn, func(d *draft) { d.algorithm = signatures[x509.SHA256WithRSAPSS].identifier }},
	{"ECDSA as Ed25519", csr.CodeProof, notOwn, algorithmOf(oid("1.3.101.112"))},
	{"Ed25519 as ECDSA", csr.CodeProof, notOwn, func(d *draft) { d.signAs(edKey()); d.algorithm = sequence(oid("1.2.840.10045.4.3.2")) }},
	{"Ed25519 as RSA", csr.CodeProof, notOwn, func(d *draft) { d.signAs(edKey()); d.algorithm = sequence(oid("1.2.840.113549.1.1.11"), null) }},
	{"Ed25519 over a hash, as ECDSA", csr.CodeProof, notOwn, func(d *draft) {
		d.signAs(edKey())
		d.algorithm = sequence(oid("1.2.840.10045.4.3.2"))
		d.sign = func(info []byte) []byte {
			digest := sha256.Sum256(info)
			return ed25519.Sign(edKey(), digest[:])
		}
	}},
	{"Ed25519 with NULL", csr.CodeProof, notAccepted, func(d *draft) { d.signAs(edKey()); d.algorithm = sequence(oid("1.3.101.112"), null) }},
	{"Ed25519 of 63 bytes", csr.CodeProof, notOwn, func(d *draft) { d.signAs(edKey()); s := d.sign; d.sign = func(b []byte) []byte { return s(b)[:63] } }},
	{"Ed25519 of a y without point", csr.CodeProof, notOwn, func(d *draft) {
		d.signAs(edKey())
		d.spki = sequence(ed25519ID, value(0x03, "\x00\x02"+strings.Repeat("\x00", 31)))
	}},
	{"Ed448", csr.CodeProof, notAccepted, algorithmOf(oid("1.3.101.113"))},
	{"no algorithm", csr.CodeProof, notAccepted, algorithmOf()},
	{"algorithm of NULL", csr.CodeProof, notAccepted, algorithmOf(null)},
	{"key's type as algorithm", csr.CodeProof, notAccepted, algorithmOf(ecPublicKey)},
	{"DSA with SHA-256", csr.CodeProof, notAccepted, algorithmOf(oid("2.16.840.1.101.3.4.3.2"))},
	{"no signature, as of RFC 4211", csr.CodeProof, notAccepted, algorithmOf(oid("1.3.6.1.5.5.7.6.2"), null)},
	{"MD5", csr.CodeProof, notAccepted, func(d *draft) { d.algorithm = signatures[x509.MD5WithRSA].identifier }},
	{"MD2", csr.CodeProof, notAccepted, algorithmOf(oid("1.2.840.113549.1.1.2"), null)},
	{"RSA with SHA-1", csr.CodeProof, notAccepted, rsaProof(func(d *draft) { d.algorithm = signatures[x509.SHA1WithRSA].identifier })},
	{"RSA with SHA-224", csr.CodeProof, notAccepted, rsaProof(algorithmOf(oid("1.2.840.113549.1.1.14"), null))},
	{"RSA with SHA-256 and an OID", csr.CodeProof, notAccepted, rsaProof(algorithmOf(oid("1.2.840.113549.1.1.11"), oid("1.2.3")))},
	{"RSA as SHA-384", csr.CodeProof, notOwn, rsaProof(algorithmOf(oid("1.2.840.113549.1.1.12"), null))},
	{"RSA as ECDSA", csr.CodeProof, notOwn, rsaProof(algorithmOf(oid("1.2.840.10045.4.3.2")))},
	{"RSA as PSS", csr.CodeProof, notOwn, rsaProof(func(d *draft) { d.algorithm = signatures[x509.SHA256WithRSAPSS].identifier })},
	{"RSA as Ed25519", csr.CodeProof, notOwn, rsaProof(algorithmOf(oid("1.3.101.112")))},
	{"RSA, zeros", csr.CodeProof, notOwn, rsaProof(signedBy(strings.Repeat("\x00", 256)))},
	{"RSA, one", csr.CodeProof, notOwn, rsaProof(signedBy(strings.Repeat("\x00", 255) + "\x01"))},
	{"RSA, above the modulus", csr.CodeProof, notOwn, rsaProof(signedBy(strings.Repeat("\xff", 256)))},
	{"RSA, short", csr.CodeProof, notOwn, rsaProof(func(d *draft) { s := d.sign; d.sign = func(b []byte) []byte { return s(b)[1:] } })},
	{"RSA, long", csr.CodeProof, notOwn, rsaProof(func(d *draft) { s := d.sign; d.sign = func(b []byte) []byte { return append([]byte{0}, s(b)...) } })},
	{"PSS without parameters", csr.CodeProof, notAccepted, rsaProof(algorithmOf(oid("1.2.840.113549.1.1.10")))},
	{"PSS of SHA-1, by default", csr.CodeProof, notAccepted, rsaProof(algorithmOf(oid("1.2.840.113549.1.1.10"), sequence()))},
	{"PSS with a salt of 0", csr.CodeProof, notAccepted, rsaProof(func(d *draft) { d.algorithm = pss("2.16.840.1.101.3.4.2.1", 5, 0).identifier })},
	{"PSS with a salt of 222, openssl's default", csr.CodeProof, notAccepted, rsaProof(func(d *draft) { d.algorithm = pss("2.16.840.1.101.3.4.2.1", 5, 222).identifier })},
	{"PSS of SHA-224", csr.CodeProof, notAccepted, rsaProof(func(d *draft) { d.algorithm = pss("2.16.840.1.101.3.4.2.4", 4, 28).identifier })},
	{"PSS with MGF1 of SHA-1", csr.CodeProof, notAccepted, rsaProof(func(d *draft) {
		hash := func(id string) string { return string(sequence(oid(id), null)) }
		d.algorithm = sequence(oid("1.2.840.113549.1.1.10"), sequence(value(0xa0, hash("2.16.840.1.101.3.4.2.1")),
			value(0xa1, string(sequence(oid("1.2.840.113549.1.1.8"), []byte(hash("1.3.14.3.2.26"))))), value(0xa2, "\x02\x01\x20")))
	})},
}

// TestRefusedTexts: what is wrong before any ASN.1.
func TestRefusedTexts(t *testing.T) {
	for _, r := range textRows() {
		t.Run(r.name, func(t *testing.T) { refused(t, []byte(r.text), r.code, r.words) })
	}
}

// A textRow is a text that is no request in PEM.
type textRow struct {
	name  string
	code  csr.Code
	words string
	text  string
}

func textRows() []textRow {
	der := newDraft(ecKey(elliptic.P256())).der()
	text := string(pemOf(der))
	labelled := func(label string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
	}
	body := strings.TrimPrefix(strings.TrimSuffix(text, "-----END CERTIFICATE REQUEST-----\n"), "-----BEGIN CERTIFICATE REQUEST-----\n")
	armored := func(body string) string {
		return "-----BEGIN CERTIFICATE REQUEST-----" + body + "-----END CERTIFICATE REQUEST-----\n"
	}
	return []textRow{
		{"16 KiB and a byte", csr.CodeTooLong, "16385 bytes, at most 16384", text + strings.Repeat("\n", csr.MaxBytes+1-len(text))},
		{"16 MiB", csr.CodeTooLong, "at most 16384", strings.Repeat("a", 16<<20)},
		{"a key of 13 kB", csr.CodeTooLong, "at most 16384", string(pemOf(sequence(value(0x30, strings.Repeat("a", 13000)))))},
		{"empty", csr.CodeMalformed, "is empty", ""},
		{"white space", csr.CodeMalformed, "is empty", " \n\t\r\n"},
		{"DER", csr.CodeMalformed, "is DER, not PEM", string(der)},
		{"base64", csr.CodeMalformed, "without its BEGIN and END", body},
		{"base64 without padding", csr.CodeMalformed, "without its BEGIN and END", "MIIB"},
		{"PEM in base64", csr.CodeMalformed, "base64 once more", base64.StdEncoding.EncodeToString([]byte(text))},
		{"a certificate", csr.CodeMalformed, "is a certificate", labelled("CERTIFICATE")},
		{"a private key", csr.CodeMalformed, "private key, which must never leave", labelled("PRIVATE KEY")},
		{"a private key of EC", csr.CodeMalformed, "private key, which must never leave", labelled("EC PRIVATE KEY")},
		{"a private key, encrypted", csr.CodeMalformed, "private key, which must never leave", labelled("ENCRYPTED PRIVATE KEY")},
		{"a public key", csr.CodeMalformed, "without a proof", labelled("PUBLIC KEY")},
		{"another label", csr.CodeMalformed, "not one PEM block", labelled("X509 CRL")},
		{"label in lower case", csr.CodeMalformed, "not one PEM block", strings.ReplaceAll(text, "CERTIFICATE REQUEST", "certificate request")},
		{"label with more space", csr.CodeMalformed, "not one PEM block", strings.ReplaceAll(text, "CERTIFICATE REQUEST", "CERTIFICATE  REQUEST")},
		{"labels that differ", csr.CodeMalformed, "END line of the same label", strings.Replace(text, "END CERT", "END NEW CERT", 1)},
		{"no END", csr.CodeMalformed, "END line of the same label", strings.TrimSuffix(text, "-----END CERTIFICATE REQUEST-----\n")},
		{"END cut", csr.CodeMalformed, "END line of the same label", strings.TrimSuffix(text, "--\n")},
		{"no BEGIN", csr.CodeMalformed, "without its BEGIN", strings.TrimPrefix(text, "-----BEGIN CERTIFICATE REQUEST-----\n")},
		{"BEGIN alone", csr.CodeMalformed, "END line of the same label", "-----BEGIN CERTIFICATE REQUEST-----"},
		{"four dashes", csr.CodeMalformed, "not one PEM block", text[1:]},
		{"six dashes", csr.CodeMalformed, "not one PEM block", "-" + text},
		{"a blank before a line", csr.CodeMalformed, "base64", strings.Replace(text, "\nM", "\n M", 1)},
		{"a blank after BEGIN", csr.CodeMalformed, "lines of their own", strings.Replace(text, "REQUEST-----\n", "REQUEST----- \n", 1)},
		{"two blocks", csr.CodeMalformed, "one block and nothing else", text + text},
		{"two blocks, one another", csr.CodeMalformed, "one block and nothing else", text + labelled("CERTIFICATE")},
		{"another block first", csr.CodeMalformed, "is a certificate", labelled("CERTIFICATE") + text},
		{"text before", csr.CodeMalformed, "nothing before it", "Certificate Request:\n" + text},
		{"text after", csr.CodeMalformed, "one block and nothing else", text + "x"},
		{"NUL after", csr.CodeMalformed, "one block and nothing else", text + "\x00"},
		{"byte order mark", csr.CodeMalformed, "nothing before it", "\ufeff" + text},
		{"UTF-16", csr.CodeMalformed, "not one PEM block", strings.ReplaceAll(text, "", "\x00")},
		{"headers", csr.CodeMalformed, "headers", armored("\nProc-Type: 4,ENCRYPTED\n\n" + body)},
		{"a header", csr.CodeMalformed, "headers", armored("\nComment: x\n" + body)},
		{`\n as two characters`, csr.CodeMalformed, `the two characters \n`, strings.ReplaceAll(text, "\n", `\n`) + "\n"},
		{`\n before END`, csr.CodeMalformed, `the two characters \n`, strings.ReplaceAll(strings.TrimSpace(text), "\n", `\n`)},
		{"no line ends", csr.CodeMalformed, "lines of their own", strings.ReplaceAll(text, "\n", "")},
		{"line ends of old Macs", csr.CodeMalformed, "lines of their own", strings.ReplaceAll(text, "\n", "\r")},
		{"END on the last line", csr.CodeMalformed, "lines of their own", armored("\n" + strings.TrimSpace(body))},
		{"BEGIN on the first line", csr.CodeMalformed, "lines of their own", armored(body)},
		{"nothing in it", csr.CodeMalformed, "not one ASN.1 SEQUENCE", armored("\n")},
		{"nothing but lines in it", csr.CodeMalformed, "not one ASN.1 SEQUENCE", armored("\n\n\n")},
		{"no base64", csr.CodeMalformed, "base64", armored("\n@@@@\n")},
		{"base64 of URLs", csr.CodeMalformed, "base64", armored("\n-_-_\n")},
		{"base64 that ends early", csr.CodeMalformed, "base64", armored("\nMIIBA\n")},
		{"base64 without padding", csr.CodeMalformed, "base64", armored("\nMA\n")},
		{"base64 with bits left over", csr.CodeMalformed, "base64", armored("\nMAB=\n")},
		{"base64 after padding", csr.CodeMalformed, "base64", armored("\nMAA=MAAA\n")},
		{"a blank within a line", csr.CodeMalformed, "base64", armored("\nMA AA\n")},
		{"a checksum of OpenPGP", csr.CodeMalformed, "base64", armored("\n" + body + "=aaaa\n")},
		{"three dashes in a line", csr.CodeMalformed, "base64", armored("\n---\n")},
	}
}

// TestRefusedFrames: what is wrong with what stands around the information.
func TestRefusedFrames(t *testing.T) {
	for _, r := range frameRows() {
		t.Run(r.name, func(t *testing.T) { refused(t, pemOf(r.der), csr.CodeMalformed, r.words) })
	}
}

// A frameRow is what stands around the information, and is wrong.
type frameRow struct {
	name, words string
	der         []byte
}

func frameRows() []frameRow {
	d := newDraft(ecKey(elliptic.P256()))
	info, signature := d.info(), value(0x03, "\x00"+string(d.sign(d.info())))
	return []frameRow{
		{"bytes after it", "not strict DER", append(d.der(), 0)},
		{"a value after it", "not one ASN.1 SEQUENCE with nothing after", append(d.der(), null...)},
		{"twice", "not one ASN.1 SEQUENCE with nothing after", bytes.Repeat(d.der(), 2)},
		{"a byte less", "longer than what follows it", d.der()[:len(d.der())-1]},
		{"a set", "not one ASN.1 SEQUENCE", set(info, d.algorithm, signature)},
		{"an INTEGER", "not one ASN.1 SEQUENCE", value(0x02, "\x05")},
		{"empty", "information, algorithm and signature", sequence()},
		{"no signature", "information, algorithm and signature", sequence(info, d.algorithm)},
		{"no algorithm", "information, algorithm and signature", sequence(info, signature)},
		{"information alone", "information, algorithm and signature", info},
		{"a fourth part", "information, algorithm and signature", sequence(info, d.algorithm, signature, null)},
		{"another order", "information, algorithm and signature", sequence(info, signature, d.algorithm)},
		{"signature in an OCTET STRING", "information, algorithm and signature", sequence(info, d.algorithm, value(0x04, string(d.sign(info))))},
		{"signature in pieces", "universal tag", sequence(info, d.algorithm, value(0x23, string(signature)))},
		{"in a PKCS #7", "information, algorithm and signature", sequence(oid("1.2.840.113549.1.7.2"), value(0xa0, string(d.der())))},
		{"zeros", "universal tag", bytes.Repeat([]byte{0}, 100)},
		{"open sequences", "longer than what follows it", bytes.Repeat([]byte("\x30\x82\x20\x00"), 3000)},
		{"sequences in sequences", "nested too deep", nested(2500)},
	}
}
