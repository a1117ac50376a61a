package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// tries is how often a call is sent at most, and patience how long after its begin it is sent again.
	tries    = 6
	patience = 30 * time.Second
	// firstPause is before the second try where the server does not say; it doubles from try to try.
	firstPause = 200 * time.Millisecond
	// tryTimeout is what one try may take: a server of ours answers within ten seconds, or not at all.
	tryTimeout = 15 * time.Second
	// maxAnswer bounds an answer, in bytes: a page of 500 certificates has some 2 MB, the status some kB for each service.
	maxAnswer = 64 << 20
)

// A retrier sends a call until it is answered.
type retrier struct {
	try  func(*http.Request) (*http.Response, error) // one request; the answer's body is not read
	once bool                                        // nothing is sent again
}

// Do implements [HttpRequestDoer]. The body of what it returns was read already.
func (r *retrier) Do(request *http.Request) (*http.Response, error) {
	began, pause := time.Now(), firstPause
	for n := 1; ; n++ {
		response, err := r.send(request)
		wait, again := retryAfter(response, err)
		if !again || n == tries || r.once || err != nil && !repeatable(request) {
			return response, err
		}
		// Half of the pause is chance, so that those who were turned away together do not come back together. What the
		// server says is the least.
		wait += pause/2 + rand.N(pause/2)
		if time.Since(began)+wait > patience || !sleep(request.Context(), wait) {
			return response, err
		}
		pause *= 2
	}
}

// repeatable says whether a request that may have been carried out can be sent again: it asks for something that is
// there, says what is to be, as a revocation does, or has an Idempotency-Key. Others make a certificate each time.
func repeatable(request *http.Request) bool {
	makes := strings.HasSuffix(request.URL.Path, "/certificates") || strings.HasSuffix(request.URL.Path, "/renew")
	return request.Method == http.MethodGet || request.Header.Get("Idempotency-Key") != "" || !makes
}

// send sends the request and reads the answer whole: one that breaks off is none.
func (r *retrier) send(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(request.Context(), tryTimeout)
	defer cancel()
	attempt := request.Clone(ctx)
	if request.GetBody != nil {
		body, err := request.GetBody()
		if err != nil {
			return nil, err
		}
		attempt.Body = body
	}
	response, err := r.try(attempt)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the answer broke off: %w", err)
	case len(body) > maxAnswer:
		return nil, &finalError{fmt.Errorf("the answer is longer than %d bytes", maxAnswer)}
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// retryAfter says whether a try that ended so is worth another, and how long the server wants to be left alone before.
// A conflict with Retry-After is the request itself, under way since a try whose answer was lost.
func retryAfter(response *http.Response, err error) (wait time.Duration, again bool) {
	if err != nil {
		return 0, !final(err)
	}
	seconds, bad := strconv.Atoi(response.Header.Get("Retry-After"))
	given := bad == nil && seconds >= 0
	if given {
		wait = time.Duration(min(seconds, int(patience/time.Second)+1)) * time.Second
	}
	switch response.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return wait, true
	case http.StatusConflict:
		return wait, given
	}
	return 0, false
}

// A finalError is not worth another try.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// final says whether another try cannot end otherwise: the server is not whom it was to be, or what is asked with is
// no good.
func final(err error) bool {
	var (
		bad     *finalError
		stated  *tls.CertificateVerificationError
		noTLS   tls.RecordHeaderError
		op      *net.OpError
		unknown *net.DNSError
	)
	switch {
	case errors.As(err, &bad), errors.As(err, &stated), errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch),
		errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, context.Canceled):
		return true
	case errors.As(err, &op) && op.Op == "remote error": // an alert of the handshake
		return true
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return true
	}
	return false
}

// sleep waits, and says whether it was not cut short.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
