package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// inspect lists which invariants are broken. It asks the API server past the gate, reads certificates and a copy of the
// store's file, and asks neither the program nor its packages. While all services stand:
//
//   - every Secret holds a whole set: the key is the leaf's, the chain verifies against the set's own ca.crt in both
//     roles, label and annotations tell of exactly that set;
//   - all ca.crt and the published bundle are the same bytes, in canonical form, with the root that was seen first;
//   - the leaf is the newest one of the service's records, and recorded as delivered; no two are the same;
//   - and all that [InspectRecords] says.
func (c *cell) inspect() []error {
	s, err := readStore(c.Store())
	if err != nil {
		return []error{err}
	}
	found := InspectRecords(c.Mesh, s)
	bundle, err := c.bundle()
	if err != nil {
		return append(found, err)
	}
	if err := c.inspectBundle(s, bundle); err != nil {
		found = append(found, fmt.Errorf("the published bundle: %w", err))
	}
	leaves := make(map[string]string)
	for _, service := range c.Services {
		live, err := c.secret(service)
		if err == nil {
			err = c.inspectSecret(s, service, live, bundle, leaves)
		}
		if err != nil {
			found = append(found, fmt.Errorf("%s: %w", service, err))
		}
	}
	return found
}

// inspectSecret judges one Secret as it is now.
func (c *cell) inspectSecret(s *storeCopy, service string, live *secret, bundle []byte, leaves map[string]string) error {
	leaf, err := inspectWhole(service, live, time.Now())
	if err != nil {
		return err
	}
	if !bytes.Equal(live.Data[caFile], bundle) {
		return errors.New("ca.crt is not the published bundle")
	}
	if other := leaves[serialOf(leaf)]; other != "" {
		return fmt.Errorf("it has the leaf of %s", other)
	}
	leaves[serialOf(leaf)] = service
	if r := s.newest(service); r == nil || !bytes.Equal(r.Cert, leaf.Raw) || r.State != "delivered" {
		return fmt.Errorf("the newest record that is not undelivered is %v, the leaf is %s", r, serialOf(leaf))
	}
	if a := live.Metadata.Annotations; a["meshca.io/epoch"] != strconv.FormatUint(s.state.Epoch, 10) ||
		!strings.HasPrefix(a["meshca.io/stamp"], s.state.Identity+".") {
		return fmt.Errorf("it is marked %v, the store is %+v", a, s.state)
	}
	secrets, err := secretsOf(blockOf(live.Data[keyFile]))
	if err != nil {
		return err
	}
	for _, secret := range secrets {
		if s.holds(secret) {
			return errors.New("the store's file holds its key")
		}
	}
	return nil
}

// inspectWhole judges whether what lies in a Secret is one set, and told of as such.
func inspectWhole(service string, live *secret, at time.Time) (*x509.Certificate, error) {
	pair, err := tls.X509KeyPair(live.Data[certFile], live.Data[keyFile])
	if err != nil {
		return nil, err
	}
	if err := verifyChain(pair, live.Data[caFile], at); err != nil {
		return nil, err
	}
	leaf := pair.Leaf
	if leaf.Subject.CommonName != service {
		return nil, fmt.Errorf("the leaf is for %s", leaf.Subject.CommonName)
	}
	sum := sha256.Sum256(live.Data[caFile])
	a := live.Metadata.Annotations
	for name, want := range map[string]string{
		"bundle-sha256": hex.EncodeToString(sum[:]), "serial": serialOf(leaf), "issuer": leaf.Issuer.CommonName,
		"not-before": leaf.NotBefore.Format(time.RFC3339), "not-after": leaf.NotAfter.Format(time.RFC3339),
	} {
		if a["meshca.io/"+name] != want {
			return nil, fmt.Errorf("annotation %s is %q, want %q", name, a["meshca.io/"+name], want)
		}
	}
	if got := live.Metadata.Labels["meshca.io/service"]; got != service {
		return nil, fmt.Errorf("it is labelled %q", got)
	}
	return leaf, nil
}

// A witness watches all Secrets of a cell's namespace past the gate and keeps every version, so that a set that was
// half for a moment is found. Versions that somebody else than the program has written are named by whoever wrote them.
type witness struct {
	c *cell

	mu      sync.Mutex
	seen    []sighting
	newest  uint64          // resourceVersion
	foreign map[string]bool // resourceVersions that others wrote
	err     error           // why it sees no more
	leaves  map[string]*x509.Certificate
	judged  int
}

// A sighting is one version of a Secret.
type sighting struct {
	at   time.Time
	live secret
}

// newWitness watches until the test ends.
func newWitness(c *cell) *witness {
	c.t.Helper()
	w := &witness{c: c, foreign: make(map[string]bool), leaves: make(map[string]*x509.Certificate)}
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet,
		c.k.Server+"/api/v1/namespaces/"+c.namespace+"/secrets?watch=true&timeoutSeconds=7200", nil)
	must(c.t, err)
	response, err := c.k.admin.Transport.RoundTrip(r)
	must(c.t, err)
	done := make(chan struct{})
	go func() { // ends with the stream, which the cleanup ends
		defer close(done)
		w.follow(response)
	}()
	c.t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *witness) follow(response *http.Response) {
	defer response.Body.Close()
	for decoder := json.NewDecoder(response.Body); ; {
		var e struct {
			Type   string `json:"type"`
			Object secret `json:"object"`
		}
		err := decoder.Decode(&e)
		if err == nil && e.Type == "ERROR" {
			err = errors.New("the watch ended with an error")
		}
		w.mu.Lock()
		if err != nil {
			w.err = err
			w.mu.Unlock()
			return
		}
		version, _ := strconv.ParseUint(e.Object.Metadata.ResourceVersion, 10, 64) // always a number in this API
		w.newest = max(w.newest, version)
		if e.Type != "DELETED" {
			w.seen = append(w.seen, sighting{time.Now(), e.Object})
		}
		w.mu.Unlock()
	}
}

// Foreign says that somebody else than the program wrote a version.
func (w *witness) Foreign(version string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.foreign[version] = true
}

// Judge lists what was wrong with the versions that the program has written since the last judgement: half sets,
// leaves without a record, or with one that says that nobody has them. Nobody else may be writing.
func (w *witness) Judge() (found []error) {
	w.c.t.Helper()
	w.catchUp()
	s, err := readStore(w.c.Store())
	must(w.c.t, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	for ; w.judged < len(w.seen); w.judged++ {
		v := w.seen[w.judged]
		if w.foreign[v.live.Metadata.ResourceVersion] {
			continue
		}
		service := strings.TrimSuffix(v.live.Metadata.Name, secretName(""))
		leaf, err := inspectWhole(service, &v.live, v.at)
		if err != nil {
			found = append(found, fmt.Errorf("version %s of %s: %w", v.live.Metadata.ResourceVersion, service, err))
			continue
		}
		w.leaves[serialOf(leaf)] = leaf
		if bundle := v.live.Data[caFile]; w.c.inspectBundle(s, bundle) != nil {
			found = append(found, fmt.Errorf("version %s of %s: %w", v.live.Metadata.ResourceVersion, service, w.c.inspectBundle(s, bundle)))
		}
	}
	for serial, leaf := range w.leaves {
		if r := s.bySerial(leaf); r == nil || !bytes.Equal(r.Cert, leaf.Raw) {
			found = append(found, fmt.Errorf("leaf %s of %s was in a Secret and has no record", serial, leaf.Subject.CommonName))
		} else if r.State == "undelivered" {
			found = append(found, fmt.Errorf("leaf %s of %s was in a Secret, and its record says undelivered", serial, leaf.Subject.CommonName))
		}
	}
	return found
}

// catchUp waits until the witness has seen what the Secrets are now.
func (w *witness) catchUp() {
	w.c.t.Helper()
	for _, service := range w.c.Services {
		live, err := w.c.secret(service)
		must(w.c.t, err)
		version, err := strconv.ParseUint(live.Metadata.ResourceVersion, 10, 64)
		must(w.c.t, err)
		await(w.c.t, "the witness has seen what is there", func() error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.err != nil {
				w.c.t.Fatalf("the witness: %v", w.err)
			}
			if w.newest < version {
				return fmt.Errorf("it is at %d, not at %d", w.newest, version)
			}
			return nil
		})
	}
}

// Versions counts those seen, and those that others wrote.
func (w *witness) Versions() (seen, foreign int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.seen), len(w.foreign)
}
