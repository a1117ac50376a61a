package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/test/need"
)

// prompt is how long somebody who is served may wait: that takes some milliseconds, and some hundred on a machine that
// is busy with a flood.
const prompt = 10 * time.Second

// A flooded is a running process that many connections are made to.
type flooded struct {
	m     *Mesh
	p     *Process
	admin *apiClient
	base  string // of metrics and health
}

func newFlooded(t *testing.T, start func(m *Mesh) *Process) *flooded {
	t.Helper()
	if runtime.GOOS != "linux" {
		need.Skip(t, "only Linux has all of 127.0.0.0/8")
	}
	m := NewMesh(t, Settings{})
	p := start(m)
	serving := p.AwaitServing()
	return &flooded{m: m, p: p, admin: newAPIClient(t, m, serving), base: "http://" + serving.Get("metrics")}
}

// flood has that many connections of a kind come from 127.0.0.1, or from other addresses.
func (f *flooded) flood(kind string, connections, sources int) Flood {
	return Flood{Kind: kind, Address: strings.TrimPrefix(f.admin.address, "https://"), Token: f.admin.token, Connections: connections, Sources: sources}
}

// A load is what the process holds.
type load struct{ goroutines, descriptors, resident int }

func (l load) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %.1f MiB", l.goroutines, l.descriptors, float64(l.resident)/(1<<20))
}

// load asks for it.
func (f *flooded) load(t *testing.T) (l load) {
	t.Helper()
	code, body := get(t, f.base+"/metrics")
	if code != http.StatusOK {
		t.Fatalf("/metrics: %d", code)
	}
	l.goroutines, l.descriptors = int(metric(t, body, "go_goroutines")), int(metric(t, body, "process_open_fds"))
	l.resident = int(metric(t, body, "process_resident_memory_bytes"))
	return l
}

// returns waits until the process holds about what it held before.
func (f *flooded) returns(t *testing.T, before load) {
	t.Helper()
	f.p.Await("it gives back what the flood took", func() error {
		// The connections of those who ask come and go.
		if now := f.load(t); now.goroutines > before.goroutines+10 || now.descriptors > before.descriptors+10 {
			return fmt.Errorf("%s, before %s", now, before)
		}
		return nil
	})
}

// A guest is somebody who asks for something useful, from an address, over connections that are kept.
type guest struct {
	t      testing.TB
	from   *apiClient
	client *http.Client
}

func (f *flooded) guest(t testing.TB, address string) *guest {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(readFile(t, f.m.Path("envoy", caFile)))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
		DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &guest{t: t, from: f.admin, client: &http.Client{Transport: transport, Timeout: prompt}}
}

// served asks for a certificate, and says whether that went over a connection that was there.
func (g *guest) served(when, ask string) (reused bool) {
	g.t.Helper()
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.from.address+"/v1/certificates", strings.NewReader(ask))
	must(g.t, err)
	request.Header.Set("Authorization", "Bearer "+g.from.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := g.client.Do(request)
	if err != nil {
		g.t.Errorf("%s: %v", when, err)
		return false
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusCreated {
		g.t.Errorf("%s: %d %s (%v)", when, response.StatusCode, body, err)
	}
	return reused
}

// TestFlood: whoever holds connections without use does not keep others from being served, and holds them no longer
// than there is a deadline for.
func TestFlood(t *testing.T) {
	csr, _ := newCSR(t)
	ask := apiBody(t, map[string]any{"service": "bookapi", "csr": csr})
	t.Run("Slow", func(t *testing.T) { t.Parallel(); testSlow(t, ask) })
	t.Run("Idle", func(t *testing.T) { t.Parallel(); testIdle(t, ask) })
	t.Run("OneAddress", func(t *testing.T) { t.Parallel(); testOneAddress(t, ask) })
	t.Run("FewDescriptors", func(t *testing.T) { t.Parallel(); testFewDescriptors(t, ask) })
}

// testSlow: slow handshakes, headers and bodies, silence and pings, all at once and from the address of somebody who is
// served. They have places, and each ends by its own deadline.
func testSlow(t *testing.T, ask string) {
	f := newFlooded(t, func(m *Mesh) *Process { return m.Serve() })
	before := f.load(t)
	var all []*flooding
	for kind := range floods {
		all = append(all, f.flood(kind, 100, 0).start(t))
	}
	for _, one := range all {
		if s := one.full(); s.Failed > 0 {
			t.Errorf("%s: %d of them cannot connect", one.f.Kind, s.Failed)
		}
	}
	f.guest(t, "127.0.0.1").served("from the same address", ask)
	for _, one := range all {
		one.over()
	}
	f.returns(t, before)
}

// testIdle: five thousand idle connections from fifty addresses leave those alone who have fewer.
func testIdle(t *testing.T, ask string) {
	f := newFlooded(t, func(m *Mesh) *Process { return m.Serve() })
	guest := f.guest(t, "127.0.0.1")
	guest.served("before", ask)
	before := f.load(t)
	var held [2]load
	for round := range held {
		flood := f.flood("idle", 5000, 50).start(t)
		for _, when := range []string{"while they come", "when they are there"} {
			if round == 0 && !guest.served(when, ask) {
				t.Errorf("%s: the connection of somebody who has one is closed", when)
			}
			f.guest(t, "127.0.0.1").served(when+", anew", ask)
			if code, _ := get(t, f.base+"/healthz"); code != http.StatusOK {
				t.Errorf("%s: /healthz: %d", when, code)
			}
			flood.full()
		}
		f.guest(t, "127.0.1.1").served("from an address of theirs", ask)
		held[round] = f.load(t)
		t.Logf("round %d: %s, before %s", round, held[round], before)
		if held[round].descriptors > before.descriptors+1024 {
			t.Errorf("round %d: %s, before %s", round, held[round], before)
		}
		flood.end()
		f.returns(t, before)
	}
	// Memory that was used once is kept by the process for the next time: it does not grow by it.
	if grown := held[1].resident - held[0].resident; grown > held[0].resident/4 {
		t.Errorf("a second flood takes %d bytes more than the first", grown)
	}
}

// testOneAddress: one address alone does not get so far.
func testOneAddress(t *testing.T, ask string) {
	f := newFlooded(t, func(m *Mesh) *Process { return m.Serve() })
	guest := f.guest(t, "127.0.0.1")
	guest.served("before", ask)
	flood := f.flood("silent", 5000, 1).start(t) // which is the fastest
	flood.full()
	if !guest.served("meanwhile", ask) {
		t.Error("the connection of somebody else is closed")
	}
	f.p.AwaitLine("connections are refused: too many are begun from this address", "peer", "127.0.1.1/32")
	flood.end()
}

// testFewDescriptors: where the process may open few files, connections leave it those that it needs for its work.
func testFewDescriptors(t *testing.T, ask string) {
	f := newFlooded(t, func(m *Mesh) *Process {
		return startCommand(t, m.Dir, nil, "sh", "-c", `ulimit -n 200 && exec "$0" "$@"`, program, "serve", "--config", m.Config(), "--log", "json")
	})
	f.flood("silent", 500, 10).start(t).full()
	f.guest(t, "127.0.0.1").served("meanwhile", ask)
	writeFile(t, f.m.Path("envoy", caFile), []byte("foreign"))
	f.p.AwaitLine("healed", "service", "envoy")
	f.p.AwaitLine("few descriptors: raise the limit of open files to twice the connections that are wanted")
}
