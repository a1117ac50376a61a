package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// newFile writes a file that is not there yet, durably: it has its name when it is whole, and never in the place of
// another. Until it is published only its owner can read it.
func newFile(path string, content []byte, mode fs.FileMode) error {
	return writeFile(path, content, mode, os.Link)
}

// replaceFile writes a file, durably: readers see the old one or the new one.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	return writeFile(path, content, mode, os.Rename)
}

// writeFile writes under a name that nobody else has, then gives the file its own.
func writeFile(path string, content []byte, mode fs.FileMode, publish func(from, to string) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // O_EXCL, mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if left := os.Remove(f.Name()); left != nil && !errors.Is(left, fs.ErrNotExist) {
			err = errors.Join(err, left)
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := publish(f.Name(), path); err != nil {
		return err
	}
	return syncFolder(dir)
}

// syncFolder makes durable which names a folder holds.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readBounded reads a file of at most so many bytes, or stdin where the path is "-".
func readBounded(path string, stdin io.Reader, most int64) ([]byte, error) {
	from := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	content, err := io.ReadAll(io.LimitReader(from, most+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(content)) > most:
		return nil, fmt.Errorf("%s is longer than %d bytes", path, most)
	}
	return content, nil
}
