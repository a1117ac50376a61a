package issuer

import (
	"bytes"
	"crypto/x509"

	"github.com/meshca/meshca/store"
)

// ReasonAdopted is the reason in the record of a leaf that another CA signed.
const ReasonAdopted = "adopted"

// Adopt records, in the transaction, the leaf of another CA that a service holds at its place, with the chain as it stands
// in tls.crt. From then on it is the service's current leaf, until one is issued.
func Adopt(w store.Writer, service, place string, leaf *x509.Certificate, chain []byte, epoch uint64) error {
	return appendRecord(w, &Record{
		Serial:    SerialString(leaf),
		Service:   service,
		Place:     place,
		Epoch:     epoch,
		IssuedAt:  leaf.NotBefore.UTC(),
		NotBefore: leaf.NotBefore.UTC(),
		NotAfter:  leaf.NotAfter.UTC(),
		Key:       KeyString(leaf.RawSubjectPublicKeyInfo),
		Reason:    ReasonAdopted,
		State:     Delivered,
		Cert:      leaf.Raw,
		Chain:     bytes.Clone(chain),
	})
}

// Adopted says whether another CA signed the certificate.
func (r *Record) Adopted() bool { return r.Issuing == 0 }

// HasSerial says whether the store has the record of a certificate of that serial for the service.
func (i *Issuer) HasSerial(service, serial string) (has bool, err error) {
	err = i.store.View(func(r store.Reader) error {
		return newest(r, service, func(record *Record) bool {
			has = record.Serial == serial
			return !has
		})
	})
	return has, err
}
