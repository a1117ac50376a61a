package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/meshca/meshca/kube"
	"github.com/meshca/meshca/rotation"
)

// testErrors has each thing in the way that may stand there, at once: all are named with a way on, others go on, and
// each service is kept as soon as nothing stands in its way.
func testErrors(t *testing.T, k *kubernetes) {
	s := clusterSettings{Sweep: "1s", Services: []string{"good", "forbidden", "missing", "going", "denied", "hooked", "large"}, Extra: map[string]string{
		"missing": "namespace: errors-missing", "going": "namespace: errors-going", "denied": "namespace: errors-denied", "hooked": "namespace: errors-hooked"}}
	var full string
	s.Edit = func(rbac string) string {
		full = rbac
		return right{resource: "secrets", verb: "patch"}.forService("forbidden").takeFrom(t, rbac)
	}
	m := k.newMesh(t, "errors", s)
	k.kubectl(t, elsewhere, "apply", "-f", "-")
	k.namespace(t, "errors-denied")
	k.namespace(t, "errors-hooked")
	k.namespace(t, "errors-going")
	k.do(t, http.MethodDelete, "/api/v1/namespaces/errors-going", nil) // without a controller manager it is being deleted for ever
	k.deny(t, "errors-denied")
	k.breakWebhook(t, "errors-hooked")
	m.makeShape(t, "large", shape{how: "somebody", object: object{"data": map[string][]byte{"dump": bytes.Repeat([]byte("x"), 1<<20-1000)}}})

	p := m.Start()
	m.checkErrors(p)
	k.change(t, m.namespace, "good", "stranger", data(caFile, []byte("nothing")))
	m.AwaitSound(p, "good")
	if code, text, err := m.get(p, "/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d %s %v: it is about what concerns all", code, text, err)
	}

	k.kubectl(t, full, "apply", "-f", "-")
	k.namespace(t, "errors-missing")
	k.do(t, http.MethodDelete, "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/errors-denied", nil)
	k.do(t, http.MethodDelete, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/errors-hooked", nil)
	k.change(t, m.namespace, "large", "somebody", data("dump", []byte("less")))
	for _, service := range []string{"forbidden", "missing", "denied", "hooked", "large"} {
		m.AwaitState(p, service, "kept")
		p.AwaitLine("service is kept again", "service", service)
	}
}

// checkErrors sees each error in the status, and its way on in the line below.
func (m *clusterMesh) checkErrors(p *Process) {
	m.t.Helper()
	for service, words := range map[string][]string{
		"forbidden": {"RBAC does not allow it", "give meshca's account the right to patch secrets"},
		"missing":   {"the namespace does not exist", "make the namespace, or take the service out"},
		"going":     {"the namespace is being deleted", "take the service out of the catalogue if its namespace is meant to go"},
		"denied":    {"an admission policy refuses it (policy errors-denied)", "if it is meshca's own guard"},
		"hooked":    {"an admission policy refuses it (webhook errors-hooked.example.com, which itself does not answer", "mend webhook errors-hooked.example.com"},
		"large":     {"it would be larger than an object may be", "take foreign keys out of the Secret"},
	} {
		text := m.awaitStatus(p, "failing "+service+": ")
		_, text, _ = strings.Cut(text, "failing "+service+": ")
		for i, line := range strings.SplitN(text, "\n", 3)[:2] {
			if !strings.Contains(line, words[i]) {
				m.t.Errorf("of %s the status says %q, want %q", service, line, words[i])
			}
		}
		p.AwaitLine("service not kept", "service", service)
	}
}

// elsewhere gives the account of the namespace errors what it needs in others.
const elsewhere = `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: errors}, rules: [
  {apiGroups: [""], resources: [secrets], resourceNames: [missing-mtls-cert, going-mtls-cert, denied-mtls-cert, hooked-mtls-cert], verbs: [get, watch, patch, create]},
  {apiGroups: [""], resources: [configmaps], resourceNames: [meshca-ca], verbs: [get, watch, patch, create]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: errors},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: errors}, subjects: [{kind: ServiceAccount, name: meshca, namespace: errors-ca}]}
`

// deny has an admission policy refuse every Secret of a namespace, and waits until it does.
func (k *kubernetes) deny(t *testing.T, namespace string) {
	t.Helper()
	const group = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
	k.do(t, http.MethodPost, group+"ies", object{"metadata": object{"name": namespace}, "spec": object{
		"matchConstraints": object{"resourceRules": []object{
			{"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "resources": []string{"secrets"}, "operations": []string{"CREATE", "UPDATE"}}}},
		"validations": []object{{"expression": "false", "message": "not here"}},
	}})
	k.do(t, http.MethodPost, group+"ybindings", object{"metadata": object{"name": namespace}, "spec": object{
		"policyName": namespace, "validationActions": []string{"Deny"},
		"matchResources": object{"namespaceSelector": object{"matchLabels": object{"kubernetes.io/metadata.name": namespace}}},
	}})
	k.awaitRefusal(t, namespace)
}

// awaitRefusal waits until no Secret can be made in a namespace.
func (k *kubernetes) awaitRefusal(t *testing.T, namespace string) {
	t.Helper()
	await(t, "Secrets are refused", func() error {
		code, answer := k.ask(t, "", http.MethodPost, "/api/v1/namespaces/"+namespace+"/secrets?dryRun=All", "application/json",
			object{"metadata": object{"name": "probe"}})
		if code/100 == 2 {
			return fmt.Errorf("%d %s", code, answer)
		}
		return nil
	})
}

// breakWebhook has a webhook asked about every Secret of a namespace at an address where nobody is, and waits until
// it is.
func (k *kubernetes) breakWebhook(t *testing.T, namespace string) {
	t.Helper()
	k.do(t, http.MethodPost, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", object{
		"metadata": object{"name": namespace}, "webhooks": []object{{
			"name": namespace + ".example.com", "sideEffects": "None", "admissionReviewVersions": []string{"v1"}, "timeoutSeconds": 1,
			"clientConfig":      object{"url": "https://127.0.0.1:1/"},
			"namespaceSelector": object{"matchLabels": object{"kubernetes.io/metadata.name": namespace}},
			"rules": []object{{"apiGroups": []string{""}, "apiVersions": []string{"v1"}, "resources": []string{"secrets"},
				"operations": []string{"CREATE", "UPDATE"}}}}}})
	k.awaitRefusal(t, namespace)
}

// testAway cuts the connection to the API server.
func testAway(t *testing.T, k *kubernetes) {
	c := newCell(t, k, clusterSettings{Services: []string{"envoy", "pgadmin"}, Sweep: "1s"})
	c.gate.Refuse()
	p := c.Serve()
	if code := p.Wait(); code != 1 || !strings.Contains(p.out.String(), "no CA is founded while it is not known what is there") {
		t.Errorf("a first start without an API server ends with %d:\n%s", code, p.out.String())
	}
	c.gate.Mend()
	p = c.start()
	p.Await("it is ready", func() error { return c.isReady(p) })

	c.gate.Refuse()
	c.checkAway(p)
	p.Stop()
	p = c.Start() // a store that is there is served, also now
	c.checkAway(p)
	k.change(t, c.namespace, "envoy", "stranger", data(keyFile, []byte("nothing")))
	c.gate.Mend()
	c.awaitStanding(p)
	c.AwaitState(p, "pgadmin", "kept")
	p.Await("it is ready", func() error { return c.isReady(p) })
}

// checkAway sees that it is said what is away, and that the rest goes on.
func (c *cell) checkAway(p *Process) {
	c.t.Helper()
	c.awaitStatus(p, "failing envoy: ", "failing pgadmin: ", "the API server does not answer")
	p.Await("/readyz says what is away", func() error { return c.notReady(p, "target: ", "the API server does not answer") })
	c.checkAlive(p)
}

// testStale: who has decided on something older writes nothing.
func testStale(t *testing.T, k *kubernetes) {
	k.namespace(t, "stale")
	client, err := kube.Connect(kube.Options{Kubeconfig: k.Kubeconfig})
	must(t, err)
	target := kube.New(client, kube.WatchNone, slog.New(slog.DiscardHandler))
	target.SetCatalogue([]kube.Service{{Name: "a", Namespace: "stale", Secret: "a-mtls-cert"}})
	set := rotation.Material{Cert: []byte("c"), Key: []byte("k"), CA: []byte("a"), Mark: rotation.Mark{Store: "00", Service: "a"}}
	look := func() rotation.Version {
		o, err := target.Observe(t.Context(), "a")
		must(t, err)
		return o.Version
	}
	make := func() {
		k.do(t, http.MethodPost, "/api/v1/namespaces/stale/secrets", object{"metadata": object{"name": "a-mtls-cert"}})
	}
	remove := func() { k.do(t, http.MethodDelete, secretPath("stale", "a"), nil) }
	touch := func() { k.change(t, "stale", "a", "somebody", data("x", []byte("y"))) }
	for _, c := range []struct {
		what          string
		before, after func()
	}{
		{"made in between", func() {}, make},
		{"changed in between", func() {}, touch},
		{"deleted in between", func() {}, remove},
		{"deleted and made in between", make, func() { remove(); make() }},
		{"changed and rests", func() { k.change(t, "stale", "a", "somebody", glass("x")) }, touch},
	} {
		c.before()
		seen := look()
		c.after()
		was := k.secret(t, "stale", "a")
		if err := target.Write(t.Context(), "a", set, seen); !errors.Is(err, rotation.ErrChanged) {
			t.Errorf("%s: %v", c.what, err)
		}
		is := k.secret(t, "stale", "a")
		if (was == nil) != (is == nil) || was != nil && was.Metadata.ResourceVersion != is.Metadata.ResourceVersion {
			t.Errorf("%s: it was written", c.what)
		}
	}
	must(t, target.Write(t.Context(), "a", set, look()))
}
