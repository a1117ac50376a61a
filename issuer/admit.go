package issuer

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// Why Issue refuses a public key. None of them says whose key it is: whoever asks need not know.
var (
	ErrKeyCompromised = errors.New("a certificate of this key was revoked for keyCompromise: make a new key")
	ErrKeyOfCA        = errors.New("the key is a CA's: make a new key")
	ErrKeyOfAnother   = errors.New("the key is certified for another service: make a new key")
)

// ErrBearerRevoked is why Issue refuses a caller whose own certificate was revoked after it was let in.
var ErrBearerRevoked = errors.New("the certificate by which the caller is known is revoked")

// A KeyTypeError says that a key is not of the type that the catalogue wants.
type KeyTypeError struct{ Got, Want profile.KeyType }

func (e *KeyTypeError) Error() string {
	return fmt.Sprintf("the request's key is %s, the catalogue says %s", e.Got, e.Want)
}

// checkKey says whether the policy and the store allow the request's key. The store is asked again in the
// transaction that records the certificate; asked before, nothing is signed that is not released.
func (i *Issuer) checkKey(req Request, policy Policy, now time.Time) error {
	key, err := profile.TypeOf(req.PublicKey)
	if err != nil {
		return err
	}
	if key != policy.Key {
		return &KeyTypeError{Got: key, Want: policy.Key}
	}
	spki, err := x509.MarshalPKIXPublicKey(req.PublicKey)
	if err != nil {
		return err
	}
	return i.store.View(func(r store.Reader) error { return admitKey(r, i.Authority(), policy.Service, spki, now) })
}

// admitBearer refuses a caller who is known by a certificate that is revoked, or no longer recorded. Who let it in has
// asked before it sent its body, for which it may take its time.
func admitBearer(r store.Reader, serial string) error {
	if serial == "" {
		return nil
	}
	seq, ok := r.Get(serialPrefix + serial)
	if !ok {
		return ErrBearerRevoked
	}
	record, err := recordAt(r, string(seq))
	if err == nil && record.Revoked != nil {
		err = ErrBearerRevoked
	}
	return err
}

// admitKey refuses a public key that must not be certified for the service.
func admitKey(r store.Reader, authority *ca.Authority, service string, spki []byte, now time.Time) error {
	if authority.HasKey(spki) {
		return ErrKeyOfCA
	}
	key := KeyString(spki)
	if _, refused := r.Get(compromisedPrefix + key); refused {
		return ErrKeyCompromised
	}
	for index := range r.Scan(store.Prefix(keyPrefix + key + "/").Backwards()) {
		record, err := recordAt(r, index)
		if err != nil {
			return err
		}
		if record.Service != service && !now.After(record.NotAfter) {
			return ErrKeyOfAnother
		}
		if !record.Adopted() {
			break // it was admitted itself: those before it are of the same service, or have expired
		}
	}
	return nil
}
