package e2e

import (
	"encoding/json"
	"net/http"
	"regexp"
	"testing"
)

// idle are operations that are understood, and have nothing to do in a mesh where all is well.
var idle = map[string]bool{"adopt": true, "heal": true}

// TestAPIExamples: what the contract shows is what the server takes. A parameter of a path is what an answer before
// called so.
func TestAPIExamples(t *testing.T) {
	m := NewMesh(t, Settings{Services: []string{"envoy", "pgadmin", "bookapi", "bookapi-mcp-server", "{name: timescaledb, generateKey: true}"}})
	admin := newAPIClient(t, m, m.Serve().AwaitServing())
	examples, err := apiContract(t).Examples()
	must(t, err)
	known := map[string]any{"name": "bookapi"}
	parameter := regexp.MustCompile(`{\w+}`)
	for _, e := range examples {
		t.Run(e.Operation.ID+" "+e.Name, func(t *testing.T) {
			path := parameter.ReplaceAllStringFunc(e.Operation.Path, func(name string) string {
				value, _ := known[name[1:len(name)-1]].(string)
				if value == "" {
					t.Fatalf("no answer has told of a %s", name)
				}
				return value
			})
			a := admin.do(e.Operation.Method, path, string(e.Body)) // judges it by the contract
			if idle[e.Operation.ID] && (a.status == http.StatusNotFound || a.status == http.StatusConflict) {
				return
			}
			if a.status/100 != 2 {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
			var told map[string]any
			must(t, json.Unmarshal(a.body, &told))
			for name, value := range told {
				known[name] = value
			}
		})
	}
	if len(examples) < 4 {
		t.Errorf("%d examples", len(examples))
	}
}
