// Package need lets a test say which foreign program it needs.
//
// `make test` needs only Go: a test whose program is missing is skipped, and all that were are named in one
// closing list. Where MESHCA_TEST_REQUIRE is "all", as in CI, such a skip is a failure.
package need

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Program returns the path of the program name, or skips the test where it is not installed.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, fmt.Sprintf("%s is not installed", name))
	}
	return path
}

// Skip skips the test for a reason that lies in the machine, and puts it on the closing list: a line of the
// file that MESHCA_TEST_SKIPS names. It fails the test where skips are not allowed.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("MESHCA_TEST_REQUIRE") == "all" {
		t.Fatalf("%s, and MESHCA_TEST_REQUIRE=all", reason)
	}
	if list := os.Getenv("MESHCA_TEST_SKIPS"); list != "" {
		f, err := os.OpenFile(list, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := fmt.Fprintf(f, "%s: %s\n", t.Name(), reason); err != nil {
			t.Fatal(err)
		}
	}
	t.Skip(reason)
}
