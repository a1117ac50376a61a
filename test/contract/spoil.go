package contract

import (
	"fmt"
	"slices"
	"strings"
)

// A spoiler makes a message wrong in one way.
type spoiler struct {
	name  string
	spoil func(*generator, *Message)
}

var spoilers = slices.Concat(targetSpoilers, headerSpoilers, bodySpoilers, frameSpoilers)

// hostile are texts for a place in a target; CANARY stands for the message's.
var hostile = []string{"", ".", "..", "%2f", "%2e%2e", "..%2f..%2f..%2fetc%2fpasswd", "%00", "CANARY%00", "%ff%fe", "%c3%a9", "%F0%9F%92%A9", "*", ";a=b",
	"CANARY", "CANARY%2fCANARY", "%22CANARY%22", "%3Cscript%3ECANARY", "{serial}", "-1", "0", "null", "true", "1e999", "%0d%0aSet-Cookie:CANARY", "%25252f",
	strings.Repeat("CANARY", 300), strings.Repeat("%41", 500), strings.Repeat("0", 200), strings.Repeat("f", 41)}

func (g *generator) hostile(m *Message) string {
	return strings.ReplaceAll(pick(g, hostile), "CANARY", m.Canary)
}

var targetSpoilers = []spoiler{
	{"method", func(g *generator, m *Message) {
		m.Method = pick(g, []string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "get", "FOO", "PROPFIND", strings.Repeat("A", 300)})
	}},
	{"segment", func(g *generator, m *Message) { m.Segments[1+g.IntN(len(m.Segments)-1)] = g.hostile(m) }},
	{"last segment", func(g *generator, m *Message) { m.Segments[len(m.Segments)-1] = g.hostile(m) }},
	{"one segment more", func(g *generator, m *Message) {
		m.Segments = slices.Insert(m.Segments, 1+g.IntN(len(m.Segments)), g.hostile(m))
	}},
	{"one segment less", func(g *generator, m *Message) {
		if i := 1 + g.IntN(len(m.Segments)-1); len(m.Segments) > 2 {
			m.Segments = slices.Delete(m.Segments, i, i+1)
		}
	}},
	{"upper case", func(g *generator, m *Message) { m.Segments[1] = strings.ToUpper(m.Segments[1]) }},
	{"two slashes", func(g *generator, m *Message) { m.Prefix = "/" }},
	{"dots before", func(g *generator, m *Message) { m.Prefix = pick(g, []string{"/..", "/v1/..", "/.", "/%2e%2e"}) }},
	{"absolute form", func(g *generator, m *Message) { m.Prefix = "https://" + m.Canary + ".example" }},
	{"bad escape", func(g *generator, m *Message) { m.Segments[1] += "%zz"; m.Lower, m.Last = true, true }},
	{"blank in the target", func(g *generator, m *Message) { m.Segments[1] += " x"; m.Lower, m.Last = true, true }},
	{"control in the target", func(g *generator, m *Message) { m.Segments[1] += "\x01"; m.Lower, m.Last = true, true }},
	{"raw bytes in the target", func(g *generator, m *Message) { m.Segments[1] += "\xc3\xa9\xff" }},
	{"unknown parameter", func(g *generator, m *Message) { m.Query = append(m.Query, m.Canary+"="+g.hostile(m)) }},
	{"parameter's value", func(g *generator, m *Message) {
		name := "limit"
		if names := m.Operation.parameters(); len(names) > 0 {
			name = pick(g, names).Name
		}
		m.Query = append(m.Query, name+"="+g.hostile(m))
	}},
	{"parameter twice", func(g *generator, m *Message) { m.Query = append(m.Query, m.Query...) }},
	{"query of separators", func(g *generator, m *Message) {
		m.Query = append(m.Query, pick(g, []string{"", "=", "a", ";", "a;b=c", "%zz", "a=%", "?", "[]=1", "#"}))
	}},
	{"long query", func(g *generator, m *Message) { m.Query = append(m.Query, "a="+strings.Repeat(m.Canary, 400)) }},
	{"longer query", func(g *generator, m *Message) {
		m.Query = append(m.Query, "a="+strings.Repeat(m.Canary, 4000))
		m.Lower, m.Last = true, true
	}},
	{"many parameters", func(g *generator, m *Message) { m.Query = append(m.Query, slices.Repeat([]string{"limit=1"}, 1000)...) }},
}

var headerSpoilers = []spoiler{
	{"header twice", func(g *generator, m *Message) {
		if len(m.Header) > 0 {
			m.Header = append(m.Header, pick(g, m.Header))
		}
	}},
	{"header's value", func(g *generator, m *Message) {
		if len(m.Header) > 0 {
			m.Header[g.IntN(len(m.Header))].Value = strings.ReplaceAll(g.hostile(m), "\x00", "")
		}
	}},
	{"Content-Type", func(g *generator, m *Message) {
		m.Set("Content-Type", pick(g, []string{"", "text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=" + m.Canary,
			"application/json; charset=utf-16", "application/json, text/plain", "application/problem+json", "json", "*/*", m.Canary, "application/json; a=" + m.Canary + `"`}))
	}},
	{"Accept", func(g *generator, m *Message) {
		m.Set("Accept", pick(g, []string{"", "*", "*/*", "text/html", "application/json;q=0", "application/*;q=2", m.Canary + "/" + m.Canary, "application/json;q=" + m.Canary,
			"application/pem-certificate-chain", "application/x-pem-file", strings.Repeat("a/b,", 2000), ",;q=,"}))
	}},
	{"Idempotency-Key", func(g *generator, m *Message) {
		m.Set("Idempotency-Key", pick(g, []string{"", " ", "a b", "\xff", m.Canary, strings.Repeat("k", 128), strings.Repeat("k", 129), "one"}))
	}},
	{"If-None-Match", func(g *generator, m *Message) {
		m.Set("If-None-Match", pick(g, []string{"", "*", `W/"` + m.Canary + `"`, `"`, strings.Repeat("a", 256), strings.Repeat("a", 257), strings.Repeat(`"",`, 1000)}))
	}},
	{"second Authorization", func(g *generator, m *Message) {
		m.Header = append(m.Header, Field{"Authorization", pick(g, []string{"", "Bearer", "Bearer ", "Basic YWRtaW46YWRtaW4=", "Bearer " + m.Canary, strings.Repeat("Bearer ", 100)})})
	}},
	{"header of a proxy", func(g *generator, m *Message) {
		m.Header = append(m.Header, pick(g, []Field{{"X-HTTP-Method-Override", "DELETE"}, {"X-Original-URL", "/" + m.Canary}, {"X-Forwarded-For", m.Canary},
			{"Forwarded", "for=" + m.Canary}, {"X-Request-Id", m.Canary}, {"Origin", "https://" + m.Canary}, {"Cookie", "a=" + m.Canary}, {"Range", "bytes=0-1"},
			{"Content-Encoding", "gzip"}, {"Accept-Encoding", m.Canary}, {"Upgrade", "websocket"}, {"Connection", "Upgrade"}, {"Last-Event-ID", m.Canary}, {"TE", "trailers"}}))
	}},
	{"Expect", func(g *generator, m *Message) {
		m.Header = append(m.Header, Field{"Expect", pick(g, []string{"100-continue", m.Canary})})
		m.Lower, m.Last = true, true
	}},
	{"long header", func(g *generator, m *Message) {
		m.Header = append(m.Header, Field{"X-Long", strings.Repeat(m.Canary, 500)})
		m.Lower = true
	}},
	{"longer header", func(g *generator, m *Message) {
		m.Header = append(m.Header, Field{"X-Long", strings.Repeat(m.Canary, 3000)})
		m.Lower, m.Last = true, true
	}},
	{"many headers", func(g *generator, m *Message) {
		m.Header = append(m.Header, slices.Repeat([]Field{{"X-Many", "1"}}, 500)...)
		m.Lower = true
	}},
	{"header's name", func(g *generator, m *Message) {
		m.Header = append(m.Header, pick(g, []Field{{"X " + m.Canary, "1"}, {"", m.Canary}, {"X\x00", "1"}, {"X-É", "1"}, {"Host", m.Canary}, {" X", "1"}}))
		m.Lower, m.Last = true, true
	}},
	{"control in a header", func(g *generator, m *Message) {
		m.Header = append(m.Header, Field{"X-Control", m.Canary + pick(g, []string{"\x00", "\x01", "\r", "\x7f", "\n folded"})})
		m.Lower, m.Last = true, true
	}},
}

// hostileJSON are values for a field; CANARY stands for the message's.
var hostileJSON = []string{`null`, `true`, `0`, `-1`, `1.5`, `1e999`, `NaN`, `[]`, `{}`, `[null]`, `""`, `" "`, `"CANARY"`, `"\u0000CANARY"`, `"CANARY\u0000"`, "\"\x00\"", `"\ud800"`, "\"\xff\"",
	`"../../etc/passwd"`, `"💩 CANARY"`, `"\u202eCANARY"`, `"<script>CANARY</script>"`, `"'; DROP TABLE CANARY"`, `"{{CANARY}}"`, `"\r\nSet-Cookie: CANARY"`, `'CANARY'`, `"CANARY`, `undefined`,
	`{"CANARY": "CANARY"}`, `["CANARY"]`, `"-----BEGIN CERTIFICATE REQUEST-----\nCANARY\n-----END CERTIFICATE REQUEST-----\n"`, strings.Repeat("9", 400)}

func (g *generator) hostileJSON(m *Message) string {
	switch g.IntN(12) {
	case 0:
		return `"` + strings.Repeat(m.Canary, 700) + `"` // longer than any field
	case 1:
		return `"` + strings.Repeat(m.Canary, 3200) + `"` // longer than any body
	case 2:
		return strings.Repeat("[", 10000) + strings.Repeat("]", 10000)
	case 3:
		return strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000)
	}
	return strings.ReplaceAll(pick(g, hostileJSON), "CANARY", m.Canary)
}

// fieldName is one of a body's, or another.
func (g *generator) fieldName(m *Message) string {
	if len(m.Members) == 0 || g.oneIn(5) {
		return m.Canary
	}
	return pick(g, m.Members).Name
}

var bodySpoilers = []spoiler{
	{"field's value", func(g *generator, m *Message) {
		if len(m.Members) == 0 {
			m.Members = []Field{{m.Canary, "1"}}
		}
		m.Members[g.IntN(len(m.Members))].Value = g.hostileJSON(m)
	}},
	{"field twice", func(g *generator, m *Message) {
		if len(m.Members) > 0 {
			m.Members = append(m.Members, Field{g.fieldName(m), g.hostileJSON(m)}, pick(g, m.Members))
		}
	}},
	{"one field more", func(g *generator, m *Message) { m.Members = append(m.Members, Field{m.Canary, g.hostileJSON(m)}) }},
	{"a field of another case", func(g *generator, m *Message) {
		if len(m.Members) > 0 {
			i := g.IntN(len(m.Members))
			m.Members[i].Name = strings.ToUpper(m.Members[i].Name)
		}
	}},
	{"one field less", func(g *generator, m *Message) {
		if len(m.Members) > 0 {
			m.Members = slices.Delete(m.Members, 0, 1)
		}
	}},
	{"another body", func(g *generator, m *Message) { m.Text = []byte(g.hostileJSON(m)) }},
	{"body that ends early", func(g *generator, m *Message) {
		if body := m.Body(); len(body) > 0 {
			m.Text = body[:g.IntN(len(body))]
		}
	}},
	{"something after the body", func(g *generator, m *Message) {
		m.Text = append(m.Body(), pick(g, []string{"{}", "x", "\x00", ",", "null", "]", "/* " + m.Canary + " */"})...)
	}},
	{"byte order mark", func(g *generator, m *Message) { m.Text = append([]byte("\ufeff"), m.Body()...) }},
	{"UTF-16", func(g *generator, m *Message) {
		var wide []byte
		for _, b := range m.Body() {
			wide = append(wide, 0, b)
		}
		m.Text = wide
	}},
	{"a flipped byte", func(g *generator, m *Message) {
		if body := m.Body(); len(body) > 0 {
			body = slices.Clone(body)
			body[g.IntN(len(body))] ^= 1 << g.IntN(8)
			m.Text = body
		}
	}},
	{"no body", func(g *generator, m *Message) { m.Members, m.Text = nil, nil }},
}

// framed is a spoiler that sends the body in another frame. One that is wrong is the last on its connection.
func framed(name string, wrong bool, frame func(body []byte) (header, framed string)) spoiler {
	return spoiler{name, func(_ *generator, m *Message) {
		m.frame = frame
		m.Lower, m.Last = m.Lower || wrong, m.Last || wrong
	}}
}

const chunkedHeader = "Transfer-Encoding: chunked\r\n"

// chunked is a body in chunks of a few bytes.
func chunked(body []byte, extension string) string {
	var b strings.Builder
	for part := range slices.Chunk(body, max(1, len(body)/5)) {
		fmt.Fprintf(&b, "%x%s\r\n%s\r\n", len(part), extension, part)
	}
	return b.String() + "0\r\n"
}

var frameSpoilers = []spoiler{
	framed("chunks", false, func(b []byte) (string, string) { return chunkedHeader, chunked(b, "") + "\r\n" }),
	framed("chunks with extensions and a trailer", false, func(b []byte) (string, string) {
		return chunkedHeader + "Trailer: X-Trailer\r\n", chunked(b, ";a=b") + "X-Trailer: 1\r\n\r\n"
	}),
	framed("chunks without an end", true, func(b []byte) (string, string) { return chunkedHeader, strings.TrimSuffix(chunked(b, ""), "0\r\n") }),
	framed("chunk of no size", true, func(b []byte) (string, string) { return chunkedHeader, "zz\r\n" + string(b) + "\r\n0\r\n\r\n" }),
	framed("chunk of 2^64", true, func(b []byte) (string, string) { return chunkedHeader, "fffffffffffffffff\r\n" + string(b) }),
	framed("chunks and a length", true, func(b []byte) (string, string) {
		return chunkedHeader + fmt.Sprintf("Content-Length: %d\r\n", len(b)+7), chunked(b, "") + "\r\n"
	}),
	framed("length of more", true, func(b []byte) (string, string) { return fmt.Sprintf("Content-Length: %d\r\n", len(b)+10), string(b) }),
	framed("length of less", true, func(b []byte) (string, string) { return fmt.Sprintf("Content-Length: %d\r\n", len(b)/2), string(b) }),
	framed("length twice", true, func(b []byte) (string, string) {
		return fmt.Sprintf("Content-Length: %d\r\nContent-Length: %d\r\n", len(b), len(b)+1), string(b)
	}),
	framed("negative length", true, func(b []byte) (string, string) { return "Content-Length: -1\r\n", string(b) }),
	framed("length of 1 TiB", true, func(b []byte) (string, string) { return "Content-Length: 1099511627776\r\n", string(b) }),
	framed("unknown encoding", true, func(b []byte) (string, string) {
		return "Transfer-Encoding: gzip, chunked\r\n", chunked(b, "") + "\r\n"
	}),
}
