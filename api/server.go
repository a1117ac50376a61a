// Package api answers over HTTP: health, readiness and metrics on a TCP address, the operations of openapi.yaml
// over HTTPS and on a Unix socket that only the owner of the store may open.
//
// # Concurrency
//
// Handlers run on net/http's goroutines and read snapshots; none of them waits for the engine but those that
// give it an order, for less than an answer may take. Streams of events live until either side ends them.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/meshca/meshca/rotation"
)

// An Engine is what the handlers ask.
type Engine interface {
	// Status is a snapshot of the newest pass.
	Status() *rotation.Status
	// Ready says what does not work, nil if all does. Also that the first pass has not ended yet.
	Ready(ctx context.Context) error
	// Stopped says why nothing may be written or signed, "" where it may.
	Stopped() string
}

const (
	readyEvery    = 5 * time.Second // /readyz asks the engine at most this often: it is a write to the store
	readyTimeout  = 2 * time.Second
	shutdownWait  = 2 * time.Second
	headerTimeout = 5 * time.Second  // for a handshake, and for a request's head
	readTimeout   = 10 * time.Second // for a request
	writeTimeout  = 10 * time.Second // from the request's head to the answer's end
	idleTimeout   = 30 * time.Second // between two requests
)

// Observability serves /healthz (the process answers), /readyz (it can do its work; 503 says in words what
// is away) and /metrics (Prometheus).
func (v *V1) Observability(metrics prometheus.Gatherer) http.Handler {
	v.begun.Do(v.prepare)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := v.ready.check(r.Context()); err != nil {
			writeText(w, http.StatusServiceUnavailable, "not ready: "+strings.ReplaceAll(err.Error(), "\n", "; "))
			return
		}
		writeText(w, http.StatusOK, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	return mux
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n"))
}

// readiness remembers the newest answer for a few seconds, for all who ask on any listener.
type readiness struct {
	engine Engine
	mu     sync.Mutex // held while asking, so that many callers ask once
	at     time.Time
	err    error
}

func (r *readiness) check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < readyEvery && !r.at.IsZero() {
		return r.err
	}
	// The answer is for all who ask, so it does not end with the one who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyTimeout)
	defer cancel()
	r.err = r.engine.Ready(ctx)
	r.at = time.Now()
	return r.err
}

// Serve answers on the listener until ctx ends, then closes it and waits a moment for answers under way. A bounded
// number of connections is open at once.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	return serve(ctx, bound(l, places(otherConnections), false, log), h, nil, log)
}

// ServeTLS is Serve with HTTPS, for many.
func ServeTLS(ctx context.Context, l net.Listener, h http.Handler, conf *tls.Config, log *slog.Logger) error {
	n := places(apiConnections)
	if n < apiConnections {
		log.Warn("few descriptors: raise the limit of open files to twice the connections that are wanted", "connections", n, "wanted", apiConnections)
	}
	return serve(ctx, bound(l, n, true, log), h, conf, log)
}

func serve(ctx context.Context, l *listener, h http.Handler, conf *tls.Config, log *slog.Logger) error {
	server := &http.Server{
		Handler:           h,
		TLSConfig:         conf,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ConnState:         l.state,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          64,
			MaxReadFrameSize:              16 << 10, // the least that there is
			MaxReceiveBufferPerStream:     maxBody,
			MaxReceiveBufferPerConnection: 4 * maxBody,
			WriteByteTimeout:              writeTimeout,
		},
	}
	stopped := make(chan error, 1)
	go func() { // ends with ctx: owned by Serve, which waits for it
		<-ctx.Done()
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownWait)
		defer cancel()
		err := server.Shutdown(wait)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close() // whoever still says nothing is cut off
		}
		stopped <- err
	}()
	accept := func() error { return server.Serve(l) }
	if conf != nil {
		accept = func() error { return server.ServeTLS(l, "", "") }
	}
	if err := accept(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}
