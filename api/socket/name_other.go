//go:build !linux

package socket

import (
	"os"

	"golang.org/x/sys/unix"
)

var errInUse error = unix.EADDRINUSE

// shortName is the path itself: elsewhere than on Linux it is limited to some 100 bytes.
func shortName(_ *os.File, path string) string { return path }
