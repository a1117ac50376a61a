package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/meshca/meshca/profile"
)

// SignCRL signs a CRL's template with this issuing CA, and returns the parsed result. Both are linted by the same
// rules. Package issuer is the one caller: it says what is revoked, and records the number.
func (i *IssuingCA) SignCRL(template *x509.RevocationList) (*x509.RevocationList, error) {
	return signCRL(template, i.Certificate, i.key)
}

func signCRL(template *x509.RevocationList, issuer *x509.Certificate, key crypto.Signer) (*x509.RevocationList, error) {
	if err := profile.LintCRL(template, issuer); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, issuer, key)
	if err != nil {
		return nil, err
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("parse what was signed: %w", err)
	}
	if err := profile.LintCRL(list, issuer); err != nil {
		return nil, fmt.Errorf("signed CRL: %w", err)
	}
	return list, nil
}

// CRLs are those of our own roots in the bundle, in the order of their generations. Each was signed when the root's
// key was last open, for the issuing CA that it signed then, and ends with that. None lists anything: an issuing CA is
// not revoked, it is replaced together with its root.
func (a *Authority) CRLs() (lists []*x509.RevocationList) {
	for _, r := range a.roots {
		if r.CRL != nil && a.trusts(r.Certificate) {
			lists = append(lists, r.CRL)
		}
	}
	return lists
}

// WithoutCRL are the certificates in the bundle for which this store has no CRL: other CAs' anchors, whose keys are
// not here, and a root that was founded before there were CRLs, whose key is not opened for that. A verifier that
// checks the whole chain refuses what is below them.
func (a *Authority) WithoutCRL() (certs []*x509.Certificate) {
	for _, r := range a.roots {
		if r.CRL == nil && a.trusts(r.Certificate) {
			certs = append(certs, r.Certificate)
		}
	}
	for _, anchor := range a.anchors {
		certs = append(certs, anchor.Certificate)
	}
	return certs
}

func (a *Authority) trusts(root *x509.Certificate) bool {
	return slices.ContainsFunc(a.trusted, root.Equal)
}

// IssuingCAs lists the issuing CAs that the store holds, oldest first.
func (a *Authority) IssuingCAs() []*IssuingCA { return slices.Clone(a.issuing) }
