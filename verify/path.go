package verify

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"time"
)

// maxPath bounds a walk from a leaf to its root: longer chains do not occur, loops of cross-signed CAs do.
const maxPath = 10

// signedBy says whether parent's key made c's signature, whatever else parent may do.
func signedBy(c, parent *x509.Certificate) bool {
	return parent.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) && signedBy(c, c)
}

// namesIssuer says whether c names parent as its issuer: by the name, and by the key identifier where both
// carry one (RFC 5280, section 4.2.1.1).
func namesIssuer(c, parent *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, parent.RawSubject) &&
		(len(c.AuthorityKeyId) == 0 || len(parent.SubjectKeyId) == 0 ||
			bytes.Equal(c.AuthorityKeyId, parent.SubjectKeyId))
}

func validAt(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

// A known is every CA certificate seen anywhere in the mesh, by subject.
type known map[string][]*x509.Certificate

func (k known) add(certs ...*x509.Certificate) {
	for _, c := range certs {
		same := k[string(c.RawSubject)]
		if !slices.ContainsFunc(same, c.Equal) {
			k[string(c.RawSubject)] = append(same, c)
		}
	}
}

// sort puts roots before cross-certificates, so that a walk ends at a root where there is one, and makes the
// order that of the bytes, not that of the files.
func (k known) sort() {
	for _, certs := range k {
		slices.SortFunc(certs, func(a, b *x509.Certificate) int {
			if sa, sb := selfSigned(a), selfSigned(b); sa != sb {
				if sa {
					return -1
				}
				return 1
			}
			return strings.Compare(Fingerprint(a), Fingerprint(b))
		})
	}
}

// signer walks from a leaf as far up as the known certificates lead; nil means that none of them signed it.
func (k known) signer(leaf *x509.Certificate) *x509.Certificate {
	cur := leaf
	for range maxPath {
		if selfSigned(cur) {
			return cur
		}
		i := slices.IndexFunc(k[string(cur.RawIssuer)], func(p *x509.Certificate) bool { return signedBy(cur, p) })
		if i < 0 {
			break
		}
		cur = k[string(cur.RawIssuer)][i]
	}
	if cur == leaf {
		return nil
	}
	return cur
}

// A library is a TLS library whose search for a path is narrower than that of crypto/x509: among the
// certificates that carry the issuer's name it takes one and does not come back for the next. Trusted
// certificates are searched before presented ones.
type library struct {
	name string
	// validFirst: of several candidates the first one valid now is taken, not simply the first.
	validFirst bool
	// partial: an anchor need not be self-signed (X509_V_FLAG_PARTIAL_CHAIN).
	partial bool
}

func libraries() []library {
	return []library{
		{name: "Envoy (BoringSSL)", partial: true},
		{name: "OpenSSL", validFirst: true},
	}
}

// accepts says whether the library finds a path. It is asked only of chains that crypto/x509 accepts, so it
// looks at names, signatures and dates alone.
func (l library) accepts(chain, anchors []*x509.Certificate, now time.Time) bool {
	cur, trusted := chain[0], slices.ContainsFunc(anchors, chain[0].Equal)
	for range maxPath {
		switch {
		case !validAt(cur, now):
			return false
		case trusted && (l.partial || selfSigned(cur)):
			return true
		}
		next := l.pick(cur, anchors, now)
		if trusted = next != nil; !trusted {
			next = l.pick(cur, chain[1:], now)
		}
		if next == nil || !signedBy(cur, next) {
			return false
		}
		cur = next
	}
	return false
}

func (l library) pick(c *x509.Certificate, among []*x509.Certificate, now time.Time) *x509.Certificate {
	var first *x509.Certificate
	for _, p := range among {
		if !namesIssuer(c, p) {
			continue
		}
		if !l.validFirst || validAt(p, now) {
			return p
		}
		if first == nil {
			first = p
		}
	}
	return first
}
