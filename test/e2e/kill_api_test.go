package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"
)

// killClients is how many ask at once.
const killClients = 64

// TestKillAPI kills the program while 64 clients ask for certificates. After the restart, every certificate that a
// client has seen is in the store, and its Idempotency-Key gives it again; the key of a request that was not answered
// gives one; and no key has two.
//
// MESHCA_API_KILL_ROUNDS is how many times, MESHCA_KILL_SEED repeats the points of a run.
func TestKillAPI(t *testing.T) {
	t.Parallel()
	rounds, seed := int(number(t, "MESHCA_API_KILL_ROUNDS", 5)), number(t, "MESHCA_KILL_SEED", rand.Uint64())
	t.Logf("MESHCA_API_KILL_ROUNDS=%d MESHCA_KILL_SEED=%d", rounds, seed)
	k := &apiKiller{t: t, rng: rand.New(rand.NewPCG(seed, 0)), m: NewMesh(t, Settings{}), body: apiBody(t, map[string]any{"service": "bookapi", "csr": quickCSR(t)})}
	p := k.m.Serve()
	k.admin = newAPIClient(t, k.m, p.AwaitServing())
	for round := range rounds {
		k.killWhileAsked(p)
		p = k.m.Serve()
		k.admin = newAPIClient(t, k.m, p.AwaitServing())
		k.check()
		t.Logf("round %d: killed with %d answered and %d not", round, k.answered(), len(k.asked)-k.answered())
		k.all += len(k.asked)
	}
	k.checkOnce()
	CheckInvariants(t, k.m)
}

// quickCSR is a request for a new key.
func quickCSR(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	must(t, err)
	der, err := x509.CreateCertificateRequest(cryptorand.Reader, &x509.CertificateRequest{}, key)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// An apiKiller is one run of TestKillAPI.
type apiKiller struct {
	t     *testing.T
	rng   *rand.Rand
	m     *Mesh
	admin *apiClient
	body  string
	all   int // requests of the rounds before

	mu    sync.Mutex
	asked map[string]apiCertificate // by Idempotency-Key, what the newest round asked; without a serial where no answer came
}

// answered is how many clients of the newest round have seen their certificate.
func (k *apiKiller) answered() (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.asked {
		if c.Serial != "" {
			n++
		}
	}
	return n
}

// killWhileAsked has all clients ask, and kills the program when a random number of them was answered.
func (k *apiKiller) killWhileAsked(p *Process) {
	k.t.Helper()
	k.asked = make(map[string]apiCertificate)
	transport := k.admin.transport()
	transport.ForceAttemptHTTP2, transport.MaxIdleConnsPerHost = false, killClients // a connection for each
	client := &http.Client{Transport: transport, Timeout: patience}
	defer client.CloseIdleConnections()
	var group sync.WaitGroup
	for range killClients {
		group.Go(func() {
			for !p.Ended() && k.askOnce(client) {
			}
		})
	}
	after := 1 + k.rng.IntN(400)
	await(k.t, fmt.Sprintf("%d certificates", after), func() error {
		if n := k.answered(); n < after {
			return fmt.Errorf("%d were given", n)
		}
		return nil
	})
	time.Sleep(time.Duration(k.rng.Int64N(int64(glance)))) // await looks at equal distances
	p.Kill()
	group.Wait()
}

// askOnce asks under a key of its own, and says whether an answer came.
func (k *apiKiller) askOnce(client *http.Client) bool {
	key := cryptorand.Text()
	k.note(key, apiCertificate{})
	answer, err := k.admin.ask(client, "POST", "/v1/certificates", k.body, "Idempotency-Key", key)
	if err != nil {
		return false // killed before the answer was whole
	}
	if answer.status != http.StatusCreated {
		k.t.Errorf("status %d: %s", answer.status, answer.body)
		return false
	}
	k.note(key, answer.certificate(k.t))
	return true
}

func (k *apiKiller) note(key string, c apiCertificate) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked[key] = c
}

// check asks again under every key of the newest round, and for every certificate that was seen.
func (k *apiKiller) check() {
	k.t.Helper()
	client := k.admin.client()
	defer client.CloseIdleConnections()
	again := func(method, path, body string, headers ...string) callAnswer {
		answer, err := k.admin.ask(client, method, path, body, headers...)
		must(k.t, err)
		return answer
	}
	for key, seen := range k.asked {
		answer := again("POST", "/v1/certificates", k.body, "Idempotency-Key", key)
		got := answer.certificate(k.t)
		if seen.Serial == "" {
			continue
		}
		if got.Chain != seen.Chain || answer.header.Get("Idempotency-Replayed") != "true" {
			k.t.Errorf("%s was given, and its key gives %s (replayed: %q)", seen.Serial, got.Serial, answer.header.Get("Idempotency-Replayed"))
		}
		if kept := again("GET", "/v1/certificates/"+seen.Serial, "").certificate(k.t); kept.Certificate != seen.Certificate {
			k.t.Errorf("%s was given, and another one is recorded", seen.Serial)
		}
	}
}

// checkOnce counts: there is one record for each key, those that were asked twice too.
func (k *apiKiller) checkOnce() {
	k.t.Helper()
	s, err := readStore(k.m.Store())
	must(k.t, err)
	records := 0
	for _, r := range s.records {
		if r.Caller == "admin" {
			records++
		}
	}
	if records != k.all {
		k.t.Errorf("%d records for %d requests", records, k.all)
	}
}
