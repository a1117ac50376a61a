//go:build !linux

package e2e

import (
	"testing"

	"github.com/meshca/meshca/test/need"
)

func smallDisk(t *testing.T, _ string, _ int) {
	t.Helper()
	need.Skip(t, "a small file system is mounted on Linux alone")
}
