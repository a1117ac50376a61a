package client_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed are the modules and packages outside the standard library that a program gets with the client.
var allowed = []string{
	"github.com/meshca/meshca/api/client",
	"github.com/meshca/meshca/api/socket",
	"github.com/oapi-codegen/runtime",
	"github.com/apapsch/go-jsonmerge/v2", // by runtime
	"github.com/google/uuid",             // by runtime
	"go.yaml.in/yaml/v3",                 // by the generated client, which can fetch the contract
	"golang.org/x/sys/unix",              // by socket
}

// TestImports: whoever imports the client gets no store, no Kubernetes, and nothing of the server.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	found := strings.Fields(string(out))
	if !slices.Contains(found, "github.com/meshca/meshca/api/client") {
		t.Fatalf("%q does not list the client itself", found)
	}
	for _, path := range found {
		in := func(root string) bool { return path == root || strings.HasPrefix(path, root+"/") }
		if !slices.ContainsFunc(allowed, in) {
			t.Errorf("%s is forbidden: importing the client must not bring it", path)
		}
	}
}
