package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// testWorkloads: what is done to a service's Secret is told on its workload too, as people look there first.
func testWorkloads(t *testing.T, k *kubernetes) {
	m := k.newMesh(t, "workloads", clusterSettings{Services: []string{"envoy", "pgadmin"},
		Extra: map[string]string{"envoy": "workloads: [{kind: Deployment, name: envoy}, {kind: Deployment, name: absent}]"}})
	path := "/apis/apps/v1/namespaces/" + m.namespace + "/deployments"
	k.do(t, http.MethodPost, path, deployment("envoy"))
	var live struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	must(t, json.Unmarshal(k.do(t, http.MethodGet, path+"/envoy", nil), &live))
	p := m.Start()
	m.AwaitSound(p)
	k.change(t, m.namespace, "envoy", "somebody", data(caFile, []byte("broken")))
	for _, reason := range []string{"Issued", "Healed"} {
		p.Await(reason+" on the Deployment", func() error { return onWorkload(m.events(""), live.Metadata.UID, reason) })
	}
	for _, e := range m.events("") {
		if e.Regarding.Kind == "Deployment" && !strings.Contains(e.Note, "service envoy: ") {
			t.Errorf("an Event of another service, or on another workload: %+v", e)
		}
	}
}

// onWorkload says whether there is an Event on the Deployment of that uid.
func onWorkload(events []event, uid, reason string) error {
	for _, e := range events {
		if e.Regarding.Kind == "Deployment" && e.Regarding.UID == uid && e.Reason == reason {
			return nil
		}
	}
	return fmt.Errorf("there are %+v", events)
}
