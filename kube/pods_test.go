package kube

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestPodReads: each way in which a pod reads a Secret or a ConfigMap, and whether a change comes to it.
func TestPodReads(t *testing.T) {
	for name, tt := range map[string]struct {
		spec                string
		secrets, configMaps reads
	}{
		"nothing":            {`{"containers":[{"name":"a"}]}`, reads{}, reads{}},
		"secret volume":      {`{"volumes":[{"name":"v","secret":{"secretName":"s"}}]}`, reads{"s": false}, reads{}},
		"ConfigMap volume":   {`{"volumes":[{"name":"v","configMap":{"name":"m"}}]}`, reads{}, reads{"m": false}},
		"projected":          {`{"volumes":[{"name":"v","projected":{"sources":[{"secret":{"name":"s"}},{"serviceAccountToken":{}},{"configMap":{"name":"m"}}]}}]}`, reads{"s": false}, reads{"m": false}},
		"CSI":                {`{"volumes":[{"name":"v","csi":{"driver":"d","nodePublishSecretRef":{"name":"s"}}}]}`, reads{"s": false}, reads{}},
		"CSI without one":    {`{"volumes":[{"name":"v","csi":{"driver":"d","volumeAttributes":{"secretProviderClass":"c"}}}]}`, reads{}, reads{}},
		"subPath":            {`{"volumes":[{"name":"v","secret":{"secretName":"s"}}],"containers":[{"volumeMounts":[{"name":"v","subPath":"tls.crt"}]}]}`, reads{"s": true}, reads{}},
		"whole and subPath":  {`{"volumes":[{"name":"v","secret":{"secretName":"s"}}],"containers":[{"volumeMounts":[{"name":"v"}]}],"initContainers":[{"volumeMounts":[{"name":"v","subPathExpr":"$(A)"}]}]}`, reads{"s": true}, reads{}},
		"other's subPath":    {`{"volumes":[{"name":"v","secret":{"secretName":"s"}},{"name":"w","emptyDir":{}}],"containers":[{"volumeMounts":[{"name":"v"},{"name":"w","subPath":"x"}]}]}`, reads{"s": false}, reads{}},
		"env":                {`{"containers":[{"env":[{"name":"A","value":"x"},{"name":"B","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}},{"name":"C","valueFrom":{"configMapKeyRef":{"name":"m"}}}]}]}`, reads{"s": true}, reads{"m": true}},
		"envFrom":            {`{"containers":[{"envFrom":[{"secretRef":{"name":"s"}},{"configMapRef":{"name":"m"}}]}]}`, reads{"s": true}, reads{"m": true}},
		"init container":     {`{"initContainers":[{"envFrom":[{"secretRef":{"name":"s"}}]}]}`, reads{"s": true}, reads{}},
		"ephemeral":          {`{"ephemeralContainers":[{"envFrom":[{"secretRef":{"name":"s"}}]}]}`, reads{"s": true}, reads{}},
		"pull secrets":       {`{"imagePullSecrets":[{"name":"s"}]}`, reads{}, reads{}},
		"field of the pod":   {`{"containers":[{"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]}]}`, reads{}, reads{}},
		"volume and env too": {`{"volumes":[{"name":"v","secret":{"secretName":"s"}}],"containers":[{"envFrom":[{"secretRef":{"name":"s"}}]}]}`, reads{"s": true}, reads{}},
	} {
		t.Run(name, func(t *testing.T) {
			var spec podSpec
			if err := json.Unmarshal([]byte(tt.spec), &spec); err != nil {
				t.Fatal(err)
			}
			secrets, configMaps := spec.reads()
			if diff := cmp.Diff(tt.secrets, secrets); diff != "" {
				t.Errorf("Secrets (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.configMaps, configMaps); diff != "" {
				t.Errorf("ConfigMaps (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPodWorkload(t *testing.T) {
	owned := func(kind, name, labels string) string {
		return `{"metadata":{"labels":` + labels + `,"ownerReferences":[{"kind":"Node","name":"n"},{"kind":"` + kind + `","name":"` + name + `","controller":true}]}}`
	}
	for body, want := range map[string]string{
		`{}`:                             "",
		owned("StatefulSet", "db", `{}`): "statefulset/db",
		owned("DaemonSet", "edge", `{}`): "daemonset/edge",
		owned("ReplicaSet", "envoy-5d4", `{"pod-template-hash":"5d4"}`):              "deployment/envoy",
		owned("ReplicaSet", "bare", `{}`):                                            "",
		owned("ReplicaSet", "other", `{"pod-template-hash":"5d4"}`):                  "",
		owned("Job", "j", `{}`):                                                      "",
		`{"metadata":{"ownerReferences":[{"kind":"StatefulSet","name":"adopted"}]}}`: "",
	} {
		var p livePod
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			t.Fatal(err)
		}
		if got := p.workload(); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

const podsManifest = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: default}
---
apiVersion: v1
kind: Pod
metadata: {name: mounts}
spec:
  containers: [{name: c, image: i}]
  volumes:
  - {name: v, secret: {secretName: envoy}}
  - {name: w, configMap: {name: meshca-ca}}
---
apiVersion: v1
kind: Pod
metadata: {name: env}
spec:
  containers: [{name: c, image: i, envFrom: [{secretRef: {name: envoy}}, {secretRef: {name: other}}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: ended}
spec:
  containers: [{name: c, image: i, envFrom: [{secretRef: {name: envoy}}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: leaving, finalizers: [test.meshca.io/stay]}
spec:
  containers: [{name: c, image: i, envFrom: [{secretRef: {name: envoy}}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: pulls}
spec:
  containers: [{name: c, image: i}]
  imagePullSecrets: [{name: envoy}]
`

// testReaders: pods of a real API server, as it completes them.
func testReaders(t *testing.T, m *meshCluster) {
	m.Create(t, "pods", podsManifest)
	m.Do(t, "", "-n", "pods", "patch", "pod", "ended", "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"Succeeded"}}`)
	m.Do(t, "", "-n", "pods", "delete", "pod", "leaving", "--wait=false")
	byName, err := m.client.readers(t.Context(), "pods", map[string]bool{"envoy": true, "none": true})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(byName)), []string{"envoy"}; !slices.Equal(got, want) {
		t.Errorf("read Secrets %v, want %v", got, want)
	}
	fixed := make(map[string]bool)
	for _, p := range byName["envoy"] {
		fixed[p.Name] = p.Fixed
		if p.Namespace != "pods" || p.UID == "" || time.Since(p.Created).Abs() > time.Hour || p.Phase != "Pending" || p.Terminating != (p.Name == "leaving") {
			t.Errorf("pod %+v", p)
		}
	}
	if diff := cmp.Diff(map[string]bool{"mounts": false, "env": true, "leaving": true}, fixed); diff != "" {
		t.Errorf("readers of envoy (-want +got):\n%s", diff)
	}
	u, err := m.client.uses(t.Context(), "", func(at place) bool { return at.name == "meshca-ca" })
	if err != nil {
		t.Fatal(err)
	}
	if pods := u.configMaps[place{"pods", "meshca-ca"}]; len(pods) != 1 || pods[0].Name != "mounts" {
		t.Errorf("readers of the ConfigMap, looked for in all namespaces: %v", pods)
	}
}
