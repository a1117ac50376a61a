package api

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A document is the part of the contract that code repeats by hand.
type document struct {
	Paths      map[string]map[string]yaml.Node `yaml:"paths"`
	Components struct {
		Schemas map[string]struct {
			Properties map[string]struct {
				Type string `yaml:"type"`
				Ref  string `yaml:"$ref"`
			} `yaml:"properties"`
		} `yaml:"schemas"`
	} `yaml:"components"`
}

// An operation is what the contract says of one.
type operation struct {
	Security   *[]any `yaml:"security"`
	Parameters []struct {
		Name   string `yaml:"name"`
		In     string `yaml:"in"`
		Schema struct {
			Format string `yaml:"format"`
		} `yaml:"schema"`
	} `yaml:"parameters"`
	Responses   map[string]yaml.Node `yaml:"responses"`
	RequestBody *struct {
		Required bool `yaml:"required"`
		Content  map[string]struct {
			Schema struct {
				Ref string `yaml:"$ref"`
			} `yaml:"schema"`
		} `yaml:"content"`
	} `yaml:"requestBody"`
}

// operations lists what the contract has, by method and path.
func operations(t *testing.T) (document, map[string]operation) {
	t.Helper()
	var d document
	if err := yaml.Unmarshal(Contract, &d); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]operation)
	for path, methods := range d.Paths {
		for method, node := range methods {
			if method == "parameters" {
				continue
			}
			var o operation
			if err := node.Decode(&o); err != nil {
				t.Fatal(err)
			}
			all[strings.ToUpper(method)+" "+path] = o
		}
	}
	return d, all
}

// TestPublicIsWhatTheContractSays: nothing needs no caller but what says so.
func TestPublicIsWhatTheContractSays(t *testing.T) {
	_, all := operations(t)
	want := []string{"GET /"} // the page is no operation
	for name, o := range all {
		if o.Security != nil && len(*o.Security) == 0 {
			want = append(want, name)
		}
	}
	got := slices.Clone(public)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("public are %v, the contract says %v", got, want)
	}
}

// TestAdmissionIsInTheContract: whatever is answered before an operation is reached is among its answers, and no more: that
// it is not known who asks, that the cluster which knows is away, and that somebody asks too often.
func TestAdmissionIsInTheContract(t *testing.T) {
	_, all := operations(t)
	for name, o := range all {
		open, probe := slices.Contains(public, name), slices.Contains(probes, name)
		_, nobody := o.Responses["401"]
		_, often := o.Responses["429"]
		_, away := o.Responses["503"]
		if nobody == open || often == probe || !away && !open {
			t.Errorf("%s: 401 %t, 429 %t, 503 %t", name, nobody, often, away)
		}
	}
}

// TestFormsAreWhatTheContractSays: parameters and fields are those of the contract, with their types.
func TestFormsAreWhatTheContractSays(t *testing.T) {
	d, all := operations(t)
	want := make(map[string]form)
	for name, o := range all {
		var f form
		for _, p := range o.Parameters {
			if p.In == "query" {
				f.query = append(f.query, p.Name)
				if p.Schema.Format == "date-time" {
					f.times = append(f.times, p.Name)
				}
			}
		}
		if o.RequestBody != nil {
			schema := strings.TrimPrefix(o.RequestBody.Content["application/json"].Schema.Ref, "#/components/schemas/")
			f.fields, f.optional = make(map[string]bool), !o.RequestBody.Required
			for field, property := range d.Components.Schemas[schema].Properties {
				f.fields[field] = property.Type != "boolean"
			}
		}
		if f.query != nil || f.fields != nil {
			want[name] = f
		}
	}
	same := func(a, b form) bool {
		return slices.Equal(a.query, b.query) && slices.Equal(a.times, b.times) && maps.Equal(a.fields, b.fields) && a.optional == b.optional
	}
	if !maps.EqualFunc(forms, want, same) {
		t.Errorf("forms are %v, the contract says %v", forms, want)
	}
}

// TestProblemsAreDocumented: docs/api.md lists every type with its status and title.
func TestProblemsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds {
		if !strings.Contains(string(page), "| `"+k.name+"` | ") || !strings.Contains(string(page), " | "+k.title+" |") {
			t.Errorf("docs/api.md does not list %s: %s", k.name, k.title)
		}
	}
}
