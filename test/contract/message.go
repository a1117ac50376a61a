package contract

import (
	"bytes"
	"fmt"
	"strings"
)

// A Message is an HTTP/1.1 request in parts, so that each of them can be wrong.
type Message struct {
	Operation *Operation // that it was made from
	Spoilt    []string   // in which ways; empty where it is as the contract allows
	Canary    string     // a word that stands nowhere else, in what was spoilt

	Method   string
	Prefix   string // of the target, before the path
	Segments []string
	Query    []string // escaped: name=value
	Header   []Field
	Members  []Field // of the body, a JSON object: a name and a value in JSON
	Text     []byte  // instead of Members

	// Lower says that net/http may refuse it before any handler sees it, and Last that no request can follow it on its
	// connection.
	Lower, Last bool

	frame func(body []byte) (header, framed string) // nil: by its length
}

// A Field is a name and a value.
type Field struct{ Name, Value string }

// Target is the request's target.
func (m *Message) Target() string {
	target := m.Prefix + strings.Join(m.Segments, "/")
	if len(m.Query) > 0 {
		target += "?" + strings.Join(m.Query, "&")
	}
	return target
}

// Body is what the message carries, as its receiver should see it.
func (m *Message) Body() []byte {
	if m.Text != nil || m.Members == nil {
		return m.Text
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, member := range m.Members {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q: %s", member.Name, member.Value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// Wire is the message's bytes for a host.
func (m *Message) Wire(host string) []byte {
	body := m.Body()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", m.Method, m.Target(), host)
	for _, f := range m.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if m.frame != nil {
		header, framed := m.frame(body)
		b.WriteString(header + "\r\n" + framed)
		return b.Bytes()
	}
	if len(body) > 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// Set gives a header one value.
func (m *Message) Set(name, value string) {
	for i := range m.Header {
		if m.Header[i].Name == name {
			m.Header[i].Value = value
			return
		}
	}
	m.Header = append(m.Header, Field{name, value})
}
