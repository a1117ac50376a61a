package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxItem bounds what is read of one object, in bytes of JSON. No API server serves more: etcd takes 1.5 MiB, of which
// each byte may be six in JSON.
const maxItem = 16 << 20

// errForm is what is wrong with an answer that cannot be read.
var errForm = errors.New("the answer is no JSON of the expected form")

// decodeList reads a list as it comes in, hands each item to fn, and says where the next page begins, "" where there is
// none. Whoever may make objects chooses how large they are, so no more than one is held, and of it what T has.
func decodeList[T any](body io.Reader, fn func(*T)) (next string, err error) {
	l := &lister{from: body, left: maxItem}
	l.json = json.NewDecoder(l)
	if there, err := l.open('{'); !there {
		return "", err
	}
	for l.json.More() {
		var page struct {
			Continue string `json:"continue"`
		}
		field, err := l.json.Token()
		switch {
		case err != nil:
			err = l.told(err)
		case field == "items":
			err = items(l, fn)
		case field == "metadata":
			err = l.value(&page)
			next = page.Continue
		default:
			err = l.value(new(json.RawMessage))
		}
		if err != nil {
			return "", err
		}
	}
	_, err = l.json.Token() // where the answer was cut off, the end is missing
	return next, l.told(err)
}

// items reads the items of a list.
func items[T any](l *lister, fn func(*T)) error {
	if there, err := l.open('['); !there {
		return err
	}
	for l.json.More() {
		var item T
		if err := l.value(&item); err != nil {
			return err
		}
		fn(&item)
	}
	_, err := l.json.Token()
	return l.told(err)
}

// A lister reads a list value by value.
type lister struct {
	json *json.Decoder
	from io.Reader
	left int   // that may still be read before the value ends
	err  error // of from
}

// Read implements [io.Reader]: the decoder's.
func (l *lister) Read(p []byte) (n int, err error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("%w: one object has more than %d MiB", errForm, maxItem>>20)
	}
	n, l.err = l.from.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, l.err
}

// value reads one value.
func (l *lister) value(v any) error {
	l.left = maxItem
	return l.told(l.json.Decode(v))
}

// open reads the beginning of an object or an array, which null has none of.
func (l *lister) open(delim json.Delim) (there bool, err error) {
	l.left = maxItem
	token, err := l.json.Token()
	if err == nil && token != nil && token != delim {
		err = errForm
	}
	return err == nil && token != nil, l.told(err)
}

// told tells what could not be read from what could, and is not what it should be.
func (l *lister) told(err error) error {
	switch {
	case err == nil, errors.Is(err, errForm):
		return err
	case l.err != nil && l.err != io.EOF:
		return l.err
	case l.err == io.EOF && errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return errForm
}
