package verify

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

const (
	maxFile  = 1 << 20
	maxCerts = 200
	// maxRSABits is what crypto/tls takes. Above it a signature check takes time that grows with the cube of
	// the size, which a file of 1 MiB could make hours.
	maxRSABits = 8192
	// maxRSAExponent is what crypto/rsa takes: the time grows with its length too.
	maxRSAExponent = 1<<31 - 1
	// maxKey is above any private key of maxRSABits.
	maxKey = 8 << 10
)

// A problem is what is wrong with a file; its text follows the file's name in a sentence.
type problem struct {
	code Code
	text string
}

// A file is one of the three as found.
type file struct {
	name string
	data []byte
}

// newFile names a file as people know it.
func newFile(name, fallback string, data []byte) file {
	return file{name: cmp.Or(name, fallback), data: data}
}

// blocks gives the PEM blocks of a file, or why it has none.
func (f file) blocks() ([]block, *problem) {
	switch {
	case f.data == nil:
		return nil, &problem{MissingFile, "is missing"}
	case len(bytes.TrimSpace(f.data)) == 0:
		return nil, &problem{EmptyFile, "is empty"}
	case len(f.data) > maxFile:
		return nil, &problem{TooLarge, fmt.Sprintf("has %d bytes, more than 1 MiB", len(f.data))}
	}
	blocks := scanPEM(f.data)
	if len(blocks) == 0 {
		p := whyNotPEM(f.data)
		return nil, &p
	}
	return blocks, nil
}

// certificates reads a file of certificates. Those that can be read are given even if others cannot; first
// says whether the first one could, since the first of tls.crt is the leaf.
func (f file) certificates() (certs []*x509.Certificate, first bool, problems []problem) {
	if len(f.data) <= maxFile && bytes.Contains(f.data, []byte("PRIVATE KEY"+dashes)) {
		problems = append(problems, problem{PrivateKeyInCertificateFile, "holds a private key"})
	}
	blocks, p := f.blocks()
	if p != nil {
		return nil, false, append(problems, *p)
	}
	n := 0
	for _, b := range blocks {
		if b.label != "CERTIFICATE" {
			continue
		}
		if n++; n > maxCerts {
			p := problem{TooLarge, fmt.Sprintf("holds more than %d certificates", maxCerts)}
			return nil, false, append(problems, p)
		}
		cert, p := b.certificate()
		if p != nil {
			problems = append(problems, *p)
			continue
		}
		first = first || n == 1
		certs = append(certs, cert)
	}
	if n == 0 {
		problems = append(problems, problem{NotPEM, "holds no certificate" + otherwise(blocks)})
	}
	return certs, first, problems
}

// otherwise says what a file without a certificate holds, if it is one of the usual mistakes. A label is
// never quoted: it is whatever the file says.
func otherwise(blocks []block) string {
	switch label := blocks[0].label; {
	case strings.HasSuffix(label, "CERTIFICATE REQUEST"):
		return ", but a certificate request"
	case strings.HasSuffix(label, "PRIVATE KEY"):
		return ", but a key"
	case label == "TRUSTED CERTIFICATE":
		return ", but OpenSSL's own TRUSTED CERTIFICATE, which only OpenSSL reads"
	case label == "PKCS7":
		return ", but a PKCS #7 container"
	}
	return ""
}

func (b block) certificate() (*x509.Certificate, *problem) {
	der, p := b.decode()
	if p != nil {
		return nil, p
	}
	cert, err := ParseCertificate(der)
	switch {
	case cert == nil:
		return nil, &problem{BadCertificate, "has a CERTIFICATE block that is not a certificate" + parseError(err)}
	case err != nil:
		return nil, &problem{BadCertificate, "has a certificate with " + err.Error()}
	}
	return cert, nil
}

// ParseCertificate parses what somebody else has written. A certificate whose key would make a check of its signatures
// last is returned with an error that says so: nobody should verify anything with it.
func ParseCertificate(der []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	switch {
	case ok && key.N.BitLen() > maxRSABits:
		err = fmt.Errorf("an RSA key of %d bits, TLS libraries take at most %d", key.N.BitLen(), maxRSABits)
	case ok && key.E > maxRSAExponent:
		err = errors.New("an RSA key whose exponent has more than 31 bits, which TLS libraries do not take")
	}
	return cert, err
}

// parseError gives what crypto/x509 said, unless that quotes the file.
func parseError(err error) string {
	if s := err.Error(); !strings.ContainsAny(s, "\"'`\n") {
		return " (" + s + ")"
	}
	return ""
}

// publicKey reads a private key and gives its public half. What it says never depends on the key's bytes:
// the errors of the parsers are left out.
func (f file) publicKey() (crypto.PublicKey, *problem) {
	blocks, p := f.blocks()
	if p != nil {
		return nil, p
	}
	for _, b := range blocks {
		if !strings.HasSuffix(b.label, "PRIVATE KEY") {
			continue
		}
		if b.encrypted || b.label == "ENCRYPTED PRIVATE KEY" {
			return nil, &problem{EncryptedKey, "holds a key that is encrypted with a passphrase"}
		}
		der, p := b.decode()
		switch {
		case p != nil && b.label == "OPENSSH PRIVATE KEY", p == nil && bytes.HasPrefix(der, []byte("openssh-key-v1")):
			return nil, &problem{BadKey, "holds a key in the format of OpenSSH"}
		case p != nil:
			return nil, p
		}
		pub := parseKey(der)
		if pub == nil {
			return nil, &problem{BadKey, "holds a key that cannot be read"}
		}
		return pub, nil
	}
	if blocks[0].label == "CERTIFICATE" {
		return nil, &problem{BadKey, "holds a certificate and no key"}
	}
	return nil, &problem{BadKey, "holds no private key"}
}

// parseKey tries the three forms whatever the label says, as crypto/tls does; nil if none fits.
func parseKey(der []byte) crypto.PublicKey {
	if len(der) > maxKey {
		return nil
	}
	var key any
	var err error
	if key, err = x509.ParsePKCS8PrivateKey(der); err != nil {
		if key, err = x509.ParsePKCS1PrivateKey(der); err != nil {
			if key, err = x509.ParseECPrivateKey(der); err != nil {
				return nil
			}
		}
	}
	signer, ok := key.(crypto.Signer) // X25519 is a PKCS #8 key too, and signs nothing
	if !ok {
		return nil
	}
	return signer.Public()
}
