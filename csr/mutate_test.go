package csr_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"github.com/meshca/meshca/csr"
)

// A node is a DER value as a tree, DER within the strings of names, keys and signatures included.
type node struct {
	path   string
	tag    byte
	prefix string // of the contents, before the values in it: unused bits
	body   string // without values in it
	kids   []*node
}

func tree(t testing.TB, path string, der []byte) []*node {
	t.Helper()
	var nodes []*node
	for i := 0; len(der) > 0; i++ {
		header, size := 2, int(der[1])
		if size > 0x80 {
			header += size & 0x7f
			size = 0
			for _, b := range der[2:header] {
				size = size<<8 | int(b)
			}
		}
		n := &node{path: fmt.Sprintf("%s/%d:%02x", path, i, der[0]), tag: der[0]}
		body := der[header : header+size]
		if n.tag == 0x03 {
			n.prefix, body = string(body[:1]), body[1:]
		}
		if within := bytes.HasPrefix(body, []byte{0x30}) && (n.tag == 0x03 || n.tag == 0x04); n.tag&0x20 != 0 || within {
			n.kids = tree(t, n.path, body)
		} else {
			n.body = string(body)
		}
		nodes = append(nodes, n)
		der = der[header+size:]
	}
	return nodes
}

// encode writes n, and the one value spoiled in a wrong form.
func (n *node) encode(spoiled *node, form func(n *node, body string) []byte) []byte {
	body := n.prefix + n.body
	for _, kid := range n.kids {
		body += string(kid.encode(spoiled, form))
	}
	if n == spoiled {
		return form(n, body)
	}
	return value(n.tag, body)
}

func (n *node) each(visit func(*node)) {
	visit(n)
	for _, kid := range n.kids {
		kid.each(visit)
	}
}

var wrongForms = map[string]func(n *node, body string) []byte{
	"length in a byte more": func(n *node, body string) []byte {
		l := length(len(body))
		if len(l) == 1 {
			l = append([]byte{0x81}, l...)
		} else {
			l = append([]byte{l[0] + 1, 0}, l[1:]...)
		}
		return append(append([]byte{n.tag}, l...), body...)
	},
	"length in eight bytes": func(n *node, body string) []byte {
		return fmt.Appendf([]byte{n.tag}, "\x88\x00\x00\x00\x00\x00\x00%c%c%s", len(body)>>7, len(body)&0x7f, body)
	},
	"indefinite length": func(n *node, body string) []byte { return fmt.Appendf([]byte{n.tag}, "\x80%s\x00\x00", body) },
	"length of one byte more": func(n *node, body string) []byte {
		return append(append([]byte{n.tag}, length(len(body)+1)...), body...)
	},
	"length of one byte less": func(n *node, body string) []byte {
		return append(append([]byte{n.tag}, length(max(0, len(body)-1))...), body+"\x00"...)
	},
	"the other form":    func(n *node, body string) []byte { return value(n.tag^0x20, body) },
	"tag in two bytes":  func(n *node, body string) []byte { return value(n.tag|0x1f, string(n.tag&0x1f)+body) },
	"universal tag 0":   func(n *node, body string) []byte { return value(0, body) },
	"application's tag": func(n *node, body string) []byte { return value(n.tag&0x3f|0x40, body) },
	"private tag":       func(n *node, body string) []byte { return value(n.tag|0xc0, body) },
	"left out, NULL":    func(n *node, body string) []byte { return value(0x05) },
	"a NULL before it":  func(n *node, body string) []byte { return append(value(0x05), value(n.tag, body)...) },
	"a NULL after it":   func(n *node, body string) []byte { return append(value(n.tag, body), 5, 0) },
}

// free says where a value may be another one: nobody looks at what a subject or an unknown attribute says.
func free(n *node, form string) bool {
	text := strings.Contains(n.path, "/1:30/") && strings.HasSuffix(n.path, "/1:13") // the subject's strings
	for _, tag := range []string{"/1:0c", "/1:16", "/1:31/0:0c"} {
		text = text || strings.HasSuffix(n.path, tag)
	}
	switch form {
	case "left out, NULL":
		return text || n.tag == 0x05
	case "application's tag", "private tag":
		return text
	case "length of one byte less": // what is left over is a value of its own
		return strings.HasSuffix(n.path, "/1:31/0:0c")
	case "a NULL before it", "a NULL after it":
		return strings.HasSuffix(n.path, "/1:31/0:0c") // the set of challenge passwords
	}
	return false
}

// TestEveryValueInEveryWrongForm changes one value of the information at a time, and of an RSA key, and signs
// the whole anew.
func TestEveryValueInEveryWrongForm(t *testing.T) {
	rows := 0
	for name, d := range map[string]*draft{"ECDSA": newDraft(ecKey(elliptic.P256())), "RSA": rsaDraft()} {
		info := tree(t, name, d.info())[0]
		if !bytes.Equal(info.encode(nil, nil), d.info()) {
			t.Fatal("the tree is not what it was made of")
		}
		visited := info
		if name == "RSA" {
			visited = info.kids[2]
		}
		visited.each(func(n *node) {
			for form, wrong := range wrongForms {
				text := pemOf(d.signed(info.encode(n, wrong)))
				rows++
				t.Run(n.path+" "+form, func(t *testing.T) {
					if r, err := csr.Parse(text); free(n, form) {
						agrees(t, text, r)
					} else if err == nil {
						t.Fatalf("accepted: %+v", r)
					} else if e := refusal(t, err); e.Code == csr.CodeProof {
						t.Fatalf("nothing but the proof refuses it: %s", e.Detail)
					}
				})
			}
		})
	}
	if rows < 600 {
		t.Errorf("%d rows only", rows)
	}
}

func rsaDraft() *draft {
	d := newDraft(ecKey(elliptic.P256()))
	d.signRaw(rsaKey(65537, prime("a1024"), prime("b1024")))
	return d
}

// TestEveryValueAroundIt does the same to what stands around the information.
func TestEveryValueAroundIt(t *testing.T) {
	request := tree(t, "", newDraft(ecKey(elliptic.P256())).der())[0]
	info := request.kids[0]
	request.each(func(n *node) {
		if strings.HasPrefix(n.path, info.path+"/") {
			return
		}
		for form, wrong := range wrongForms {
			t.Run(n.path+" "+form, func(t *testing.T) {
				r, err := csr.Parse(pemOf(request.encode(n, wrong)))
				if err == nil {
					t.Fatalf("accepted: %+v", r)
				}
				refusal(t, err)
			})
		}
	})
}

// TestEveryFlippedBit: no bit of a request can be changed by another than the owner of the key.
func TestEveryFlippedBit(t *testing.T) {
	for name, d := range map[string]*draft{"ECDSA": newDraft(ecKey(elliptic.P256())), "Ed25519": newDraft(edKey())} {
		der := d.der()
		for i := range len(der) * 8 {
			flipped := bytes.Clone(der)
			flipped[i/8] ^= 1 << (i % 8)
			if r, err := csr.Parse(pemOf(flipped)); err == nil {
				t.Errorf("%s: bit %d of byte %d: accepted %+v", name, i%8, i/8, r)
			} else {
				refusal(t, err)
			}
		}
	}
}

// TestEveryFlippedBitSignedAnew: the owner can change what he likes, and crypto/x509 reads the same.
func TestEveryFlippedBitSignedAnew(t *testing.T) {
	d := newDraft(ecKey(elliptic.P256()))
	info := d.info()
	good := 0
	for i := range len(info) * 8 {
		flipped := bytes.Clone(info)
		flipped[i/8] ^= 1 << (i % 8)
		text := pemOf(d.signed(flipped))
		r, err := csr.Parse(text)
		if err != nil {
			refusal(t, err)
			continue
		}
		good++
		agrees(t, text, r)
	}
	if good < 100 {
		t.Errorf("only %d of %d were good", good, len(info)*8)
	}
}

// TestEveryBeginning: a request that was cut off is refused wherever that was.
func TestEveryBeginning(t *testing.T) {
	d := newDraft(ecKey(elliptic.P256()))
	der, text := d.der(), bytes.TrimSpace(d.pem())
	for i := range der {
		refused(t, pemOf(der[:i]), csr.CodeMalformed, "")
	}
	for i := range text {
		refused(t, text[:i], csr.CodeMalformed, "")
	}
}

// TestSmallOrder: for an Ed25519 key of small order a proof can be made up without any private key, and
// crypto/x509 takes it.
func TestSmallOrder(t *testing.T) {
	for _, y := range []string{
		"\x01" + strings.Repeat("\x00", 31),
		"\xec" + strings.Repeat("\xff", 30) + "\x7f",
		strings.Repeat("\x00", 32),
		strings.Repeat("\x00", 31) + "\x80",
		"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
		"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x85",
		"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
		"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\xfa",
	} {
		t.Run(fmt.Sprintf("%x", y), func(t *testing.T) {
			der := madeUp(t, y)
			refused(t, pemOf(der), csr.CodeKey, "small order")
		})
	}
}

// madeUp is a request for this key that crypto/x509 verifies. A signature of R = k·A and S = 0 is good if
// the hash is 0 modulo the order of A and R is the neutral element, so a few subjects are tried.
func madeUp(t *testing.T, key string) []byte {
	t.Helper()
	d := newDraft(edKey())
	d.spki = sequence(ed25519ID, value(0x03, "\x00"+key))
	d.sign = func([]byte) []byte { return []byte("\x01" + strings.Repeat("\x00", 63)) }
	for i := range 1000 {
		sum := sha512.Sum512([]byte{byte(i), byte(i >> 8)})
		d.subject = sequence(rdn("2.5.4.3", value(0x0c, fmt.Sprintf("%x", sum[:4]))))
		c, err := x509.ParseCertificateRequest(d.der())
		if err != nil {
			t.Fatal(err)
		}
		if c.CheckSignature() == nil {
			return d.der()
		}
	}
	t.Fatal("no proof could be made up")
	return nil
}
