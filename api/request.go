package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"
)

// A request is what is known of one beside its bytes.
type request struct {
	id        string
	caller    Caller
	again     func() (Caller, error) // finds out anew who asks, for answers that go on
	operation string                 // method and pattern, "" where there is none such
	accept    []string               // media types that the caller accepts, as it sent them
	path      string
	begun     time.Time
	body      []byte
	refused   *problem // the answer, where it is one
}

type requestKey struct{}

// requestOf is what is known of r. Requests come through [V1.Handler], which makes it.
func requestOf(r *http.Request) *request { return fromContext(r.Context()) }

func fromContext(ctx context.Context) *request {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		return r
	}
	return &request{}
}

// A form says what a request of an operation may carry beside its path.
type form struct {
	query    []string        // names of parameters
	times    []string        // those of them that are instants
	fields   map[string]bool // of the body: whether the value is a string, else it is a boolean; nil: no body
	optional bool            // the body may be left out
}

// forms are those of the operations that take anything. A test compares them with the contract.
var forms = map[string]form{
	"GET /v1/certificates":                  {query: []string{"service", "state", "expiresBefore", "issuer", "limit", "cursor"}, times: []string{"expiresBefore"}},
	"POST /v1/certificates":                 {fields: map[string]bool{"service": true, "csr": true, "generateKey": false}},
	"POST /v1/certificates/{serial}/renew":  {fields: map[string]bool{"csr": true}, optional: true},
	"POST /v1/certificates/{serial}/revoke": {fields: map[string]bool{"reason": true}},
	"POST /v1/adopt":                        {fields: map[string]bool{"service": true}},
	"POST /v1/heal":                         {fields: map[string]bool{"service": true}},
	"GET /v1/events":                        {query: []string{"service"}},
}

// checkForm refuses what the contract does not know before anything is decoded: generated code lets unknown and
// repeated fields and parameters pass.
func checkForm(answer func(http.ResponseWriter, *http.Request, error)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			f := forms[requestOf(r).operation]
			err := f.checkQuery(r)
			if err == nil {
				err = f.checkBody(r)
			}
			if err != nil {
				answer(w, r, err)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func (f form) checkQuery(r *http.Request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // URL.Query would leave out what it cannot read
		return badRequest.because("the query cannot be read: parameters are name=value, percent-encoded, and separated by &")
	}
	for name, given := range values {
		switch {
		case !slices.Contains(f.query, name):
			return badRequest.because("there is a query parameter that this operation does not know; it knows " + orNone(f.query))
		case len(given) != 1:
			return badRequest.because("query parameter "+name+" is given more than once", name)
		case slices.Contains(f.times, name) && !isInstant(given[0]):
			return badRequest.because("query parameter "+name+" is no instant as RFC 3339 writes it, such as 2006-01-02T15:04:05Z", name)
		}
	}
	return nil
}

// isInstant refuses what the generated decoder takes too: nothing at all, which it gives as the year 1, and days.
func isInstant(s string) bool {
	_, err := time.Parse(time.RFC3339, s)
	return err == nil
}

// checkBody reads the body whole, checks it, and leaves it for the decoder.
func (f form) checkBody(r *http.Request) error {
	if r.ContentLength > maxBody {
		return tooLong()
	}
	limit := int64(maxBody) + 1
	if f.fields == nil { // anybody may ask for what is public: nothing is kept of what is not wanted
		limit = 1
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, limit))
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return tooLong()
	case err != nil:
		return badRequest.because("the body did not come whole").caused(err)
	case len(body) == 0 && (f.fields == nil || f.optional):
		r.Body = http.NoBody
		return nil
	case f.fields == nil:
		return badRequest.because("this operation takes no body")
	}
	requestOf(r).body = body
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" || len(r.Header.Values("Content-Type")) > 1 {
		return unsupportedType.because("say Content-Type: application/json")
	}
	if err := f.checkJSON(body); err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

func tooLong() error {
	return tooLarge.because(fmt.Sprintf("the body is longer than %d bytes", maxBody))
}

// checkJSON wants one flat object of known fields, each once.
func (f form) checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return badRequest.because("the body is no UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return badRequest.because("the body is no JSON object")
	}
	seen := make(map[string]bool, len(f.fields))
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return badRequest.because("the body is no JSON object")
		}
		text, ok := f.fields[name]
		switch {
		case !ok:
			return badRequest.because("the body has a field that this operation does not know; it knows " + orNone(slices.Sorted(maps.Keys(f.fields))))
		case seen[name]:
			return badRequest.because("the field is given more than once", "/"+name)
		}
		seen[name] = true
		value, err := d.Token()
		if err != nil {
			return badRequest.because("the body is no JSON object", "/"+name)
		}
		if !ofType(value, text) {
			return badRequest.because("the field is no "+map[bool]string{true: "string", false: "boolean"}[text], "/"+name)
		}
	}
	if _, err := d.Token(); err != nil {
		return badRequest.because("the body is no JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest.because("something follows the JSON object")
	}
	return nil
}

func ofType(value json.Token, text bool) (ok bool) {
	if text {
		_, ok = value.(string)
	} else {
		_, ok = value.(bool)
	}
	return ok
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// operationOf finds the contract's operation for a request, "" where there is none.
func operationOf(routes chi.Routes, r *http.Request) string {
	rctx := chi.NewRouteContext()
	if !routes.Match(rctx, r.Method, routePath(r)) {
		return ""
	}
	return r.Method + " " + rctx.RoutePattern()
}

// routePath is the path that a request is routed by.
func routePath(r *http.Request) string {
	if r.URL.RawPath != "" {
		return r.URL.RawPath
	}
	return r.URL.Path
}

// methodsOf lists the methods of a request's path: a 405 has to say them (RFC 9110, section 15.5.6).
func methodsOf(routes chi.Routes, r *http.Request) (methods []string) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if routes.Match(chi.NewRouteContext(), method, routePath(r)) {
			methods = append(methods, method)
		}
	}
	return methods
}

// wants chooses the form of an answer among those that there are; a caller that accepts none is refused.
func wants(ctx context.Context, offers ...string) (string, error) {
	accept := fromContext(ctx).accept
	if len(accept) == 0 {
		return offers[0], nil
	}
	best, most := "", 0.0
	for _, offer := range offers {
		if q := quality(accept, offer); q > most {
			best, most = offer, q
		}
	}
	if best == "" {
		return "", notAcceptable.because("it can be given as " + strings.Join(offers, " or "))
	}
	return best, nil
}

// quality is how much a media type is wanted (RFC 9110, section 12.5.1): the most specific range counts.
func quality(accept []string, offer string) float64 {
	kind, _, _ := strings.Cut(offer, "/")
	found, specific := 0.0, -1
	for _, value := range accept {
		for part := range strings.SplitSeq(value, ",") {
			media, parameters, err := mime.ParseMediaType(strings.TrimSpace(part))
			if err != nil {
				continue
			}
			rank := slices.Index([]string{"*/*", kind + "/*", offer}, media)
			if rank < 0 || rank <= specific {
				continue
			}
			q := 1.0
			if text, given := parameters["q"]; given {
				if _, err := fmt.Sscanf(text, "%g", &q); err != nil || q < 0 || q > 1 {
					continue
				}
			}
			found, specific = q, rank
		}
	}
	return found
}
