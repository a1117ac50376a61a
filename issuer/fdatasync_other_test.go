//go:build !linux

package issuer

import "os"

func fdatasync(f *os.File) error { return f.Sync() }
