package client

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// CSR makes a request (PKCS #10, PEM) that proves to have the key and asks for nothing else: names, use and lifetime
// are the catalogue's.
func CSR(key crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// Leaf is the certificate itself.
func (i *IssuedCertificate) Leaf() (*x509.Certificate, error) {
	leaf, _, err := chain([]byte(i.Chain))
	return leaf, err
}

// Check says whether the certificate is for the key, and its chain holds for the trust bundle that came with it, now,
// for servers and clients. Whoever checks it before it is written never has a set that does not go together.
func (i *IssuedCertificate) Check(key crypto.PublicKey) error {
	leaf, above, err := chain([]byte(i.Chain))
	if err != nil {
		return err
	}
	if k, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(key) {
		return errors.New("the certificate that came is for another key")
	}
	roots, err := pool([]byte(i.Ca))
	if err != nil {
		return fmt.Errorf("the trust bundle that came: %w", err)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: above, KeyUsages: []x509.ExtKeyUsage{use}, CurrentTime: i.within(time.Now())})
		if err != nil {
			return fmt.Errorf("the certificate that came does not hold for the bundle that came: %w", err)
		}
	}
	return nil
}

// within is now, or the nearest instant of the certificate's life: a clock that is off says nothing of the chain.
func (i *IssuedCertificate) within(now time.Time) time.Time {
	switch {
	case now.Before(i.NotBefore):
		return i.NotBefore
	case now.After(i.NotAfter):
		return i.NotAfter
	}
	return now
}

// chain reads a leaf and the CAs above it.
func chain(text []byte) (leaf *x509.Certificate, above *x509.CertPool, err error) {
	above = x509.NewCertPool()
	for block, rest := pem.Decode(bytes.TrimSpace(text)); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("the chain that came: %w", err)
		case leaf == nil:
			leaf = cert
		default:
			above.AddCert(cert)
		}
	}
	if leaf == nil {
		return nil, nil, errors.New("the chain that came holds no certificate")
	}
	return leaf, above, nil
}
