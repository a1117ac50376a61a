package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A reviewer answers every token and every right with the same.
type reviewer struct {
	user        *User
	review, may error
	allowed     bool
}

func (c reviewer) Review(context.Context, string) (*User, error)    { return c.user, c.review }
func (c reviewer) May(context.Context, *User, string) (bool, error) { return c.allowed, c.may }

// throttled asks to be left alone.
type throttled struct{}

func (throttled) Error() string       { return "come later" }
func (throttled) Wait() time.Duration { return 7 * time.Second }

// TestClusterThatDoesNotAnswer: what is no answer lets nobody in, is told apart from a no, and is not told in its own words.
func TestClusterThatDoesNotAnswer(t *testing.T) {
	const words = "dial tcp 10.0.0.1:443"
	away := errors.New(words)
	user := &User{Name: "system:serviceaccount:default:web"}
	for what, tt := range map[string]struct {
		cluster reviewer
		status  int
		detail  string
		after   string
	}{
		"nobody":                {reviewer{review: fmt.Errorf("%w: %s", ErrNoAccount, words)}, 401, "does not know the token", ""},
		"away":                  {reviewer{review: away}, 503, "could not say whose the token is", "1"},
		"throttled":             {reviewer{review: fmt.Errorf("%s: %w", words, throttled{})}, 503, "could not say whose", "7"},
		"may not ask whose":     {reviewer{review: fmt.Errorf("%w: %s", ErrMayNotAsk, words)}, 503, "lacks the right to create tokenreviews", "1"},
		"away for rights":       {reviewer{user: user, may: away}, 503, "could not say whether the caller is an operator", "1"},
		"throttled for rights":  {reviewer{user: user, may: throttled{}}, 503, "could not say whether", "7"},
		"may not ask of rights": {reviewer{user: user, may: fmt.Errorf("%w: %s", ErrMayNotAsk, words)}, 503, "lacks the right to create subjectaccessreviews", "1"},
		"a right and an error":  {reviewer{user: user, allowed: true, may: away}, 503, "could not say whether", "1"},
		"no right":              {reviewer{user: user}, 403, "clients: [{serviceAccount: default/web}]", ""},
	} {
		t.Run(what, func(t *testing.T) {
			var log strings.Builder
			v := &V1{Engine: still{passed: time.Now()}, Grants: &Grants{}, Accounts: tt.cluster, Now: time.Now, Log: slog.New(slog.NewTextHandler(&log, nil))}
			r := httptest.NewRequest(http.MethodGet, "/v1/services/web", nil)
			r.Header.Set("Authorization", "Bearer abc.def.ghi")
			answer := httptest.NewRecorder()
			v.Handler().ServeHTTP(answer, r)
			if body := answer.Body.String(); answer.Code != tt.status || !strings.Contains(body, tt.detail) || strings.Contains(body, words) ||
				answer.Header().Get("Retry-After") != tt.after {
				t.Errorf("%d, Retry-After %q: %s", answer.Code, answer.Header().Get("Retry-After"), body)
			}
			if asked := log.String(); strings.Contains(asked, "abc.def") || strings.Contains(what, "away") && !strings.Contains(asked, words) {
				t.Errorf("the log says %s", asked)
			}
		})
	}
}
