package config

import (
	"fmt"
	"slices"
	"strings"
)

// A Problem is one thing that is wrong with a file, or, as a warning, one that is unwise.
type Problem struct {
	// Line is the line of the file, counted from 1; 0 where there is none.
	Line int

	// Field is the path of the key, such as services[1].dnsNames[0]; empty for the file as a whole.
	Field string

	// Message says what is wrong, with the value quoted.
	Message string

	// Hint says what to write instead; empty where that is plain or unknown.
	Hint string
}

// Error spells the field and the message, without line and hint.
func (p Problem) Error() string {
	if p.Field == "" {
		return p.Message
	}
	return p.Field + ": " + p.Message
}

// An Error lists every problem of one file, in the order of lines. It has at least one.
type Error struct {
	// File is the path given to Load; empty from Parse.
	File string

	// Problems are what is wrong.
	Problems []Problem
}

// Error has one line per problem: file, line, field and message. Hints are left to the caller.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = e.at(p.Line) + p.Error()
	}
	return strings.Join(lines, "\n")
}

func (e *Error) at(line int) string {
	switch {
	case e.File != "" && line > 0:
		return fmt.Sprintf("%s:%d: ", e.File, line)
	case e.File != "":
		return e.File + ": "
	case line > 0:
		return fmt.Sprintf("line %d: ", line)
	}
	return ""
}

// A report collects the problems of one file. Once a field is bad, what else may be wrong with
// its value is not looked at: after a wrong type that would only be noise.
type report struct {
	lines    map[string]int // by path; a path is in it exactly if the file names it
	bad      map[string]bool
	problems []Problem
}

func newReport() *report {
	return &report{lines: map[string]int{}, bad: map[string]bool{}}
}

// add notes a problem at path, on the line where path or its nearest ancestor is written.
func (r *report) add(path, hint, format string, args ...any) {
	if path == "" || !r.bad[path] {
		r.addAt(r.line(path), path, hint, fmt.Sprintf(format, args...))
	}
}

// addAt notes a problem on a line of its own, whatever else is wrong with path.

func (r *report) addAt(line int, path, hint, message string) {
	r.bad[path] = true
	r.problems = append(r.problems, Problem{Line: line, Field: path, Message: message, Hint: hint})
}

// has says whether the file names path, rightly or wrongly.
func (r *report) has(path string) bool { return r.lines[path] > 0 }

// ok says whether none of the paths has a problem.
func (r *report) ok(paths ...string) bool {
	return !slices.ContainsFunc(paths, func(p string) bool { return r.bad[p] })
}

func (r *report) line(path string) int { return lineOf(r.lines, path) }

// err returns what was collected as an *Error, or nil.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
	return &Error{Problems: r.problems}
}

// lineOf finds the line of path or of its nearest ancestor that is written; 1 if none is.
func lineOf(lines map[string]int, path string) int {
	for path != "" {
		if n := lines[path]; n > 0 {
			return n
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 1
}

// clip shortens outside text, so that a message stays readable whatever a file holds.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

func quote(s string) string { return fmt.Sprintf("%q", clip(s)) }
