package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/store"
)

// A kind is a type of problem (RFC 9457): its name is stable, and docs/api.md lists them all.
type kind struct {
	name   string
	title  string
	status int
}

// problemPrefix precedes the name of a kind in a problem's type.
const problemPrefix = "urn:meshca:problem:"

// The kinds of problem.
var (
	badRequest        = kind{"bad-request", "The request cannot be read", http.StatusBadRequest}
	csrMalformed      = kind{"csr-malformed", "The CSR cannot be read", http.StatusBadRequest}
	csrProof          = kind{"csr-proof", "The CSR does not prove that its sender has the key", http.StatusBadRequest}
	unauthenticated   = kind{"unauthenticated", "It is not known who asks", http.StatusUnauthorized}
	forbidden         = kind{"forbidden", "The caller may not do this", http.StatusForbidden}
	nameNotGranted    = kind{"name-not-granted", "The catalogue does not grant this name", http.StatusForbidden}
	notFound          = kind{"not-found", "There is no such thing", http.StatusNotFound}
	methodNotAllowed  = kind{"method-not-allowed", "This cannot be done here", http.StatusMethodNotAllowed}
	notAcceptable     = kind{"not-acceptable", "It has no form that the caller accepts", http.StatusNotAcceptable}
	requestUnderWay   = kind{"request-under-way", "A request with this Idempotency-Key is being answered", http.StatusConflict}
	keyNotRetained    = kind{"key-not-retained", "The private key was given once and is kept nowhere", http.StatusConflict}
	alreadyRevoked    = kind{"already-revoked", "The certificate was revoked for another reason", http.StatusConflict}
	notKept           = kind{"not-kept", "Something stands in the way at the service's place", http.StatusConflict}
	conflict          = kind{"conflict", "It does not go together with what is there", http.StatusConflict}
	tooLarge          = kind{"too-large", "The request is too long", http.StatusRequestEntityTooLarge}
	unsupportedType   = kind{"unsupported-media-type", "The body is no application/json", http.StatusUnsupportedMediaType}
	keyRefused        = kind{"key-refused", "This key gets no certificate", http.StatusUnprocessableEntity}
	nameMalformed     = kind{"name-malformed", "The CSR holds a name that no certificate can carry", http.StatusUnprocessableEntity}
	unprocessable     = kind{"unprocessable", "This was understood and cannot be", http.StatusUnprocessableEntity}
	idempotencyReused = kind{"idempotency-key-reused", "Another request was answered under this Idempotency-Key", http.StatusUnprocessableEntity}
	tooMany           = kind{"too-many-requests", "The caller asks too often", http.StatusTooManyRequests}
	internal          = kind{"internal", "The server failed", http.StatusInternalServerError}
	unavailable       = kind{"unavailable", "This cannot be done now", http.StatusServiceUnavailable}
)

// kinds lists them all.
var kinds = []kind{badRequest, csrMalformed, csrProof, unauthenticated, forbidden, nameNotGranted, notFound, methodNotAllowed,
	notAcceptable, requestUnderWay, keyNotRetained, alreadyRevoked, notKept, conflict, tooLarge, unsupportedType, keyRefused, nameMalformed,
	unprocessable, idempotencyReused, tooMany, internal, unavailable}

// A problem is an answer that is none. Its detail is for the caller: what was wrong and what to do, in words of ours,
// never in those of the request.
type problem struct {
	kind
	detail   string
	pointers []string      // into the body, or names of parameters
	serial   string        // of the certificate that it is about
	after    time.Duration // when to try again, 0 where that does not help
	hangsUp  bool          // the connection ends with it
	cause    error         // for the log alone
}

func (p *problem) Error() string {
	if p.cause != nil {
		return p.name + ": " + p.detail + ": " + p.cause.Error()
	}
	return p.name + ": " + p.detail
}

func (p *problem) Unwrap() error { return p.cause }

// because is a problem of this kind.
func (k kind) because(detail string, pointers ...string) *problem {
	return &problem{kind: k, detail: detail, pointers: pointers}
}

// caused keeps what the log should say and the caller should not.
func (p *problem) caused(err error) *problem {
	p.cause = err
	return p
}

// write answers with the problem.
func (p *problem) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Del("Content-Length")
	h.Del("ETag")
	if p.after > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int((p.after+time.Second-1)/time.Second))))
	}
	if p.hangsUp || r.ProtoMajor == 1 && r.ContentLength != 0 && requestOf(r).body == nil { // nobody waits for the rest of a body that is not read
		h.Set("Connection", "close")
	}
	if p.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="meshca"`)
	}
	body := contract.Problem{Type: problemPrefix + p.name, Title: p.title, Status: int32(p.status), Detail: p.detail,
		Instance: "urn:meshca:request:" + requestOf(r).id}
	if len(p.pointers) > 0 {
		body.Pointers = &p.pointers
	}
	if p.serial != "" {
		body.Serial = &p.serial
	}
	w.WriteHeader(p.status)
	// The caller may have gone: nobody is left to tell.
	_ = json.NewEncoder(w).Encode(body)
}

// refuse answers with what went wrong: as a problem where it is one, else without a word of it, which is the log's.
func (v *V1) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p, ok := errors.AsType[*problem](err)
	switch {
	case ok:
	case errors.Is(err, store.ErrFull):
		p = busy("", err)
	default:
		p = internal.because("it is logged under this request's id").caused(err)
	}
	request := requestOf(r)
	request.refused = p
	v.logRefusal(r, request, p)
	p.write(w, r)
}

// logRefusal logs the first few refusals of a kind and caller in each second, and the number of the others: whoever
// sends nonsense must not fill the log's disk, nor hide what others do.
func (v *V1) logRefusal(r *http.Request, request *request, p *problem) {
	level := slog.LevelInfo
	if p.status >= http.StatusInternalServerError {
		level = slog.LevelError
	}
	caller := request.caller.Name
	if !v.refusals.pass(p.name+" "+caller, func(n int) {
		v.Log.Log(context.Background(), level, "refused as well within a second", "problem", p.name, "caller", caller, "times", n)
	}) {
		return
	}
	v.Log.Log(r.Context(), level, "refused", "problem", p.name, "detail", p.detail, "caller", caller,
		"from", r.RemoteAddr, "method", knownMethod(r.Method), "operation", request.operation, "request", request.id, "cause", p.cause)
}

// knownMethod is a method as the log holds it: a caller's own word for one may be as long as a header.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "unknown"
}

// newRequestID draws an id for a request.
func newRequestID() string {
	id := make([]byte, 8)
	rand.Read(id)
	return hex.EncodeToString(id)
}
