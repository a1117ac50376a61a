package e2e

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A relay stands between a command and the process that it asks: it has a config file of its own, and the socket that
// belongs to it. Requests go on to the process, unless a test wants something else to happen to them, and are judged by the
// contract as their answers are.
type relay struct {
	Config string
	mu     sync.Mutex
	act    func(w http.ResponseWriter, r *http.Request, pass http.Handler) // nil: pass
}

func newRelay(t testing.TB, m *Mesh) *relay {
	t.Helper()
	dir, err := os.MkdirTemp("", "relay") // a short name: a Unix address holds 107 bytes
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &relay{Config: filepath.Join(dir, "meshca.yaml")}
	writeFile(t, r.Config, readFile(t, m.Config()))
	must(t, os.Mkdir(filepath.Join(dir, "data"), 0o700))
	l, err := net.Listen("unix", filepath.Join(dir, "data", "meshca.sock"))
	must(t, err)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "meshca"})
	proxy.ErrorLog = quiet
	proxy.Transport = apiContract(t).Transport(t, &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", m.Socket())
	}})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if act := r.acting(); act != nil && request.Method == http.MethodPost {
			act(w, request, proxy)
			return
		}
		proxy.ServeHTTP(w, request)
	}))
	must(t, server.Listener.Close())
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return r
}

func (r *relay) acting() func(http.ResponseWriter, *http.Request, http.Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.act
}

// Act says what happens to requests that change something from now on.
func (r *relay) Act(act func(w http.ResponseWriter, request *http.Request, pass http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.act = act
}

// Hold has the next of such requests wait until release is called, and tells when one has come.
func (r *relay) Hold() (came <-chan struct{}, release func()) {
	arrived, let := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.Act(func(w http.ResponseWriter, request *http.Request, pass http.Handler) {
		once.Do(func() { close(arrived) })
		<-let
		pass.ServeHTTP(w, request)
	})
	return arrived, sync.OnceFunc(func() { close(let) })
}
