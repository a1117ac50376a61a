package measure

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// SyncsOfCommit is how often bbolt calls fdatasync in a commit: for the pages, and for the page that makes them current. Those
// for a file that grows are not counted: it does so every 2 MiB.
const SyncsOfCommit = 2

// Commits is how many commits a bbolt file has seen: its two meta pages hold the ids of the last two. It can be read
// while a process writes; path may be empty, of a store that there is not.
func Commits(path string) (uint64, error) {
	if path == "" {
		return 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const (
		magic    = 0xED0CDAED
		header   = 16 // of a page; then magic, version, page size, flags, root (16 bytes), freelist, high water mark
		pageSize = header + 4 + 4
		id       = header + 4*4 + 16 + 8 + 8
	)
	var newest uint64
	size := int64(0) // of a page, as the first one says
	for page := range int64(2) {
		meta := make([]byte, id+8)
		if _, err := f.ReadAt(meta, page*size); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if binary.NativeEndian.Uint32(meta[header:]) != magic {
			return 0, fmt.Errorf("%s: page %d is not one of bbolt's meta pages", path, page)
		}
		size = int64(binary.NativeEndian.Uint32(meta[pageSize:]))
		newest = max(newest, binary.NativeEndian.Uint64(meta[id:]))
	}
	return newest, nil
}
