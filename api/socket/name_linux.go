package socket

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

var errInUse error = unix.EADDRINUSE

// shortName goes through the open folder, so that only the file's own name counts.
func shortName(dir *os.File, path string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
}
