package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meshca/meshca/test/cluster"
)

// TestCluster has one API server for all tests of a cluster; each has namespaces of its own.
func TestCluster(t *testing.T) {
	t.Parallel()
	k := newKubernetes(t, cluster.Options{})
	for name, test := range map[string]func(*testing.T, *kubernetes){
		"Rights": testRights, "Needs": testNeeds, "FirstStartRefused": testFirstStartRefused,
		"Drift": testDrift, "MarksOfNoLeaf": testMarksOfNoLeaf, "Deleted": testDeleted, "Fight": testFight, "ManagedBy": testManagedBy,
		"DeletedMeanwhile": testDeletedMeanwhile, "Errors": testErrors, "Away": testAway, "Stale": testStale,
		"Closed": testClosed, "Stamps": testStamps, "Moved": testMoved, "Glass": testGlass, "Claimed": testClaimed, "Modes": testModes,
		"Shapes": testShapes, "Types": testTypes, "Workloads": testWorkloads, "Left": testLeft, "Incident": testIncident,
		"Access": testAccess, "Pod": testPod, "MayNotAsk": testMayNotAsk, "CallersAway": testCallersAway,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, k)
		})
	}
}

// kubernetes is a real API server, asked over plain HTTP so that a test sees every answer.
type kubernetes struct {
	*cluster.Cluster
	admin  *http.Client // cluster-admin
	plain  *http.Client // who says by a token who it is
	caFile string
	cells  atomic.Int32
}

func newKubernetes(t *testing.T, o cluster.Options) *kubernetes {
	t.Helper()
	k := &kubernetes{Cluster: cluster.Need(t, o)}
	dir := filepath.Dir(k.Kubeconfig)
	k.caFile = filepath.Join(dir, "ca.crt")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(readFile(t, k.caFile))
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "admin.crt"), filepath.Join(dir, "admin.key"))
	must(t, err)
	client := func(certificates ...tls.Certificate) *http.Client {
		return &http.Client{Timeout: patience, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}, MaxIdleConnsPerHost: 50}}
	}
	k.admin, k.plain = client(pair), client()
	t.Cleanup(func() { k.admin.CloseIdleConnections(); k.plain.CloseIdleConnections() })
	return k
}

// kubectl runs kubectl as cluster-admin, and returns what it prints.
func (k *kubernetes) kubectl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, k.Kubectl, append([]string{"--kubeconfig", k.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The content types of a patch.
const (
	mergePatch = "application/merge-patch+json"
	applyPatch = "application/apply-patch+yaml"
)

// call sends one request as cluster-admin or, with a token, as its account.
func (k *kubernetes) call(token, method, path, contentType string, body any) (code int, answer []byte, err error) {
	text, is := body.(string)
	if !is && body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		text = string(encoded)
	}
	r, err := http.NewRequest(method, k.Server+path, strings.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Content-Type", contentType)
	client := k.admin
	if token != "" {
		client = k.plain
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// ask is call, where there must be an answer.
func (k *kubernetes) ask(t testing.TB, token, method, path, contentType string, body any) (code int, answer []byte) {
	t.Helper()
	code, answer, err := k.call(token, method, path, contentType, body)
	must(t, err)
	return code, answer
}

// read reads an object into v.
func (k *kubernetes) read(path string, v any) error {
	code, answer, err := k.call("", http.MethodGet, path, "", nil)
	if err != nil || code != http.StatusOK {
		return errors.Join(err, fmt.Errorf("%s: %d", path, code))
	}
	return json.Unmarshal(answer, v)
}

// do is ask as cluster-admin, where the answer must be yes.
func (k *kubernetes) do(t testing.TB, method, path string, body any) []byte {
	t.Helper()
	contentType := "application/json"
	if method == http.MethodPatch {
		contentType = mergePatch
	}
	code, answer := k.ask(t, "", method, path, contentType, body)
	if code/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, code, answer)
	}
	return answer
}

// object is an object of the API as JSON has it.
type object = map[string]any

// namespace makes a namespace.
func (k *kubernetes) namespace(t testing.TB, name string) {
	t.Helper()
	k.do(t, http.MethodPost, "/api/v1/namespaces", object{"metadata": object{"name": name}})
}

func secretName(service string) string { return service + "-mtls-cert" }

func secretPath(namespace, service string) string {
	return "/api/v1/namespaces/" + namespace + "/secrets/" + secretName(service)
}

func bundlePath(namespace string) string {
	return "/api/v1/namespaces/" + namespace + "/configmaps/meshca-ca"
}

// A secret is what the tests look at of one.
type secret struct {
	Metadata metadata          `json:"metadata"`
	Type     string            `json:"type"`
	Data     map[string][]byte `json:"data"`
}

// metadata is what the tests look at of any object's.
type metadata struct {
	Name            string            `json:"name"`
	UID             string            `json:"uid"`
	ResourceVersion string            `json:"resourceVersion"`
	Labels          map[string]string `json:"labels"`
	Annotations     map[string]string `json:"annotations"`
	Finalizers      []string          `json:"finalizers"`
	ManagedFields   []struct {
		Manager   string          `json:"manager"`
		Operation string          `json:"operation"`
		FieldsV1  json.RawMessage `json:"fieldsV1"`
	} `json:"managedFields"`
}

// secret reads the Secret of a service; nil is none.
func (k *kubernetes) secret(t testing.TB, namespace, service string) *secret {
	t.Helper()
	code, answer := k.ask(t, "", http.MethodGet, secretPath(namespace, service), "", nil)
	if code == http.StatusNotFound {
		return nil
	}
	if code != http.StatusOK {
		t.Fatalf("read the Secret of %s: %d %s", service, code, answer)
	}
	s := &secret{}
	must(t, json.Unmarshal(answer, s))
	return s
}

// view is the Secret as a service that mounts it sees it.
func (s *secret) view(service string) View { return View{Name: service, File: s.Data} }

// change patches the Secret of a service by JSON merge patch, as the field manager of that name.
func (k *kubernetes) change(t testing.TB, namespace, service, manager string, patch object) {
	t.Helper()
	k.do(t, http.MethodPatch, secretPath(namespace, service)+"?fieldManager="+manager, patch)
}

// data is a patch of one key of a Secret; nil removes it.
func data(key string, value []byte) object {
	if value == nil {
		return object{"data": object{key: nil}}
	}
	return object{"data": object{key: base64.StdEncoding.EncodeToString(value)}}
}

// An account is a real ServiceAccount, with the rights of examples/kubernetes/rbac.yaml or of what edit makes of it.
type account struct{ token, kubeconfig string }

// account makes the account for namespaces of the test's own: the example names default and meshca. It has its rights
// when this returns, unless they are edited.
func (k *kubernetes) account(t testing.TB, namespace string, services []string, edit func(rbac string) string) account {
	t.Helper()
	home := namespace + "-ca"
	text := string(readFile(t, filepath.Join("..", "..", "examples", "kubernetes", "rbac.yaml")))
	names := make([]string, len(services))
	for i, service := range services {
		names[i] = secretName(service)
	}
	for _, replaced := range [][2]string{
		{"namespace: default", "namespace: " + namespace}, {"namespace: meshca", "namespace: " + home}, {"metadata: {name: meshca}", "metadata: {name: " + home + "}"},
		{"kind: ClusterRole, name: meshca}", "kind: ClusterRole, name: " + home + "}"},
		{"envoy-mtls-cert, pgadmin-mtls-cert, bookapi-mtls-cert, bookapi-mcp-server-mtls-cert, timescaledb-mtls-cert", strings.Join(names, ", ")},
	} {
		if !strings.Contains(text, replaced[0]) {
			t.Fatalf("rbac.yaml does not say %q", replaced[0])
		}
		text = strings.ReplaceAll(text, replaced[0], replaced[1])
	}
	if edit != nil {
		text = edit(text)
	}
	k.apply(t, text)
	a := k.tokenOf(t, home, "meshca")
	await(t, "the account has its rights", func() error {
		code, _ := k.ask(t, a.token, http.MethodGet, secretPath(namespace, services[len(services)-1]), "", nil)
		if edit == nil && code == http.StatusForbidden {
			return errors.New("not yet")
		}
		return nil
	})
	return a
}

// rbacPaths are where the kinds of examples/kubernetes/rbac.yaml lie; %s is the namespace.
var rbacPaths = map[string]string{
	"Namespace": "/api/v1/namespaces", "ServiceAccount": "/api/v1/namespaces/%s/serviceaccounts",
	"Role":        "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/roles",
	"RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings",
	"ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles", "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}

// apply applies objects of those kinds. It does what kubectl does, for a hundredth of the time: tests begin together.
func (k *kubernetes) apply(t testing.TB, manifests string) {
	t.Helper()
	for d := yaml.NewDecoder(strings.NewReader(manifests)); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		meta := o["metadata"].(object)
		path := rbacPaths[o["kind"].(string)]
		if namespace, in := meta["namespace"].(string); in {
			path = fmt.Sprintf(path, namespace)
		}
		path += "/" + meta["name"].(string) + "?fieldManager=test&force=true"
		if code, answer := k.ask(t, "", http.MethodPatch, path, applyPatch, o); code/100 != 2 {
			t.Fatalf("apply %s: %d %s", path, code, answer)
		}
	}
}

// tokenOf asks for a token of a ServiceAccount, and writes a kubeconfig with it.
func (k *kubernetes) tokenOf(t testing.TB, namespace, name string) account {
	t.Helper()
	var request struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	must(t, json.Unmarshal(k.do(t, http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name+"/token",
		object{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}), &request))
	a := account{token: request.Status.Token}
	a.kubeconfig = writeKubeconfig(t, k.Server, k.caFile, a.token)
	return a
}

// writeKubeconfig writes one for who has a token.
func writeKubeconfig(t testing.TB, server, caFile, token string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: test, user: {token: %q}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, server, caFile, token)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// clusterSettings are those of a mesh in a cluster. The zero value has five services, the example's rights, and a sweep so rare that
// what is healed is healed because it was seen.
type clusterSettings struct {
	Services []string          // names; default fiveServices
	Extra    map[string]string // further fields of a service, in YAML's flow form
	Sweep    string            // default 1h
	Watch    string            // default names
	HoldDown string            // default 1s
	Leaf     string            // further fields of leaf, in YAML's flow form
	Schedule string            // default daily
	DNSNames string            // more names of every service
	Edit     func(rbac string) string
}

func (s clusterSettings) services() []string {
	if s.Services == nil {
		return fiveServices
	}
	return s.Services
}

// A clusterMesh is a mesh whose sets lie in Secrets of a namespace.
type clusterMesh struct {
	*Mesh
	k         *kubernetes
	t         testing.TB
	namespace string
	account   account
	settings  clusterSettings
	seen      map[string]bool // what must not be said anywhere: private keys
}

// newMesh makes the namespace, the account and the config file.
func (k *kubernetes) newMesh(t testing.TB, namespace string, s clusterSettings) *clusterMesh {
	t.Helper()
	k.namespace(t, namespace)
	m := &clusterMesh{Mesh: &Mesh{t: t, Dir: t.TempDir(), Services: s.services()}, k: k, t: t, namespace: namespace, settings: s,
		seen: make(map[string]bool)}
	m.account = k.account(t, namespace, s.services(), s.Edit)
	m.Configure(s)
	return m
}

// Configure replaces the config file.
func (m *clusterMesh) Configure(s clusterSettings) {
	m.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nlisten: {api: '127.0.0.1:0', metrics: '127.0.0.1:0'}\ntarget: {kubernetes: {watch: %s}}\nsweep: %s\nleaf: {%s}\n",
		cmp.Or(s.Watch, "names"), cmp.Or(s.Sweep, "1h"), s.Leaf)
	fmt.Fprintf(&b, "rotation: {schedule: %q, restart: {holdDown: %s}}\nservices:\n", cmp.Or(s.Schedule, "0 3 * * *"), cmp.Or(s.HoldDown, "1s"))
	for _, service := range s.services() {
		fields := []string{fmt.Sprintf("name: %q", service)}
		if !strings.Contains(s.Extra[service], "namespace: ") {
			fields = append(fields, "namespace: "+m.namespace)
		}
		if s.DNSNames != "" {
			fields = append(fields, fmt.Sprintf("dnsNames: [%s, %s]", service, s.DNSNames))
		}
		if s.Extra[service] != "" {
			fields = append(fields, s.Extra[service])
		}
		fmt.Fprintf(&b, "- {%s}\n", strings.Join(fields, ", "))
	}
	m.ConfigureText(b.String())
}

// Serve starts the program as the account. Whatever it says and stores, it says and stores no key.
func (m *clusterMesh) Serve(flags ...string) *Process {
	m.t.Helper()
	p := m.Mesh.Serve(append([]string{"--kubeconfig", m.account.kubeconfig}, flags...)...)
	m.t.Cleanup(func() {
		m.noteKeys()
		m.checkSilent("the output", p.out.String())
		for _, event := range m.events("") {
			m.checkSilent("an Event", event.Note)
		}
		s, err := readStore(m.Store())
		if errors.Is(err, fs.ErrNotExist) {
			return // it has refused to start
		}
		must(m.t, err)
		if s.holds([]byte("PRIVATE KEY")) {
			m.t.Error("the store's file holds a private key in PEM")
		}
	})
	return p
}

// Start starts it and waits until it serves.
func (m *clusterMesh) Start(flags ...string) *Process {
	m.t.Helper()
	p := m.Serve(flags...)
	p.AwaitServing()
	return p
}

// noteKeys keeps the private keys that the Secrets hold now.
func (m *clusterMesh) noteKeys() {
	m.t.Helper()
	var list struct {
		Items []secret `json:"items"`
	}
	must(m.t, json.Unmarshal(m.k.do(m.t, http.MethodGet, "/api/v1/namespaces/"+m.namespace+"/secrets", nil), &list))
	for _, s := range list.Items {
		key := s.Data[keyFile]
		for line := range bytes.Lines(key) {
			if line = bytes.TrimSpace(line); len(line) > 40 && !bytes.HasPrefix(line, []byte("---")) {
				m.seen[string(line)] = true
			}
		}
		if len(key) > 40 {
			m.seen[base64.StdEncoding.EncodeToString(key)[:40]] = true
		}
	}
}

// checkSilent sees that a text gives no key away.
func (m *clusterMesh) checkSilent(what, text string) {
	m.t.Helper()
	if strings.Contains(text, "PRIVATE KEY") {
		m.t.Errorf("%s holds a private key: %s", what, text)
	}
	for key := range m.seen {
		if strings.Contains(text, key) {
			m.t.Errorf("%s holds a private key: %s", what, text)
		}
	}
}

// An event is what the tests look at of an Event.
type event struct {
	Reason    string `json:"reason"`
	Type      string `json:"type"`
	Note      string `json:"note"`
	Regarding struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
		UID  string `json:"uid"`
	} `json:"regarding"`
}

// events lists the Events on the Secret of a service, or all of the namespace where it is "".
func (m *clusterMesh) events(service string) (found []event) {
	m.t.Helper()
	var list struct {
		Items []event `json:"items"`
	}
	must(m.t, json.Unmarshal(m.k.do(m.t, http.MethodGet, "/apis/events.k8s.io/v1/namespaces/"+m.namespace+"/events", nil), &list))
	for _, e := range list.Items {
		if service == "" || e.Regarding.Kind == "Secret" && e.Regarding.Name == secretName(service) {
			found = append(found, e)
		}
	}
	return found
}

// AwaitEvent waits for an Event on the Secret of a service whose note has all the words.
func (m *clusterMesh) AwaitEvent(p *Process, service, reason string, words ...string) (found event) {
	m.t.Helper()
	p.Await(fmt.Sprintf("Event %s on %s that says %q", reason, service, words), func() error {
		all := m.events(service)
		for _, e := range all {
			if e.Reason == reason && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e.Note, w) }) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("there are %+v", all)
	})
	return found
}

// sound says what is wrong with the Secrets of services: each set must be whole, name its service, and be trusted by
// all others and by who has the published bundle, and all must have one bundle.
func (m *clusterMesh) sound(services ...string) error {
	m.t.Helper()
	if len(services) == 0 {
		services = m.Services
	}
	bundle, err := m.bundle()
	if err != nil {
		return err
	}
	for _, service := range services {
		s := m.k.secret(m.t, m.namespace, service)
		if s == nil {
			return fmt.Errorf("%s has no Secret", service)
		}
		if string(s.Data[caFile]) != string(bundle) {
			return fmt.Errorf("%s has another ca.crt than is published", service)
		}
		if err := trusts(s.view(service), m.namespace); err != nil {
			return err
		}
		for _, name := range []string{"stamp", "epoch", "bundle-sha256", "serial", "not-before", "not-after", "issuer"} {
			if s.Metadata.Annotations["meshca.io/"+name] == "" {
				return fmt.Errorf("%s has no annotation meshca.io/%s", service, name)
			}
		}
		if s.Metadata.Labels["meshca.io/service"] != service {
			return fmt.Errorf("%s has the labels %v", service, s.Metadata.Labels)
		}
	}
	return nil
}

// secret reads the Secret of a service, which must be there.
func (m *clusterMesh) secret(service string) (*secret, error) {
	s := &secret{}
	return s, m.k.read(secretPath(m.namespace, service), s)
}

// bundle is the published trust bundle.
func (m *clusterMesh) bundle() ([]byte, error) {
	var live struct {
		Data map[string]string `json:"data"`
	}
	err := m.k.read(bundlePath(m.namespace), &live)
	return []byte(live.Data[caFile]), err
}

// trusts sees that a set is whole, and that who has its own ca.crt takes its leaf for the service's, as a client and
// as a server.
func trusts(v View, namespace string) error {
	pair, err := v.pair()
	if err != nil {
		return err
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		o := v.verifyOptions()
		o.DNSName, o.KeyUsages = v.Name+"."+namespace+".svc", []x509.ExtKeyUsage{usage}
		if _, err := pair.Leaf.Verify(o); err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
	}
	return nil
}

// firstOf is the first certificate of a PEM file.
func firstOf(file []byte) *x509.Certificate {
	block, _ := pem.Decode(file)
	if block == nil {
		return &x509.Certificate{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return &x509.Certificate{}
	}
	return cert
}

// verifyOptions are those with which whoever has the view's ca.crt checks the view's leaf.
func (v View) verifyOptions() x509.VerifyOptions {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool()}
	o.Roots.AppendCertsFromPEM(v.File[caFile])
	o.Intermediates.AppendCertsFromPEM(v.File[certFile])
	return o
}

// AwaitSound waits until the Secrets of the services, or of all, are sound.
func (m *clusterMesh) AwaitSound(p *Process, services ...string) {
	m.t.Helper()
	p.Await("the Secrets are sound", func() error { return m.sound(services...) })
}

// awaitStatus waits until the status for people says all the words.
func (m *clusterMesh) awaitStatus(p *Process, words ...string) (text string) {
	m.t.Helper()
	p.Await(fmt.Sprintf("status says %q", words), func() error {
		text = m.Run("status", "--config", m.Config()).Stdout
		for _, word := range words {
			if !strings.Contains(text, word) {
				return fmt.Errorf("not %q:\n%s", word, text)
			}
		}
		return nil
	})
	m.checkSilent("the status", text)
	return text
}

// get asks the address of metrics and health.
func (m *clusterMesh) get(p *Process, path string) (code int, text string, err error) {
	m.t.Helper()
	response, err := m.k.plain.Get("http://" + p.AwaitLine("starting").Get("metrics") + path)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// same says whether two files are one.
func same(want, got []byte) error {
	if !bytes.Equal(want, got) {
		return fmt.Errorf("%q is not %q", got, want)
	}
	return nil
}

// set is a whole set that the CA has made for a service, as people make them without meshca.
func (f *foreignCA) set(t testing.TB, service string) map[string][]byte {
	t.Helper()
	key, cert := makeCertificate(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: service}, DNSNames: []string{service},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(20 * 24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, f.cert, f.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return map[string][]byte{
		certFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		keyFile:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		caFile:   f.PEM(),
	}
}

// letIn is an operator's word on the CA, new to the mesh, that the service's Secret brings.
func (m *clusterMesh) letIn(p *Process, service string) {
	m.t.Helper()
	m.awaitStatus(p, "refused "+service+": ", "holds the set of a CA that this mesh does not trust")
	if a := m.Run("adopt", service, "--config", m.Config(), "--continue"); a.Code != 0 || !strings.Contains(a.Stdout, "let in: "+service) {
		m.t.Fatalf("adopt %s --continue: %d\n%s%s", service, a.Code, a.Stdout, a.Stderr)
	}
}

// makeSecret makes the Secret of a service with such a set.
func (f *foreignCA) makeSecret(t testing.TB, m *clusterMesh, service string) {
	t.Helper()
	m.k.do(t, http.MethodPost, "/api/v1/namespaces/"+m.namespace+"/secrets?fieldManager=somebody",
		object{"metadata": object{"name": secretName(service)}, "type": "kubernetes.io/tls", "data": f.set(t, service)})
}

// lost says how two maps differ, but for the names that meshca writes.
func lost(what string, before, after map[string]string) (errs []error) {
	for name, value := range before {
		if got, there := after[name]; !strings.HasPrefix(name, "meshca.io/") && (!there || got != value) {
			errs = append(errs, fmt.Errorf("%s %s was %q and is %q", what, name, value, got))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if _, there := before[name]; !there && !strings.HasPrefix(name, "meshca.io/") {
			errs = append(errs, fmt.Errorf("%s %s is new", what, name))
		}
	}
	return errs
}

// foreignLost says what a Secret has lost, or got, of what is not meshca's.
func foreignLost(before, after *secret) error {
	errs := append(lost("label", before.Metadata.Labels, after.Metadata.Labels), lost("annotation", before.Metadata.Annotations, after.Metadata.Annotations)...)
	if before.Type != after.Type {
		errs = append(errs, fmt.Errorf("type was %s and is %s", before.Type, after.Type))
	}
	if !slices.Equal(before.Metadata.Finalizers, after.Metadata.Finalizers) {
		errs = append(errs, fmt.Errorf("finalizers were %v and are %v", before.Metadata.Finalizers, after.Metadata.Finalizers))
	}
	for key, value := range before.Data {
		if !slices.Contains(setFiles, key) && !bytes.Equal(value, after.Data[key]) {
			errs = append(errs, fmt.Errorf("key %s has changed", key))
		}
	}
	return errors.Join(errs...)
}
