package verify

import (
	"crypto/x509"
	"time"
)

// A Trust is the content of one ca.crt, prepared for many chains.
type Trust struct{ b bundle }

// NewTrust prepares the certificates of a ca.crt, in the order of the file, which some libraries heed.
func NewTrust(anchors []*x509.Certificate) *Trust {
	t := &Trust{bundle{anchors: anchors, pool: x509.NewCertPool()}}
	for _, a := range anchors {
		t.b.pool.AddCert(a)
	}
	return t
}

// Verifiers is a set of those who verify: each library, as a client and as a server.
type Verifiers uint16

// Except are those of v that are not in other.
func (v Verifiers) Except(other Verifiers) Verifiers { return v &^ other }

// Accepts says which verifiers with that trust accept a chain, leaf first, at the instant now: crypto/x509, and
// among the chains that it accepts the libraries whose search for a path is narrower.
func (t *Trust) Accepts(chain []*x509.Certificate, now time.Time) (v Verifiers) {
	all := libraries()
	for role, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if verifyChain(chain, &t.b, usage, now) != "" {
			continue
		}
		v |= 1 << role
		for i, l := range all {
			if l.accepts(chain, t.b.anchors, now) {
				v |= 1 << (2*i + 2 + role)
			}
		}
	}
	return v
}
