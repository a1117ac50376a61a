package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// testIncident takes the mesh of the incident over: two CAs of one name, a placeholder, and a Secret that is filled in
// part. Each way in which the wait for its readers ends is tried.
func testIncident(t *testing.T, k *kubernetes) {
	t.Run("pods are made anew", func(t *testing.T) { t.Parallel(); incidentByPods(t, k) })
	t.Run("nobody is seen to read", func(t *testing.T) { t.Parallel(); incidentByHand(t, k) })
	for _, consumers := range []string{"none", "api"} {
		t.Run("consumers "+consumers, func(t *testing.T) {
			t.Parallel()
			m, _ := k.newIncident(t, "incident-"+consumers, "consumers: "+consumers)
			m.AwaitSigned(m.Start())
		})
	}
}

// newIncident makes the mesh of the incident, and returns the sets of the services that have one.
func (k *kubernetes) newIncident(t *testing.T, namespace, extra string) (*clusterMesh, map[string]map[string][]byte) {
	t.Helper()
	s := clusterSettings{Sweep: "1s", Extra: make(map[string]string)}
	for _, service := range fiveServices {
		s.Extra[service] = extra
	}
	m := k.newMesh(t, namespace, s)
	a, b := newForeignCA(t), newForeignCA(t)
	sets := map[string]map[string][]byte{"envoy": a.set(t, "envoy"), "bookapi": a.set(t, "bookapi"), "pgadmin": b.set(t, "pgadmin")}
	all := map[string]object{
		"timescaledb":        {"type": "Opaque", "data": map[string][]byte{certFile: []byte("TODO"), keyFile: []byte("TODO"), caFile: []byte("TODO")}},
		"bookapi-mcp-server": {"type": "Opaque", "data": map[string][]byte{certFile: a.set(t, "bookapi-mcp-server")[certFile], caFile: a.PEM()}},
	}
	for service, set := range sets {
		all[service] = object{"type": "kubernetes.io/tls", "data": set}
	}
	for service, o := range all {
		m.makeShape(t, service, shape{how: "deploy-script", object: o})
	}
	return m, sets
}

// awaitUnion waits until all five trust both CAs and ours, with the leaves of those that have one as they were. It
// returns when the newest of the Secrets was written, at the latest.
func (m *clusterMesh) awaitUnion(p *Process, sets map[string]map[string][]byte) (written time.Time) {
	m.t.Helper()
	p.Await("the union is in all five Secrets and the ConfigMap", func() error {
		bundle, err := m.bundle()
		if err != nil {
			return err
		}
		if n := bytes.Count(bundle, []byte("BEGIN CERTIFICATE")); n != 3 {
			return fmt.Errorf("the published bundle has %d certificates, want 3", n)
		}
		for _, service := range fiveServices {
			if err := same(bundle, m.k.secret(m.t, m.namespace, service).Data[caFile]); err != nil {
				return fmt.Errorf("%s: %w", service, err)
			}
		}
		return nil
	})
	for service, set := range sets {
		now := m.k.secret(m.t, m.namespace, service)
		if err := errors.Join(same(set[certFile], now.Data[certFile]), same(set[keyFile], now.Data[keyFile])); err != nil {
			m.t.Errorf("the leaf of %s was not kept: %v", service, err)
		}
		// Everybody accepts it, whichever CA has signed it.
		v := now.view(service)
		if pair, err := v.pair(); err != nil {
			m.t.Error(err)
		} else if _, err := pair.Leaf.Verify(v.verifyOptions()); err != nil {
			m.t.Errorf("%s is refused: %v", service, err)
		}
	}
	return time.Now()
}

// AwaitSigned waits until every service has a leaf of ours.
func (m *clusterMesh) AwaitSigned(p *Process) {
	m.t.Helper()
	p.Await("all leaves are signed anew", func() error {
		status, _ := m.Status()
		for _, service := range m.Services {
			if s := status.Of(service); s.State != "kept" {
				return fmt.Errorf("%s is %q: %s", service, s.State, s.Error)
			}
		}
		return m.sound()
	})
}

// incidentByPods has pods that read the Secrets. They are made anew later than the union was written.
func incidentByPods(t *testing.T, k *kubernetes) {
	m, sets := k.newIncident(t, "incident-pods", "consumers: \"\"")
	k.do(t, http.MethodPost, "/api/v1/namespaces/"+m.namespace+"/serviceaccounts", object{"metadata": object{"name": "default"}})
	for _, service := range fiveServices {
		k.makePod(t, m.namespace, service)
	}
	p := m.Start()
	written := m.awaitUnion(p, sets)
	m.awaitStatus(p, "taking over envoy: waits for processes that started before", m.namespace+"/envoy", "taking over pgadmin", "taking over bookapi:")
	plan := m.Run("adopt", "--config", m.Config())
	for _, words := range []string{"in the bundle: ", "envoy ", "its leaf is signed anew after: processes that started before", m.namespace + "/pgadmin"} {
		if plan.Code != 0 || !strings.Contains(plan.Stdout, words) {
			t.Errorf("meshca adopt ends with %d, and does not say %q:\n%s%s", plan.Code, words, plan.Stdout, plan.Stderr)
		}
	}
	// The last one's process trusts a CA: timescaledb's, which trusts none, is not waited for.
	order := []string{"timescaledb", "envoy", "bookapi", "bookapi-mcp-server", "pgadmin"}
	for i, service := range order {
		if i == len(order)-1 {
			m.awaitStatus(p, "waits for processes that started before") // for the last one's
			m.awaitUnion(p, sets)
		}
		k.replacePod(t, m.namespace, service, written)
	}
	m.AwaitSigned(p)
}

// makePod makes a pod that mounts the Secret of a service. No kubelet runs it.
func (k *kubernetes) makePod(t *testing.T, namespace, service string) (created time.Time) {
	t.Helper()
	var pod struct {
		Metadata struct {
			CreationTimestamp time.Time `json:"creationTimestamp"`
		} `json:"metadata"`
	}
	must(t, json.Unmarshal(k.do(t, http.MethodPost, "/api/v1/namespaces/"+namespace+"/pods", object{
		"metadata": object{"name": service},
		"spec": object{
			"nodeName": "nowhere", "automountServiceAccountToken": false,
			"containers": []object{{"name": "a", "image": "a", "volumeMounts": []object{{"name": "mesh", "mountPath": "/mesh"}}}},
			"volumes":    []object{{"name": "mesh", "secret": object{"secretName": service + "-mtls-cert"}}},
		},
	}), &pod))
	return pod.Metadata.CreationTimestamp
}

// replacePod deletes the pod and makes it anew, until it is so much younger than the write that it holds the new
// files: the hold of one second, and the second to which the API server rounds.
func (k *kubernetes) replacePod(t *testing.T, namespace, service string, written time.Time) {
	t.Helper()
	path := "/api/v1/namespaces/" + namespace + "/pods/" + service
	await(t, "a younger pod of "+service, func() error {
		if wait := time.Until(written.Add(2 * time.Second)); wait > 0 {
			return fmt.Errorf("it would be too old for another %s", wait)
		}
		k.do(t, http.MethodDelete, path, object{"gracePeriodSeconds": 0})
		if created := k.makePod(t, namespace, service); !created.After(written.Add(time.Second)) {
			return fmt.Errorf("made at %s, and the Secret was written before %s", created, written)
		}
		return nil
	})
}

// incidentByHand has readers that nobody sees, and an operator who says that they need not be waited for.
func incidentByHand(t *testing.T, k *kubernetes) {
	m, sets := k.newIncident(t, "incident-hand", "consumers: \"\"")
	p := m.Start()
	m.awaitUnion(p, sets)
	m.awaitStatus(p, "taking over envoy: waits for nobody is seen to read it", "meshca adopt envoy --continue")
	p.Stop()
	p = m.Start() // what it waits for survives
	m.awaitStatus(p, "taking over envoy: waits for nobody is seen to read it")
	m.awaitUnion(p, sets)
	if a := m.Run("adopt", "envoy", "--config", m.Config(), "--continue"); a.Code != 0 || !strings.Contains(a.Stdout, "readers of envoy that do not trust our root yet will refuse the new leaves of bookapi, bookapi-mcp-server, envoy, pgadmin, with CERTIFICATE_VERIFY_FAILED") {
		t.Errorf("meshca adopt envoy --continue: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
	m.awaitStatus(p, "taking over pgadmin: waits for")
	m.awaitUnion(p, sets) // envoy's word alone does not do
	if a := m.Run("adopt", "--config", m.Config(), "--continue"); a.Code != 0 {
		t.Errorf("meshca adopt --continue: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
	m.AwaitSigned(p)
	if a := m.Run("adopt", "--config", m.Config(), "--continue"); a.Code != 1 {
		t.Errorf("meshca adopt --continue, with nothing to do: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
}

// testDeletedMeanwhile deletes Secrets while their leaves are another CA's still.
func testDeletedMeanwhile(t *testing.T, k *kubernetes) {
	m := k.newMesh(t, "meanwhile", clusterSettings{Services: []string{"usable", "broken", "envoy"}})
	a := newForeignCA(t)
	broken := a.set(t, "broken")
	broken[keyFile] = a.set(t, "broken")[keyFile]
	m.makeShape(t, "usable", shape{how: "somebody", object: object{"type": "kubernetes.io/tls", "data": a.set(t, "usable")}})
	m.makeShape(t, "broken", shape{how: "somebody", object: object{"type": "kubernetes.io/tls", "data": broken}})
	p := m.Start()
	m.awaitStatus(p, "taking over usable", "taking over broken")
	for _, service := range []string{"usable", "broken"} {
		k.do(t, http.MethodDelete, secretPath(m.namespace, service), nil)
	}
	m.AwaitSound(p, "usable", "broken") // nothing of another CA is left to be put back
}
