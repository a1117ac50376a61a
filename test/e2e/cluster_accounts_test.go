package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// serviceAccount makes one.
func (k *kubernetes) serviceAccount(t testing.TB, namespace, name string) {
	t.Helper()
	k.do(t, http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts", object{"metadata": object{"name": name}})
}

// token asks for a token of an account as a kubelet does for a projected volume: for an audience, "" for the cluster's own,
// and bound to an object, nil for none.
func (k *kubernetes) token(t testing.TB, namespace, name, audience string, bound object) string {
	t.Helper()
	spec := object{"expirationSeconds": 600}
	if audience != "" {
		spec["audiences"] = []string{audience}
	}
	if bound != nil {
		spec["boundObjectRef"] = bound
	}
	var request struct {
		Status struct{ Token string }
	}
	must(t, json.Unmarshal(k.do(t, http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts/"+name+"/token",
		object{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}), &request))
	return request.Status.Token
}

// bindable makes an object that a token can be bound to: a pod of the account, or a Secret.
func (k *kubernetes) bindable(t testing.TB, namespace, kind, name, account string) (reference object, remove func()) {
	t.Helper()
	path, body := "/api/v1/namespaces/"+namespace+"/"+strings.ToLower(kind)+"s", object{"metadata": object{"name": name}}
	if kind == "Pod" {
		body["spec"] = object{"serviceAccountName": account, "automountServiceAccountToken": false, "containers": []object{{"name": "a", "image": "a"}}}
	}
	var made struct{ Metadata struct{ UID string } }
	must(t, json.Unmarshal(k.do(t, http.MethodPost, path, body), &made))
	return object{"apiVersion": "v1", "kind": kind, "name": name, "uid": made.Metadata.UID},
		func() { k.do(t, http.MethodDelete, path+"/"+name+"?gracePeriodSeconds=0", nil) }
}

// awaitNobody waits until the API server says of a token that it is nobody's: it remembers what it said before for 10 s.
func (k *kubernetes) awaitNobody(t testing.TB, token string) {
	t.Helper()
	await(t, "the token is nobody's", func() error {
		var review struct {
			Status struct{ Authenticated bool }
		}
		must(t, json.Unmarshal(k.do(t, http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews",
			object{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": object{"token": token, "audiences": []string{"meshca"}}}), &review))
		if review.Status.Authenticated {
			return errors.New("it is somebody's")
		}
		return nil
	})
}

// operators gives an account the rights of examples/kubernetes/operators.yaml, or some of its verbs, and returns its name.
func (k *kubernetes) operators(t testing.TB, namespace, name string, verbs ...string) {
	t.Helper()
	text := string(readFile(t, filepath.Join("..", "..", "examples", "kubernetes", "operators.yaml")))
	all := "[create, list, revoke, rotate]"
	if verbs == nil {
		verbs = []string{strings.Trim(all, "[]")}
	}
	for _, replaced := range [][2]string{{"namespace: meshca", "namespace: " + namespace}, {"meshca-operator", namespace + "-" + name},
		{"name: operator", "name: " + name}, {all, "[" + strings.Join(verbs, ", ") + "]"}} {
		if !strings.Contains(text, replaced[0]) {
			t.Fatalf("operators.yaml does not say %q", replaced[0])
		}
		text = strings.ReplaceAll(text, replaced[0], replaced[1])
	}
	k.kubectl(t, text, "apply", "-f", "-")
}

// callers is a mesh that lists service accounts under clients.
func (k *kubernetes) callers(t testing.TB, namespace string, edit func(rbac string) string) *clusterMesh {
	t.Helper()
	m := k.newMesh(t, namespace, clusterSettings{Services: []string{"envoy", "pgadmin", "bookapi"}, Edit: edit, Extra: map[string]string{
		"bookapi": "clients: [{service: envoy}, {serviceAccount: " + namespace + "/bookapi}]", "pgadmin": "clients: [{serviceAccount: " + namespace + "/pgadmin}]"}})
	for _, name := range []string{"bookapi", "pgadmin"} {
		k.serviceAccount(t, namespace, name)
	}
	k.operators(t, namespace, "operator")
	return m
}

// as is who presents a token, or a certificate, to the mesh's API.
func (m *clusterMesh) as(p *Process, token string, cert *tls.Certificate) *apiClient {
	m.t.Helper()
	bundle, err := m.bundle()
	must(m.t, err)
	return &apiClient{t: m.t, m: m.Mesh, address: "https://" + p.AwaitServing().Get("api"), token: token, cert: cert, trusts: bundle}
}

// held is the certificate in the Secret of a service, with its key.
func (m *clusterMesh) held(service string) *tls.Certificate {
	m.t.Helper()
	s := m.k.secret(m.t, m.namespace, service)
	return pairOf(m.t, string(s.Data[certFile]), string(s.Data[keyFile]))
}

// testAccess is the table of TestAccess in a cluster: who is known by a token that the API server reviews, or by a
// certificate of this CA.
func testAccess(t *testing.T, k *kubernetes) {
	const ns = "access"
	m := k.callers(t, ns, nil)
	expired := foundLongAgo(t, m.Mesh)
	adminToken := strings.Repeat("a", 43)
	must(t, os.WriteFile(filepath.Join(m.Dir, "data", "admin.token"), []byte(adminToken), 0o600)) // of a time with folders
	p := m.Start()
	a := newAccess(t, p, m.as(p, k.token(t, ns, "operator", "meshca", nil), nil))
	a.callers = a.certified(m.held("envoy"), m.held("pgadmin"), expired)
	revoked := a.callers["revoked"](nil).cert
	a.callers["operator-revoked"] = func(*apiClient) *apiClient { return a.operator.as(a.operator.token, revoked) }
	a.by("operator", a.operator.token)
	a.by("admin-token", adminToken)
	a.accounts(k, ns)
	a.lost(k, ns)
	a.check("cluster")
}

// by has a caller present a token.
func (a *access) by(name, token string) {
	a.secrets = append(a.secrets, token)
	a.callers[name] = func(*apiClient) *apiClient { return a.operator.as(token, nil) }
}

// accounts are the callers of which each has an account.
func (a *access) accounts(k *kubernetes, ns string) {
	a.t.Helper()
	for name, in := range map[string]string{"stranger": ns, "local": ns, "bookapi": ns + "-ca"} {
		k.serviceAccount(a.t, in, name)
	}
	for name, account := range map[string][2]string{"account": {ns, "bookapi"}, "account-of-another": {ns, "pgadmin"}, "account-of-none": {ns, "stranger"},
		"same-name-elsewhere": {ns + "-ca", "bookapi"}, "may-in-a-namespace": {ns, "local"}} {
		a.by(name, k.token(a.t, account[0], account[1], "meshca", nil))
	}
	k.kubectl(a.t, "", "-n", ns, "create", "rolebinding", "local", "--clusterrole", ns+"-operator", "--serviceaccount", ns+":local")
	for _, verb := range []string{"create", "list", "revoke", "rotate"} {
		k.operators(a.t, ns, "may-"+verb, verb)
		a.by("may-"+verb, k.token(a.t, ns, "may-"+verb, "meshca", nil))
	}
	pod, _ := k.bindable(a.t, ns, "Pod", "stays", "bookapi")
	a.by("pod", k.token(a.t, ns, "bookapi", "meshca", pod))
}

// lost are the callers whose tokens are no good: for others, forged, or of what is gone.
func (a *access) lost(k *kubernetes, ns string) {
	a.t.Helper()
	a.by("audience-of-the-cluster", k.token(a.t, ns, "operator", "", nil))
	a.by("another-audience", k.token(a.t, ns, "operator", "vault", nil))
	a.by("forged", forgeToken(a.t, a.operator.token, k.token(a.t, ns, "bookapi", "meshca", nil)))
	a.by("unsigned", unsign(a.t, a.operator.token))
	for name, kind := range map[string]string{"pod-is-gone": "Pod", "secret-is-gone": "Secret"} {
		bound, remove := k.bindable(a.t, ns, kind, name, "bookapi")
		token := k.token(a.t, ns, "bookapi", "meshca", bound)
		remove()
		k.awaitNobody(a.t, token)
		a.by(name, token)
	}
	k.serviceAccount(a.t, ns, "anew")
	token := k.token(a.t, ns, "anew", "meshca", nil)
	k.do(a.t, http.MethodDelete, "/api/v1/namespaces/"+ns+"/serviceaccounts/anew", nil)
	k.serviceAccount(a.t, ns, "anew")
	k.awaitNobody(a.t, token)
	a.by("account-made-anew", token)
}

// forgeToken has the claims of one token, and the signature of another.
func forgeToken(t testing.TB, claims, signature string) string {
	t.Helper()
	wanted, signed := strings.Split(claims, "."), strings.Split(signature, ".")
	if len(wanted) != 3 || len(signed) != 3 {
		t.Fatal("a token has not three parts")
	}
	return wanted[0] + "." + wanted[1] + "." + signed[2]
}

// unsign has the claims of a token, and says that it needs no signature.
func unsign(t testing.TB, token string) string {
	t.Helper()
	_, claims, ok := strings.Cut(token, ".")
	claims, _, also := strings.Cut(claims, ".")
	if !ok || !also {
		t.Fatal("a token has not three parts")
	}
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + claims + "."
}

// testPod walks the way of a pod: its projected token, a certificate for its own key, a renewal by that certificate, and
// its end, after which the token is nobody's.
func testPod(t *testing.T, k *kubernetes) {
	const ns = "pod"
	m := k.callers(t, ns, nil)
	own := strings.Replace(string(readFile(t, m.account.kubeconfig)), "user: test}}", "user: test, namespace: "+ns+"-ca}}", 1)
	must(t, os.WriteFile(m.account.kubeconfig, []byte(own), 0o600))
	p := m.Start()
	if _, err := os.Stat(filepath.Join(m.Dir, "data", "admin.token")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is an admin token: %v", err)
	}
	bound, remove := k.bindable(t, ns, "Pod", "bookapi-0", "bookapi")
	token := k.token(t, ns, "bookapi", "meshca", bound)
	pod := m.as(p, token, nil)
	checkOwnNames(t, pod, "localhost", "meshca", "meshca."+ns+"-ca", "meshca."+ns+"-ca.svc", "meshca."+ns+"-ca.svc.cluster.local")

	csr, key := newCSR(t)
	ask := apiBody(t, map[string]any{"service": "bookapi", "csr": csr})
	issued := pod.do("POST", "/v1/certificates", ask, "Idempotency-Key", "first").certificate(t)
	if again := pod.do("POST", "/v1/certificates", ask, "Idempotency-Key", "first").certificate(t); again.Serial != issued.Serial {
		t.Error("the same request has another certificate")
	}
	pair := pairOf(t, issued.Chain, key)
	v := View{Name: "bookapi", File: map[string][]byte{certFile: []byte(issued.Chain), keyFile: []byte(key), caFile: []byte(issued.CA)}}
	if err := trusts(v, ns); err != nil {
		t.Error(err)
	}
	renewed := m.as(p, "", pair).do("POST", "/v1/certificates/"+issued.Serial+"/renew", "").certificate(t)
	var told struct{ Caller string }
	must(t, json.Unmarshal(pod.do("GET", "/v1/certificates/"+issued.Serial, "").body, &told))
	if want := "serviceaccount:" + ns + "/bookapi"; told.Caller != want {
		t.Errorf("it is recorded for %q, want %q", told.Caller, want)
	}

	m.issueAsPod(pod)

	remove()
	p.Await("the token of a pod that is gone is refused", func() error {
		if answer := pod.do("POST", "/v1/certificates", ask); answer.status != http.StatusUnauthorized {
			return fmt.Errorf("it is answered %d", answer.status)
		}
		return nil
	})
	pod.do("POST", "/v1/certificates", ask, "Idempotency-Key", "first").refused(t, http.StatusUnauthorized, "unauthenticated") // a replay too
	// What it was given is good until it expires or is revoked.
	m.as(p, "", pairOf(t, renewed.Chain, key)).do("POST", "/v1/certificates/"+renewed.Serial+"/renew", "").certificate(t)
	if s, err := readStore(m.Store()); err != nil || s.holds([]byte(token)) || strings.Contains(p.out.String(), token) {
		t.Errorf("the store or the log holds the token (%v)", err)
	}
}

// issueAsPod asks by the command line, with the files of a pod's projected volume.
func (m *clusterMesh) issueAsPod(pod *apiClient) {
	m.t.Helper()
	dir := m.t.TempDir()
	writeFile(m.t, filepath.Join(dir, "token"), []byte(pod.token))
	writeFile(m.t, filepath.Join(dir, caFile), pod.trusts)
	ask := func(service string) Answer {
		return m.Run("issue", service, "--server", pod.address, "--ca", filepath.Join(dir, caFile), "--token-file", filepath.Join(dir, "token"), "--out", filepath.Join(dir, service))
	}
	if a := ask("bookapi"); a.Code != 0 {
		m.t.Errorf("meshca issue bookapi: %d %s%s", a.Code, a.Stdout, a.Stderr)
	} else if pair := pairOf(m.t, string(readFile(m.t, filepath.Join(dir, "bookapi", certFile))), string(readFile(m.t, filepath.Join(dir, "bookapi", keyFile)))); pair.Leaf.Subject.CommonName != "bookapi" {
		m.t.Errorf("meshca issue bookapi gave a certificate of %s", pair.Leaf.Subject)
	}
	if a := ask("pgadmin"); a.Code != 1 || !strings.Contains(a.Stderr, "clients: [{serviceAccount: "+m.namespace+"/bookapi}]") {
		m.t.Errorf("meshca issue pgadmin: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
}

// checkOwnNames sees by which names the API is reached.
func checkOwnNames(t testing.TB, c *apiClient, names ...string) {
	t.Helper()
	for _, name := range names {
		conf := c.transport().TLSClientConfig
		conf.ServerName = name
		conn, err := tls.Dial("tcp", strings.TrimPrefix(c.address, "https://"), conf)
		if err != nil {
			t.Errorf("by the name %s: %v", name, err)
			continue
		}
		leaf := conn.ConnectionState().PeerCertificates[0]
		conn.Close()
		if got := slices.Sorted(slices.Values(leaf.DNSNames)); !slices.Equal(got, slices.Sorted(slices.Values(names))) {
			t.Errorf("its names are %v, want %v", got, names)
		}
	}
}

// testMayNotAsk has meshca without the rights to ask who calls, one after the other: callers are told so and not let in,
// /readyz says it, who presents a certificate is known all the same, and with the right all is well.
func testMayNotAsk(t *testing.T, k *kubernetes) {
	const ns = "may-not-ask"
	m := k.callers(t, ns, nil)
	p := m.Start()
	csr, _ := newCSR(t)
	ask := apiBody(t, map[string]any{"service": "bookapi", "csr": csr})
	client := m.as(p, "", m.held("envoy"))
	for _, tt := range []struct {
		resource string
		account  int // what the account that is listed gets
	}{{"tokenreviews", http.StatusServiceUnavailable}, {"subjectaccessreviews", http.StatusCreated}} {
		full := k.restrict(t, m, right{resource: tt.resource, verb: "create"})
		m.awaitReady(p, http.StatusServiceUnavailable, "callers: create "+tt.resource+": RBAC does not allow it: give meshca's account the right to create "+tt.resource)
		account, operator := m.as(p, k.token(t, ns, "bookapi", "meshca", nil), nil), m.as(p, k.token(t, ns, "operator", "meshca", nil), nil)
		if answer := account.do("POST", "/v1/certificates", ask); answer.status != tt.account {
			t.Errorf("without %s, an account is answered %d, want %d: %s", tt.resource, answer.status, tt.account, answer.body)
		}
		answer := operator.do("GET", "/v1/certificates", "")
		if problem := answer.refused(t, http.StatusServiceUnavailable, "unavailable"); !strings.Contains(problem.Detail, "lacks the right to create "+tt.resource) ||
			answer.header.Get("Retry-After") == "" {
			t.Errorf("without %s, an operator is told %q", tt.resource, problem.Detail)
		}
		client.do("POST", "/v1/certificates", ask).certificate(t)
		k.kubectl(t, full, "apply", "-f", "-")
		m.awaitReady(p, http.StatusOK, "ok")
		account.do("POST", "/v1/certificates", ask).certificate(t)
		if answer := operator.do("GET", "/v1/certificates", ""); answer.status != http.StatusOK {
			t.Errorf("with %s, an operator is answered %d: %s", tt.resource, answer.status, answer.body)
		}
	}
}

// awaitReady waits until /readyz answers so on both addresses, and says why on that of the metrics.
func (m *clusterMesh) awaitReady(p *Process, code int, words string) {
	m.t.Helper()
	nobody := m.as(p, "", nil)
	p.Await("/readyz says "+words, func() error {
		got, text, err := m.get(p, "/readyz")
		if answer := nobody.do("GET", "/readyz", ""); err != nil || got != code || answer.status != code || !strings.Contains(text, words) {
			return fmt.Errorf("%d %s, and %d %s (%v)", got, text, answer.status, answer.body, err)
		}
		return nil
	})
}
