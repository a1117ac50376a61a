package contract

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"testing"
)

// Transport fails the test where an answer that comes through next is not what the contract says, or a request that it
// does not allow is answered with success. Of a stream (text/event-stream) the head alone is judged.
func (c *Contract) Transport(t testing.TB, next http.RoundTripper) http.RoundTripper {
	return &transport{contract: c, t: t, next: next}
}

type transport struct {
	contract *Contract
	t        testing.TB
	next     http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	x := &Exchange{Request: request}
	if request.Body != nil {
		sent, err := io.ReadAll(request.Body)
		if err != nil {
			return nil, err
		}
		_ = request.Body.Close() // it was read to its end
		x.RequestBody = sent
		request = request.Clone(request.Context())
		request.Body = io.NopCloser(bytes.NewReader(sent))
	}
	response, err := r.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	x.Status, x.Header = response.StatusCode, response.Header
	if media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); media != "text/event-stream" {
		x.Body, err = io.ReadAll(response.Body)
		_ = response.Body.Close() // what matters of it was read
		response.Body = io.NopCloser(io.MultiReader(bytes.NewReader(x.Body), failing{err}))
	}
	if err == nil {
		if err := r.contract.Check(x); err != nil {
			r.t.Errorf("against the contract: %v\n%s", err, x.Body)
		}
	}
	return response, nil
}

// CloseIdleConnections closes those of next.
func (r *transport) CloseIdleConnections() {
	if closer, ok := r.next.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// failing reads as what ended the body.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err == nil {
		return 0, io.EOF
	}
	return 0, f.err
}
