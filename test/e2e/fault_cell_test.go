package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshca/meshca/test/cluster"
)

// apiAccess is an API server, reached as its administrator and past every gate.
type apiAccess struct {
	*cluster.Cluster
	server    string
	transport *http.Transport
	cells     atomic.Int32
}

// newAPIAccess starts an API server for a test and all below it.
func newAPIAccess(t *testing.T) *apiAccess {
	t.Helper()
	dir := t.TempDir()
	c := cluster.Need(t, cluster.Options{Dir: dir})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(readFile(t, filepath.Join(dir, "ca.crt")))
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "admin.crt"), filepath.Join(dir, "admin.key"))
	must(t, err)
	a := &apiAccess{Cluster: c, server: c.Server, transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}, MaxIdleConnsPerHost: 50, DisableCompression: true,
	}}
	t.Cleanup(a.transport.CloseIdleConnections)
	return a
}

// call asks the API server as administrator, or as the user that as names.
func (a *apiAccess) call(as, method, path, contentType string, body any) (code int, answer []byte, err error) {
	text, is := body.([]byte)
	if !is && body != nil {
		if text, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, a.server+path, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", contentType)
	if as != "" {
		r.Header.Set("Impersonate-User", as)
	}
	response, err := (&http.Client{Transport: a.transport}).Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// read reads an object into v.
func (a *apiAccess) read(path string, v any) error {
	code, answer, err := a.call("", http.MethodGet, path, "", nil)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s: %d", path, code)
	}
	return errors.Join(err, json.Unmarshal(answer, v))
}

// create makes an object.
func (a *apiAccess) create(t testing.TB, path string, body map[string]any) {
	t.Helper()
	if code, answer, err := a.call("", http.MethodPost, path, "application/json", body); err != nil || code/100 != 2 {
		t.Fatalf("create %s: %d %s %v", path, code, answer, err)
	}
}

// apiMeta is what the tests look at of any object's metadata.
type apiMeta struct {
	Name            string            `json:"name"`
	UID             string            `json:"uid"`
	ResourceVersion string            `json:"resourceVersion"`
	Labels          map[string]string `json:"labels"`
	Annotations     map[string]string `json:"annotations"`
}

// An apiSecret is what the tests look at of a Secret.
type apiSecret struct {
	Metadata apiMeta           `json:"metadata"`
	Data     map[string][]byte `json:"data"`
}

// A cell is a mesh in a namespace of its own, with a gate between the program and the API server.
type cell struct {
	*Mesh
	api       *apiAccess
	namespace string
	gate      *gate
}

// cellSettings are what a cell's config file says beside the five services. The zero value has the program's
// defaults.
type cellSettings struct {
	Sweep    string
	Leaf     string // further fields of leaf, in YAML's flow form
	Schedule string
	DNSNames string   // one more name of every service
	Services []string // beside the five
}

// apiAccount is who the program is for the API server.
const apiAccount = "system:serviceaccount:meshca:meshca"

// newCell makes the namespace, the account's rights in it, the gate and the config file.
func newCell(t testing.TB, a *apiAccess, s cellSettings) *cell {
	t.Helper()
	c := &cell{Mesh: &Mesh{t: t, Dir: t.TempDir(), Services: fiveServices}, api: a,
		namespace: fmt.Sprintf("cell-%d", a.cells.Add(1)), gate: newGate(t, a, apiAccount)}
	a.create(t, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": c.namespace}})
	c.grant(slices.Concat([]string{"another"}, s.Services, fiveServices))
	c.configure(s)
	return c
}

// twin is another folder for the same namespace, with a gate and a copy of data and seal of its own.
func (c *cell) twin(t testing.TB) *cell {
	t.Helper()
	d := &cell{Mesh: &Mesh{t: t, Dir: t.TempDir(), Services: c.Services, root: c.root}, api: c.api, namespace: c.namespace,
		gate: newGate(t, c.api, apiAccount)}
	for _, dir := range []string{"data", "seal"} {
		copyTree(t, filepath.Join(c.Dir, dir), filepath.Join(d.Dir, dir))
	}
	return d
}

// grant gives the account the least rights that it needs, as examples/kubernetes/rbac.yaml lists them.
func (c *cell) grant(services []string) {
	c.t.Helper()
	var secrets []string
	for _, service := range services {
		secrets = append(secrets, secretName(service))
	}
	rule := func(group, resource string, names []string, verbs ...string) map[string]any {
		return map[string]any{"apiGroups": []string{group}, "resources": []string{resource}, "resourceNames": names, "verbs": verbs}
	}
	const rbac = "rbac.authorization.k8s.io"
	base := "/apis/" + rbac + "/v1/namespaces/" + c.namespace
	c.api.create(c.t, base+"/roles", map[string]any{"metadata": map[string]any{"name": "meshca"}, "rules": []any{
		rule("", "secrets", secrets, "get", "watch", "patch", "create"),
		rule("", "configmaps", []string{"meshca-ca"}, "get", "watch", "patch", "create"),
		rule("", "pods", nil, "list", "watch"),
		rule("events.k8s.io", "events", nil, "create", "patch"),
	}})
	c.api.create(c.t, base+"/rolebindings", map[string]any{"metadata": map[string]any{"name": "meshca"},
		"roleRef":  map[string]any{"apiGroup": rbac, "kind": "Role", "name": "meshca"},
		"subjects": []any{map[string]any{"kind": "User", "apiGroup": rbac, "name": apiAccount}}})
	await(c.t, "the account has its rights", func() error {
		code, _, err := c.api.call(apiAccount, http.MethodGet, c.secretPath(fiveServices[0]), "", nil)
		if err == nil && code == http.StatusForbidden {
			return errors.New("not yet")
		}
		return err
	})
}

// configure replaces the config file.
func (c *cell) configure(s cellSettings) {
	c.t.Helper()
	var b strings.Builder
	b.WriteString("version: 1\ntarget: {kubernetes: {}}\nlisten: {api: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\"}\nrotation: {restart: {holdDown: 1s}")
	if s.Schedule != "" {
		fmt.Fprintf(&b, ", schedule: %q", s.Schedule)
	}
	fmt.Fprintf(&b, "}\nleaf: {%s}\n", s.Leaf)
	if s.Sweep != "" {
		fmt.Fprintf(&b, "sweep: %s\n", s.Sweep)
	}
	b.WriteString("services:\n")
	for _, service := range append(append([]string{}, fiveServices...), s.Services...) {
		names := service
		if s.DNSNames != "" {
			names += ", " + s.DNSNames
		}
		fmt.Fprintf(&b, "- {name: %s, namespace: %s, dnsNames: [%s]}\n", service, c.namespace, names)
	}
	c.ConfigureText(b.String())
}

// serve starts the program and does not wait for it.
func (c *cell) serve(flags ...string) *Process {
	c.t.Helper()
	return c.Serve(append([]string{"--kubeconfig", c.gate.Kubeconfig}, flags...)...)
}

// start starts it, and waits until it serves and every Secret stands.
func (c *cell) start() *Process {
	c.t.Helper()
	p := c.serve()
	p.AwaitServing()
	c.awaitSound(p)
	return p
}

// awaitSound waits until no invariant is broken.
func (c *cell) awaitSound(p *Process) {
	c.t.Helper()
	p.Await("all Secrets stand", func() error { return errors.Join(c.inspect()...) })
}

func secretName(service string) string { return service + "-mtls-cert" }

func (c *cell) secretPath(service string) string {
	return "/api/v1/namespaces/" + c.namespace + "/secrets/" + secretName(service)
}

func (c *cell) bundlePath() string {
	return "/api/v1/namespaces/" + c.namespace + "/configmaps/meshca-ca"
}

// secret reads the Secret of a service.
func (c *cell) secret(service string) (*apiSecret, error) {
	s := &apiSecret{}
	return s, c.api.read(c.secretPath(service), s)
}

// bundle reads the published trust bundle.
func (c *cell) bundle() ([]byte, error) {
	var live struct {
		Data map[string]string `json:"data"`
	}
	err := c.api.read(c.bundlePath(), &live)
	return []byte(live.Data[caFile]), err
}

// serials are the serial numbers in all Secrets, by service.
func (c *cell) serials() map[string]string {
	c.t.Helper()
	all := make(map[string]string)
	for _, service := range c.Services {
		s, err := c.secret(service)
		must(c.t, err)
		pair, err := tls.X509KeyPair(s.Data[certFile], s.Data[keyFile])
		must(c.t, err)
		all[service] = serialOf(pair.Leaf)
	}
	return all
}

// versions are the resourceVersions of all that the program may write in the namespace, by path: they tell of every
// write, also of one that changes nothing that people see.
func (c *cell) versions() map[string]string {
	c.t.Helper()
	all := make(map[string]string)
	for _, path := range append([]string{c.bundlePath()}, c.secretPaths()...) {
		code, answer, err := c.api.call("", http.MethodGet, path, "", nil)
		must(c.t, err)
		var live struct {
			Metadata apiMeta `json:"metadata"`
		}
		if code == http.StatusOK {
			must(c.t, json.Unmarshal(answer, &live))
		}
		all[path] = live.Metadata.UID + " " + live.Metadata.ResourceVersion
	}
	return all
}

func (c *cell) secretPaths() (paths []string) {
	for _, service := range c.Services {
		paths = append(paths, c.secretPath(service))
	}
	return paths
}

// records counts the store's records by state.
func (c *cell) records() map[string]int {
	c.t.Helper()
	s, err := readStore(c.Store())
	must(c.t, err)
	n := make(map[string]int)
	for _, r := range s.records {
		n[r.State]++
	}
	return n
}

// ready asks /readyz of the program that serves, or starts.
func (c *cell) ready(p *Process) (code int, words string, err error) { return c.health(p, "/readyz") }

// health asks the program's address of metrics and health.
func (c *cell) health(p *Process, path string) (code int, words string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Lines("starting")[0].Get("metrics")+path, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// since is how long ago something was, as tables show it.
func since(at time.Time) time.Duration { return time.Since(at).Round(10 * time.Millisecond) }
