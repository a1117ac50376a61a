package csr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // hashes that signatures use
	_ "crypto/sha512"
)

type scheme int

const (
	schemeECDSA scheme = iota
	schemePKCS1
	schemePSS
	schemeEd25519
)

type algorithm struct {
	scheme scheme
	hash   crypto.Hash // none for Ed25519
}

// algorithms are the signatures that are accepted, by the contents of their AlgorithmIdentifier: each has one
// or two encodings (RFC 5758, 4055, 8410), so all parameters are compared by comparing bytes. PSS stands with
// MGF1 of the same hash and a salt as long as the hash alone, which is also all that crypto/x509 knows.
var algorithms = map[string]algorithm{
	"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02":             {schemeECDSA, crypto.SHA256},
	"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03":             {schemeECDSA, crypto.SHA384},
	"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04":             {schemeECDSA, crypto.SHA512},
	"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00": {schemePKCS1, crypto.SHA256},
	"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00": {schemePKCS1, crypto.SHA384},
	"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\x00": {schemePKCS1, crypto.SHA512},
	"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b":         {schemePKCS1, crypto.SHA256},
	"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c":         {schemePKCS1, crypto.SHA384},
	"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d":         {schemePKCS1, crypto.SHA512},
	pss("\x60\x86\x48\x01\x65\x03\x04\x02\x01", "\x20"):    {schemePSS, crypto.SHA256},
	pss("\x60\x86\x48\x01\x65\x03\x04\x02\x02", "\x30"):    {schemePSS, crypto.SHA384},
	pss("\x60\x86\x48\x01\x65\x03\x04\x02\x03", "\x40"):    {schemePSS, crypto.SHA512},
	"\x06\x03\x2b\x65\x70":                                 {schemeEd25519, 0},
}

// pss is the AlgorithmIdentifier's contents for id-RSASSA-PSS (RFC 4055, section 3.1).
func pss(hash, salt string) string {
	of := "\x30\x0d\x06\x09" + hash + "\x05\x00"
	return "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a\x30\x34" +
		"\xa0\x0f" + of +
		"\xa1\x1c\x30\x1a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08" + of +
		"\xa2\x03\x02\x01" + salt
}

// prove verifies the signature of the request with the key of the request.
func (s *signedRequest) prove() error {
	a, ok := algorithms[string(s.algorithm)]
	if !ok {
		return unproved("the algorithm of the signature is not accepted: sign with ECDSA or RSA (PKCS #1 v1.5, or PSS with MGF1 of the same hash and a salt as long as the hash) and SHA-256, SHA-384 or SHA-512, or with Ed25519")
	}
	if !a.verify(s.request.PublicKey, s.info, s.signature) {
		return unproved("the signature is not that of the request's own key over this request: sign it with the private key, and send it unchanged")
	}
	return nil
}

func (a algorithm) verify(key crypto.PublicKey, signed, signature []byte) bool {
	if a.hash != 0 {
		h := a.hash.New()
		h.Write(signed)
		signed = h.Sum(nil)
	}
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return a.scheme == schemeECDSA && ecdsa.VerifyASN1(key, signed, signature)
	case ed25519.PublicKey:
		return a.scheme == schemeEd25519 && ed25519.Verify(key, signed, signature)
	case *rsa.PublicKey:
		switch a.scheme {
		case schemePKCS1:
			return rsa.VerifyPKCS1v15(key, a.hash, signed, signature) == nil
		case schemePSS:
			return rsa.VerifyPSS(key, a.hash, signed, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	}
	return false
}
