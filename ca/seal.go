package ca

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The sizes of a seal and of a store's identity, in bytes.
const (
	sealSize     = 32
	identitySize = 16
)

// identitySuffix ends the name of the file that lies beside the seal and names the store it belongs to.
const identitySuffix = ".store-id"

// A Seal encrypts the CA's private keys at rest. It lives in a file of its own, in earnest on another
// volume than the store: losing either alone gives no key away. It is safe for concurrent use.
type Seal struct {
	path   string
	secret []byte
}

// ErrNoSeal is what OpenSeal wraps where there is no seal file.
var ErrNoSeal = errors.New("the seal is missing")

// CreateSeal makes a new seal of 32 random bytes at path, mode 0600, and its folder, mode 0700. An
// existing file is an error and stays as it is. The seal is durable when CreateSeal returns.
func CreateSeal(path string) (*Seal, error) {
	secret := make([]byte, sealSize)
	rand.Read(secret) // never returns an error: crypto/rand aborts the program instead
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the seal's folder: %w", err)
	}
	if err := writeFile(path, secret, os.Link); err != nil {
		return nil, fmt.Errorf("make seal %s: %w", path, err)
	}
	return &Seal{path: path, secret: secret}, nil
}

// OpenSeal reads the seal at path. It refuses one that others than its owner may read or write, and one
// of a wrong size; where there is none the error wraps ErrNoSeal.
func OpenSeal(path string) (*Seal, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("seal %s: %w", path, ErrNoSeal)
	}
	if err != nil {
		return nil, fmt.Errorf("open seal: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("seal %s is not a regular file", path)
	}
	if others := info.Mode().Perm() & 0o077; others != 0 {
		return nil, fmt.Errorf("seal %s has mode %04o: others than its owner may use it, so think of it as known to them",
			path, info.Mode().Perm())
	}
	secret, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open seal: %w", err)
	}
	if len(secret) != sealSize {
		return nil, fmt.Errorf("seal %s has %d bytes, a seal has %d", path, len(secret), sealSize)
	}
	return &Seal{path: path, secret: secret}, nil
}

// StoreIdentity is the identity of the store that the seal at keyPath was used with, empty where none was
// ever committed under it.
func StoreIdentity(keyPath string) (string, error) {
	path := keyPath + identitySuffix
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	id := strings.TrimSpace(string(content))
	if raw, err := hex.DecodeString(id); err != nil || len(raw) != identitySize {
		return "", fmt.Errorf("%s does not hold the identity of a store", path) // not quoted: it may be anything
	}
	return id, nil
}

// remember keeps the store's identity beside the seal, durably.
func (s *Seal) remember(identity string) error {
	return writeFile(s.path+identitySuffix, []byte(identity+"\n"), os.Rename)
}

// Forget removes the identity that lies beside the seal, so that a new CA can be founded under it. It is for
// an operator who has said that the old store is lost.
func (s *Seal) Forget() error {
	err := os.Remove(s.path + identitySuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// seal encrypts a private key for one record of one store.
func (s *Seal) seal(identity, record string, plain []byte) ([]byte, error) {
	aead, err := s.aead(identity)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, plain, []byte(record)), nil
}

// open decrypts what seal made for the same store and record; anything else fails.
func (s *Seal) open(identity, record string, sealed []byte) ([]byte, error) {
	aead, err := s.aead(identity)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, sealed, []byte(record))
	if err != nil {
		return nil, fmt.Errorf("%w: %s does not open %s of store %s", ErrWrongSeal, s.path, record, identity)
	}
	return plain, nil
}

// markKey authenticates the marks on what is written under this seal. It is the same for every store, so that
// what another store wrote under it can be told from what anybody could have written.
func (s *Seal) markKey() ([]byte, error) { return s.derive("", "meshca marks v1") }

// derive makes a key for one purpose, and for one store unless identity is empty.
func (s *Seal) derive(identity, purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, s.secret, []byte(identity), purpose, 32)
}

// aead is AES-256-GCM with a random nonce in front of each ciphertext, under a key that is derived from
// the seal for this purpose and this store alone (HKDF, RFC 5869). The additional data names the record,
// so a ciphertext that is moved to another record or generation does not open.
func (s *Seal) aead(identity string) (cipher.AEAD, error) {
	key, err := s.derive(identity, "meshca private keys v1")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// writeFile makes the file at path, mode 0600, whole or not at all, and returns when it is durable. place is
// os.Rename to replace what is there, or os.Link to refuse where there is something.
func writeFile(path string, data []byte, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	err = place(f.Name(), path)
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
