package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshca/meshca/api"
	"github.com/meshca/meshca/api/socket"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine answers what a test tells it to.
type engine struct {
	ready    error
	asked    atomic.Int32
	starting bool
	busy     bool // with a pass that does not end

	orders []string
}

func (e *engine) Stopped() string { return "" }

func (e *engine) Status() *rotation.Status {
	if e.starting {
		return &rotation.Status{}
	}
	return &rotation.Status{
		Passed: time.Unix(1000, 0), Epoch: 3, Roots: []rotation.CAStatus{{Name: "root", NotAfter: time.Unix(3000, 0)}},
		CRLs: []rotation.CRLStatus{
			{Issuer: "issuing", ThisUpdate: time.Unix(1000, 0), NextUpdate: time.Unix(5000, 0), Overdue: true},
			{Issuer: "root", Root: true, NextUpdate: time.Unix(9000, 0)},
		},
		Services: []rotation.ServiceStatus{
			{Name: "pgadmin", State: rotation.StateKept, Serial: "7f", NotAfter: time.Unix(2000, 0), Healed: 4},
			{Name: "envoy", State: rotation.StateRefused, ForeignWrites: 5},
		},
	}
}

func (e *engine) Continue(ctx context.Context, service string) error {
	return e.order(ctx, "continue", service)
}

func (e *engine) Resume(ctx context.Context, service string) error {
	return e.order(ctx, "resume", service)
}

func (e *engine) Renew(ctx context.Context, service, by string) error {
	return e.order(ctx, "renew for "+by, service)
}

// owner answers on the socket of an engine that keeps pgadmin and envoy.
func owner(e *engine) http.Handler {
	i := issuer.New(nil, nil) // what is asked of it here needs neither store nor CA
	i.SetCatalogue([]issuer.Policy{{Service: "pgadmin"}, {Service: "envoy"}})
	v := &api.V1{Issuer: i, Engine: e, Operator: e, Grants: &api.Grants{}, Events: api.NewEvents(time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	return v.Owner()
}

func (e *engine) order(ctx context.Context, what, service string) error {
	if e.busy {
		<-ctx.Done()
		return ctx.Err()
	}
	if service == "nobody" {
		return fmt.Errorf("service %q: %w", service, rotation.ErrNothingToDo)
	}
	e.orders = append(e.orders, what+" "+service)
	return nil
}

func (e *engine) Ready(ctx context.Context) error {
	e.asked.Add(1)
	return errors.Join(ctx.Err(), e.ready)
}

func get(t *testing.T, h http.Handler, path string) (code int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestObservability(t *testing.T) {
	e := &engine{}
	h := (&api.V1{Engine: e, Now: time.Now}).Observability(api.NewRegistry(e, func() int64 { return 4096 }, "1.2.3"))
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok"} {
		if code, body := get(t, h, path); code != http.StatusOK || strings.TrimSpace(body) != want {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	_, metrics := get(t, h, "/metrics")
	for _, want := range []string{
		`meshca_certificate_not_after_timestamp_seconds{service="pgadmin"} 2000`,
		`meshca_service_kept{service="pgadmin"} 1`,
		`meshca_service_kept{service="envoy"} 0`,
		`meshca_foreign_writes{service="envoy"} 5`,
		`meshca_healed_total{service="pgadmin"} 4`,
		`meshca_ca_not_after_timestamp_seconds{name="root",role="root"} 3000`,
		`meshca_crl_this_update_timestamp_seconds{name="issuing",role="issuing"} 1000`,
		`meshca_crl_next_update_timestamp_seconds{name="issuing",role="issuing"} 5000`,
		`meshca_crl_overdue{name="issuing",role="issuing"} 1`,
		`meshca_crl_overdue{name="root",role="root"} 0`,
		`meshca_epoch 3`,
		`meshca_store_size_bytes 4096`,
		`meshca_build_info{version="1.2.3"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no metric %s", want)
		}
	}
	if strings.Contains(metrics, `not_after_timestamp_seconds{service="envoy"}`) {
		t.Error("a service without a certificate has an expiry")
	}
	if code, _ := get(t, h, "/v1/status"); code != http.StatusNotFound {
		t.Errorf("the status answers on the address of the metrics: %d", code)
	}
}

// TestReadyz says in words what is away, and asks the engine, which writes to the store, only now and then.
func TestReadyz(t *testing.T) {
	e := &engine{ready: errors.Join(errors.New("store: disk full"), errors.New("target: read-only"))}
	h := (&api.V1{Engine: e, Now: time.Now}).Observability(api.NewRegistry(e, func() int64 { return 0 }, ""))
	for range 50 {
		code, body := get(t, h, "/readyz")
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "disk full") || !strings.Contains(body, "read-only") {
			t.Fatalf("%d %q", code, body)
		}
	}
	if n := e.asked.Load(); n != 1 {
		t.Errorf("50 requests asked the engine %d times", n)
	}
}

// TestReadyzIsForAll: somebody who asks and gives up does not make it no for the others.
func TestReadyzIsForAll(t *testing.T) {
	e := &engine{}
	h := (&api.V1{Engine: e, Now: time.Now}).Observability(api.NewRegistry(e, func() int64 { return 0 }, ""))
	gone, leave := context.WithCancel(t.Context())
	leave()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, http.MethodGet, "/readyz", nil))
	if code, body := get(t, h, "/readyz"); code != http.StatusOK || e.asked.Load() != 1 {
		t.Errorf("%d %q, asked %d times", code, body, e.asked.Load())
	}
}

// TestStarting: until the first pass has ended there is neither a status nor a metric that could be taken for one.
func TestStarting(t *testing.T) {
	e := &engine{starting: true}
	if code, body := get(t, owner(e), "/v1/status"); code != http.StatusServiceUnavailable || !strings.Contains(body, `"detail":"starting: `) {
		t.Errorf("%d %q", code, body)
	}
	h := (&api.V1{Engine: e, Now: time.Now}).Observability(api.NewRegistry(e, func() int64 { return 0 }, ""))
	if code, body := get(t, h, "/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %q", code, body)
	}
	if code, body := get(t, h, "/metrics"); code != http.StatusOK || strings.Contains(body, "meshca_epoch") || strings.Contains(body, "meshca_sweep") {
		t.Errorf("/metrics: %d %q", code, body)
	}
}

// TestBusy: an order that cannot be taken in time is told so while its sender still listens, and is not done later.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &engine{busy: true}
		for _, path := range []string{"/v1/adopt", "/v1/heal"} {
			w, began := httptest.NewRecorder(), time.Now()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(`{"service":"pgadmin"}`))
			r.Header.Set("Content-Type", "application/json")
			owner(e).ServeHTTP(w, r)
			if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "busy: ") || !strings.Contains(w.Body.String(), "nothing was done") {
				t.Errorf("%s: %d %q", path, w.Code, w.Body)
			}
			if took := time.Since(began); took >= 10*time.Second { // the server's own limit
				t.Errorf("%s: the answer comes after %s", path, took)
			}
		}
		if len(e.orders) > 0 {
			t.Errorf("done all the same: %v", e.orders)
		}
	})
}

// TestSocket: a path longer than a Unix address, a socket that a crash left, and only its owner may open it.
func TestSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-long-name/", 15))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "meshca.sock")
	for _, left := range []string{path, path + ".new"} {
		if err := os.WriteFile(left, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := socket.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v (%v)", info.Mode().Perm(), err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- api.Serve(ctx, l, owner(&engine{}), slog.New(slog.DiscardHandler))
	}()

	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return socket.Dial(ctx, path)
	}}}
	response, err := client.Get("http://meshca/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	var status rotation.Status
	if err := errors.Join(json.NewDecoder(response.Body).Decode(&status), response.Body.Close()); err != nil || status.Epoch != 3 {
		t.Errorf("status %+v, %v", status, err)
	}
	client.CloseIdleConnections()
	stop()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket's file stayed")
	}
	if _, err := socket.Dial(t.Context(), path); err == nil {
		t.Error("somebody answers on a closed socket")
	}
}

// TestServeEndsWhileClientsHang: connections that say nothing do not hold up the end.
func TestServeEndsWhileClientsHang(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- api.Serve(ctx, l, owner(&engine{}), slog.New(slog.DiscardHandler))
	}()
	for range 20 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /v1/st"); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("does not end")
	}
}
