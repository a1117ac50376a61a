package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// CheckInvariants fails the test for everything on the disk that is not as it must be while all services
// stand. See [Inspect].
func CheckInvariants(t testing.TB, m *Mesh) {
	t.Helper()
	for _, err := range Inspect(m) {
		t.Errorf("invariant: %v", err)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// Inspect lists which invariants are broken. It reads files and certificates, and a copy of the store's
// file, and asks neither the program nor its packages. While all services stand:
//
//   - every folder's ..data leads to a whole set: the key is the leaf's, the chain verifies against the set's
//     own ca.crt in both roles, the mark is right, the modes are right, and the files are links to it;
//   - all bundles are the same bytes: our self-signed roots in canonical PEM, sorted by DER, the root that was
//     seen first among them, and then each anchor of another CA that the store has a record of, once;
//   - and all that [InspectRecords] says.
func Inspect(m *Mesh) []error {
	s, err := readStore(m.Store())
	if err != nil {
		return []error{err}
	}
	found := InspectRecords(m, s)
	var bundle []byte
	for _, service := range m.Services {
		v, err := readView(m.Path(service))
		if err != nil {
			found = append(found, err)
			continue
		}
		if err := inspectSet(m, s, v); err != nil {
			found = append(found, fmt.Errorf("%s: %w", service, err))
		}
		if bundle == nil {
			bundle = v.File[caFile]
		}
		if !bytes.Equal(bundle, v.File[caFile]) {
			found = append(found, fmt.Errorf("%s: ca.crt is not that of %s", service, m.Services[0]))
		}
	}
	if err := m.inspectBundle(s, bundle); err != nil {
		found = append(found, fmt.Errorf("ca.crt: %w", err))
	}
	return found
}

// InspectRecords lists which invariants of the store are broken that hold at every instant, whatever
// others do to the folders: the root is the one that was seen first; no serial is there twice; records
// and indexes lead to each other; every certificate of this CA on the disk, in replaced data folders too,
// has its record; and no key of a leaf is in the store's file.
func InspectRecords(m *Mesh, s *storeCopy) []error {
	var found []error
	for _, root := range s.roots {
		if sum := fingerprint(root); m.root == "" {
			m.root = sum
		} else if sum != m.root {
			found = append(found, fmt.Errorf("the store's root is %s, it was %s", sum, m.root))
		}
	}
	found = append(found, inspectIndexes(s)...)
	if s.holds([]byte("PRIVATE KEY")) {
		found = append(found, errors.New("the store's file holds a private key in PEM"))
	}
	sets, err := filepath.Glob(m.Path("*", "..2*"))
	if err != nil {
		return append(found, err)
	}
	for _, dir := range sets {
		if err := inspectIssued(s, dir); err != nil {
			found = append(found, fmt.Errorf("%s: %w", dir, err))
		}
	}
	return found
}

// inspectSet judges one service's current set.
func inspectSet(m *Mesh, s *storeCopy, v View) error {
	pair, err := v.pair()
	if err != nil {
		return err
	}
	leaf := pair.Leaf
	if err := verifyChain(pair, v.File[caFile], time.Time{}); err != nil {
		return err
	}
	if leaf.Subject.CommonName != v.Name {
		return fmt.Errorf("the leaf is for %s", leaf.Subject.CommonName)
	}
	if r := s.newest(v.Name); r == nil || !bytes.Equal(r.Cert, leaf.Raw) {
		return fmt.Errorf("the newest record that is not undelivered is %v, the leaf is %s", r, serialOf(leaf))
	}
	if err := inspectMark(s, v, leaf); err != nil {
		return err
	}
	return inspectForm(m.Path(v.Name), v.Data)
}

// verifyChain verifies a set's chain against its own bundle, as a client and as a server would at a time; zero is now.
func verifyChain(pair tls.Certificate, bundle []byte, at time.Time) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	for _, der := range pair.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		intermediates.AddCert(cert)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		options := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := pair.Leaf.Verify(options); err != nil {
			return err
		}
	}
	return nil
}

// inspectMark compares meshca.json with the set beside it and with the store.
func inspectMark(s *storeCopy, v View, leaf *x509.Certificate) error {
	type mark struct {
		Store    string `json:"store"`
		Service  string `json:"service"`
		Epoch    uint64 `json:"epoch"`
		Bundle   string `json:"bundleSHA256"`
		Serial   string `json:"serial"`
		NotAfter string `json:"notAfter"`
		MAC      string `json:"mac"`
	}
	var got mark
	decoder := json.NewDecoder(bytes.NewReader(v.File[markFile]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&got); err != nil {
		return fmt.Errorf("%s: %w", markFile, err)
	}
	sum := sha256.Sum256(v.File[caFile])
	// Only who has the seal can make the MAC; that it is one is all that is seen here.
	want := mark{s.state.Identity, v.Name, s.state.Epoch, hex.EncodeToString(sum[:]), serialOf(leaf), leaf.NotAfter.UTC().Format(time.RFC3339), got.MAC}
	if mac, err := hex.DecodeString(got.MAC); err != nil || len(mac) != sha256.Size {
		return fmt.Errorf("%s has the MAC %q", markFile, got.MAC)
	}
	if got != want {
		return fmt.Errorf("%s is %+v, want %+v", markFile, got, want)
	}
	return nil
}

// inspectForm judges links and modes.
func inspectForm(dir, data string) error {
	for _, name := range setFiles {
		to, err := os.Readlink(filepath.Join(dir, name))
		if err != nil || to != filepath.Join(dataLink, name) {
			return fmt.Errorf("%s is no link through ..data: %q, %v", name, to, err)
		}
		info, err := os.Lstat(filepath.Join(data, name))
		if err != nil {
			return err
		}
		want := fs.FileMode(0o644)
		if name == keyFile {
			want = 0o600
		}
		if info.Mode() != want {
			return fmt.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
	return nil
}

// inspectBundle judges the bytes of a bundle.
func (m *Mesh) inspectBundle(s *storeCopy, bundle []byte) error {
	var canonical, last []byte
	trusted, anchors := false, make(map[string]bool)
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		canonical = append(canonical, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
		if slices.ContainsFunc(s.anchors, cert.Equal) {
			if anchors[fingerprint(cert)] {
				return fmt.Errorf("%s is there twice", cert.Subject)
			}
			anchors[fingerprint(cert)] = true
			continue
		}
		if err := cert.CheckSignatureFrom(cert); err != nil {
			return fmt.Errorf("%s is not self-signed: %w", cert.Subject, err)
		}
		if len(anchors) > 0 || bytes.Compare(last, cert.Raw) >= 0 {
			return fmt.Errorf("%s is not in the order of DER, before what is another CA's", cert.Subject)
		}
		last = cert.Raw
		trusted = trusted || fingerprint(cert) == m.root
	}
	if len(anchors) != len(s.anchors) {
		return fmt.Errorf("%d anchors of other CAs are in it, the store has records of %d", len(anchors), len(s.anchors))
	}
	switch {
	case len(canonical) == 0:
		return errors.New("no certificate in it")
	case !bytes.Equal(canonical, bundle):
		return errors.New("not in canonical PEM")
	case !trusted:
		return fmt.Errorf("the root that was seen first, %s, is not in it", m.root)
	}
	return nil
}

// inspectIssued judges one data folder, current or replaced, damaged or not: what this CA signed has its
// record, and no key in it is in the store. The record of an expired certificate may be gone.
func inspectIssued(s *storeCopy, dir string) error {
	content, err := os.ReadFile(filepath.Join(dir, certFile))
	if block, _ := pem.Decode(content); err == nil && block != nil {
		if err := inspectLeaf(s, block.Bytes); err != nil {
			return err
		}
	}
	content, err = os.ReadFile(filepath.Join(dir, keyFile))
	block, _ := pem.Decode(content)
	if err != nil || block == nil {
		return nil // damaged by the test
	}
	secrets, err := secretsOf(block.Bytes)
	if err != nil {
		return nil // damaged by the test
	}
	for _, secret := range secrets {
		if s.holds(secret) {
			return errors.New("the store's file holds the key of this leaf")
		}
	}
	return nil
}

// inspectLeaf looks for the record of a certificate, if this CA signed it.
func inspectLeaf(s *storeCopy, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil || !s.signed(cert) || time.Now().After(cert.NotAfter) {
		return nil // damaged by the test, another's, or expired
	}
	r := s.bySerial(cert)
	switch {
	case r == nil:
		return fmt.Errorf("leaf %s of %s has no record", serialOf(cert), cert.Subject.CommonName)
	case !bytes.Equal(r.Cert, cert.Raw):
		return fmt.Errorf("the record of leaf %s holds another certificate", r.Serial)
	case r.Service != cert.Subject.CommonName:
		return fmt.Errorf("the record of leaf %s for %s is one of %s", r.Serial, cert.Subject.CommonName, r.Service)
	}
	return nil
}

// secretsOf are the numbers of a PKCS #8 key that nobody else may know.
func secretsOf(der []byte) ([][]byte, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		scalar, err := key.Bytes()
		return [][]byte{scalar}, err
	case ed25519.PrivateKey:
		return [][]byte{key.Seed()}, nil
	case *rsa.PrivateKey:
		return [][]byte{key.D.Bytes(), key.Primes[0].Bytes(), key.Primes[1].Bytes()}, nil
	}
	return nil, fmt.Errorf("a key of type %T", key)
}

// inspectIndexes says where records and indexes do not lead to each other, and where a serial is there twice.
func inspectIndexes(s *storeCopy) []error {
	var found []error
	wanted := make(map[string]uint64)
	serials := make(map[string]uint64)
	for seq, r := range s.records {
		if other, twice := serials[serialOf(r.cert)]; twice && !r.adopted() {
			found = append(found, fmt.Errorf("serial %s is in records %d and %d", r.Serial, other, seq))
		}
		if !r.adopted() {
			serials[serialOf(r.cert)] = seq
		}
		for _, key := range indexesOf(r) {
			wanted[key] = seq
		}
		if r.Serial != serialOf(r.cert) || r.State != "issued" && r.State != "delivered" && r.State != "undelivered" {
			found = append(found, fmt.Errorf("record %d says serial %s, state %q; its certificate %s", seq, r.Serial, r.State, serialOf(r.cert)))
		}
	}
	for key, seq := range wanted {
		if got := string(s.entries[key]); got != fmt.Sprintf("%016x", seq) {
			found = append(found, fmt.Errorf("index %s leads to %q, want record %d", key, got, seq))
		}
	}
	for _, prefix := range []string{"serial/", "service/", "asked/", "expiry/", "key/"} {
		for key := range s.entries {
			if _, ok := wanted[key]; !ok && len(key) > len(prefix) && key[:len(prefix)] == prefix {
				found = append(found, fmt.Errorf("index %s leads to no record", key))
			}
		}
	}
	return found
}

// indexesOf are the keys under which a record must be found, all derived from its certificate.
func indexesOf(r *record) []string {
	seq := fmt.Sprintf("%016x", r.Seq)
	key := sha256.Sum256(r.cert.RawSubjectPublicKeyInfo)
	holder := "service/" + r.cert.Subject.CommonName
	if r.Caller != "" {
		holder = "asked/" + r.Service
	}
	keys := []string{
		holder + "/" + seq,
		"expiry/" + fmt.Sprintf("%016x", r.cert.NotAfter.Unix()) + "/" + seq,
		"key/" + hex.EncodeToString(key[:]) + "/" + seq,
	}
	if !r.adopted() { // serials of several CAs may be the same
		keys = append(keys, "serial/"+serialOf(r.cert))
	}
	return keys
}

// fingerprint is a certificate's SHA-256 as people compare it.
func fingerprint(c *x509.Certificate) string {
	var b []byte
	for i, v := range sha256.Sum256(c.Raw) {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, fmt.Sprintf("%02X", v)...)
	}
	return string(b)
}

// shortFingerprint is its beginning, as the log and the tables show it.
func shortFingerprint(c *x509.Certificate) string { return fingerprint(c)[:11] }
