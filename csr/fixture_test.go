package csr_test

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
	_ "embed"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A draft is a certificate request in parts, each a whole DER element, that a test changes before it is signed.
type draft struct {
	version, subject, spki, attributes []byte
	algorithm                          []byte
	unusedBits                         byte // of the signature
	sign                               func(info []byte) []byte
}

// newDraft is a good request for three names with a subject and two attributes, as key signs it.
func newDraft(key crypto.Signer) *draft {
	d := &draft{
		version: value(0x02, "\x00"),
		subject: value(0x30,
			string(rdn("2.5.4.6", value(0x13, "DE"))),
			string(rdn("2.5.4.10", value(0x0c, "Müller & Söhne"))),
			string(rdn("2.5.4.3", value(0x16, "pgadmin")))),
		spki: must(x509.MarshalPKIXPublicKey(key.Public())),
	}
	d.ask(
		extension("2.5.29.17", false, goodNames()),
		extension("2.5.29.15", true, []byte{0x03, 0x02, 0x05, 0xa0}),
	)
	d.signWith(key, signatureOf(key))
	return d
}

// ask sets the attributes: a challenge password, and a request for these extensions.
func (d *draft) ask(extensions ...[]byte) {
	d.setAttributes(
		attribute("1.2.840.113549.1.9.7", value(0x0c, "secret")),
		attribute("1.2.840.113549.1.9.14", sequence(extensions...)))
}

func (d *draft) setAttributes(attributes ...[]byte) {
	d.attributes = value(0xa0, string(bytes.Join(attributes, nil)))
}

// name asks for these alternative names alone.
func (d *draft) name(names ...[]byte) {
	d.ask(extension("2.5.29.17", false, sequence(names...)))
}

func (d *draft) signWith(key crypto.Signer, a x509.SignatureAlgorithm) {
	s := signatures[a]
	d.algorithm = s.identifier
	d.sign = func(info []byte) []byte { return must(sign(key, info, s)) }
}

func sign(key crypto.Signer, info []byte, s signature) ([]byte, error) {
	digest := info
	if s.options.HashFunc() != 0 {
		h := s.options.HashFunc().New()
		h.Write(info)
		digest = h.Sum(nil)
	}
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		return key.Sign(nil, digest, s.options) // without randomness: every worker of a fuzzer makes the same bytes
	}
	return key.Sign(rand.Reader, digest, s.options)
}

func (d *draft) info() []byte {
	return sequence(d.version, d.subject, d.spki, d.attributes)
}

func (d *draft) der() []byte { return d.signed(d.info()) }

// signed is a request with this information.
func (d *draft) signed(info []byte) []byte {
	return sequence(info, d.algorithm, value(0x03, string(d.unusedBits), string(d.sign(info))))
}

func (d *draft) pem() []byte { return pemOf(d.der()) }

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// value is a DER element.
func value(tag byte, contents ...string) []byte {
	body := strings.Join(contents, "")
	return append(append([]byte{tag}, length(len(body))...), body...)
}

func length(n int) []byte {
	switch {
	case n < 0x80:
		return []byte{byte(n)}
	case n < 0x100:
		return []byte{0x81, byte(n)}
	case n < 0x10000:
		return []byte{0x82, byte(n >> 8), byte(n)}
	}
	return []byte{0x83, byte(n >> 16), byte(n >> 8), byte(n)}
}

func sequence(elements ...[]byte) []byte {
	return value(0x30, string(bytes.Join(elements, nil)))
}

func set(elements ...[]byte) []byte {
	return value(0x31, string(bytes.Join(elements, nil)))
}

func oid(dotted string) []byte {
	return value(0x06, string(must(must(x509.ParseOID(dotted)).MarshalBinary())))
}

func rdn(kind string, text []byte) []byte { return set(sequence(oid(kind), text)) }

func attribute(kind string, values ...[]byte) []byte { return sequence(oid(kind), set(values...)) }

func extension(kind string, critical bool, contents []byte) []byte {
	mark := []byte(nil)
	if critical {
		mark = value(0x01, "\xff")
	}
	return sequence(oid(kind), mark, value(0x04, string(contents)))
}

func dns(name string) []byte   { return value(0x82, name) }
func ip(address string) []byte { return value(0x87, address) }
func uri(text string) []byte   { return value(0x86, text) }

const goodURI = "spiffe://mesh.local/ns/envoy/svc/pgadmin"

func goodNames() []byte {
	return sequence(dns("PgAdmin"), dns("pgadmin.envoy.svc"), ip("\x0a\x00\x00\x01"), uri(goodURI))
}

// A signature is an algorithm as it is written and as it is made.
type signature struct {
	identifier []byte
	options    crypto.SignerOpts
}

var signatures = map[x509.SignatureAlgorithm]signature{
	x509.ECDSAWithSHA1:    {sequence(oid("1.2.840.10045.4.1")), crypto.SHA1},
	x509.ECDSAWithSHA256:  {sequence(oid("1.2.840.10045.4.3.2")), crypto.SHA256},
	x509.ECDSAWithSHA384:  {sequence(oid("1.2.840.10045.4.3.3")), crypto.SHA384},
	x509.ECDSAWithSHA512:  {sequence(oid("1.2.840.10045.4.3.4")), crypto.SHA512},
	x509.MD5WithRSA:       {sequence(oid("1.2.840.113549.1.1.4"), null), crypto.MD5},
	x509.SHA1WithRSA:      {sequence(oid("1.2.840.113549.1.1.5"), null), crypto.SHA1},
	x509.SHA256WithRSA:    {sequence(oid("1.2.840.113549.1.1.11"), null), crypto.SHA256},
	x509.SHA384WithRSA:    {sequence(oid("1.2.840.113549.1.1.12"), null), crypto.SHA384},
	x509.SHA512WithRSA:    {sequence(oid("1.2.840.113549.1.1.13"), null), crypto.SHA512},
	x509.SHA256WithRSAPSS: pss("2.16.840.1.101.3.4.2.1", crypto.SHA256, crypto.SHA256.Size()),
	x509.SHA384WithRSAPSS: pss("2.16.840.1.101.3.4.2.2", crypto.SHA384, crypto.SHA384.Size()),
	x509.SHA512WithRSAPSS: pss("2.16.840.1.101.3.4.2.3", crypto.SHA512, crypto.SHA512.Size()),
	x509.PureEd25519:      {sequence(oid("1.3.101.112")), crypto.Hash(0)},
}

var null = value(0x05)

func pss(hash string, h crypto.Hash, salt int) signature {
	of := sequence(oid(hash), null)
	params := sequence(value(0xa0, string(of)), value(0xa1, string(sequence(oid("1.2.840.113549.1.1.8"), of))),
		value(0xa2, string(must(asn1.Marshal(salt)))))
	return signature{sequence(oid("1.2.840.113549.1.1.10"), params), &rsa.PSSOptions{SaltLength: salt, Hash: h}}
}

func signatureOf(key crypto.Signer) x509.SignatureAlgorithm {
	switch key.Public().(type) {
	case *rsa.PublicKey:
		return x509.SHA256WithRSA
	case ed25519.PublicKey:
		return x509.PureEd25519
	}
	return x509.ECDSAWithSHA256
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ecKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	return scalarKey(curve, new(big.Int).Sub(curve.Params().N, new(big.Int).Lsh(big.NewInt(0xfeedc0de), 100)))
}

func scalarKey(curve elliptic.Curve, scalar *big.Int) *ecdsa.PrivateKey {
	return must(ecdsa.ParseRawPrivateKey(curve, scalar.FillBytes(make([]byte, (curve.Params().BitSize+7)/8))))
}

func edKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
}

//go:embed testdata/primes.txt
var primesText string

var primes = sync.OnceValue(func() map[string]*big.Int {
	m := map[string]*big.Int{}
	for line := range strings.Lines(primesText) {
		if name, text, _ := strings.Cut(strings.TrimSpace(line), " "); name != "#" {
			m[name], _ = new(big.Int).SetString(text, 16)
		}
	}
	return m
})

func prime(name string) *big.Int {
	p := primes()[name]
	if p == nil {
		panic("no prime " + name)
	}
	return p
}

// A rawRSA signs with any modulus and exponent; crypto/rsa would refuse most of these.
type rawRSA struct {
	n, e, d *big.Int
}

// rsaKey is the key of the product of factors, of which none but equal ones have a common divisor.
func rsaKey(e int64, factors ...*big.Int) rawRSA {
	n, phi := big.NewInt(1), big.NewInt(1)
	for i, f := range factors {
		n.Mul(n, f)
		if slices.ContainsFunc(factors[:i], func(g *big.Int) bool { return g.Cmp(f) == 0 }) {
			phi.Mul(phi, f)
		} else {
			phi.Mul(phi, new(big.Int).Sub(f, big.NewInt(1)))
		}
	}
	d := new(big.Int).ModInverse(big.NewInt(e), phi)
	if d == nil {
		d = big.NewInt(1) // no signature can be made; the key is refused before it matters
	}
	return rawRSA{n, big.NewInt(e), d}
}

func power(p *big.Int, k int) []*big.Int { return slices.Repeat([]*big.Int{p}, k) }

// spki is the key as a SubjectPublicKeyInfo.
func (k rawRSA) spki() []byte {
	key := sequence(must(asn1.Marshal(k.n)), must(asn1.Marshal(k.e)))
	return sequence(sequence(oid("1.2.840.113549.1.1.1"), null), value(0x03, "\x00"+string(key)))
}

// sign makes a signature of PKCS #1 v1.5 with SHA-256.
func (k rawRSA) sign(info []byte) []byte {
	digest := sha256.Sum256(info)
	info = sequence(sequence(oid("2.16.840.1.101.3.4.2.1"), null), value(0x04, string(digest[:])))
	size := (k.n.BitLen() + 7) / 8
	padded := "\x00\x01" + strings.Repeat("\xff", max(0, size-len(info)-3)) + "\x00" + string(info)
	m := new(big.Int).SetBytes([]byte(padded))
	return m.Exp(m, k.d, k.n).FillBytes(make([]byte, size))
}

func (d *draft) signRaw(k rawRSA) {
	d.spki, d.algorithm, d.sign = k.spki(), signatures[x509.SHA256WithRSA].identifier, k.sign
}

// goodRSA is a key of crypto/rsa with this many bits.
func goodRSA(t testing.TB, bits string) *rsa.PrivateKey {
	t.Helper()
	k := rsaKey(65537, prime("a"+bits), prime("b"+bits))
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: k.n, E: 65537}, D: k.d, Primes: []*big.Int{prime("a" + bits), prime("b" + bits)},
	}
	key.Precompute()
	if err := key.Validate(); err != nil {
		t.Fatal(err)
	}
	return key
}

var big757, big256 = big.NewInt(757), big.NewInt(256)
