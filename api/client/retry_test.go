package client

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// An attempt is what a try of a script gives: an answer, or an error.
type attempt struct {
	status int
	after  string // Retry-After
	body   string
	err    error
}

// A script answers tries one after the other, the last for ever, and remembers what came.
type script struct {
	answers []attempt
	sent    []string // Idempotency-Key and body of each try
	at      []time.Duration
	began   time.Time
	retrier retrier
}

func (s *script) try(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body) // out of memory
	}
	s.sent = append(s.sent, r.Header.Get("Idempotency-Key")+" "+string(body))
	s.at = append(s.at, time.Since(s.began))
	a := s.answers[min(len(s.sent), len(s.answers))-1]
	if a.err != nil {
		return nil, a.err
	}
	response := &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(a.body))}
	if a.after != "" {
		response.Header.Set("Retry-After", a.after)
	}
	return response, nil
}

// scripted is a client whose server is a script.
func scripted(t *testing.T, answers ...attempt) (*Client, *script) {
	t.Helper()
	s := &script{answers: answers, began: time.Now()}
	s.retrier.try = s.try
	raw, err := NewClientWithResponses("http://script", WithHTTPClient(&s.retrier))
	if err != nil {
		t.Fatal(err)
	}
	return &Client{raw: raw}, s
}

var refusedConnection = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

// TestRetry: what may be different next time is sent again, as the same request, not before the server wants it, and
// not for ever.
func TestRetry(t *testing.T) {
	good := attempt{status: 201, body: `{"serial": "abc"}`}
	problem := `{"type": "urn:meshca:problem:unavailable", "title": "t", "status": 503, "detail": "d", "instance": "urn:meshca:request:1"}`
	for name, tt := range map[string]struct {
		answers []attempt
		tries   int
		atLeast time.Duration
		err     string // "" for none
	}{
		"good at once":            {[]attempt{good}, 1, 0, ""},
		"unavailable":             {[]attempt{{status: 503, body: problem}, good}, 2, firstPause / 2, ""},
		"unavailable for a while": {[]attempt{{status: 503, after: "3", body: problem}, good}, 2, 3 * time.Second, ""},
		"too often":               {[]attempt{{status: 429, after: "2"}, {status: 429, after: "2"}, good}, 3, 4 * time.Second, ""},
		"no connection":           {[]attempt{{err: refusedConnection}, {err: io.EOF}, {err: io.ErrUnexpectedEOF}, good}, 4, 0, ""},
		"under way":               {[]attempt{{err: io.EOF}, {status: 409, after: "1"}, good}, 3, time.Second, ""},
		"a conflict":              {[]attempt{{status: 409, body: problem}}, 1, 0, "unavailable: d"},
		"refused":                 {[]attempt{{status: 403}}, 1, 0, "the answer is Forbidden"},
		"failed":                  {[]attempt{{status: 500}}, 1, 0, "the answer is Internal Server Error"},
		"unavailable for ever":    {[]attempt{{status: 503, body: problem}}, tries, 0, "unavailable: d (request 1)"},
		"unavailable for long":    {[]attempt{{status: 503, after: "3600", body: problem}}, 1, 0, "unavailable: d"},
		"absurdly long":           {[]attempt{{status: 503, after: "99999999999999"}}, 1, 0, "the answer is Service Unavailable"},
		"not its name":            {[]attempt{{err: &net.DNSError{Err: "no such host", IsNotFound: true}}}, 1, 0, "no such host"},
		"final":                   {[]attempt{{err: &finalError{errors.New("no good")}}}, 1, 0, "no good"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := scripted(t, tt.answers...)
				csr := "the csr"
				issued, err := c.Issue(t.Context(), CertificateRequest{Service: "bookapi", Csr: &csr})
				switch {
				case tt.err == "" && (err != nil || issued.Serial != "abc"):
					t.Errorf("%+v, %v", issued, err)
				case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
					t.Errorf("error %v, want %q", err, tt.err)
				}
				if len(s.sent) != tt.tries {
					t.Errorf("%d tries, want %d", len(s.sent), tt.tries)
				}
				if took := s.at[len(s.at)-1]; took < tt.atLeast || took > patience {
					t.Errorf("the last try was after %s, want %s at least and %s at most", took, tt.atLeast, patience)
				}
				if distinct := slices.Compact(slices.Clone(s.sent)); len(distinct) != 1 || !strings.Contains(distinct[0], "the csr") || strings.HasPrefix(distinct[0], " ") {
					t.Errorf("the tries are not one request: %q", distinct)
				}
			})
		})
	}
}

// TestRepeatable: what may have been carried out is sent again only where that makes no second certificate; what the
// server did not do is; and nothing is by who wants each call to be sent once.
func TestRepeatable(t *testing.T) {
	csr := "the csr"
	issue := func(ctx context.Context, c *Client, key *string) error {
		_, err := Read(c.Raw().ClientInterface.IssueCertificate(ctx, &IssueCertificateParams{IdempotencyKey: key}, CertificateRequest{Csr: &csr}))
		return err
	}
	lost, busy := attempt{err: io.EOF}, attempt{status: 503, body: "{}"}
	for name, tt := range map[string]struct {
		first attempt
		once  bool
		call  func(context.Context, *Client) error
		tries int
	}{
		"issue":             {lost, false, func(ctx context.Context, c *Client) error { return issue(ctx, c, nil) }, 1},
		"issue, with a key": {lost, false, func(ctx context.Context, c *Client) error { return issue(ctx, c, &csr) }, 2},
		"issue, not done":   {busy, false, func(ctx context.Context, c *Client) error { return issue(ctx, c, nil) }, 2},
		"renew": {lost, false, func(ctx context.Context, c *Client) error {
			_, err := Read(c.raw.ClientInterface.RenewService(ctx, "bookapi"))
			return err
		}, 1},
		"revoke": {lost, false, func(ctx context.Context, c *Client) error { _, err := c.Revoke(ctx, "abc", "superseded"); return err }, 2},
		"read":   {lost, false, func(ctx context.Context, c *Client) error { _, err := c.Certificate(ctx, "abc"); return err }, 2},
		"once":   {busy, true, func(ctx context.Context, c *Client) error { _, err := c.Certificate(ctx, "abc"); return err }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := scripted(t, tt.first, attempt{status: 200, body: "{}"})
				s.retrier.once = tt.once
				err := tt.call(t.Context(), c)
				if len(s.sent) != tt.tries || (err == nil) != (tt.tries > 1) {
					t.Errorf("%d tries, want %d: %v", len(s.sent), tt.tries, err)
				}
			})
		})
	}
}

// TestOnce: a client that is to ask once does, and tells what it was answered.
func TestOnce(t *testing.T) {
	dir, err := os.MkdirTemp("", "once") // a short name: a Unix address holds 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	})}
	go server.Serve(l) // ends with Close
	defer server.Close()
	c, err := New(Config{Socket: path, Once: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var problem *Problem
	if _, err := c.CA(t.Context()); !errors.As(err, &problem) || problem.Status != http.StatusServiceUnavailable || asked.Load() != 1 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
}

// TestRetryKeys: two calls are two requests.
func TestRetryKeys(t *testing.T) {
	c, s := scripted(t, attempt{status: 201, body: "{}"})
	for range 2 {
		if _, err := c.Renew(t.Context(), "abc", "the csr"); err != nil {
			t.Fatal(err)
		}
	}
	if s.sent[0] == s.sent[1] {
		t.Errorf("both calls were %q", s.sent[0])
	}
}

// TestRetryEnds: whoever asks no longer is not waited for.
func TestRetryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := scripted(t, attempt{status: 503, after: "20"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.CA(ctx); err == nil {
			t.Error("no error")
		}
		if took := time.Since(s.began); took != time.Second || len(s.sent) != 1 {
			t.Errorf("%d tries in %s", len(s.sent), took)
		}
	})
}

// TestRetryPauses: pauses grow, and no two clients make the same.
func TestRetryPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		firsts := map[time.Duration]bool{}
		for range 20 {
			c, s := scripted(t, attempt{err: refusedConnection})
			if _, err := c.CA(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Fatalf("error %v", err)
			}
			for i, pause := 1, firstPause; i < len(s.at); i, pause = i+1, pause*2 {
				if d := s.at[i] - s.at[i-1]; d < pause/2 || d > pause {
					t.Errorf("pause %d is %s, want %s to %s", i, d, pause/2, pause)
				}
			}
			firsts[s.at[1]] = true
		}
		if len(firsts) < 10 {
			t.Errorf("20 clients come back at %d different times", len(firsts))
		}
	})
}

// TestProblemIsALine: whatever a server says is one line, without commands to a terminal.
func TestProblemIsALine(t *testing.T) {
	pointers, serial := []string{"/csr"}, "abc"
	p := &Problem{Type: "urn:meshca:problem:forbidden", Detail: "no\nreally \x1b[31mno", Instance: "urn:meshca:request:17", Pointers: &pointers, Serial: &serial}
	if got, want := p.Error(), "forbidden: no really �[31mno (at /csr; serial abc; request 17)"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if p.Kind() != "forbidden" || (&Problem{Type: "about:blank"}).Kind() != "" {
		t.Error("the kind is not the type's name")
	}
}

// TestPages: a list goes on from page to page, for as long as somebody wants more of it, and ends with an error.
func TestPages(t *testing.T) {
	pages := map[string]attempt{
		"":  {status: 200, body: `{"certificates": [{"serial": "a"}, {"serial": "b"}], "next": "1"}`},
		"1": {status: 200, body: `{"certificates": [], "next": "2"}`},
		"2": {status: 200, body: `{"certificates": [{"serial": "c"}], "next": "3"}`},
		"3": {status: 403, body: `{"type": "urn:meshca:problem:forbidden", "detail": "no more"}`},
	}
	var asked []string
	raw, err := NewClientWithResponses("http://script", WithHTTPClient(&retrier{try: func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.RawQuery)
		return (&script{answers: []attempt{pages[r.URL.Query().Get("cursor")]}}).try(r)
	}}))
	if err != nil {
		t.Fatal(err)
	}
	c, service := &Client{raw: raw}, "bookapi"
	list := func(most int) (serials []string, last error) {
		asked = nil
		for certificate, err := range c.Certificates(t.Context(), ListCertificatesParams{Service: &service}) {
			if err != nil {
				last = err
				continue
			}
			if serials = append(serials, certificate.Serial); len(serials) == most {
				break
			}
		}
		return serials, last
	}
	if serials, err := list(2); err != nil || !slices.Equal(serials, []string{"a", "b"}) || len(asked) != 1 {
		t.Errorf("%q, %v, asked %q", serials, err, asked)
	}
	want := []string{"service=bookapi", "cursor=1&service=bookapi", "cursor=2&service=bookapi", "cursor=3&service=bookapi"}
	if serials, err := list(0); err == nil || !slices.Equal(serials, []string{"a", "b", "c"}) || len(asked) != len(want) {
		t.Errorf("%q, %v, asked %q", serials, err, asked)
	}
	for i, query := range asked {
		if values, err := url.ParseQuery(query); err != nil || values.Encode() != want[i] {
			t.Errorf("request %d asks for %q, want %q", i, query, want[i])
		}
	}
}
