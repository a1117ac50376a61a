package csr

import (
	"bytes"
	"encoding/base64"
)

const (
	begin  = "-----BEGIN "
	end    = "-----END "
	dashes = "-----"
	spaces = " \t\r\n"
)

// The labels of a request: that of RFC 7468, section 7, and that of older programs (keytool, openssl -newhdr).
var labels = []string{"CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"}

// decodePEM gives the DER of the one block that text must be. encoding/pem would skip what stands before the
// block, and blocks that it cannot read, without a word.
func decodePEM(text []byte) ([]byte, error) {
	text = bytes.Trim(text, spaces)
	if bytes.Contains(text, []byte(`\n`)) {
		return nil, malformed(`the text has the two characters \n where lines should end: send real line ends`)
	}
	for _, label := range labels {
		body, ok := bytes.CutPrefix(text, []byte(begin+label+dashes))
		if !ok {
			continue
		}
		body, ok = bytes.CutSuffix(body, []byte(end+label+dashes))
		if !ok || bytes.Contains(body, []byte(dashes)) {
			return nil, malformed("the text is not one PEM block from its BEGIN line to the END line of the same label: send one block and nothing else")
		}
		return decodeBody(body)
	}
	return nil, malformed(notPEM(text))
}

// decodeBody decodes what stands between the boundary lines.
func decodeBody(body []byte) ([]byte, error) {
	switch {
	case bytes.ContainsRune(body, ':'):
		return nil, malformed("the PEM block has headers: send one without")
	case !beginsLine(body) || !bytes.HasSuffix(body, []byte("\n")):
		return nil, malformed("the BEGIN and END of the PEM block do not stand on lines of their own")
	}
	der := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
	n, err := base64.StdEncoding.Strict().Decode(der, body) // skips line ends, and nothing else
	if err != nil {
		return nil, malformed("the PEM block does not hold lines of base64 alone")
	}
	return der[:n], nil
}

func beginsLine(body []byte) bool {
	return bytes.HasPrefix(body, []byte("\n")) || bytes.HasPrefix(body, []byte("\r\n"))
}

// notPEM says what a text is that is no block of a request, as far as it can be told.
func notPEM(text []byte) string {
	const send = "send a PEM block CERTIFICATE REQUEST"
	switch label, _, _ := bytes.Cut(bytes.TrimPrefix(text, []byte(begin)), []byte(dashes)); {
	case len(text) == 0:
		return "the request is empty: " + send
	case text[0] == '0':
		return "the request is DER, not PEM: " + send
	case bytes.HasPrefix(text, []byte("MII")):
		return "the request is base64 without its BEGIN and END lines: " + send
	case bytes.HasPrefix(text, []byte("LS0tLS1CRUdJTi")): // base64 of -----BEGIN
		return "the request is PEM that was encoded in base64 once more: " + send
	case bytes.HasSuffix(label, []byte("PRIVATE KEY")):
		return "this is a private key, which must never leave its owner: make a new one, and send a request that is signed with it"
	case bytes.Equal(label, []byte("CERTIFICATE")):
		return "this is a certificate, not a request: " + send
	case bytes.Equal(label, []byte("PUBLIC KEY")):
		return "this is a public key without a proof that the sender has its private key: " + send
	}
	return "the text is not one PEM block CERTIFICATE REQUEST with nothing before it: send one block and nothing else"
}
