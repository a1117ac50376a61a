package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshca/meshca/test/bench/measure"
)

// A load says what to ask, and how.
type load struct {
	URL      string
	CA       string        // PEM of the root that the server's chain leads to
	Token    string        // bearer token; "" where each request carries a one-time token
	OneTime  *oneTime      `json:",omitempty"`
	Requests string        // file of CSRs
	Clients  int           // each has a connection of its own
	For      time.Duration // after a quarter of it that is not counted
	Once     bool          // with an Idempotency-Key
}

// loaded is what came of it.
type loaded struct {
	All       int // certificates, with those that are not counted in what follows
	PerSecond float64
	P50, P99  time.Duration
}

// service is whose certificates are asked for, and the name in each CSR.
const service = "bookapi"

// distinct is how many CSRs there are: more than are needed before they come again in one measurement.
const distinct = 10_000

// writeRequests makes the CSRs, each of a key of its own.
func writeRequests(path string) error {
	var all bytes.Buffer
	for range distinct {
		csr, err := measure.NewCSR(service)
		if err != nil {
			return err
		}
		all.Write(csr)
	}
	return os.WriteFile(path, all.Bytes(), 0o600)
}

// generate is the load generator's process: it reads a load, asks, and writes what came of it.
func generate(in io.Reader, out io.Writer) error {
	var l load
	if err := json.NewDecoder(in).Decode(&l); err != nil {
		return err
	}
	text, err := os.ReadFile(l.Requests)
	if err != nil {
		return err
	}
	a := &asking{load: l, roots: x509.NewCertPool()}
	a.roots.AppendCertsFromPEM([]byte(l.CA))
	for part := range bytes.SplitAfterSeq(text, []byte("-----END CERTIFICATE REQUEST-----\n")) {
		if len(part) > 0 {
			a.requests = append(a.requests, string(part))
		}
	}
	got, err := a.ask()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(got)
}

// asking is a load under way.
type asking struct {
	load
	roots    *x509.CertPool
	requests []string
	next     atomic.Int64
}

// ask has all clients ask until the time is over.
func (a *asking) ask() (got loaded, err error) {
	from := time.Now().Add(a.For / 4)
	until := from.Add(a.For)
	took := make([][]time.Duration, a.Clients)
	all := make([]int, a.Clients)
	var group errgroup.Group
	for i := range a.Clients {
		group.Go(func() (err error) {
			took[i], all[i], err = a.client(from, until)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return got, err
	}
	counted := slices.Concat(took...)
	if len(counted) == 0 {
		return got, errors.New("nothing was answered in time")
	}
	slices.Sort(counted)
	for _, n := range all {
		got.All += n
	}
	got.PerSecond = float64(len(counted)) / a.For.Seconds()
	got.P50, got.P99 = counted[len(counted)/2], counted[len(counted)*99/100]
	return got, nil
}

// client asks one question after the other. What is answered before from or after until does not count.
func (a *asking) client(from, until time.Time) (took []time.Duration, all int, err error) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.roots, NextProtos: []string{"http/1.1"}}, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	for time.Now().Before(until) {
		request, err := a.request(a.next.Add(1))
		if err != nil {
			return nil, 0, err
		}
		began := time.Now()
		answer, err := client.Do(request)
		if err != nil {
			return nil, 0, err
		}
		body, err := io.ReadAll(answer.Body)
		ended := time.Now()
		if err = errors.Join(err, answer.Body.Close()); err != nil {
			return nil, 0, err
		}
		if answer.StatusCode != http.StatusCreated {
			return nil, 0, fmt.Errorf("status %d: %.300s", answer.StatusCode, body)
		}
		if all == 0 { // one of each client is looked at: looking takes time that the servers need
			if err := a.check(body); err != nil {
				return nil, 0, err
			}
		}
		all++
		if ended.After(from) && ended.Before(until) {
			took = append(took, ended.Sub(began))
		}
	}
	return took, all, nil
}

// request is the n-th request.
func (a *asking) request(n int64) (*http.Request, error) {
	csr := a.requests[n%int64(len(a.requests))]
	body := map[string]string{"csr": csr}
	if a.OneTime == nil {
		body["service"] = service
	} else {
		token, err := a.OneTime.token()
		if err != nil {
			return nil, err
		}
		body["ott"] = token
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequest(http.MethodPost, a.URL, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if a.Token != "" {
		r.Header.Set("Authorization", "Bearer "+a.Token)
	}
	if a.Once {
		r.Header.Set("Idempotency-Key", rand.Text())
	}
	return r, nil
}

// check wants a certificate that leads to the root.
func (a *asking) check(body []byte) error {
	var answer struct {
		Chain     string   // meshca's and the floor's
		CertChain []string // step-ca's
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	text := []byte(answer.Chain)
	for _, c := range answer.CertChain {
		text = append(text, c...)
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return errors.New("the answer holds no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: service, Roots: a.roots, Intermediates: between})
	return err
}
