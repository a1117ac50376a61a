package csr

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"fmt"
	"math"
	"math/big"

	"github.com/meshca/meshca/profile"
)

// maxModulus is how many bytes the modulus may have that is looked at: 4096 bits, and a zero for the sign.
const maxModulus = 1 + 4096/8

// fermatRounds is how far the factors are looked for beside each other, as Boulder does.
const fermatRounds = 110

// smallPrimes are those that a modulus may not be a multiple of, 2 among them.
var smallPrimes = primesUpTo(751)

func primesUpTo(limit int) []int {
	var primes []int
	for n := 2; n <= limit; n++ {
		if isPrime(n, primes) {
			primes = append(primes, n)
		}
	}
	return primes
}

// isPrime divides n by primes, which must be all up to its root.
func isPrime(n int, primes []int) bool {
	for _, p := range primes {
		if p*p > n {
			return true
		}
		if n%p == 0 {
			return false
		}
	}
	return true
}

// parseRSA reads an RSAPublicKey (RFC 8017, appendix A.1.1): size first, since all arithmetic grows with it.
func parseRSA(bits []byte) (crypto.PublicKey, error) {
	if err := check(bits, 0, 1); err != nil {
		return nil, malformed("the RSA key is not strict DER: " + err.Error())
	}
	outer, ok := fields(bits, tagSequence)
	if !ok {
		return nil, malformed("the RSA key is not a modulus and an exponent")
	}
	parts, ok := fields(outer[0].body, tagInteger, tagInteger)
	switch {
	case !ok:
		return nil, malformed("the RSA key is not a modulus and an exponent")
	case len(parts[0].body) > maxModulus:
		return nil, refusedKey("the RSA key has more than 4096 bits: use 2048, 3072 or 4096")
	case parts[0].body[0] >= 0x80:
		return nil, refusedKey("the RSA modulus is negative: make a new key")
	case !bytes.Equal(parts[1].body, []byte{1, 0, 1}):
		return nil, refusedKey("the RSA exponent is not 65537: make a new key")
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(parts[0].body), E: 65537}
	if _, err := profile.TypeOf(key); err != nil {
		return nil, refusedKey(err.Error())
	}
	if err := checkModulus(key.N); err != nil {
		return nil, err
	}
	return key, nil
}

// checkModulus looks for what lets anybody factor n. It is no proof that n is the product of two good primes.
func checkModulus(n *big.Int) error {
	const anew = ": make a new key, with a current program"
	for _, p := range smallPrimes {
		if remainder(n, p) == 0 {
			return refusedKey(fmt.Sprintf("the RSA modulus is a multiple of %d%s", p, anew))
		}
	}
	switch {
	case isROCA(n):
		return refusedKey("the RSA modulus was made by a chip whose keys can be factored (ROCA, CVE-2017-15361)" + anew)
	case isClose(n):
		return refusedKey("the factors of the RSA modulus are so close to each other that Fermat's method finds them" + anew)
	case isPower(n):
		return refusedKey("the RSA modulus is a power of a number, so anybody can factor it" + anew)
	}
	return nil
}

func remainder(n *big.Int, divisor int) int {
	return int(new(big.Int).Mod(n, big.NewInt(int64(divisor))).Int64())
}

// isROCA says whether n is a power of 65537 modulo each prime up to 167, as are the moduli of RSALib
// (Nemec et al., The Return of Coppersmith's Attack, 2017), and one other in 2^27.
func isROCA(n *big.Int) bool {
	for _, p := range smallPrimes {
		if p == 2 {
			continue
		}
		if p > 167 {
			break
		}
		if !isPowerOf65537(remainder(n, p), p) {
			return false
		}
	}
	return true
}

func isPowerOf65537(n, p int) bool {
	for power, i := 1, 0; i < p; i++ {
		if power == n {
			return true
		}
		power = power * 65537 % p
	}
	return false
}

// isClose looks for a² - n = b², so that n = (a+b)(a-b), from the root of n on; with b = 0 n is a square.
func isClose(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	if square := new(big.Int).Mul(a, a); square.Cmp(n) < 0 {
		a.Add(a, big.NewInt(1))
	}
	b2 := new(big.Int).Mul(a, a)
	b2.Sub(b2, n)
	root, step := new(big.Int), new(big.Int)
	for range fermatRounds {
		if mayBeSquare(b2) && root.Mul(root.Sqrt(b2), root).Cmp(b2) == 0 {
			return true
		}
		b2.Add(b2, step.Add(step.Lsh(a, 1), big.NewInt(1))) // (a+1)² - n
		a.Add(a, big.NewInt(1))
	}
	return false
}

// mayBeSquare looks at n modulo 64, where there are twelve squares: that spares four roots in five.
func mayBeSquare(n *big.Int) bool {
	const squares = 0x0202021202030213
	return n.Sign() == 0 || squares>>(n.Bits()[0]&63)&1 == 1
}

// isPower says whether n is m^k for an odd prime k; squares are found by isClose. Such a number is a k-th power
// modulo every prime r. If r is 1 modulo k, only one number in k is one, so a few r tell.
func isPower(n *big.Int) bool {
	most := n.BitLen() / 9 // m has no factor up to 751, so more than nine bits
	for _, k := range smallPrimes[1:] {
		if k > most {
			return false
		}
		if isPowerModulo(n, k) {
			return true
		}
	}
	return false
}

// isPowerModulo errs once in 2^64.
func isPowerModulo(n *big.Int, k int) bool {
	bits := 0.0
	for r := 2*k + 1; bits < 64; r += 2 * k {
		if !isPrime(r, smallPrimes) { // r stays far below 751²
			continue
		}
		power := 1
		for base, e := remainder(n, r), (r-1)/k; e > 0; e >>= 1 {
			if e&1 == 1 {
				power = power * base % r
			}
			base = base * base % r
		}
		if power > 1 {
			return false
		}
		if power == 1 { // 0: r divides n, which tells nothing
			bits += math.Log2(float64(k))
		}
	}
	return true
}
