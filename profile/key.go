package profile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// A KeyType names a key algorithm and its size, in the spelling of the config file.
type KeyType string

// The key types that meshca makes. Ed25519 is for leaves only: PostgreSQL's channel binding and
// Envoy's default signature algorithms refuse it in a CA.
const (
	ECDSAP256 KeyType = "ECDSA-P256"
	ECDSAP384 KeyType = "ECDSA-P384"
	Ed25519   KeyType = "Ed25519"
	RSA2048   KeyType = "RSA-2048"
	RSA3072   KeyType = "RSA-3072"
	RSA4096   KeyType = "RSA-4096"
)

// LeafKeyTypes lists what a leaf certificate may carry.
func LeafKeyTypes() []KeyType {
	return []KeyType{ECDSAP256, ECDSAP384, Ed25519, RSA2048, RSA3072, RSA4096}
}

// CAKeyTypes lists what a root or an issuing CA may carry.
func CAKeyTypes() []KeyType {
	return slices.DeleteFunc(LeafKeyTypes(), func(k KeyType) bool { return k == Ed25519 })
}

// ParseKeyType reads a key type as the config file spells it. The error lists what is allowed.
func ParseKeyType(s string, allowed []KeyType) (KeyType, error) {
	if k := KeyType(s); slices.Contains(allowed, k) {
		return k, nil
	}
	names := make([]string, len(allowed))
	for i, k := range allowed {
		names[i] = string(k)
	}
	return "", fmt.Errorf("key type %q is not one of %s", s, strings.Join(names, ", "))
}

// Generate makes a new private key of this type from the system's random source.
func (k KeyType) Generate() (crypto.Signer, error) {
	switch k {
	case ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	}
	return nil, fmt.Errorf("key type %q is unknown", string(k))
}

// TypeOf names the type of a public key; the error says what it is where meshca has no name for it.
func TypeOf(pub crypto.PublicKey) (KeyType, error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve {
		case elliptic.P256():
			return ECDSAP256, nil
		case elliptic.P384():
			return ECDSAP384, nil
		}
		return "", fmt.Errorf("curve %s is not P-256 or P-384", pub.Curve.Params().Name)
	case ed25519.PublicKey:
		return Ed25519, nil
	case *rsa.PublicKey:
		switch k := KeyType(fmt.Sprintf("RSA-%d", pub.N.BitLen())); k {
		case RSA2048, RSA3072, RSA4096:
			return k, nil
		}
		return "", fmt.Errorf("an RSA key of %d bits is not 2048, 3072 or 4096", pub.N.BitLen())
	}
	return "", unknownKey(pub)
}

// SubjectKeyID computes a subject key identifier: the leftmost 160 bits of the SHA-256 of the subject
// public key's bits (RFC 7093, section 2, method 1). A CA computes it once and stores it with its
// certificate, since toolchains have changed their default and a changed identifier breaks chains.
func SubjectKeyID(pub crypto.PublicKey) ([]byte, error) {
	bits, err := keyBits(pub)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(bits)
	return bytes.Clone(sum[:20]), nil
}

// keyBits is the content of the BIT STRING in which a certificate carries the key.
func keyBits(pub crypto.PublicKey) ([]byte, error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return pub.Bytes() // the uncompressed point: RFC 5480, section 2.2
	case ed25519.PublicKey:
		return pub, nil // RFC 8410, section 4
	case *rsa.PublicKey:
		return x509.MarshalPKCS1PublicKey(pub), nil // RFC 3279, section 2.3.1
	}
	return nil, unknownKey(pub)
}

func unknownKey(pub crypto.PublicKey) error {
	return fmt.Errorf("a key of type %T is not ECDSA, Ed25519 or RSA", pub)
}
