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
	_, read := target.Readers(t.Context(), []string{"envoy"})
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
