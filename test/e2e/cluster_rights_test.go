package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testRights has the example as it is, with a real token of its account: it has every right that is needed, and what
// it has no right to is refused.
func testRights(t *testing.T, k *kubernetes) {
	m := k.newMesh(t, "rights", clusterSettings{})
	k.namespace(t, "rights-other")
	for _, place := range [][2]string{{"rights", "neighbour"}, {"rights-other", "envoy-mtls-cert"}} {
		k.do(t, http.MethodPost, "/api/v1/namespaces/"+place[0]+"/secrets", object{"metadata": object{"name": place[1]}})
	}
	k.do(t, http.MethodPost, "/api/v1/namespaces/rights/configmaps", object{"metadata": object{"name": "neighbour"}})
	k.do(t, http.MethodPost, "/apis/apps/v1/namespaces/rights/deployments", deployment("envoy"))

	p := m.Start()
	m.AwaitSound(p)
	k.change(t, m.namespace, "pgadmin", "somebody", data(caFile, newForeignCA(t).PEM()))
	m.AwaitEvent(p, "pgadmin", "Healed")
	m.AwaitSound(p)
	if text := m.awaitStatus(p); strings.Contains(text, "remark") {
		t.Errorf("something is amiss with the example's rights:\n%s", text)
	}
	for _, r := range slices.Concat(refusedRequests(), moreRefusedRequests()) {
		path := strings.ReplaceAll(r.path, "NS", m.namespace)
		if code, answer := k.ask(t, m.account.token, r.method, path, r.contentType, r.body); code != http.StatusForbidden {
			t.Errorf("%s: %s %s is answered %d, want 403: %s", r.what, r.method, path, code, answer)
		}
	}
	m.AwaitSound(p)
}

// A request is one thing that is tried.
type request struct {
	what, method, path, contentType string
	body                            any
}

// refusedRequests are what an intruder would try with the account.
func refusedRequests() []request {
	const core, json = "/api/v1/namespaces/NS", "application/json"
	set := func(kind, name string) object {
		return object{"apiVersion": "v1", "kind": kind, "metadata": object{"name": name}}
	}
	own := core + "/secrets/envoy-mtls-cert"
	return []request{
		{"a neighbour's Secret", http.MethodGet, core + "/secrets/neighbour", "", nil},
		{"change a neighbour's Secret", http.MethodPatch, core + "/secrets/neighbour", mergePatch, object{}},
		{"take a neighbour's Secret over", http.MethodPatch, core + "/secrets/neighbour?fieldManager=meshca&force=true", applyPatch, set("Secret", "neighbour")},
		{"all Secrets", http.MethodGet, core + "/secrets", "", nil},
		{"all Secrets of the cluster", http.MethodGet, "/api/v1/secrets", "", nil},
		{"the own Secrets as a list", http.MethodGet, core + "/secrets?fieldSelector=metadata.name=envoy-mtls-cert", "", nil},
		{"watch all Secrets", http.MethodGet, core + "/secrets?watch=true", "", nil},
		{"watch a neighbour's Secret", http.MethodGet, core + "/secrets?watch=true&fieldSelector=metadata.name=neighbour", "", nil},
		{"make another Secret by apply", http.MethodPatch, core + "/secrets/another?fieldManager=meshca", applyPatch, set("Secret", "another")},
		{"make another Secret", http.MethodPost, core + "/secrets", json, set("Secret", "another")},
		{"make its own Secret by POST", http.MethodPost, core + "/secrets", json, set("Secret", "envoy-mtls-cert")},
		{"delete its own Secret", http.MethodDelete, own, "", nil},
		{"delete a neighbour's Secret", http.MethodDelete, core + "/secrets/neighbour", "", nil},
		{"delete all Secrets", http.MethodDelete, core + "/secrets", "", nil},
		{"replace its own Secret", http.MethodPut, own, json, set("Secret", "envoy-mtls-cert")},
		{"Secrets of another namespace", http.MethodGet, "/api/v1/namespaces/NS-other/secrets/envoy-mtls-cert", "", nil},
		{"Secrets of its own namespace", http.MethodGet, "/api/v1/namespaces/NS-ca/secrets", "", nil},
		{"a ConfigMap of others", http.MethodGet, core + "/configmaps/neighbour", "", nil},
		{"all ConfigMaps", http.MethodGet, core + "/configmaps", "", nil},
		{"delete its ConfigMap", http.MethodDelete, bundlePath("NS"), "", nil},
		{"make a ConfigMap", http.MethodPatch, core + "/configmaps/another?fieldManager=meshca", applyPatch, set("ConfigMap", "another")},
	}
}

// moreRefusedRequests are about other things than Secrets and ConfigMaps.
func moreRefusedRequests() []request {
	const core, json = "/api/v1/namespaces/NS", "application/json"
	return []request{
		{"exec in a pod", http.MethodPost, core + "/pods/any/exec?command=sh", "", nil},
		{"logs of a pod", http.MethodGet, core + "/pods/any/log", "", nil},
		{"read one pod", http.MethodGet, core + "/pods/any", "", nil},
		{"delete a pod", http.MethodDelete, core + "/pods/any", "", nil},
		{"evict a pod", http.MethodPost, core + "/pods/any/eviction", json, object{}},
		{"make a pod", http.MethodPost, core + "/pods", json, object{"metadata": object{"name": "another"}}},
		{"pods of another namespace", http.MethodGet, "/api/v1/namespaces/NS-other/pods", "", nil},
		{"patch a Deployment", http.MethodPatch, "/apis/apps/v1/namespaces/NS/deployments/envoy", mergePatch, object{}},
		{"scale a Deployment", http.MethodPatch, "/apis/apps/v1/namespaces/NS/deployments/envoy/scale", mergePatch, object{}},
		{"list Deployments", http.MethodGet, "/apis/apps/v1/namespaces/NS/deployments", "", nil},
		{"a token of its own", http.MethodPost, "/api/v1/namespaces/NS-ca/serviceaccounts/meshca/token", json, object{}},
		{"a token of others", http.MethodPost, core + "/serviceaccounts/default/token", json, object{}},
		{"its own Role", http.MethodGet, "/apis/rbac.authorization.k8s.io/v1/namespaces/NS/roles/meshca", "", nil},
		{"more rights", http.MethodPatch, "/apis/rbac.authorization.k8s.io/v1/namespaces/NS/roles/meshca", mergePatch, object{}},
		{"read Events", http.MethodGet, "/apis/events.k8s.io/v1/namespaces/NS/events", "", nil},
		{"namespaces", http.MethodGet, "/api/v1/namespaces", "", nil},
		{"its namespace", http.MethodGet, core, "", nil},
		{"nodes", http.MethodGet, "/api/v1/nodes", "", nil},
		{"policies", http.MethodGet, "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", "", nil},
		{"read reviews", http.MethodGet, "/apis/authentication.k8s.io/v1/tokenreviews", "", nil},
		{"be an operator", http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", json, object{}},
	}
}

// deployment is a Deployment that nobody runs.
func deployment(name string) object {
	labels := object{"app": name}
	return object{"metadata": object{"name": name}, "spec": object{
		"selector": object{"matchLabels": labels},
		"template": object{"metadata": object{"labels": labels}, "spec": object{"containers": []object{{"name": "a", "image": "a"}}}},
	}}
}

// A right is one of the example's, and what is seen where it is missing.
type right struct {
	resource, verb string
	before         func(t *testing.T, m *clusterMesh) // what the right is needed for
	says           []string                           // in the status or, where it concerns no service, /readyz
	service        string                             // the one whose Secret it is about; "" is envoy
}

// forService is the right to the Secret of another service.
func (n right) forService(service string) right {
	n.service = service
	return n
}

// rights are all rights of the example. Those to Secrets are taken away for envoy's alone.
func rights() []right {
	other := func(t testing.TB) object { return data(caFile, newForeignCA(t).PEM()) }
	disturb := func(t *testing.T, m *clusterMesh) {
		m.k.change(t, m.namespace, "envoy", "somebody", other(t))
	}
	remove := func(path func(namespace string) string) func(*testing.T, *clusterMesh) {
		return func(t *testing.T, m *clusterMesh) { m.k.do(t, http.MethodDelete, path(m.namespace), nil) }
	}
	const refused, hint = "RBAC does not allow it", "give meshca's account the right to "
	const envoy, bundle, sweep = `secrets "envoy-mtls-cert" in namespace`, `configmaps "meshca-ca" in namespace`, "noticed in the sweep alone: "
	return []right{
		{"secrets", "get", nil, []string{"failing envoy", refused, "hint: " + hint + "get " + envoy}, ""},
		{"secrets", "watch", nil, []string{"remark envoy", sweep + "watch " + envoy, refused, "hint: " + hint + "watch " + envoy}, ""},
		{"secrets", "patch", disturb, []string{"failing envoy", refused, "hint: " + hint + "patch " + envoy}, ""},
		{"secrets", "create", remove(func(ns string) string { return secretPath(ns, "envoy") }),
			[]string{"failing envoy", refused, "hint: " + hint + "create " + envoy}, ""},
		{"configmaps", "get", nil, []string{"last sweep: get " + bundle, refused, hint + "get " + bundle}, ""},
		{"configmaps", "watch", nil, []string{"remark envoy", sweep + "watch " + bundle, refused, "hint: " + hint + "watch " + bundle}, ""},
		{"configmaps", "patch", func(t *testing.T, m *clusterMesh) {
			m.k.do(t, http.MethodPatch, bundlePath(m.namespace), object{"data": object{caFile: "nothing"}})
		}, []string{"last sweep: patch " + bundle, refused, hint + "patch " + bundle}, ""},
		{"configmaps", "create", remove(bundlePath), []string{"last sweep: create " + bundle, refused, hint + "create " + bundle}, ""},
		{"pods", "list", nil, []string{"taking over foreign", "it is not known who reads it: list pods", refused, hint + "list pods"}, ""},
		{"deployments", "get", disturb, []string{"remark envoy", `get deployments "envoy" in namespace`, refused, "hint: " + hint + "get deployments"}, ""},
		{"events", "create", disturb, []string{"remark envoy", "create events in namespace", refused, "hint: " + hint + "create events"}, ""},
		{"events", "patch", disturb, []string{"remark envoy", "patch events in namespace", refused, "hint: " + hint + "patch events"}, ""},
		{"tokenreviews", "create", nil, []string{"callers: create tokenreviews", refused, hint + "create tokenreviews"}, ""},
		{"subjectaccessreviews", "create", nil, []string{"callers: create subjectaccessreviews", refused, hint + "create subjectaccessreviews"}, ""},
	}
}

// testNeeds takes each right away in turn: something fails then, the status names it and says how to go on, others are
// kept, and when the right is back all is well.
func testNeeds(t *testing.T, k *kubernetes) {
	checkAllNeeded(t)
	for i, n := range rights() {
		t.Run(n.resource+" "+n.verb, func(t *testing.T) {
			t.Parallel()
			m := k.newMesh(t, fmt.Sprintf("needs-%d", i), clusterSettings{Sweep: "1s", Services: []string{"envoy", "pgadmin", "foreign"},
				Extra: map[string]string{"envoy": "workloads: [{kind: Deployment, name: envoy}]"}})
			k.do(t, http.MethodPost, "/apis/apps/v1/namespaces/"+m.namespace+"/deployments", deployment("envoy"))
			newForeignCA(t).makeSecret(t, m, "foreign") // its taking over waits, since nobody is seen to read it
			p := m.Start()
			m.AwaitSound(p, "pgadmin")
			m.awaitStatus(p, "taking over foreign")
			p.Stop()

			full := k.restrict(t, m, n)
			if n.before != nil {
				n.before(t, m)
			}
			p = m.Start()
			m.awaitComplaint(p, n.says...)
			healthy := k.secret(t, m.namespace, "pgadmin").Data[caFile]
			k.change(t, m.namespace, "pgadmin", "somebody", data(caFile, nil))
			p.Await("pgadmin is healed", func() error { return same(healthy, k.secret(t, m.namespace, "pgadmin").Data[caFile]) })

			k.kubectl(t, full, "apply", "-f", "-")
			p.Await("the right is back", func() error {
				if text := m.complaint(p); strings.Contains(text, "RBAC does not allow it") {
					return fmt.Errorf("it says %s", text)
				}
				return m.sound("envoy", "pgadmin")
			})
		})
	}
}

// complaint is what the status and /readyz say.
func (m *clusterMesh) complaint(p *Process) string {
	m.t.Helper()
	_, ready, err := m.get(p, "/readyz")
	must(m.t, err)
	return m.Run("status", "--config", m.Config()).Stdout + ready
}

// awaitComplaint waits until the status and /readyz say all the words.
func (m *clusterMesh) awaitComplaint(p *Process, words ...string) {
	m.t.Helper()
	p.Await(fmt.Sprintf("it says %q", words), func() error {
		text := m.complaint(p)
		m.checkSilent("the status", text)
		if slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
			return errors.New(text)
		}
		return nil
	})
}

// restrict takes a right away, and returns the manifest that gives it back.
func (k *kubernetes) restrict(t *testing.T, m *clusterMesh, n right) (full string) {
	t.Helper()
	k.account(t, m.namespace, m.Services, func(rbac string) string {
		full = rbac
		return n.takeFrom(t, rbac)
	})
	return full
}

// takeFrom takes the right from the manifest.
func (n right) takeFrom(t *testing.T, rbac string) string {
	t.Helper()
	lines := strings.Split(rbac, "\n")
	for i, line := range lines {
		if !strings.Contains(line, "resources: [") || !strings.Contains(line, n.resource) {
			continue
		}
		for j := i + 1; j <= i+2; j++ {
			verbs, ok := strings.CutPrefix(lines[j], "  verbs: [")
			if !ok {
				continue
			}
			rest := "nothing"
			for verb := range strings.SplitSeq(strings.TrimSuffix(verbs, "]"), ", ") {
				if verb != n.verb {
					rest += ", " + verb
				}
			}
			if n.resource != "secrets" {
				lines[j] = "  verbs: [" + rest + "]"
				return strings.Join(lines, "\n")
			}
			name := cmp.Or(n.service, "envoy") + "-mtls-cert"
			lines[j-1] = strings.Replace(lines[j-1], name+", ", "", 1)
			lines[j] += "\n- {apiGroups: [\"\"], resources: [secrets], resourceNames: [" + name + "], verbs: [" + rest + "]}"
			return strings.Join(lines, "\n")
		}
	}
	t.Fatalf("rbac.yaml has no rule for %s", n.resource)
	return ""
}

// checkAllNeeded sees that no right of the example is missing in the table.
func checkAllNeeded(t *testing.T) {
	t.Helper()
	want := make(map[string]bool)
	for _, n := range rights() {
		want[n.resource+" "+n.verb] = true
	}
	resource := ""
	for line := range strings.Lines(string(readFile(t, filepath.Join("..", "..", "examples", "kubernetes", "rbac.yaml")))) {
		if list, ok := strings.CutPrefix(line, "  resources: ["); ok {
			resource, _, _ = strings.Cut(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(list), "]")), ",")
		}
		if list, ok := strings.CutPrefix(line, "  verbs: ["); ok {
			for verb := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(list), "]"), ", ") {
				if !want[resource+" "+verb] {
					t.Errorf("rbac.yaml gives %s %s, and nothing needs it", verb, resource)
				}
				delete(want, resource+" "+verb)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("rbac.yaml does not give %v", want)
	}
}

// testFirstStartRefused: where it cannot be seen what is there, no CA is founded.
func testFirstStartRefused(t *testing.T, k *kubernetes) {
	n := right{resource: "secrets", verb: "get"}
	m := k.newMesh(t, "first-refused", clusterSettings{Edit: func(rbac string) string { return n.takeFrom(t, rbac) }})
	p := m.Serve()
	if code := p.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, words := range []string{"no CA is founded", `get secrets "envoy-mtls-cert"`, "RBAC does not allow it", "hint: give meshca's account the right to get"} {
		if !strings.Contains(p.out.String(), words) {
			t.Errorf("it does not say %q", words)
		}
	}
	if s := k.secret(t, m.namespace, "pgadmin"); s != nil {
		t.Error("it wrote pgadmin")
	}
}
