package kube

import (
	"log/slog"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/meshca/meshca/rotation"
)

// TestServiceThatLeft: nothing is asked of the API server for a service that the catalogue does not have. Without a
// name, the path of its Secret would be that of all Secrets.
func TestServiceThatLeft(t *testing.T) {
	client, err := newClient(&rest.Config{Host: "https://127.0.0.1:1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	target := New(client, WatchNames, slog.New(slog.DiscardHandler))
	target.SetCatalogue([]Service{{Name: "envoy", Namespace: "default", Secret: "envoy-mtls-cert"}})
	target.SetCatalogue(nil)
	_, observed := target.Observe(t.Context(), "envoy")
	read := target.Readers(t.Context(), []string{"envoy"})["envoy"].Err
	for what, err := range map[string]error{
		"observe": observed, "readers": read,
		"write": target.Write(t.Context(), "envoy", rotation.Material{}, secretVersion{}),
		"watch": target.Watch(t.Context(), []string{"envoy"}, func(string) {}),
	} {
		if err == nil || !strings.Contains(err.Error(), `"envoy" is not in the catalogue`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if place := target.Place("envoy"); place != "default/envoy-mtls-cert" {
		t.Errorf("its place is called %q", place)
	}
	target.Tell(rotation.Notice{Service: "envoy"})
	if n := len(target.events.waiting); n != 0 {
		t.Errorf("%d Events wait to be written somewhere", n)
	}
}

// TestWorkloadThatLeft: what was refused of a workload is no remark on the service any more when the catalogue does not
// have it.
func TestWorkloadThatLeft(t *testing.T) {
	client, err := newClient(&rest.Config{Host: "https://127.0.0.1:1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	target := New(client, WatchNames, slog.New(slog.DiscardHandler))
	service := Service{Name: "envoy", Namespace: "default", Secret: "envoy-mtls-cert", Workloads: []Workload{{"Deployment", "envoy"}}}
	target.SetCatalogue([]Service{service})
	at := object{group: "apps", resource: "deployments", namespace: "default", name: "envoy"}
	target.events.failed(notice{Notice: rotation.Notice{Service: "envoy"}}, at, &Error{Kind: Forbidden, Verb: "get", object: at})
	target.SetCatalogue([]Service{service})
	if n := len(target.events.refused.of("envoy")); n != 1 {
		t.Errorf("%d remarks, want the one", n)
	}
	service.Workloads = nil
	target.SetCatalogue([]Service{service})
	if remarks := target.events.refused.of("envoy"); len(remarks) > 0 {
		t.Errorf("%v", remarks)
	}
}
