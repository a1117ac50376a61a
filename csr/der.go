package csr

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The identifier octets of what a request is made of (X.690, section 8.1.2).
const (
	tagBoolean     = 0x01
	tagInteger     = 0x02
	tagBitString   = 0x03
	tagOctetString = 0x04
	tagNull        = 0x05
	tagOID         = 0x06
	tagEnumerated  = 0x0a
	tagUTF8        = 0x0c
	tagNumeric     = 0x12
	tagPrintable   = 0x13
	tagT61         = 0x14
	tagIA5         = 0x16
	tagUTCTime     = 0x17
	tagTime        = 0x18
	tagVisible     = 0x1a
	tagUniversal   = 0x1c
	tagBMP         = 0x1e
	tagSequence    = 0x30
	tagSet         = 0x31
	tagAttributes  = 0xa0 // [0] of CertificationRequestInfo

	constructed = 0x20
	classMask   = 0xc0
)

// maxDepth is how deep values may be nested; a request's own need eight levels.
const maxDepth = 16

// maxOID is how long an object identifier may be, in bytes of DER.
const maxOID = 64

// An element is one DER value.
type element struct {
	tag       byte
	raw, body []byte // all of it, and its contents
}

// split reads the element that b begins with. What is wrong with it is said in words, "" is nothing.
func split(b []byte) (e element, rest []byte, problem string) {
	if len(b) < 2 {
		return e, nil, "a value ends early"
	}
	size, header := int(b[1]), 2
	switch {
	case b[0]&0x1f == 0x1f:
		return e, nil, "a tag has a number above 30"
	case b[1] == 0x80:
		return e, nil, "a length is indefinite, which is BER"
	case b[1] > 0x82:
		return e, nil, "a length is longer than the request"
	case b[1] > 0x80:
		header += int(b[1] & 0x7f)
		if len(b) < header {
			return e, nil, "a length ends early"
		}
		size = 0
		for _, octet := range b[2:header] {
			size = size<<8 | int(octet)
		}
		if size < 0x80 || header == 4 && size < 0x100 {
			return e, nil, "a length is not in its shortest form, which is BER"
		}
	}
	if len(b)-header < size {
		return e, nil, "a length is longer than what follows it"
	}
	return element{b[0], b[:header+size], b[header : header+size]}, b[header+size:], ""
}

// check says whether b, which stands at the byte at of what is read, is a row of values in DER (X.690,
// sections 10 and 11), as deep as they are constructed. Two liberties are left: the members of a SET OF may
// stand in any order, since crypto/x509 itself writes them so, and a primitive value of a context-specific
// tag is not looked into.
func check(b []byte, at, depth int) error {
	for len(b) > 0 {
		e, rest, problem := split(b)
		if problem == "" && depth > maxDepth {
			problem = "values are nested too deep"
		}
		if problem == "" {
			problem = e.problem()
		}
		if problem != "" {
			return fmt.Errorf("at byte %d %s", at, problem)
		}
		if e.tag&constructed != 0 {
			if err := check(e.body, at+len(e.raw)-len(e.body), depth+1); err != nil {
				return err
			}
		}
		at += len(e.raw)
		b = rest
	}
	return nil
}

// problem says what is wrong with e itself, "" is nothing.
func (e element) problem() string {
	if e.tag&classMask != 0 {
		return ""
	}
	switch e.tag {
	case tagSequence, tagSet:
		return ""
	case tagBoolean:
		return unless(len(e.body) == 1 && (e.body[0] == 0 || e.body[0] == 0xff), "a BOOLEAN is neither 00 nor FF")
	case tagInteger, tagEnumerated:
		return unless(shortest(e.body), "an INTEGER is not in its shortest form")
	case tagBitString:
		return unless(bitString(e.body), "a BIT STRING has wrong padding")
	case tagOctetString:
		return ""
	case tagNull:
		return unless(len(e.body) == 0, "a NULL is not empty")
	case tagOID:
		return unless(objectIdentifier(e.body), "an OBJECT IDENTIFIER is malformed or too long")
	case tagUTCTime:
		return unless(instant(e.body, "060102150405Z"), "a UTCTime is malformed")
	case tagTime:
		return unless(instant(e.body, "20060102150405Z"), "a GeneralizedTime is malformed")
	case tagUTF8, tagNumeric, tagPrintable, tagT61, tagIA5, tagVisible, tagUniversal, tagBMP:
		return e.textProblem()
	}
	return "a value has a universal tag, or a form of it, that no request holds"
}

func unless(ok bool, problem string) string {
	if ok {
		return ""
	}
	return problem
}

func shortest(b []byte) bool {
	if len(b) < 2 {
		return len(b) == 1
	}
	return (b[0] != 0 || b[1] >= 0x80) && (b[0] != 0xff || b[1] < 0x80)
}

func bitString(b []byte) bool {
	if len(b) == 0 || b[0] > 7 || len(b) == 1 && b[0] != 0 {
		return false
	}
	return b[len(b)-1]&(1<<b[0]-1) == 0 || len(b) == 1
}

func instant(b []byte, layout string) bool {
	t, err := time.Parse(layout, string(b))
	return err == nil && t.Format(layout) == string(b)
}

// objectIdentifier wants each arc in its shortest form and below 2^31: encoding/asn1 reads no others.
func objectIdentifier(b []byte) bool {
	if len(b) == 0 || len(b) > maxOID || b[len(b)-1] >= 0x80 {
		return false
	}
	arc, first := 0, true
	for _, octet := range b {
		if first && octet == 0x80 || arc >= 1<<24 {
			return false
		}
		arc = arc<<7 | int(octet&0x7f)
		if first = octet < 0x80; first {
			arc = 0
		}
	}
	return true
}

// dotted writes an object identifier that check has passed.
func dotted(oid []byte) string {
	var text strings.Builder
	arc := 0
	for _, octet := range oid {
		if arc = arc<<7 | int(octet&0x7f); octet >= 0x80 {
			continue
		}
		if text.Len() == 0 {
			root := min(arc/40, 2)
			text.WriteString(strconv.Itoa(root))
			arc -= 40 * root
		}
		text.WriteString("." + strconv.Itoa(arc))
		arc = 0
	}
	return text.String()
}

// textProblem says whether a string keeps to the alphabet of its type. None may hold a NUL: programs in C end
// a string there, and then two readers see two texts.
func (e element) textProblem() string {
	ok := true
	switch e.tag {
	case tagUTF8:
		ok = utf8.Valid(e.body)
	case tagNumeric:
		ok = alphabet(e.body, " 0123456789")
	case tagPrintable:
		ok = alphabet(e.body, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")
	case tagIA5, tagVisible:
		ok = ascii(e.body)
	case tagBMP:
		return e.unitsProblem(2)
	case tagUniversal:
		return e.unitsProblem(4)
	}
	if ok && bytes.IndexByte(e.body, 0) >= 0 {
		return "a string holds a NUL"
	}
	return unless(ok, "a string holds what its type does not allow")
}

func alphabet(b []byte, allowed string) bool {
	for _, c := range b {
		if strings.IndexByte(allowed, c) < 0 {
			return false
		}
	}
	return true
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// unitsProblem looks at a string of characters of size bytes each: Unicode's, without surrogates.
func (e element) unitsProblem(size int) string {
	if len(e.body)%size != 0 {
		return "a string ends within a character"
	}
	for b := e.body; len(b) > 0; b = b[size:] {
		unit := 0
		for _, octet := range b[:size] {
			unit = unit<<8 | int(octet)
		}
		switch noncharacter := unit&0xfffe == 0xfffe || unit >= 0xfdd0 && unit <= 0xfdef; {
		case unit == 0:
			return "a string holds a NUL"
		case noncharacter || !utf8.ValidRune(rune(unit)):
			return "a string holds what its type does not allow"
		}
	}
	return ""
}

// fields reads b, which check has passed, as exactly one element of each tag, in this order.
func fields(b []byte, tags ...byte) ([]element, bool) {
	elements := make([]element, len(tags))
	for i, tag := range tags {
		e, rest, problem := split(b)
		if problem != "" || e.tag != tag {
			return nil, false
		}
		elements[i], b = e, rest
	}
	return elements, len(b) == 0
}

// members iterates over the elements of b, which check has passed.
func members(b []byte) func(yield func(element) bool) {
	return func(yield func(element) bool) {
		for len(b) > 0 {
			e, rest, problem := split(b)
			if problem != "" || !yield(e) {
				return
			}
			b = rest
		}
	}
}
