// Package e2e runs the program as its users do: a child process, a config file, folders on a disk.
//
// What stands on the disk is judged by [CheckInvariants], which reads files and certificates only and knows
// nothing of what the program thinks of itself. Each test has a mesh of its own in a temporary folder.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// program is the path of the binary under test.
var program string

func TestMain(m *testing.M) {
	if text := os.Getenv(floodEnv); text != "" { // this is a flood's process
		if err := floodMain(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// buildAndRun builds the program once for all tests.
func buildAndRun(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "meshca-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // some tests run it as another user
		return 0, err
	}
	program = filepath.Join(dir, "meshca")
	args := []string{"build", "-buildvcs=false", "-o", program}
	if os.Getenv("MESHCA_TEST_RACE") != "" { // a race ends the process, and with it the test
		args = append(args, "-race")
		if err := os.Setenv("GORACE", "halt_on_error=1"); err != nil {
			return 0, err
		}
	}
	build := exec.Command("go", append(args, "./cmd/meshca")...)
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return m.Run(), nil
}
