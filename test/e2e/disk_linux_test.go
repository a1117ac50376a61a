package e2e

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/meshca/meshca/test/need"
)

// smallDisk mounts a file system of so many bytes in memory.
func smallDisk(t *testing.T, dir string, size int) {
	t.Helper()
	must(t, os.Mkdir(dir, 0o700))
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		need.Skip(t, fmt.Sprintf("a small file system cannot be mounted here (%v): that takes root", err))
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
}
