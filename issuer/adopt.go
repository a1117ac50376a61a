package issuer

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"

	"github.com/meshca/meshca/store"
)

// ReasonAdopted is the reason in the record of a leaf that another CA signed.
const ReasonAdopted = "adopted"

// Adopt records, in the transaction, the leaf of another CA that a service holds at its place: its chain, leaf first, and of the
// tls.crt that was found only what tells it from another one, since a file may hold the key as well. From then on it
// is the service's current leaf, until one is issued. A leaf that comes back has one record all the same.
func Adopt(w store.Writer, service, place string, chain []*x509.Certificate, file []byte, epoch uint64) error {
	leaf := chain[0]
	key := KeyString(leaf.RawSubjectPublicKeyInfo)
	if err := forget(w, service, key, leaf); err != nil {
		return err
	}
	return appendRecord(w, &Record{
		Serial:    SerialString(leaf),
		Service:   service,
		Place:     place,
		Epoch:     epoch,
		IssuedAt:  leaf.NotBefore.UTC(),
		NotBefore: leaf.NotBefore.UTC(),
		NotAfter:  leaf.NotAfter.UTC(),
		Key:       key,
		Reason:    ReasonAdopted,
		State:     Delivered,
		Cert:      leaf.Raw,
		Chain:     EncodeChain(chain),
		Found:     fileSum(file),
	})
}

// forget deletes the service's record of an adopted leaf, if there is one.
func forget(w store.Writer, service, key string, leaf *x509.Certificate) error {
	records, err := ofKey(w, key)
	for _, record := range records {
		if record.Adopted() && record.Service == service && bytes.Equal(record.Cert, leaf.Raw) {
			deleteRecord(w, record)
		}
	}
	return err
}

// EncodeChain writes certificates as PEM, and nothing else.
func EncodeChain(chain []*x509.Certificate) (encoded []byte) {
	for _, c := range chain {
		encoded = append(encoded, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return encoded
}

func fileSum(file []byte) string {
	sum := sha256.Sum256(file)
	return hex.EncodeToString(sum[:])
}

// IsAsFound says whether the file is the tls.crt that was found with an adopted leaf.
func (r *Record) IsAsFound(file []byte) bool { return r.Adopted() && r.Found == fileSum(file) }

// Adopted says whether another CA signed the certificate.
func (r *Record) Adopted() bool { return r.Issuing == 0 }

// HasSerial says whether the store has the record of a certificate of that serial for the service's place.
func (i *Issuer) HasSerial(service, serial string) (has bool, err error) {
	err = i.store.View(func(r store.Reader) error {
		var keys []string
		for key := range r.Scan(store.Prefix(adoptedPrefix + serial + "/")) {
			keys = append(keys, key)
		}
		if seq, ours := r.Get(serialPrefix + serial); ours {
			keys = append(keys, recordPrefix+string(seq))
		}
		for _, key := range keys {
			record, err := recordAt(r, key)
			if err != nil {
				return err
			}
			has = has || record.Service == service && record.Caller == ""
		}
		return nil
	})
	return has, err
}
