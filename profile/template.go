// Package profile says what a certificate of meshca looks like (RFC 5280) and checks that it does.
//
// # What it guarantees
//
// A template is built from policy alone; nothing of a request but its public key reaches it. [Lint] runs
// the same rules on a template, before a key is touched, and on the parsed result, before it is released:
// crypto/x509 refuses almost nothing of what a careless template may hold.
//
// # Concurrency
//
// The package is pure: no state, no clock (instants are parameters), no I/O but the system's random source.
package profile

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"time"
)

// Window is a certificate's validity, in whole seconds of UTC (RFC 5280, section 4.1.2.5). Both ends are
// inclusive.
type Window struct {
	NotBefore, NotAfter time.Time
}

// CAWindow is the validity of a root or an issuing CA made at now. It is backdated by twice the leaf's
// backdate, so that a backdated leaf never begins before its issuer, and it ends no later than parent
// (nil for a root): nothing outlives its issuer.
func CAWindow(now time.Time, lifetime, leafBackdate time.Duration, parent *x509.Certificate) Window {
	return clamp(Window{NotBefore: now.Add(-2 * leafBackdate), NotAfter: now.Add(lifetime)}, parent)
}

// LeafWindow is the validity of a leaf issued at now by issuer: NotAfter is now + lifetime, NotBefore is
// now - backdate for verifiers whose clocks are behind, but at most a tenth of the lifetime, and both are
// clamped to the issuer's own.
func LeafWindow(now time.Time, lifetime, backdate time.Duration, issuer *x509.Certificate) Window {
	return clamp(Window{NotBefore: now.Add(-min(backdate, lifetime/10)), NotAfter: now.Add(lifetime)}, issuer)
}

func clamp(w Window, issuer *x509.Certificate) Window {
	w.NotBefore = w.NotBefore.UTC().Truncate(time.Second)
	w.NotAfter = w.NotAfter.UTC().Truncate(time.Second)
	if issuer == nil {
		return w
	}
	if w.NotBefore.Before(issuer.NotBefore) {
		w.NotBefore = issuer.NotBefore
	}
	if w.NotAfter.After(issuer.NotAfter) {
		w.NotAfter = issuer.NotAfter
	}
	return w
}

// Identity is whom a leaf certificate speaks for: the catalogue's names of one service, all of them.
type Identity struct {
	CommonName  string       // subject CN, 1 to 64 bytes
	DNSNames    []string     // see CheckDNSName
	IPAddresses []netip.Addr // see CheckIPAddress
	URI         *url.URL     // the SPIFFE ID
}

// SPIFFEID is the URI name of a service: spiffe://<trustDomain>/ns/<namespace>/svc/<service>.
func SPIFFEID(trustDomain, namespace, service string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/ns/" + namespace + "/svc/" + service}
}

// RootTemplate is the template of the self-signed root of a generation. It has no path length: the issuing
// CA's 0 is what binds, and a 1 here would forbid a cross-certificate for ever. Its subject is distinct,
// because verifiers that look for an anchor by subject pick the wrong one of two.
func RootTemplate(generation int, pub crypto.PublicKey, w Window) (*x509.Certificate, error) {
	ski, err := SubjectKeyID(pub)
	if err != nil {
		return nil, err
	}
	t, err := caTemplate(fmt.Sprintf("meshca root g%d %x", generation, ski[:4]), pub, ski, w)
	if err != nil {
		return nil, err
	}
	t.Issuer = t.Subject
	t.AuthorityKeyId = ski
	t.MaxPathLen = -1
	return t, nil
}

// IssuingTemplate is the template of an issuing CA below root: it signs leaves and CRLs, and no CA.
func IssuingTemplate(id int, pub crypto.PublicKey, w Window, root *x509.Certificate) (*x509.Certificate, error) {
	ski, err := SubjectKeyID(pub)
	if err != nil {
		return nil, err
	}
	t, err := caTemplate(fmt.Sprintf("meshca issuing CA %d %x", id, ski[:4]), pub, ski, w)
	if err != nil {
		return nil, err
	}
	t.Issuer = root.Subject
	t.AuthorityKeyId = root.SubjectKeyId
	t.MaxPathLenZero = true
	return t, nil
}

func caTemplate(commonName string, pub crypto.PublicKey, ski []byte, w Window) (*x509.Certificate, error) {
	serial, err := NewSerial()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             w.NotBefore,
		NotAfter:              w.NotAfter,
		PublicKey:             pub,
		SubjectKeyId:          ski,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}, nil
}

// LeafTemplate is the template of a leaf certificate for id and pub, to be signed by issuer.
func LeafTemplate(id Identity, pub crypto.PublicKey, w Window, issuer *x509.Certificate) (*x509.Certificate, error) {
	serial, err := NewSerial()
	if err != nil {
		return nil, err
	}
	ski, err := SubjectKeyID(pub)
	if err != nil {
		return nil, err
	}
	keyType, err := TypeOf(pub)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: id.CommonName},
		Issuer:                issuer.Subject,
		NotBefore:             w.NotBefore,
		NotAfter:              w.NotAfter,
		PublicKey:             pub,
		SubjectKeyId:          ski,
		AuthorityKeyId:        issuer.SubjectKeyId,
		KeyUsage:              leafUsage(keyType),
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		DNSNames:              id.DNSNames,
		URIs:                  []*url.URL{id.URI},
	}
	for _, a := range id.IPAddresses {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.Unmap().AsSlice()))
	}
	return t, nil
}

// leafUsage is digitalSignature, and keyEncipherment for RSA only, whose older key exchange needs it.
func leafUsage(k KeyType) x509.KeyUsage {
	switch k {
	case RSA2048, RSA3072, RSA4096:
		return x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	}
	return x509.KeyUsageDigitalSignature
}

// NewSerial draws a serial number of 127 random bits, positive and never zero (RFC 5280, section 4.1.2.2:
// at most 20 octets, positive).
func NewSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), serialBits)
	for {
		serial, err := rand.Int(rand.Reader, limit)
		if err != nil {
			return nil, fmt.Errorf("draw serial: %w", err)
		}
		if serial.BitLen() >= serialBits/2 {
			return serial, nil
		}
	}
}

const serialBits = 127
