package kube

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// secretToken is looked for in whatever is said.
const secretToken = "eyJhbGciOiJub25lIn0.c2VjcmV0.c2VjcmV0"

// reviewer is an API server that gives one answer to all, as a real one cannot be made to.
func reviewer(t *testing.T, a answer) (*Accounts, *int) {
	t.Helper()
	var asked int
	var mu sync.Mutex
	return NewAccounts(clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		if body, err := io.ReadAll(r.Body); err != nil || !json.Valid(body) || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("asked %s %q (%v)", r.URL.Path, body, err)
		}
		a.ServeHTTP(w, r)
	}))), &asked
}

// says is a TokenReview with a status.
func says(status string) answer {
	return answer{code: http.StatusCreated, body: `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"token":"` + secretToken + `"},"status":` + status + `}`}
}

// TestReview: only a yes that confirms the audience and names somebody is one; what is not an answer is told apart from a no.
func TestReview(t *testing.T) {
	const user = `"user":{"username":"system:serviceaccount:default:web","uid":"1","groups":["a"],"extra":{"k":["v"]}}`
	for what, tt := range map[string]struct {
		answer answer
		nobody bool
		kind   Kind   // of another error
		words  string // of the error, "" for a yes
	}{
		"yes":               {says(`{"authenticated":true,` + user + `,"audiences":["other","meshca"]}`), false, "", ""},
		"no":                {says(`{"error":"[invalid bearer token, ` + secretToken + `]"}`), true, "", "does not know it"},
		"another audience":  {says(`{"error":"token audiences [\"x\"] is invalid for the target audiences [\"meshca\"]"}`), true, "", "not meant for meshca"},
		"expired":           {says(`{"error":"[invalid bearer token, service account token has expired]"}`), true, "", "has expired"},
		"invalidated":       {says(`{"error":"[invalid bearer token, service account token has been invalidated]"}`), true, "", "is gone"},
		"ignores audiences": {says(`{"authenticated":true,` + user + `}`), true, "", "does not confirm"},
		"others confirmed":  {says(`{"authenticated":true,` + user + `,"audiences":["meshca.example"]}`), true, "", "does not confirm"},
		"names nobody":      {says(`{"authenticated":true,"audiences":["meshca"]}`), true, "", "names no user"},
		"a no that names":   {says(`{"authenticated":false,` + user + `,"audiences":["meshca"]}`), true, "", "does not know it"},
		"no status":         {answer{code: 201, body: `{}`}, true, "", "does not know it"},
		"no right":          {status(403, "Forbidden", "its words "+secretToken, ""), false, Forbidden, "create tokenreviews"},
		"not known itself":  {status(401, "Unauthorized", "Unauthorized", ""), false, Unauthenticated, "create tokenreviews"},
		"throttled":         {answer{code: 429, retryAfter: "7"}, false, Throttled, "create tokenreviews"},
		"failing":           {status(500, "InternalError", "its words", ""), false, Failed, "create tokenreviews"},
		"away":              {status(503, "ServiceUnavailable", "its words", ""), false, Away, "create tokenreviews"},
		"something else":    {answer{code: 200, body: "<html>" + secretToken}, false, Unclear, "create tokenreviews"},
	} {
		t.Run(what, func(t *testing.T) {
			accounts, asked := reviewer(t, tt.answer)
			account, err := accounts.Review(t.Context(), secretToken)
			kept, _ := errors.AsType[*Error](err)
			switch {
			case tt.words == "":
				if err != nil || account.Name != "system:serviceaccount:default:web" || account.UID != "1" || len(account.Groups) != 1 || account.Extra["k"] == nil {
					t.Errorf("%+v, %v", account, err)
				}
			case account != nil || err == nil || errors.Is(err, ErrNobody) != tt.nobody || !strings.Contains(err.Error(), tt.words):
				t.Errorf("%+v, %v", account, err)
			case !tt.nobody && (kept == nil || kept.Kind != tt.kind):
				t.Errorf("%v, want %s", err, tt.kind)
			}
			if err != nil && strings.Contains(err.Error(), secretToken) {
				t.Errorf("%v holds the token", err)
			}
			_, _ = accounts.Review(t.Context(), secretToken)
			if want := map[bool]int{true: 1, false: 2}[tt.words == "" || tt.nobody]; *asked != want {
				t.Errorf("asked %d times for two reviews, want %d", *asked, want)
			}
		})
	}
}

// TestMay: a right is that of one account and one verb.
func TestMay(t *testing.T) {
	accounts, asked := reviewer(t, answer{code: 201, body: `{"status":{"allowed":true}}`})
	one, other := &Account{Name: "a", Extra: map[string][]string{"pod": {"x"}}}, &Account{Name: "a", Extra: map[string][]string{"pod": {"y"}}}
	for _, tt := range []struct {
		account *Account
		verb    string
		asked   int
	}{{one, "create", 1}, {one, "create", 1}, {one, "list", 2}, {other, "create", 3}} {
		if may, err := accounts.May(t.Context(), tt.account, tt.verb); !may || err != nil || *asked != tt.asked {
			t.Errorf("%v, %v, asked %d times, want %d", may, err, *asked, tt.asked)
		}
	}
	for what, a := range map[string]answer{
		"no": {code: 201, body: `{"status":{"allowed":false,"reason":"its words"}}`}, "nothing": {code: 201, body: `{"status":{}}`},
	} {
		refusing, _ := reviewer(t, a)
		if may, err := refusing.May(t.Context(), one, "create"); may || err != nil {
			t.Errorf("%s: %v, %v", what, may, err)
		}
	}
	away, _ := reviewer(t, status(503, "ServiceUnavailable", "its words", ""))
	if may, err := away.May(t.Context(), one, "create"); may || !is(err, Away) {
		t.Errorf("away: %v, %v", may, err)
	}
}
