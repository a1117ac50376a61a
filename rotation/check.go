package rotation

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// checks verifies sets before they are written. What is above a leaf is the same for all leaves of an issuing CA, and
// its signature costs as much as theirs: it is verified once for each issuing CA and bundle. It is safe for concurrent
// use.
type checks struct {
	mu    sync.Mutex
	above map[[sha256.Size]byte][]*summit // by the bytes of the issuing CA and the bundle
}

// maxSummits bounds what is remembered: a mesh has one bundle and one or two issuing CAs at a time.
const maxSummits = 64

// A summit is a verified way from an issuing CA up to a root of a bundle.
type summit struct {
	chain []*x509.Certificate
	pool  *x509.CertPool // the issuing CA alone
}

// check says whether a set may be written: the key is the leaf's, and the chain verifies at now, for the usages,
// against the very bundle of the set.
func (c *checks) check(m *Material, now time.Time, usages ...x509.ExtKeyUsage) error {
	pair, err := tls.X509KeyPair(m.Cert, m.Key)
	if err != nil {
		return errors.New("the key does not match the leaf") // the parser's words may quote the key
	}
	chains := c.short(&pair, m.CA, now)
	if chains == nil {
		if chains, err = whole(&pair, m.CA, now); err != nil {
			return fmt.Errorf("the chain does not verify against its own bundle: %w", err)
		}
		c.remember(&pair, m.CA, chains)
	}
	for _, usage := range usages {
		if !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return permits(chain, usage) }) {
			return errors.New("the chain is not good for servers and for clients")
		}
	}
	return nil
}

// short are the chains by what is known to be above the leaf, nil where that is nothing: then the whole is judged.
func (c *checks) short(pair *tls.Certificate, bundle []byte, now time.Time) (chains [][]*x509.Certificate) {
	c.mu.Lock()
	above := c.above[summitKey(pair, bundle)]
	c.mu.Unlock()
	for _, s := range above {
		if slices.ContainsFunc(s.chain, func(c *x509.Certificate) bool { return now.Before(c.NotBefore) || now.After(c.NotAfter) }) {
			continue
		}
		below, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: s.pool, CurrentTime: now, KeyUsages: anyUsage})
		if err != nil {
			return nil
		}
		for _, chain := range below {
			chains = append(chains, append(chain[:len(chain)-1:len(chain)-1], s.chain...))
		}
	}
	return chains
}

// whole verifies everything from the leaf up.
func whole(pair *tls.Certificate, bundle []byte, now time.Time) ([][]*x509.Certificate, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, errors.New("the trust bundle holds no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		intermediates.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: anyUsage})
}

// anyUsage leaves usages to permits: once for all of them, since signatures are most of what a check costs.
var anyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}

// remember keeps what is above the leaf. A CA that constrains names binds the leaf's, so that nothing above it can be
// told once for all leaves.
func (c *checks) remember(pair *tls.Certificate, bundle []byte, chains [][]*x509.Certificate) {
	var above []*summit
	for _, chain := range chains {
		if len(chain) < 2 || slices.ContainsFunc(chain[1:], constrains) {
			return
		}
		pool := x509.NewCertPool()
		pool.AddCert(chain[1])
		above = append(above, &summit{chain: chain[1:], pool: pool})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.above == nil || len(c.above) >= maxSummits {
		c.above = make(map[[sha256.Size]byte][]*summit)
	}
	c.above[summitKey(pair, bundle)] = above
}

// summitKey stands for all that is above a leaf.
func summitKey(pair *tls.Certificate, bundle []byte) (key [sha256.Size]byte) {
	h := sha256.New()
	for _, der := range pair.Certificate[1:] {
		fmt.Fprintf(h, "%d:", len(der))
		h.Write(der)
	}
	h.Write([]byte("/"))
	h.Write(bundle)
	h.Sum(key[:0])
	return key
}

// constrains says whether a CA constrains the names of what is below it (RFC 5280, section 4.2.1.10).
func constrains(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(nameConstraints) })
}

var nameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// permits says whether a chain is good for a usage: each certificate that names usages names it (RFC 5280, section
// 4.2.1.12, as verifiers read it).
func permits(chain []*x509.Certificate, usage x509.ExtKeyUsage) bool {
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		named := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0
		return named && !slices.Contains(c.ExtKeyUsage, usage) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
	})
}
