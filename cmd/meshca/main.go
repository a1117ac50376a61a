// Command meshca is a certificate authority for service meshes: it keeps the certificates of all services
// of a catalogue, and one trust bundle for all of them.
//
// Rules of this command line: what was asked for goes to stdout, everything else to stderr. An error is
// one line that begins with the program's name, in lower case and without a full stop, with "hint:" lines
// where there is a way on. Exit code 1 means that the answer is no, 2 that it could not be found out.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	_ "time/tzdata" // schedules name time zones, and small images have none
	"unicode"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "meshca",
		Short:         "A certificate authority that keeps every service of a mesh on one trust",
		SilenceUsage:  true,
		SilenceErrors: true,
		Example: `  meshca config example > meshca.yaml     # a commented file to begin with
  meshca serve --config meshca.yaml       # issue, keep, renew
  meshca verify --config meshca.yaml      # who would refuse whom, and why
  meshca status --config meshca.yaml      # ask the running process
  meshca issue bookapi                    # ask for a certificate of one's own key`,
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &failure{err: err, code: exitUnknown, hints: []string{cmd.CommandPath() + " --help"}}
	})
	root.AddCommand(serveCommand(), verifyCommand(), repairCommand(), statusCommand(), adoptCommand(), healCommand(), guardCommand(), configCommand(), versionCommand(),
		issueCommand(), renewCommand(), revokeCommand(), listCommand(), caCommand())
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	return report(stderr, err)
}

// Exit codes.
const (
	exitNo      = 1 // the answer is no, or what was asked was refused
	exitUnknown = 2 // it could not be found out
)

// A failure is an error with an exit code and ways on.
type failure struct {
	err   error
	code  int
	hints []string
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

// errQuietNo is the answer no where stdout has said why.
var errQuietNo = errors.New("no")

// report prints an error and returns its exit code.
func report(stderr io.Writer, err error) int {
	if errors.Is(err, errQuietNo) {
		return exitNo
	}
	f := &failure{err: err, code: exitUnknown}
	errors.As(err, &f)
	for line := range strings.Lines(f.Error()) {
		fmt.Fprintf(stderr, "meshca: %s\n", printable(strings.TrimSuffix(line, "\n")))
	}
	for _, hint := range f.hints {
		fmt.Fprintf(stderr, "hint: %s\n", printable(hint))
	}
	return f.code
}

// printable takes out what would speak to the terminal instead of to the reader: names of files and words of
// other programs come from anywhere.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
