package kube

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// An answer is what an API server of version 1.37 has answered, without what is the same in all.
type answer struct {
	code       int
	retryAfter string
	body       string // "" with retryAfter: who is throttled gets words alone
}

// status is an answer of the form in which most come.
func status(code int, reason, message, details string) answer {
	return answer{code: code, body: fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":%q,"reason":%q,"details":{%s},"code":%d}`,
		message, reason, details, code)}
}

const (
	ofA          = `"name":"a","kind":"secrets"`
	modified     = `Operation cannot be fulfilled on secrets "a": the object has been modified; please apply your changes to the latest version and try again`
	noSuchUID    = `Operation cannot be fulfilled on secrets "a": uid mismatch: the provided object specified uid 0d8eff1c-4a3e-4d5e-9b4c-2b1cf3d5c6a7, and no existing object was found`
	anotherUID   = `Secret "a" is invalid: metadata.uid: Invalid value: "0d8eff1c-4a3e-4d5e-9b4c-2b1cf3d5c6a7": field is immutable`
	cannotGet    = `secrets "a" is forbidden: User "system:serviceaccount:meshca:meshca" cannot get resource "secrets" in API group "" in the namespace "rec"`
	cannotCreate = `secrets "a" is forbidden: User "system:serviceaccount:meshca:meshca" cannot create resource "secrets" in API group "" in the namespace "rec"`
	terminating  = `secrets "a" is forbidden: unable to create new content in namespace rec because it is being terminated`
	policy       = `secrets "a" is forbidden: ValidatingAdmissionPolicy 'meshca-secrets' with binding 'meshca-secrets' denied request: not here`
	webhook      = `admission webhook "keys.example.com" denied the request: tls.key is MIIE`
	brokenHook   = `Internal error occurred: failed calling webhook "broken.example.com": failed to call webhook: Post "https://127.0.0.1:1/x?timeout=1s": dial tcp 127.0.0.1:1: connect: connection refused`
	noEvents     = `ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled`
)

func cause(reason, field string) string {
	return ofA + fmt.Sprintf(`,"causes":[{"reason":%q,"message":"its words","field":%q}]`, reason, field)
}

// TestAnswers: each answer is understood as what it is, and nothing that could hold what was sent is kept of it.
func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		what   string
		answer answer
		kind   Kind
		words  string // of the error
		hint   string
	}{
		{"another resourceVersion", status(409, "Conflict", modified, ofA), Changed, "changed it in between", ""},
		{"another uid", status(422, "Invalid", anotherUID, cause("FieldValueInvalid", "metadata.uid")), Replaced, "deleted it in between", ""},
		{"gone", status(409, "Conflict", noSuchUID, ofA), Replaced, "deleted it in between", ""},
		{"another uid, of a kind that is stored as it is", status(409, "Conflict", `Operation cannot be fulfilled on secrets "a": Precondition failed: UID in precondition: x, UID in object meta: y`, ofA), Replaced, "", ""},
		{"larger than a Secret", status(422, "Invalid", `Secret "a" is invalid: data: Too long: may not be more than 1048576 bytes`, cause("FieldValueTooLong", "data")), TooLarge, "(data)", "take foreign keys out"},
		{"larger than a request", status(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728", ""), TooLarge, "", "take foreign keys out"},
		{"no right to read", status(403, "Forbidden", cannotGet, ofA), Forbidden, "get secrets", "right to get secrets"},
		{"no right to make", status(403, "Forbidden", cannotCreate, ofA), Forbidden, "create secrets", "right to create secrets"},
		{"quota", status(403, "Forbidden", `secrets "a" is forbidden: exceeded quota: none, requested: count/secrets=1, used: count/secrets=0, limited: count/secrets=0`, ofA), Denied, "quota is used up", "meshca's own guard"},
		{"the namespace goes", status(403, "Forbidden", terminating, cause("NamespaceTerminating", "metadata.namespace")), NamespaceTerminating, "", "take the service out"},
		{"no namespace", status(404, "NotFound", `namespaces "rec" not found`, `"name":"rec","kind":"namespaces"`), NamespaceMissing, "", "make the namespace"},
		{"not there", status(404, "NotFound", `secrets "a" not found`, ofA), NotFound, "", ""},
		{"a policy", status(422, "Invalid", policy, ofA), Denied, "(policy meshca-secrets)", "meshca's own guard"},
		{"a webhook", status(400, "BadRequest", webhook, ofA), Denied, "(webhook keys.example.com)", "meshca's own guard"},
		{"a webhook that does not answer", status(500, "InternalError", brokenHook, ""), Denied, "(webhook broken.example.com, which itself", "mend webhook broken.example.com"},
		{"not known", status(401, "Unauthorized", "Unauthorized", ""), Unauthenticated, "", "credentials"},
		{"410", status(410, "Expired", "too old resource version: 1 (213)", ""), Expired, "", ""},
		{"410 of old", status(410, "Gone", "too old resource version: 1 (213)", ""), Expired, "", ""},
		{"429", answer{code: 429, retryAfter: "7"}, Throttled, "come later", ""},
		{"no initial events", status(422, "Invalid", noEvents, cause("FieldValueForbidden", "sendInitialEvents")), NotOffered, "(sendInitialEvents)", ""},
		{"500", status(500, "InternalError", "Internal error occurred: etcdserver: its words", ""), Failed, "(status 500 InternalError)", ""},
		{"502", answer{code: 502, body: "Bad Gateway"}, Away, "does not answer (status 502", ""},
		{"503", status(503, "ServiceUnavailable", "its words", ""), Away, "does not answer (status 503", ""},
		{"504", status(504, "Timeout", "Timeout: its words", ""), Away, "does not answer (status 504", ""},
		{"another status", status(405, "MethodNotAllowed", "its words", ""), Unclear, "(status 405 MethodNotAllowed)", ""},
	} {
		t.Run(tt.what, func(t *testing.T) {
			got := tt.answer.to(t)
			words, verbatim := got.Error(), []string{"its words", "MIIE", "0d8eff1c", "127.0.0.1"}
			if got.Kind != tt.kind || !strings.Contains(words, tt.words) {
				t.Errorf("%s", words)
			}
			if hint := got.Hint(); !strings.Contains(hint, tt.hint) || (hint == "") != (tt.hint == "") {
				t.Errorf("hint %q, want %q", hint, tt.hint)
			}
			for _, quoted := range verbatim {
				if strings.Contains(words+got.Hint(), quoted) {
					t.Errorf("%s, hint %s: quotes %q", words, got.Hint(), quoted)
				}
			}
			if want := map[bool]time.Duration{true: 7 * time.Second}[tt.kind == Throttled]; got.Wait() != want {
				t.Errorf("asks to wait %s, want %s", got.Wait(), want)
			}
		})
	}
}

// to is what a write that is answered so returns.
func (a answer) to(t *testing.T) *Error {
	t.Helper()
	_, err := a.client(t).writeSecret(t.Context(), manifest{Metadata: manifestMeta{Name: "a", Namespace: "rec", ResourceVersion: "3"}})
	got, ok := err.(*Error)
	if !ok {
		t.Fatalf("%d is answered by %v", a.code, err)
	}
	return got
}

// client is one of an API server that answers everything so.
func (a answer) client(t *testing.T) *Client {
	t.Helper()
	return clientOf(t, a)
}

// ServeHTTP answers.
func (a answer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	if a.retryAfter != "" {
		w.Header().Set("Retry-After", a.retryAfter)
		http.Error(w, "Too many requests, please try again later.", a.code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.code)
	_, _ = w.Write([]byte(a.body))
}

// clientOf is one of an API server that the handler is.
func clientOf(t *testing.T, h http.Handler) *Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	client, err := newClient(&rest.Config{Host: server.URL}, "")
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestReadyAnswers: an API server that does not tell everybody whether it is ready is there all the same. One that
// does not know who asks is of no use.
func TestReadyAnswers(t *testing.T) {
	forbidden := status(403, "Forbidden", `forbidden: User "system:serviceaccount:meshca:meshca" cannot get path "/readyz"`, "")
	for _, tt := range []struct {
		answer answer
		kind   Kind // "" is ready
	}{
		{answer{code: 200, body: "ok"}, ""}, {forbidden, ""}, {answer{code: 404, body: "404 page not found"}, ""}, {answer{code: 429, retryAfter: "1"}, ""},
		{answer{code: 500, body: "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n"}, Failed},
		{answer{code: 503, body: "Service Unavailable"}, Away}, {status(401, "Unauthorized", "Unauthorized", ""), Unauthenticated},
	} {
		err := tt.answer.client(t).Ready(t.Context())
		if tt.kind == "" && err != nil || tt.kind != "" && !is(err, tt.kind) {
			t.Errorf("%d: %v, want %q", tt.answer.code, err, tt.kind)
		}
	}
}

// TestHopeless: what is asked of others is asked for after an answer that concerns one alone.
func TestHopeless(t *testing.T) {
	for code, want := range map[int]bool{500: false, 503: true, 401: true, 403: false} {
		err := answer{code: code, body: "{}"}.to(t)
		if got := hopeless(err) != nil; got != want {
			t.Errorf("after %d (%v) it is given up: %v", code, err, got)
		}
	}
}
