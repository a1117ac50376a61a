package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// Params say how Found makes a CA.
type Params struct {
	Key             profile.KeyType // of root and issuing CA, one of profile.CAKeyTypes
	RootLifetime    time.Duration
	IssuingLifetime time.Duration
	LeafBackdate    time.Duration // roots and issuing CAs are backdated by twice as much
}

// Found makes a new store identity, the root of generation 1 and the first issuing CA, and commits them in
// one transaction. It refuses a store that already holds a CA. The seal then remembers the identity.
func Found(st store.Store, s *Seal, p Params, now time.Time) (*Authority, error) {
	id := make([]byte, identitySize)
	rand.Read(id)
	state := stateRecord{Identity: hex.EncodeToString(id), Epoch: 1, Trusted: []int{1}, Issuing: 1}

	root, issuing, err := makeChain(s, state, p, now)
	if err != nil {
		return nil, fmt.Errorf("found CA: %w", err)
	}
	err = st.Update(func(w store.Writer) error {
		if _, exists := w.Get(stateKey); exists {
			return errors.New("the store holds a CA already")
		}
		return errors.Join(
			putJSON(w, stateKey, state),
			putJSON(w, fmt.Sprintf(rootKey, root.Generation), root),
			putJSON(w, fmt.Sprintf(issuingKey, issuing.ID), issuing))
	})
	if err != nil {
		return nil, fmt.Errorf("found CA: %w", err)
	}
	return Open(st, s)
}

// Founded says whether a CA was founded in the store.
func Founded(st store.Store) (founded bool, err error) {
	err = st.View(func(r store.Reader) error {
		_, founded = r.Get(stateKey)
		return nil
	})
	return founded, err
}

// makeChain makes the keys and certificates of root 1 and issuing CA 1, and the root's CRL.
func makeChain(s *Seal, state stateRecord, p Params, now time.Time) (root, issuing caRecord, err error) {
	rootSigner, err := p.Key.Generate()
	if err != nil {
		return root, issuing, err
	}
	template, err := profile.RootTemplate(1, rootSigner.Public(), profile.CAWindow(now, p.RootLifetime, p.LeafBackdate, nil))
	if err != nil {
		return root, issuing, err
	}
	rootCert, err := sign(profile.Root, template, template, rootSigner)
	if err != nil {
		return root, issuing, err
	}
	issuingSigner, err := p.Key.Generate()
	if err != nil {
		return root, issuing, err
	}
	window := profile.CAWindow(now, p.IssuingLifetime, p.LeafBackdate, rootCert)
	if template, err = profile.IssuingTemplate(1, issuingSigner.Public(), window, rootCert); err != nil {
		return root, issuing, err
	}
	issuingCert, err := sign(profile.Issuing, template, rootCert, rootSigner)
	if err != nil {
		return root, issuing, err
	}
	window = profile.CRLWindow(now, p.LeafBackdate, rootCert)
	window.NotAfter = issuingCert.NotAfter // the root's key is not opened again before there is a next issuing CA
	list, err := signCRL(profile.CRLTemplate(profile.CRLNumber(0, now), window, nil, rootCert), rootCert, rootSigner)
	if err != nil {
		return root, issuing, err
	}
	root = caRecord{Generation: 1, Certificate: rootCert.Raw, CRL: list.Raw}
	issuing = caRecord{Generation: 1, ID: 1, Certificate: issuingCert.Raw}
	if root.SealedKey, err = sealKey(s, state.Identity, fmt.Sprintf(rootKey, 1), rootSigner); err != nil {
		return root, issuing, err
	}
	issuing.SealedKey, err = sealKey(s, state.Identity, fmt.Sprintf(issuingKey, 1), issuingSigner)
	return root, issuing, err
}

// sign lints the template, signs it, and lints the parsed result by the same rules.
func sign(kind profile.Kind, template, issuer *x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	if err := profile.Lint(kind, template, issuer); err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, template.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse what was signed: %w", err)
	}
	if kind == profile.Root {
		issuer = cert
	}
	if err := profile.Lint(kind, cert, issuer); err != nil {
		return nil, fmt.Errorf("signed certificate: %w", err)
	}
	return cert, nil
}

func sealKey(s *Seal, identity, record string, key crypto.Signer) ([]byte, error) {
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return s.seal(identity, record, plain)
}

func putJSON(w store.Writer, key string, v any) error {
	value, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Put(key, value)
	return nil
}
