package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/meshca/meshca/api/client"
	"github.com/meshca/meshca/csr"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
)

// A set is where a caller keeps a certificate: the three files that a service's Secret or folder has.
//
// A key is never replaced, and a certificate never lies beside a key that is not its own.
type set struct {
	dir     string
	key     string   // path of the private key; dir's tls.key unless somebody wants it elsewhere
	made    []string // what this run has made, oldest first; a failure takes it away again
	renewed bool     // certificate and bundle replace those that are there
}

func newSet(dir string) *set {
	return &set{dir: dir, key: filepath.Join(dir, rotation.KeyFile)}
}

func (s *set) cert() string   { return filepath.Join(s.dir, rotation.CertFile) }
func (s *set) bundle() string { return filepath.Join(s.dir, rotation.CAFile) }

// free refuses where a file would have to be overwritten.
func (s *set) free(files ...string) error {
	for _, path := range files {
		_, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			return s.taken(path)
		}
	}
	return nil
}

// taken is the refusal to overwrite.
func (s *set) taken(path string) error {
	f := &failure{err: fmt.Errorf("%s is there and is not overwritten: nothing was asked for", path), code: exitNo}
	switch {
	case exists(s.cert()):
		f.hints = []string{"meshca renew " + s.dir + " replaces the certificate and keeps the key", "--out DIR writes elsewhere"}
	default:
		f.hints = []string{"no certificate belongs to it: remove it, or make a CSR with it and use --csr, or --out DIR writes elsewhere"}
	}
	return f
}

// dataLink is in every folder that is replaced as a whole: those of meshca, and Secrets that a kubelet mounts.
const dataLink = "..data"

// notKept refuses a folder that a meshca or a kubelet keeps: what is written there is put right or cannot be written.
func (s *set) notKept() error {
	if _, err := os.Lstat(filepath.Join(s.dir, dataLink)); err != nil {
		return nil
	}
	return &failure{err: fmt.Errorf("%s is kept by meshca serve, which renews it in its time", s.dir), code: exitNo,
		hints: []string{"--out DIR makes another key and certificate"}}
}

// makeFolder makes the folder where it is missing.
func (s *set) makeFolder() error {
	if exists(s.dir) {
		return nil
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	s.made = append(s.made, s.dir)
	return syncFolder(filepath.Dir(filepath.Clean(s.dir)))
}

// makeKey makes a key and writes it, mode 0600, before anybody is asked for anything: a certificate whose key is lost
// is no use.
func (s *set) makeKey(kind profile.KeyType) (crypto.Signer, error) {
	key, err := kind.Generate()
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := newFile(s.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, s.taken(s.key)
		}
		return nil, err
	}
	s.made = append(s.made, s.key)
	return key, nil
}

// write writes certificate and bundle, trust first: whoever reads in between trusts what comes.
func (s *set) write(issued *client.IssuedCertificate) error {
	put := newFile
	if s.renewed {
		put = replaceFile
	}
	for _, file := range []struct{ path, content string }{{s.bundle(), issued.Ca}, {s.cert(), issued.Chain}} {
		if err := put(file.path, []byte(file.content), 0o644); err != nil {
			return err
		}
		if !s.renewed {
			s.made = append(s.made, file.path)
		}
	}
	return nil
}

// discard takes away what this run has made: a key without a certificate is nobody's, and another run begins as this
// one did.
func (s *set) discard() error {
	var failed []error
	for i := len(s.made) - 1; i >= 0; i-- {
		failed = append(failed, os.Remove(s.made[i]))
	}
	s.made = nil
	return errors.Join(failed...)
}

// own reads the key that lies in the folder; nil where there is none.
func (s *set) own() (crypto.Signer, error) {
	content, err := os.ReadFile(s.key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := parseKey(content)
	if err != nil {
		return nil, &failure{err: fmt.Errorf("%s: %w", s.key, err), code: exitNo}
	}
	return key, nil
}

// fits refuses a certificate for another key than the one that lies in the folder.
func (s *set) fits(public crypto.PublicKey) error {
	key, err := s.own()
	if err != nil || key == nil {
		return err
	}
	if !sameKey(key.Public(), public) {
		return &failure{err: fmt.Errorf("%s is not the key of the CSR: its certificate cannot lie beside it, and nothing was asked for", s.key), code: exitNo,
			hints: []string{"--out DIR writes elsewhere"}}
	}
	return nil
}

// sameKey compares public keys.
func sameKey(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// parseKey reads a private key, in PEM, in any of the forms that tools write. The error says nothing of it.
func parseKey(content []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue // openssl writes a curve's parameters before the key
		}
		if signer, ok := key.(crypto.Signer); ok && err == nil {
			return signer, nil
		}
		return nil, errors.New("its key cannot be read")
	}
	return nil, errors.New("it holds no private key in PEM without a passphrase")
}

// readCSR reads a request, "-" from stdin, with the rules of the CA.
func readCSR(path string, stdin io.Reader) (text string, public crypto.PublicKey, err error) {
	content, err := readBounded(path, stdin, csr.MaxBytes)
	if err != nil {
		return "", nil, err
	}
	request, err := csr.Parse(content)
	if err != nil {
		return "", nil, &failure{err: fmt.Errorf("%s: %w", path, err), code: exitNo}
	}
	return string(content), request.PublicKey, nil
}
