package issuer

import (
	"cmp"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/meshca/meshca/store"
)

// A Filter says which records are listed; a zero field lets all through.
type Filter struct {
	Services      []string // nil: all
	ExpiresBefore time.Time
	Match         func(*Record) bool
}

// maxScan is how many records one page reads, at most: where few match, pages are short rather than slow.
const maxScan = 5000

// List lists records in the order of issue, from the one after the given sequence number on (0: from the first), at
// most limit of them. next is the sequence number that the next page goes on after, 0 where there is nothing left. A
// page may be shorter than limit, and even empty, where few of the records match.
func (i *Issuer) List(f Filter, after uint64, limit int) (page []Record, next uint64, err error) {
	err = i.store.View(func(r store.Reader) error {
		page, next = nil, 0
		read := 0
		for seq := range f.sequences(r, after) {
			if len(page) == limit || read == maxScan {
				return nil
			}
			read++
			record, err := getRecord(r, seq)
			if err != nil {
				return err
			}
			next = seq
			if f.passes(record) {
				page = append(page, *record)
			}
		}
		next = 0
		return nil
	})
	return page, next, err
}

func (f *Filter) passes(r *Record) bool {
	return (f.ExpiresBefore.IsZero() || r.NotAfter.Before(f.ExpiresBefore)) && (f.Match == nil || f.Match(r))
}

// sequences yields the sequence numbers of the services' records, or of all, in their order.
func (f *Filter) sequences(r store.Reader, after uint64) iter.Seq[uint64] {
	if f.Services == nil {
		return numbers(r, recordPrefix, after)
	}
	var lists []iter.Seq[uint64]
	for _, service := range f.Services {
		lists = append(lists, numbers(r, servicePrefix+service+"/", after), numbers(r, askedPrefix+service+"/", after))
	}
	return merge(lists)
}

// numbers yields the numbers that end the keys below a prefix.
func numbers(r store.Reader, prefix string, after uint64) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		rest := store.Range{From: prefix + number(after+1), To: store.Prefix(prefix).To}
		for key := range r.Scan(rest) {
			if n, err := strconv.ParseUint(key[len(prefix):], 16, 64); err == nil && !yield(n) {
				return
			}
		}
	}
}

// merge yields what rising sequences yield, in one rising sequence.
func merge(lists []iter.Seq[uint64]) iter.Seq[uint64] {
	type head struct {
		value uint64
		next  func() (uint64, bool)
	}
	return func(yield func(uint64) bool) {
		var heads []*head
		for _, list := range lists {
			next, stop := iter.Pull(list)
			defer stop()
			if value, ok := next(); ok {
				heads = append(heads, &head{value, next})
			}
		}
		for len(heads) > 0 {
			least := slices.MinFunc(heads, func(a, b *head) int { return cmp.Compare(a.value, b.value) })
			if !yield(least.value) {
				return
			}
			var ok bool
			if least.value, ok = least.next(); !ok {
				heads = slices.DeleteFunc(heads, func(h *head) bool { return h == least })
			}
		}
	}
}

// BySerial is the leaf with that serial number, as [SerialString] writes it; nil where the store has none. Of leaves that
// other CAs signed, of which several may have it, it is the newest, where none of ours has it.
func (i *Issuer) BySerial(serial string) (leaf *Leaf, err error) {
	var record *Record
	err = i.store.View(func(r store.Reader) error {
		key := ""
		if seq, ok := r.Get(serialPrefix + serial); ok {
			key = string(seq)
		} else {
			for key = range r.Scan(store.Prefix(adoptedPrefix + serial + "/").Backwards()) {
				break
			}
		}
		if key == "" {
			return nil
		}
		n, err := seqOf(key)
		if err != nil {
			return err
		}
		record, err = getRecord(r, n)
		return err
	})
	if err != nil || record == nil {
		return nil, err
	}
	return i.load(record)
}
