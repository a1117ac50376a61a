package verify

import (
	"bytes"
	"encoding/asn1"
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// A block is one PEM block as found. encoding/pem skips what it cannot read without a word; here a block is
// kept so that what is wrong with it can be told. What OpenSSL tolerates is tolerated: Windows line endings,
// white space at the end of a line, a byte order mark, and text between blocks.
type block struct {
	label     string
	body      []byte // the base64 text without white space
	encrypted bool   // has the header Proc-Type: 4,ENCRYPTED (RFC 1421, section 4.6.1.1)
	ended     bool   // has an END line of the same label
}

const (
	beginLine = "-----BEGIN "
	endLine   = "-----END "
	dashes    = "-----"
)

// scanPEM finds the blocks of a file.
func scanPEM(data []byte) []block {
	var blocks []block
	var cur *block
	closeBlock := func() {
		if cur != nil {
			blocks = append(blocks, *cur)
			cur = nil
		}
	}
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\ufeff"))) {
		line = bytes.TrimRight(line, " \t\r\n")
		if label, ok := boundary(line, beginLine); ok {
			closeBlock()
			cur = &block{label: label}
			continue
		}
		if cur == nil {
			continue
		}
		if label, ok := boundary(line, endLine); ok {
			cur.ended = label == cur.label
			closeBlock()
			continue
		}
		if bytes.ContainsRune(line, ':') { // a header: base64 has no colon
			cur.encrypted = cur.encrypted || bytes.Contains(line, []byte("ENCRYPTED"))
			continue
		}
		cur.body = append(cur.body, bytes.Join(bytes.Fields(line), nil)...)
	}
	closeBlock()
	return blocks
}

// boundary gives the label of a BEGIN or END line.
func boundary(line []byte, prefix string) (string, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(prefix))
	if !ok {
		return "", false
	}
	label, ok := bytes.CutSuffix(rest, []byte(dashes))
	return string(label), ok
}

// decode gives the DER of a block, or what is wrong with the block.
func (b block) decode() ([]byte, *problem) {
	if placeholderText(b.body) {
		return nil, &problem{Placeholder, "has a PEM block that holds a placeholder"}
	}
	der, err := base64.StdEncoding.DecodeString(string(b.body))
	switch {
	case !b.ended:
		return nil, &problem{TruncatedPEM, "has a BEGIN line without its END line"}
	case len(b.body) == 0:
		return nil, &problem{TruncatedPEM, "has a PEM block with nothing between BEGIN and END"}
	case err != nil && isBase64Text(b.body):
		return nil, &problem{TruncatedPEM, "has a PEM block whose base64 ends early"}
	case err != nil:
		return nil, &problem{NotPEM, "has a PEM block whose text is not base64"}
	case endsEarly(der):
		return nil, &problem{TruncatedPEM, "has a PEM block whose content ends early"}
	}
	return der, nil
}

func isBase64Text(b []byte) bool {
	for _, c := range bytes.TrimRight(b, "=") {
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '+' && c != '/' {
			return false
		}
	}
	return true
}

// endsEarly says whether der is the beginning of an ASN.1 SEQUENCE that says it is longer.
func endsEarly(der []byte) bool {
	if len(der) == 0 || der[0] != 0x30 {
		return false
	}
	if len(der) == 1 || der[1] == 0x80 {
		return len(der) == 1
	}
	size, header := int(der[1]), 2
	if size > 0x80 {
		octets := size & 0x7f
		if octets > 4 {
			return false
		}
		size, header = 0, 2+octets
		if len(der) < header {
			return true
		}
		for _, b := range der[2:header] {
			size = size<<8 | int(b)
		}
	}
	return len(der)-header < size
}

// whyNotPEM says what a file is that has no PEM block at all.
func whyNotPEM(data []byte) problem {
	var raw asn1.RawValue
	text := bytes.TrimSpace(data)
	switch _, err := asn1.Unmarshal(data, &raw); {
	case err == nil && data[0] == 0x30:
		return problem{NotPEM, "is DER, not PEM"}
	case bytes.HasPrefix(text, []byte("LS0tLS1CRUdJTi")): // base64 of -----BEGIN
		return problem{NotPEM, "is PEM encoded in base64 once more, as in the data of a Secret"}
	case placeholderText(text):
		return problem{Placeholder, "holds a placeholder"}
	case bytes.Contains(text, []byte(beginLine)) && bytes.Contains(text, []byte(`\n`)):
		return problem{NotPEM, `has the two characters \n where lines should end`}
	case bytes.Contains(text, []byte(beginLine)):
		return problem{NotPEM, "has a BEGIN line that is indented or incomplete"}
	}
	return problem{NotPEM, "holds no PEM block"}
}

// shortText bounds where the words of a placeholder are looked for: in a long text, or in the base64 of a
// certificate, they may stand by chance.
const shortText = 512

// placeholderText says whether text was meant to be replaced before use. It runs over the bodies of blocks
// too; none of the brackets is in the base64 alphabet.
func placeholderText(text []byte) bool {
	if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		return false
	}
	s := strings.ToLower(string(text))
	for _, pair := range [][2]string{{"<", ">"}, {"${", "}"}, {"{{", "}}"}, {"$(", ")"}} {
		if _, after, ok := strings.Cut(s, pair[0]); ok && strings.Contains(after, pair[1]) {
			return true
		}
	}
	if len(s) > shortText {
		return false
	}
	if strings.Contains(s, "placeholder") || s == "todo" || s == "tbd" {
		return true
	}
	plain := strings.NewReplacer("_", "", "-", "", " ", "").Replace(s)
	for _, word := range []string{"changeme", "replaceme", "replacewith", "fillmein", "insertcert", "yourcert"} {
		if strings.Contains(plain, word) {
			return true
		}
	}
	return false
}
