package client

import (
	"encoding/json"
	"net/http"
	"strings"
	"unicode"
)

// The prefixes of a meshca's types of problem and ids of requests.
const (
	kindPrefix    = "urn:meshca:problem:"
	requestPrefix = "urn:meshca:request:"
)

// Kind is the name of the problem's type, such as "forbidden": docs/api.md lists them. It is "" for an answer that was
// no problem of a meshca's, as of a proxy between.
func (p *Problem) Kind() string {
	kind, ours := strings.CutPrefix(p.Type, kindPrefix)
	if !ours {
		return ""
	}
	return kind
}

// Error is the problem in one line: kind, what was wrong, where in the request, and the request's id for the server's
// log.
func (p *Problem) Error() string {
	var b strings.Builder
	if kind := p.Kind(); kind != "" {
		b.WriteString(kind + ": " + p.Detail)
	} else {
		b.WriteString("the answer is " + p.Title)
	}
	var more []string
	if p.Pointers != nil && len(*p.Pointers) > 0 {
		more = append(more, "at "+strings.Join(*p.Pointers, ", "))
	}
	if p.Serial != nil {
		more = append(more, "serial "+*p.Serial)
	}
	if id, ok := strings.CutPrefix(p.Instance, requestPrefix); ok {
		more = append(more, "request "+id)
	}
	if len(more) > 0 {
		b.WriteString(" (" + strings.Join(more, "; ") + ")")
	}
	return oneLine(b.String())
}

// problemOf reads the problem of an answer that is no success; one of ours where it is somebody else's.
func problemOf(response *http.Response) *Problem {
	p := &Problem{}
	if err := json.NewDecoder(response.Body).Decode(p); err != nil || p.Type == "" {
		return &Problem{Type: "about:blank", Title: response.Status, Status: int32(response.StatusCode)}
	}
	p.Status = int32(response.StatusCode)
	return p
}

// oneLine keeps what others have written from being more than a line, or commands to a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return unicode.ReplacementChar
	}, s)
}
