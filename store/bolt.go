package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Schema is the version of what this program keeps in a store and how. It is raised by whatever an older
// program would misread.
const Schema = 1

// ErrLocked is what OpenBolt wraps when another process holds the store.
var ErrLocked = errors.New("another process holds it")

// ErrFull is what Update wraps where the disk has no room, or the owner's share of it is used up. Nothing was written,
// all can be read, and the next Update may succeed.
var ErrFull = errors.New("the store's disk is full")

// A SchemaError says that a store was written by another version of the program.
type SchemaError struct {
	Is, Want uint64
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("it has schema %d, this program knows schema %d", e.Is, e.Want)
}

var (
	dataBucket   = []byte("data")
	metaBucket   = []byte("meta")
	schemaRecord = []byte("schema")
)

// Bolt is a store in one bbolt file.
type Bolt struct {
	db     *bolt.DB
	file   *os.File     // the one that bbolt opened and locked
	filled atomic.Int64 // bytes of the file that are written, see fill

	damaged atomic.Pointer[error] // what was met in the file that must not be written any more
	queue   queue
}

// BoltExists says whether there is a store file at path; an empty file, which a crash in the first
// moments of a first start leaves, counts as none.
func BoltExists(path string) (bool, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("%s is not a regular file", path)
	}
	return info.Size() > 0, nil
}

// OpenBolt opens the store file at path, making it and its folder (mode 0700) where there is none. It
// holds an exclusive lock on the file until Close, and waits for it at most lockTimeout: the error then
// wraps ErrLocked and names the holder's pid where the system tells it. A store of another schema is a
// *SchemaError, and is left as it is.
func OpenBolt(path string, lockTimeout time.Duration) (*Bolt, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the store's folder: %w", err)
	}
	b := &Bolt{}
	db, err := b.open(path, lockTimeout)
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open store %s: %w%s", path, ErrLocked, holder(path))
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	db.AllocSize = allocSize
	b.db = db
	if err := b.guard(b.prepare); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	// bbolt syncs the file but not the folder that names it: without this a power cut can lose the store.
	if err := syncDir(dir); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return b, nil
}

// allocSize is by how many bytes the file grows at once.
const allocSize = 2 << 20

// mapSize is the address space mapped at once, in bytes; memory is used only for what is read. A file that
// outgrows it must be mapped anew, for which an Update waits until no View is open.
const mapSize = 1 << 30

// open opens and locks the file.
func (b *Bolt) open(path string, lockTimeout time.Duration) (db *bolt.DB, err error) {
	err = b.guard(func() error {
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout:         lockTimeout,
			FreelistType:    bolt.FreelistMapType,
			InitialMmapSize: mapSize,
			NoStatistics:    true,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				f, err = os.OpenFile(name, flag, mode)
				b.file = f
				return f, err
			},
		})
		return err
	})
	return db, err
}

// prepare refuses a store of another schema, marks a new one with ours, and fills the file.
func (b *Bolt) prepare() error {
	is, marked, err := b.schema()
	switch {
	case err != nil:
		return err
	case marked && is != Schema:
		return &SchemaError{Is: is, Want: Schema}
	case !marked:
		if err := b.mark(); err != nil {
			return err
		}
	}
	return b.fill()
}

// mark makes the buckets of a new store, and writes our schema.
func (b *Bolt) mark() error {
	return b.db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(dataBucket); err != nil {
			return err
		}
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		return meta.Put(schemaRecord, binary.BigEndian.AppendUint64(nil, Schema))
	})
}

// fill writes zeros over the part of the file that bbolt has reserved and not used yet.
// Reserved alone it is a hole, and each commit that reaches into it waits for the file system's journal
// as well: a third of a small commit's time. The writer's lock is held meanwhile, so nobody uses a page
// that is being filled. It goes through the file that is locked: another may have taken its name.
func (b *Bolt) fill() error {
	tx, err := b.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing is written in it
	info, err := b.file.Stat()
	if err != nil {
		return err
	}
	from := max(tx.Size(), b.filled.Load())
	if size := info.Size(); from < size {
		if _, err := io.CopyN(io.NewOffsetWriter(b.file, from), zeros{}, size-from); err != nil {
			return err
		}
		if err := b.file.Sync(); err != nil {
			return err
		}
	}
	b.filled.Store(info.Size())
	return nil
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// schema reads the store's schema; marked is false for a new file.
func (b *Bolt) schema() (is uint64, marked bool, err error) {
	err = b.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil {
			if name, _ := tx.Cursor().First(); name != nil {
				return fmt.Errorf("%s is a bbolt file of another program: it holds a bucket %q", b.db.Path(), name)
			}
			return nil
		}
		value := meta.Get(schemaRecord)
		if len(value) != 8 {
			return fmt.Errorf("%s has a schema record of %d bytes, want 8", b.db.Path(), len(value))
		}
		is, marked = binary.BigEndian.Uint64(value), true
		return nil
	})
	return is, marked, err
}

// View implements [Store].
func (b *Bolt) View(fn func(Reader) error) error {
	var t boltTx
	return b.guard(func() error {
		return b.db.View(func(tx *bolt.Tx) error {
			t.bucket = tx.Bucket(dataBucket)
			return t.run(func() error { return fn(&t) })
		})
	}, &t)
}

// commit runs the updates in one transaction and commits it. Where one of them fails, nothing is written, and
// failed is that one; its error is kept in it. Otherwise err is what the commit met.
func (b *Bolt) commit(group []*update) (failed *update, err error) {
	if damage := b.damaged.Load(); damage != nil {
		return nil, *damage
	}
	var size int64
	var t boltTx
	err = b.guard(func() error {
		return b.db.Update(func(tx *bolt.Tx) error {
			t.bucket = tx.Bucket(dataBucket)
			for _, u := range group {
				if err := u.run(&t); err != nil {
					failed = u
					return err
				}
			}
			size = tx.Size()
			return nil
		})
	})
	if err == nil && size > b.filled.Load() {
		// The update is durable; a disk that has no room for zeros shows in the next one.
		_ = b.guard(b.fill)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}
	return failed, err
}

// guard turns the panics and memory faults with which bbolt meets a damaged page into an error. Nothing is
// written after that: a page that was freed wrongly would be written over. A panic of a caller's own code,
// between the calls of its transaction, is none of the store's, and goes on.
func (b *Bolt) guard(do func() error, txs ...*boltTx) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if len(txs) > 0 && txs[0].outside {
				panic(p)
			}
			err = fmt.Errorf("the store is damaged, put a copy of it back: %v", p)
			b.damaged.CompareAndSwap(nil, &err)
		}
	}()
	return do()
}

// Snapshot implements [Store]: the copy is a bbolt file.
func (b *Bolt) Snapshot(w io.Writer) (n int64, err error) {
	err = b.guard(func() error {
		return b.db.View(func(tx *bolt.Tx) error {
			n, err = tx.WriteTo(w)
			return err
		})
	})
	return n, err
}

// Size is the store's size in bytes at the newest commit.
func (b *Bolt) Size() int64 {
	var size int64
	// A View fails only on a closed store, whose size is nobody's concern.
	_ = b.db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil })
	return size
}

// Close implements [Store].
func (b *Bolt) Close() error { return b.db.Close() }

// boltTx is one transaction.
type boltTx struct {
	bucket  *bolt.Bucket
	err     error // the first of its writes
	outside bool  // the caller's own code runs
}

// run runs the caller's code.
func (t *boltTx) run(fn func() error) error {
	t.outside = true
	err := fn()
	t.outside = false
	return err
}

// inside runs a call of bbolt on behalf of the caller's code.
func (t *boltTx) inside(do func()) {
	t.outside = false
	do()
	t.outside = true
}

func (t *boltTx) Get(key string) (value []byte, ok bool) {
	t.inside(func() {
		found := t.bucket.Get([]byte(key))
		value, ok = bytes.Clone(found), found != nil
	})
	return value, ok
}

func (t *boltTx) Put(key string, value []byte) {
	t.inside(func() { t.keep(t.bucket.Put([]byte(key), bytes.Clone(value))) })
}

func (t *boltTx) Delete(key string) {
	t.inside(func() { t.keep(t.bucket.Delete([]byte(key))) })
}

func (t *boltTx) keep(err error) {
	if t.err == nil {
		t.err = err
	}
}

func (t *boltTx) Scan(r Range) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		var key, value []byte
		var next func() ([]byte, []byte)
		t.inside(func() {
			key, value, next = first(t.bucket.Cursor(), r)
			key, value = bytes.Clone(key), bytes.Clone(value)
		})
		for key != nil && string(key) >= r.From && (r.To == "" || string(key) < r.To) {
			if !yield(string(key), value) {
				return
			}
			t.inside(func() {
				key, value = next()
				key, value = bytes.Clone(key), bytes.Clone(value)
			})
		}
	}
}

// first positions the cursor at the range's first key in its direction.
func first(c *bolt.Cursor, r Range) (key, value []byte, next func() ([]byte, []byte)) {
	if !r.Descending {
		key, value = c.Seek([]byte(r.From))
		return key, value, c.Next
	}
	if r.To == "" {
		key, value = c.Last()
		return key, value, c.Prev
	}
	if key, _ = c.Seek([]byte(r.To)); key == nil {
		key, value = c.Last()
		return key, value, c.Prev
	}
	key, value = c.Prev()
	return key, value, c.Prev
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
