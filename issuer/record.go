package issuer

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/meshca/meshca/store"
)

// A State is what is known of the delivery of an issued certificate.
type State string

// The states of a record. A certificate is Issued from the commit on; whether a live process can hold its
// key is settled by the other two.
const (
	Issued      State = "issued"
	Delivered   State = "delivered"   // it was written to its target, or handed to its caller
	Undelivered State = "undelivered" // its key was lost in a crash before it was written: nobody holds it
)

// A Record is what the store keeps of one certificate.
type Record struct {
	Seq       uint64    `json:"seq"`    // position in the order of issue, from 1
	Serial    string    `json:"serial"` // lower-case hexadecimal without leading zeros
	Service   string    `json:"service"`
	Place     string    `json:"place,omitempty"` // where it was to be written; "" in records of before it was kept: wherever the service is
	Issuing   int       `json:"issuing"`         // id of the issuing CA, 0 for a leaf that another CA signed
	Epoch     uint64    `json:"epoch"`
	IssuedAt  time.Time `json:"issuedAt"` // renewal counts from here, not from the backdated NotBefore
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Key       string    `json:"key"` // SHA-256 of the SubjectPublicKeyInfo, hexadecimal
	Reason    string    `json:"reason"`
	Caller    string    `json:"caller,omitempty"` // who asked for it and has it; "" where it is for the service's place
	State     State     `json:"state"`
	Cert      []byte    `json:"cert"`            // DER
	Chain     []byte    `json:"chain,omitempty"` // PEM of the certificates of tls.crt, where another CA signed the leaf
	Found     string    `json:"found,omitempty"` // SHA-256 of that tls.crt, hexadecimal

	Revoked *Revocation `json:"revoked,omitempty"` // it must not be changed
}

// The keys: a record under its sequence number, and the indexes that lead to it. Numbers are written so
// that the order of keys is their order.
const (
	recordPrefix  = "cert/"
	serialPrefix  = "serial/"
	servicePrefix = "service/" // those for the service's place
	askedPrefix   = "asked/"   // those that callers asked for, by service
	expiryPrefix  = "expiry/"
	keyPrefix     = "key/"
	adoptedPrefix = "adopted/" // by serial, as serial/, where another CA signed the leaf
)

// isAt says whether the record is of what lies, or lay, at the place.
func (r *Record) isAt(place string) bool { return r.Place == "" || place == "" || r.Place == place }

func recordKey(seq uint64) string { return recordPrefix + number(seq) }

func number(n uint64) string { return hex.EncodeToString(binary.BigEndian.AppendUint64(nil, n)) }

func expiryNumber(t time.Time) string { return number(uint64(max(t.Unix(), 0))) }

// indexKeys are the keys under which r is found.
func (r *Record) indexKeys() []string {
	seq := number(r.Seq)
	holder := servicePrefix
	if r.Caller != "" {
		holder = askedPrefix
	}
	keys := []string{
		holder + r.Service + "/" + seq,
		expiryPrefix + expiryNumber(r.NotAfter) + "/" + seq,
		keyPrefix + r.Key + "/" + seq,
	}
	if r.Adopted() { // the serials of other CAs may be equal to each other's and to ours
		keys = append(keys, adoptedPrefix+r.Serial+"/"+seq)
	} else {
		keys = append(keys, serialPrefix+r.Serial)
	}
	if r.Revoked != nil {
		keys = append(keys, r.revokedKey())
	}
	return keys
}

// appendRecord gives r the next sequence number and writes it with its indexes.
func appendRecord(w store.Writer, r *Record) error {
	last, err := lastSeq(w)
	if err != nil {
		return err
	}
	r.Seq = last + 1
	if _, taken := w.Get(serialPrefix + r.Serial); taken && !r.Adopted() {
		return fmt.Errorf("serial %s was issued before", r.Serial)
	}
	for _, key := range r.indexKeys() {
		w.Put(key, []byte(number(r.Seq)))
	}
	return putRecord(w, r)
}

// lastSeq is the sequence number of the newest record, 0 where there is none.
func lastSeq(r store.Reader) (uint64, error) {
	for key := range r.Scan(store.Prefix(recordPrefix).Backwards()) {
		return seqOf(key)
	}
	return 0, nil
}

func putRecord(w store.Writer, r *Record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	w.Put(recordKey(r.Seq), value)
	return nil
}

func deleteRecord(w store.Writer, r *Record) {
	for _, key := range r.indexKeys() {
		w.Delete(key)
	}
	w.Delete(recordKey(r.Seq))
}

// seqOf reads the sequence number at the end of a record's or an index's key.
func seqOf(key string) (uint64, error) {
	seq, err := strconv.ParseUint(key[strings.LastIndexByte(key, '/')+1:], 16, 64)
	if err != nil {
		return 0, fmt.Errorf("store key %q: %w", key, err)
	}
	return seq, nil
}

func getRecord(r store.Reader, seq uint64) (*Record, error) {
	value, ok := r.Get(recordKey(seq))
	if !ok {
		return nil, fmt.Errorf("record %d is missing though an index leads to it", seq)
	}
	record := &Record{}
	if err := json.Unmarshal(value, record); err != nil {
		return nil, fmt.Errorf("record %d: %w", seq, err)
	}
	return record, nil
}

// recordAt reads the record whose sequence number stands at the end of a key, or is the value that it leads to.
func recordAt(r store.Reader, key string) (*Record, error) {
	seq, err := seqOf(key)
	if err != nil {
		return nil, err
	}
	return getRecord(r, seq)
}

// ofKey are the records of all certificates of a key. They are read whole before any is returned: nothing is written
// while it is scanned.
func ofKey(r store.Reader, key string) (records []*Record, err error) {
	for index := range r.Scan(store.Prefix(keyPrefix + key + "/")) {
		record, err := recordAt(r, index)
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}

// newest yields the records for a service's place from the newest backwards until fn returns false.
func newest(r store.Reader, service string, fn func(*Record) bool) error {
	for key := range r.Scan(store.Prefix(servicePrefix + service + "/").Backwards()) {
		record, err := recordAt(r, key)
		if err != nil {
			return err
		}
		if !fn(record) {
			return nil
		}
	}
	return nil
}

// setState changes the state of a record.
func setState(w store.Writer, seq uint64, s State) error {
	record, err := getRecord(w, seq)
	if err != nil {
		return err
	}
	record.State = s
	return putRecord(w, record)
}

// MarkDelivered records, in one transaction, that the certificates were written to their targets. It is
// idempotent.
func (i *Issuer) MarkDelivered(leaves ...*Leaf) error {
	return i.store.Update(func(w store.Writer) error {
		for _, l := range leaves {
			if err := setState(w, l.record.Seq, Delivered); err != nil {
				return err
			}
		}
		return nil
	})
}

// AsDelivered is the leaf with the record that it has after MarkDelivered.
func (l *Leaf) AsDelivered() *Leaf {
	delivered := *l
	delivered.record.State = Delivered
	return &delivered
}

// MarkUndelivered records that the certificate never left the process and its key is lost. It is
// idempotent.
func (i *Issuer) MarkUndelivered(l *Leaf) error {
	return i.store.Update(func(w store.Writer) error { return setState(w, l.record.Seq, Undelivered) })
}

// MarkSeen records that a certificate was seen where it is delivered to, whatever was concluded before: a write that
// was given up may arrive late. It says whether that was news.
func (i *Issuer) MarkSeen(c *x509.Certificate) (news bool, err error) {
	err = i.store.View(func(r store.Reader) error {
		record, err := recordOf(r, c)
		news = record != nil && record.State == Undelivered
		return err
	})
	if err != nil || !news {
		return false, err
	}
	return true, i.store.Update(func(w store.Writer) error {
		record, err := recordOf(w, c)
		if err != nil || record == nil {
			return err
		}
		record.State = Delivered
		return putRecord(w, record)
	})
}

// errEnough ends a scan that has what it wants.
var errEnough = errors.New("enough")

// Prune deletes the records, with their indexes, of certificates that expired before the given instant, at
// most limit of them, and returns how many; a full batch means that there may be more. The newest record
// of a service stays, however old: it says that the service is known. So does the newest of all: no sequence number is
// given twice, and what leads to a record that was pruned leads nowhere, never to another's. One of a revoked certificate stays as long as a CRL has to list it.
func (i *Issuer) Prune(before time.Time, limit int) (pruned int, err error) {
	victims, err := i.expired(before, limit)
	if err != nil || len(victims) == 0 {
		return 0, err
	}
	err = i.store.Update(func(w store.Writer) error {
		for _, seq := range victims {
			record, err := getRecord(w, seq)
			if err != nil {
				return err
			}
			deleteRecord(w, record)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("prune: %w", err)
	}
	return len(victims), nil
}

// isNewest says whether r is the newest record for its service's place.
func isNewest(r store.Reader, record *Record) (is bool, err error) {
	if record.Caller != "" {
		return false, nil
	}
	err = newest(r, record.Service, func(n *Record) bool { is = n.Seq == record.Seq; return false })
	return is, err
}

// expired lists the sequence numbers that Prune may delete. It reads in a View, so that a sweep that finds
// nothing commits nothing.
func (i *Issuer) expired(before time.Time, limit int) (victims []uint64, err error) {
	err = i.store.View(func(r store.Reader) error {
		last, err := lastSeq(r)
		if err != nil {
			return err
		}
		for key := range r.Scan(store.Range{From: expiryPrefix, To: expiryPrefix + expiryNumber(before)}) {
			record, err := recordAt(r, key)
			if err != nil {
				return err
			}
			if stays, err := isNewest(r, record); err != nil {
				return err
			} else if stays || record.Seq == last {
				continue
			}
			if listed, err := i.listed(r, record, before); err != nil {
				return err
			} else if listed {
				continue
			}
			if victims = append(victims, record.Seq); len(victims) == limit {
				return errEnough
			}
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return victims, err
}
