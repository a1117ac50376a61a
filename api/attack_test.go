package api

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
)

// TestRevokedWhileSending: who is let in with its head, and revoked before its body has come, gets nothing.
func TestRevokedWhileSending(t *testing.T) {
	d := newDesk(t)
	for path, body := range map[string]string{
		"/v1/certificates/%s/renew": `{"csr": ` + newQuotedCSR(t) + `}`,
		"/v1/certificates":          newAsk(t, "bookapi"),
	} {
		t.Run(path, func(t *testing.T) {
			held := d.hold(t, "envoy")
			path = strings.ReplaceAll(path, "%s", issuer.SerialString(held.Leaf))
			c := d.dial(t, held)
			fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", path, len(body))
			in := bufio.NewReader(c)
			if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "100") { // the caller is known, its body is waited for
				t.Fatal(line, err)
			}
			if _, err := in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Issuer.Revoke(issuer.SerialString(held.Leaf), profile.KeyCompromise, "test", d.Now()); err != nil {
				t.Fatal(err)
			}
			before := d.records(t)
			if _, err := io.WriteString(c, body); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			readAnswer(t, response).refused(t, unauthenticated)
			if n := d.records(t); n != before {
				t.Errorf("%d records, want %d", n, before)
			}
		})
	}
}
