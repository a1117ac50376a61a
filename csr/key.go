package csr

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"slices"
	"sync"

	"github.com/meshca/meshca/profile"
)

// The AlgorithmIdentifiers of keys that are accepted, their contents (RFC 3279, 5480, 8410).
const (
	keyRSA     = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00"
	keyEC      = "\x06\x07\x2a\x86\x48\xce\x3d\x02\x01"
	keyP256    = keyEC + "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
	keyP384    = keyEC + "\x06\x05\x2b\x81\x04\x00\x22"
	keyEd25519 = "\x06\x03\x2b\x65\x70"
)

// parseKey reads the contents of a SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7) and refuses keys that
// anybody can compute the private part of, as far as that can be seen cheaply.
func parseKey(spki []byte) (crypto.PublicKey, profile.KeyType, error) {
	parts, ok := fields(spki, tagSequence, tagBitString)
	if !ok {
		return nil, "", malformed("the public key is not an algorithm and a BIT STRING")
	}
	bits, ok := wholeBytes(parts[1])
	if !ok {
		return nil, "", malformed("the public key is not a whole number of bytes")
	}
	key, err := keyOf(parts[0].body, bits)
	if err != nil {
		return nil, "", err
	}
	kind, err := profile.TypeOf(key)
	if err != nil {
		return nil, "", refusedKey(err.Error())
	}
	return key, kind, nil
}

func keyOf(algorithm, bits []byte) (crypto.PublicKey, error) {
	switch string(algorithm) {
	case keyP256:
		return parsePoint(elliptic.P256(), bits)
	case keyP384:
		return parsePoint(elliptic.P384(), bits)
	case keyEd25519:
		return parseEd25519(bits)
	case keyRSA:
		return parseRSA(bits)
	}
	return nil, unknownKey(algorithm)
}

// unknownKey says what is wrong with a key of another algorithm.
func unknownKey(algorithm []byte) error {
	const send = ": use ECDSA on P-256 or P-384, Ed25519, or RSA of 2048, 3072 or 4096 bits"
	oid, rest, problem := split(algorithm)
	if problem != "" || oid.tag != tagOID {
		return malformed("the algorithm of the public key has no type")
	}
	if string(oid.raw) != keyEC {
		return refusedKey("a public key of algorithm " + dotted(oid.body) + ", or with such parameters, is not accepted" + send)
	}
	curve, rest, problem := split(rest)
	if problem != "" || curve.tag != tagOID || len(rest) > 0 {
		return refusedKey("the curve is not given by its name alone" + send)
	}
	return refusedKey("curve " + dotted(curve.body) + " is not P-256 or P-384" + send)
}

// parsePoint reads an uncompressed point (RFC 5480, section 2.2), the one form that all can read.
func parsePoint(curve elliptic.Curve, bits []byte) (crypto.PublicKey, error) {
	switch {
	case bytes.Equal(bits, []byte{0}):
		return nil, refusedKey("the public key is the point at infinity")
	case len(bits) > 0 && (bits[0] == 2 || bits[0] == 3):
		return nil, refusedKey("the public key is a compressed point: send it uncompressed")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, bits)
	if err != nil {
		return nil, refusedKey("the public key is no point of its curve")
	}
	if smallScalars[curve]()[string(bits[1:1+(len(bits)-1)/2])] {
		return nil, refusedKey("the private key is a small number, so anybody can find it: make a new key")
	}
	return key, nil
}

// smallScalars gives the x coordinates of the points k·G with k or -k from 1 to 255.
var smallScalars = map[elliptic.Curve]func() map[string]bool{
	elliptic.P256(): sync.OnceValue(func() map[string]bool { return multiples(elliptic.P256()) }),
	elliptic.P384(): sync.OnceValue(func() map[string]bool { return multiples(elliptic.P384()) }),
}

func multiples(curve elliptic.Curve) map[string]bool {
	xs := map[string]bool{}
	scalar := make([]byte, curve.Params().BitSize/8)
	for k := 1; k <= 255; k++ {
		scalar[len(scalar)-1] = byte(k)
		key, err := ecdsa.ParseRawPrivateKey(curve, scalar)
		if err != nil {
			panic(err) // a number below the order of the group is a key
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			panic(err)
		}
		xs[string(point[1:1+len(scalar)])] = true
	}
	return xs
}

// smallOrder are the y coordinates of the eight points of Ed25519 whose order divides 8, little-endian. For
// such a key anybody can make signatures that crypto/ed25519 takes.
var smallOrder = []string{
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
	"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
	"\xec\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
}

// parseEd25519 takes a y coordinate below p = 2^255-19, so that a key has one form (RFC 8032, section 5.1.3).
// Whether there is a point of that y, the signature shows.
func parseEd25519(bits []byte) (crypto.PublicKey, error) {
	if len(bits) != ed25519.PublicKeySize {
		return nil, refusedKey("the public key is not the 32 bytes of Ed25519")
	}
	y := bytes.Clone(bits)
	y[31] &= 0x7f // the sign of x
	if y[0] >= 0xed && y[31] == 0x7f && len(bytes.Trim(y[1:31], "\xff")) == 0 {
		return nil, refusedKey("the public key is not a canonical point of Ed25519")
	}
	if slices.Contains(smallOrder, string(y)) {
		return nil, refusedKey("the public key is a point of small order, for which anybody can sign: make a new key")
	}
	return ed25519.PublicKey(bits), nil
}
