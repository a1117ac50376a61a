package e2e

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshca/meshca/test/contract"
)

// A fuzzed is a running program that is asked for anything, and what is known of it.
type fuzzed struct {
	t        *testing.T
	m        *Mesh
	contract *contract.Contract
	admin    *apiClient
	host     string
	seed     uint64
	next     atomic.Int64 // number of the next request
	lost     atomic.Int64 // requests whose answer did not come before a deadline: whatever they asked for may have been done

	mu       sync.Mutex
	pool     map[string][]string // values that answers told of, by their names
	issued   map[string]bool     // serials
	revoked  map[string]bool
	statuses map[string]map[int]int // by operation, "" for none
	findings int
}

// poolSize bounds what is kept of each name: new values replace old ones.
const poolSize = 64

// maxFindings is after how many the fuzzer gives up: more of the same say no more.
const maxFindings = 20

// TestAPIFuzz: whatever is sent, by whomever, is answered as the contract says, tells nothing of the inside or of
// what was sent, and changes nothing where it is refused.
func TestAPIFuzz(t *testing.T) {
	requests := envInt(t, "MESHCA_FUZZ_REQUESTS", 20_000)
	m := NewMesh(t, Settings{Services: []string{"envoy", "pgadmin", "{name: bookapi, clients: [{service: envoy}]}", "bookapi-mcp-server",
		"{name: timescaledb, generateKey: true, clients: [{service: envoy}]}"}})
	p := m.Serve()
	serving := p.AwaitServing()
	f := &fuzzed{t: t, m: m, contract: apiContract(t), admin: newAPIClient(t, m, serving), host: serving.Get("api"),
		seed: uint64(envInt(t, "MESHCA_FUZZ_SEED", int(time.Now().UnixNano()%1e9))), pool: make(map[string][]string),
		issued: make(map[string]bool), revoked: make(map[string]bool), statuses: make(map[string]map[int]int)}
	t.Logf("MESHCA_FUZZ_SEED=%d repeats these requests", f.seed)

	f.run(requests / 4) // so that pools, caches and the store's pages are what they stay
	before := readGauges(t, serving)
	began := time.Now()
	f.run(requests)
	t.Logf("%d requests, %.0f a second\n%s", requests, float64(requests-requests/4)/time.Since(began).Seconds(), f.table())
	f.checkGrowth(p, serving, before)
	f.checkStore()
	f.checkReach()
	m.AwaitSound(p)
}

func envInt(t testing.TB, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// run sends until so many requests were sent in all. Callers of each kind ask at the same time.
func (f *fuzzed) run(requests int) {
	var workers sync.WaitGroup
	for _, kind := range callerKinds {
		for range kind.workers {
			workers.Go(func() {
				w := &fuzzWorker{f: f, kind: kind}
				defer w.hangUp()
				for {
					n := f.next.Add(1)
					if n > int64(requests) {
						f.next.Add(-1)
						return
					}
					if !w.step(uint64(n)) {
						return
					}
				}
			})
		}
	}
	workers.Wait()
}

// known gives serials, keys, tags and the like that fit.
func (f *fuzzed) known(name string, random *mathrand.Rand) (string, bool) {
	if name == "csr" {
		return freshCSR(), true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	values := f.pool[name]
	if len(values) == 0 {
		return "", false
	}
	return values[random.IntN(len(values))], true
}

// freshCSR is a request for a key that nobody has had.
func freshCSR() string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// aliases are parameters that take what answers call otherwise.
var aliases = map[string][]string{"name": {"name", "service"}, "service": {"service", "name"}, "next": {"cursor"}, "ski": {"ski", "issuer"},
	"issuer": {"ski", "issuer"}}

// learn keeps what an answer tells of.
func (f *fuzzed) learn(x *contract.Exchange) {
	if tag := x.Header.Get("ETag"); tag != "" {
		f.keep("If-None-Match", tag)
	}
	var body any
	if len(x.Body) < 1<<16 && json.Unmarshal(x.Body, &body) == nil {
		f.learnFrom(body)
	}
}

func (f *fuzzed) learnFrom(value any) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			f.learnFrom(item)
		}
	case map[string]any:
		for name, item := range v {
			text, ok := item.(string)
			if !ok {
				f.learnFrom(item)
				continue
			}
			for _, name := range cmpOr(aliases[name], name) {
				f.keep(name, text)
			}
		}
	}
}

func cmpOr(names []string, name string) []string {
	if names == nil {
		return []string{name}
	}
	return names
}

func (f *fuzzed) keep(name, value string) {
	if len(value) > 128 || name == "instance" || name == "detail" || name == "title" || name == "type" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if values := f.pool[name]; len(values) < poolSize {
		if !slices.Contains(values, value) {
			f.pool[name] = append(values, value)
		}
		return
	}
	f.pool[name][mathrand.IntN(poolSize)] = value
}

// count notes an answer, and what it says was changed.
func (f *fuzzed) count(x *contract.Exchange) {
	o, _ := f.contract.Find(x.Request.Method, x.Request.URL)
	id := ""
	if o != nil {
		id = o.ID
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.statuses[id] == nil {
		f.statuses[id] = make(map[int]int)
	}
	f.statuses[id][x.Status]++
	switch {
	case x.Status == http.StatusCreated && x.Header.Get("Idempotency-Replayed") == "":
		f.issued[strings.TrimPrefix(x.Header.Get("Location"), "/v1/certificates/")] = true
	case x.Status == http.StatusOK && id == "revokeCertificate":
		var c apiCertificate
		_ = json.Unmarshal(x.Body, &c) // it was judged by the contract
		f.revoked[c.Serial] = true
	}
}

// found reports what must not be, and says whether to go on.
func (f *fuzzed) found(n uint64, message *contract.Message, format string, args ...any) bool {
	wire := message.Wire(f.host)
	f.t.Errorf("request %d, %v: %.1000s\n%.600q", n, message.Spoilt, fmt.Sprintf(format, args...), wire)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.findings++
	return f.findings < maxFindings
}

// table is how often each operation was answered with each status.
func (f *fuzzed) table() string {
	var b strings.Builder
	total := make(map[int]int)
	line := func(name string, of map[int]int) {
		fmt.Fprintf(&b, "%-20s", cmp.Or(name, "(none)"))
		for _, status := range slices.Sorted(maps.Keys(of)) {
			fmt.Fprintf(&b, " %d: %d ", status, of[status])
		}
		b.WriteByte('\n')
	}
	for _, id := range slices.Sorted(maps.Keys(f.statuses)) {
		line(id, f.statuses[id])
		for status, n := range f.statuses[id] {
			total[status] += n
		}
	}
	line("all", total)
	return b.String()
}

// checkReach: no operation may have been refused always, or granted always where it can be refused.
func (f *fuzzed) checkReach() {
	for _, o := range f.contract.Operations() {
		good, bad := 0, 0
		for status, n := range f.statuses[o.ID] {
			if status < http.StatusBadRequest || idle[o.ID] && (status == http.StatusNotFound || status == http.StatusConflict) {
				good += n
			} else {
				bad += n
			}
		}
		if good == 0 || bad == 0 {
			f.t.Errorf("%s was granted %d times and refused %d times", o.ID, good, bad)
		}
	}
}

// checkStore: the records are those that callers were given, and no others.
func (f *fuzzed) checkStore() {
	s, err := readStore(f.m.Store())
	must(f.t, err)
	recorded := make(map[string]bool)
	for _, r := range s.records {
		if r.Caller != "" && r.Caller != "meshca" {
			recorded[r.Serial] = true
		}
	}
	f.compare("recorded", recorded, f.issued)
	// A compromised key takes all its certificates along, and callers are told of the one that they named.
	keys, compromised := make(map[string]string), make(map[string]bool)
	for _, r := range s.records {
		keys[r.Serial] = r.Key
		compromised[r.Key] = compromised[r.Key] || f.revoked[r.Serial]
	}
	revoked := make(map[string]bool)
	for cursor := ""; ; {
		var page struct {
			Certificates []apiCertificate
			Next         string
		}
		must(f.t, json.Unmarshal(f.admin.do("GET", "/v1/certificates?state=revoked&limit=500"+cursor, "").body, &page))
		for _, c := range page.Certificates {
			if f.revoked[c.Serial] || !compromised[keys[c.Serial]] {
				revoked[c.Serial] = true
			}
		}
		if page.Next == "" {
			break
		}
		cursor = "&cursor=" + page.Next
	}
	f.compare("revoked", revoked, f.revoked)
	f.t.Logf("%d certificates issued, %d revoked, %d requests without an answer in time", len(f.issued), len(f.revoked), f.lost.Load())
}

// compare wants the store to hold what callers were told of, and no more than the answers that were lost could explain.
func (f *fuzzed) compare(what string, stored, told map[string]bool) {
	f.t.Helper()
	if missing, more := changes(told, stored), changes(stored, told); missing > 0 || more > int(f.lost.Load()) {
		f.t.Errorf("%d certificates are %s, callers were told so of %d: %d are missing", len(stored), what, len(told), missing)
	}
}

// gauges are what grows in a process that leaks.
type gauges struct{ goroutines, descriptors, heap float64 }

func readGauges(t *testing.T, serving Line) gauges {
	t.Helper()
	_, text := get(t, "http://"+serving.Get("metrics")+"/metrics")
	return gauges{metric(t, text, "go_goroutines"), metric(t, text, "process_open_fds"), metric(t, text, "go_memstats_heap_inuse_bytes")}
}

// heapSlack is how much more of the heap may be in use at the end than after a quarter of the requests: what the
// collector happens not to have collected.
const heapSlack = 32 << 20

// checkGrowth: when nobody asks any more, nothing is left of those who did.
func (f *fuzzed) checkGrowth(p *Process, serving Line, before gauges) {
	p.Await("the process is as before", func() error {
		after := readGauges(f.t, serving)
		if after.goroutines > before.goroutines+10 || after.descriptors > before.descriptors+10 || after.heap > before.heap+heapSlack {
			return fmt.Errorf("before %+v, after %+v", before, after)
		}
		return nil
	})
	f.t.Logf("before %+v, after %+v", before, readGauges(f.t, serving))
}

// callerKind is one way to say who one is.
type callerKind struct {
	name        string
	workers     int
	token       func(*fuzzed) string
	certificate bool
	http2       bool
}

var callerKinds = []callerKind{
	{name: "admin", workers: 4, token: adminToken}, {name: "admin over HTTP/2", workers: 2, token: adminToken, http2: true},
	{name: "certificate", workers: 3, certificate: true}, {name: "certificate over HTTP/2", workers: 1, certificate: true, http2: true},
	{name: "nobody", workers: 1}, {name: "bad token", workers: 1, token: func(*fuzzed) string { return strings.Repeat("x", 43) }},
}

func adminToken(f *fuzzed) string { return f.admin.token }

// newCertificate is a client's, that of a service which others list.
func (f *fuzzed) newCertificate() *tls.Certificate {
	csr, key := newCSR(f.t)
	a := f.admin.do("POST", "/v1/certificates", apiBody(f.t, map[string]any{"service": "envoy", "csr": csr}))
	issued := a.certificate(f.t)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.issued[issued.Serial] = true
	return pairOf(f.t, issued.Chain, key)
}
