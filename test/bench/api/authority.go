package main

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/meshca/meshca/profile"
)

// An authority is a root and an issuing CA as meshca has them, for the servers that are not meshca.
type authority struct {
	root, issuing *x509.Certificate
	key           crypto.Signer // the issuing CA's
}

func newAuthority() (*authority, error) {
	now := time.Now()
	rootKey, err := profile.ECDSAP256.Generate()
	if err != nil {
		return nil, err
	}
	a := &authority{}
	if a.key, err = profile.ECDSAP256.Generate(); err != nil {
		return nil, err
	}
	window := profile.Window{NotBefore: now.Add(-time.Hour).UTC().Truncate(time.Second), NotAfter: now.AddDate(1, 0, 0).UTC().Truncate(time.Second)}
	template, err := profile.RootTemplate(1, rootKey.Public(), window)
	if err != nil {
		return nil, err
	}
	if a.root, err = sign(template, template, rootKey); err != nil {
		return nil, err
	}
	if template, err = profile.IssuingTemplate(1, a.key.Public(), window, a.root); err != nil {
		return nil, err
	}
	a.issuing, err = sign(template, a.root, rootKey)
	return a, err
}

func sign(template, issuer *x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, template.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
