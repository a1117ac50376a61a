package e2e

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A record is what the store keeps of one certificate, in the form that the tests know.
type record struct {
	Seq     uint64 `json:"seq"`
	Serial  string `json:"serial"`
	Service string `json:"service"`
	Issuing int    `json:"issuing"`
	Key     string `json:"key"`
	Caller  string // who asked for it; "" where it is for a folder or Secret
	State   string `json:"state"`
	Cert    []byte `json:"cert"`

	cert *x509.Certificate
}

// adopted says whether another CA signed the certificate.
func (r *record) adopted() bool { return r.Issuing == 0 }

// storeState is the record of what is in use.
type storeState struct {
	Identity string `json:"identity"`
	Epoch    uint64 `json:"epoch"`
}

// A storeCopy is a store file as it was at one moment, read without the program's packages.
type storeCopy struct {
	raw     []byte            // the file, free pages and all
	entries map[string][]byte // the bucket "data"
	records map[uint64]*record
	state   storeState
	roots   []*x509.Certificate
	issuing []*x509.Certificate
	anchors []*x509.Certificate // of other CAs
}

// readStore copies the store file, which may be in use, and reads the copy.
func readStore(path string) (*storeCopy, error) {
	raw, err := readStable(path)
	if err != nil {
		return nil, err
	}
	s := &storeCopy{raw: raw, entries: make(map[string][]byte), records: make(map[uint64]*record)}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, s.decode()
}

// readStable reads a file until two readings in a row are the same. The store is copy-on-write with its
// newest root page at the front, so that such a reading is one committed state.
func readStable(path string) ([]byte, error) {
	var last []byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		now, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(now, last) && last != nil {
			return now, nil
		}
		last = now
	}
	return nil, fmt.Errorf("%s does not come to rest", path)
}

// load reads all keys and values.
func (s *storeCopy) load() error {
	return withStore(s.raw, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			bucket := tx.Bucket([]byte("data"))
			if bucket == nil {
				return nil
			}
			return bucket.ForEach(func(key, value []byte) error {
				s.entries[string(key)] = bytes.Clone(value)
				return nil
			})
		})
	})
}

// withStore opens the bytes of a store file as a database.
func withStore(raw []byte, fn func(*bolt.DB) error) error {
	dir, err := os.MkdirTemp("", "meshca-e2e-store-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "copy.db")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open a copy of the store: %w", err)
	}
	return errors.Join(fn(db), db.Close())
}

// decode parses the records that the tests look at.
func (s *storeCopy) decode() error {
	for key, value := range s.entries {
		kind, _, _ := strings.Cut(key, "/")
		var err error
		switch {
		case kind == "cert":
			err = s.addRecord(key, value)
		case key == "ca/state":
			err = json.Unmarshal(value, &s.state)
		case strings.HasPrefix(key, "ca/root/"):
			err = addCA(&s.roots, value)
		case strings.HasPrefix(key, "ca/anchor/"):
			err = addCA(&s.anchors, value)
		case strings.HasPrefix(key, "ca/issuing/"):
			err = addCA(&s.issuing, value)
		}
		if err != nil {
			return fmt.Errorf("store key %s: %w", key, err)
		}
	}
	return nil
}

func (s *storeCopy) addRecord(key string, value []byte) (err error) {
	r := &record{}
	if err := json.Unmarshal(value, r); err != nil {
		return err
	}
	if want := fmt.Sprintf("cert/%016x", r.Seq); key != want {
		return fmt.Errorf("the record's number says %s", want)
	}
	if r.cert, err = x509.ParseCertificate(r.Cert); err != nil {
		return err
	}
	s.records[r.Seq] = r
	return nil
}

func addCA(list *[]*x509.Certificate, value []byte) error {
	var ca struct {
		Certificate []byte `json:"certificate"`
	}
	if err := json.Unmarshal(value, &ca); err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(ca.Certificate)
	*list = append(*list, cert)
	return err
}

// signed says whether one of the store's issuing CAs signed a certificate.
func (s *storeCopy) signed(c *x509.Certificate) bool {
	for _, ca := range s.issuing {
		if c.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}

// bySerial is the record with a serial number, found through the store's own index; nil where there is none.
func (s *storeCopy) bySerial(c *x509.Certificate) *record {
	seq, err := strconv.ParseUint(string(s.entries["serial/"+serialOf(c)]), 16, 64)
	if err != nil {
		return nil
	}
	return s.records[seq]
}

// newest is the newest record of a service that is not marked undelivered; nil where there is none.
func (s *storeCopy) newest(service string) (newest *record) {
	for _, r := range s.records {
		if r.Service == service && r.State != "undelivered" && r.Caller == "" && (newest == nil || r.Seq > newest.Seq) {
			newest = r
		}
	}
	return newest
}

// count is how many records there are of what folders and Secrets hold or held.
func (s *storeCopy) count() (n int) {
	for _, r := range s.records {
		if r.Caller == "" {
			n++
		}
	}
	return n
}

// holds says whether the file has the secret anywhere, free pages included: as it is, or in base64, which is
// how JSON carries bytes, at any alignment.
func (s *storeCopy) holds(secret []byte) bool {
	if bytes.Contains(s.raw, secret) {
		return true
	}
	for shift := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), secret...))
		from, to := (shift*8+5)/6, (shift+len(secret))*8/6 // what no neighbour has a bit in
		if bytes.Contains(s.raw, []byte(encoded[from:to])) {
			return true
		}
	}
	return false
}

// serialOf is a certificate's serial number as the store spells it.
func serialOf(c *x509.Certificate) string { return fmt.Sprintf("%x", c.SerialNumber) }
