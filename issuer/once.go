package issuer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/meshca/meshca/store"
)

// A Once says that a request is one, however often its caller sends it.
type Once struct {
	Key  string            // the caller's own; the keys of two callers are never the same
	Body [sha256.Size]byte // hash of what was asked
}

// onceKept is how long the answer to a request is remembered.
const onceKept = 24 * time.Hour

// Why a request that is to be answered once cannot be answered now.
var (
	ErrUnderWay    = errors.New("a request with this key is being answered")
	ErrOtherBody   = errors.New("another request was answered under this key")
	ErrGoneForOnce = errors.New("the certificate that was given under this key is no longer recorded")
)

// The keys: an answer under the hash of caller and key, and when it may be forgotten.
const (
	oncePrefix    = "once/"
	onceEndPrefix = "once-end/"
)

// An answer is what the store keeps of an answered request.
type answer struct {
	Seq  uint64    `json:"seq"`
	Body string    `json:"body"` // hash of what was asked, hexadecimal
	At   time.Time `json:"at"`

	id string
}

// once is the answer that is recorded with the certificate, nil where each request is one of its own.
func (r *Request) once(now time.Time) *answer {
	if r.Once == nil {
		return nil
	}
	return &answer{Body: hex.EncodeToString(r.Once.Body[:]), At: now.UTC().Truncate(time.Second), id: r.Once.id(r.Caller)}
}

// id is caller and key in one word of fixed length.
func (o *Once) id(caller string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%s", len(caller), caller, o.Key))
	return hex.EncodeToString(sum[:])
}

func (a *answer) endKey() string {
	return onceEndPrefix + number(uint64(max(a.At.Add(onceKept).Unix(), 0))) + "/" + a.id
}

// put records the answer. Another one under the same key is replaced only when it may be forgotten: [Issuer.Replay]
// was asked before.
func (a *answer) put(w store.Writer, seq uint64) error {
	a.Seq = seq
	value, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if before, err := getAnswer(w, a.id); err != nil {
		return err
	} else if before != nil {
		w.Delete(before.endKey())
	}
	w.Put(oncePrefix+a.id, value)
	w.Put(a.endKey(), nil)
	return nil
}

func getAnswer(r store.Reader, id string) (*answer, error) {
	value, ok := r.Get(oncePrefix + id)
	if !ok {
		return nil, nil
	}
	a := &answer{id: id}
	if err := json.Unmarshal(value, a); err != nil {
		return nil, fmt.Errorf("store key %s%s: %w", oncePrefix, id, err)
	}
	return a, nil
}

// Replay begins a request that is to be answered once. It returns the leaf that an earlier request with the same key
// got, nil where there is none; then the caller goes on to Issue, and calls done when that has ended, whatever it gave.
// The errors are ErrUnderWay, ErrOtherBody and ErrGoneForOnce; done is never nil.
func (i *Issuer) Replay(caller string, once *Once, now time.Time) (leaf *Leaf, done func(), err error) {
	id := once.id(caller)
	if !i.underWay.begin(id) {
		return nil, func() {}, ErrUnderWay
	}
	done = func() { i.underWay.end(id) }
	var before *answer
	var record *Record
	err = i.store.View(func(r store.Reader) error {
		var err error
		if before, err = getAnswer(r, id); err != nil || before == nil {
			return err
		}
		if _, kept := r.Get(recordKey(before.Seq)); kept {
			record, err = getRecord(r, before.Seq)
		}
		return err
	})
	switch {
	case err != nil || before == nil || !now.Before(before.At.Add(onceKept)):
		return nil, done, err
	case before.Body != hex.EncodeToString(once.Body[:]):
		return nil, done, ErrOtherBody
	case record == nil:
		return nil, done, ErrGoneForOnce
	}
	leaf, err = i.load(record)
	return leaf, done, err
}

// PruneAnswers forgets answers that need not be remembered any longer, at most limit of them, and returns how many.
func (i *Issuer) PruneAnswers(now time.Time, limit int) (pruned int, err error) {
	var old []string
	err = i.store.View(func(r store.Reader) error {
		for key := range r.Scan(store.Range{From: onceEndPrefix, To: onceEndPrefix + number(uint64(max(now.Unix(), 0)))}) {
			if old = append(old, key); len(old) == limit {
				break
			}
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return 0, err
	}
	err = i.store.Update(func(w store.Writer) error {
		for _, key := range old {
			w.Delete(key)
			w.Delete(oncePrefix + key[len(key)-2*sha256.Size:])
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("prune answers: %w", err)
	}
	return len(old), nil
}

// underWay are the requests that are being answered. Its zero value is ready.
type underWay struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

// begin says whether the request is the only one with its id.
func (u *underWay) begin(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, taken := u.ids[id]; taken {
		return false
	}
	if u.ids == nil {
		u.ids = make(map[string]struct{})
	}
	u.ids[id] = struct{}{}
	return true
}

func (u *underWay) end(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.ids, id)
}
