package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/rotation"
)

// still is an engine that does nothing.
type still struct {
	passed time.Time
	why    string
}

func (s still) Status() *rotation.Status    { return &rotation.Status{Passed: s.passed} }
func (s still) Ready(context.Context) error { return nil }
func (s still) Stopped() string             { return s.why }

// TestAdmitted: nothing is signed before the engine was admitted, nor when the store has turned out to be old.
func TestAdmitted(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, tt := range map[string]struct {
		engine still
		want   bool
	}{
		"admitted": {still{passed: now}, true},
		"starting": {still{}, false},
		"stopped":  {still{passed: now, why: "mesh/envoy holds a leaf of which the store has no record"}, false},
	} {
		v := &V1{Engine: tt.engine, signing: make(chan struct{}, 1)}
		release, err := v.enter(t.Context())
		p, refused := errors.AsType[*problem](err)
		if (err == nil) != tt.want || err != nil && (!refused || p.kind != unavailable || p.after == 0) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			release()
		}
	}
}

// TestDoors: the second door may be opened while somebody is served at the first.
func TestDoors(t *testing.T) {
	v := &V1{Engine: still{passed: time.Unix(1000, 0)}, Grants: &Grants{}, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	v.Owner()
	release, err := v.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v.Handler()
	if n := len(v.signing); n != 1 {
		t.Errorf("%d are being signed for, want 1: it waits for ever for its place to be taken", n)
		return
	}
	release()
}

// TestPanic: what breaks in a handler is one answer that tells nothing, and the server goes on.
func TestPanic(t *testing.T) {
	v := &V1{Engine: still{}, Grants: &Grants{}, Now: time.Now, Log: slog.New(slog.DiscardHandler)} // no issuer
	answer := httptest.NewRecorder()
	v.Owner().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/v1/ca", nil))
	if body := answer.Body.String(); answer.Code != http.StatusInternalServerError || !strings.Contains(body, problemPrefix+internal.name) ||
		strings.Contains(body, "nil pointer") {
		t.Errorf("%d %s", answer.Code, body)
	}
}
