package config

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // so that the zones do not depend on the machine

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"

	"github.com/meshca/meshca/profile"
)

const (
	minimal = "version: 1\ntarget: {directory: {}}\n"
	cluster = "version: 1\ntarget: {kubernetes: {}}\n"
)

// same compares configurations; where a field was written is no part of them.
var same = cmp.Options{
	cmpopts.IgnoreUnexported(Config{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

func parsed(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("parse:\n%s\n%v", text, err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	want := defaults()
	want.Version = 1
	want.Target.Directory = &Directory{Path: "mesh"}
	want.Services = []Service{{
		Name: "web", Namespace: "shop", Secret: "web-mtls-cert", CommonName: "web", Key: profile.ECDSAP384,
		DNSNames: []string{"web", "web.shop.svc", "web.shop.svc.cluster.local"},
	}}
	want.Leaf.Key = profile.ECDSAP384
	got := parsed(t, minimal+"leaf: {key: ECDSA-P384}\nservices: [{name: web, namespace: shop}]\n")
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if s := got.Schedule().String(); s != "0 3 * * * UTC" {
		t.Errorf("schedule %q", s)
	}
	want.Target = Target{Kubernetes: &Kubernetes{Watch: "names"}}
	got = parsed(t, cluster+"leaf: {key: ECDSA-P384}\nservices: [{name: web, namespace: shop}]\n")
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got.Rotation.Restart.HoldDown.Std() != 90*time.Second {
		t.Errorf("holdDown %s", got.Rotation.Restart.HoldDown)
	}
}

func TestWrittenValuesAreKept(t *testing.T) {
	got := parsed(t, cluster+`
services:
- name: web
  secret: web.tls
  workloads: [{kind: DaemonSet, name: web.v1}, {kind: Deployment, name: web.v1}]
  consumers: api
  dnsNames: []
  ipAddresses: [10.0.0.1, "::1", 127.0.0.1]
  allowLoopback: true
  commonName: web user
  key: Ed25519
`).Services
	want := []Service{{
		Name: "web", Namespace: "default", AllowLoopback: true, CommonName: "web user", Key: profile.Ed25519,
		Secret: "web.tls", Consumers: "api", Workloads: []Workload{{"DaemonSet", "web.v1"}, {"Deployment", "web.v1"}},
		IPAddresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.1")},
	}}
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

var (
	directoryBlock = regexp.MustCompile(`(?m)^  directory:\n(?:    .*\n)+`)
	commentedField = regexp.MustCompile(`(?m)^( *)#([^ #])`)
)

// clusterExample is the example as its reader turns it to Kubernetes: without the folders, and with what
// stands behind a # without a space.
func clusterExample(t testing.TB) string {
	t.Helper()
	text := string(Example())
	if n := len(directoryBlock.FindAllString(text, -1)); n != 1 {
		t.Fatalf("example.yaml has %d directory blocks", n)
	}
	return commentedField.ReplaceAllString(directoryBlock.ReplaceAllString(text, ""), "$1$2")
}

func TestExampleIsTheDefaults(t *testing.T) {
	const others = "{name: pgadmin}, {name: bookapi}, {name: bookapi-mcp-server}, {name: timescaledb}]"
	for name, tt := range map[string]struct{ want, got string }{
		"directory":  {minimal + "services: [{name: envoy}, " + others, string(Example())},
		"kubernetes": {cluster + "services: [{name: envoy, clients: [{service: pgadmin}, {serviceAccount: default/envoy}], workloads: [{kind: Deployment, name: envoy}]}, " + others, clusterExample(t)},
	} {
		t.Run(name, func(t *testing.T) {
			got := parsed(t, tt.got)
			if diff := cmp.Diff(parsed(t, tt.want), got, same); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if w := got.Warnings(); w != nil {
				t.Errorf("warnings %v", w)
			}
		})
	}
}

func TestExampleHasEveryField(t *testing.T) {
	written := map[string]bool{}
	for _, text := range []string{string(Example()), clusterExample(t)} {
		r := newReport()
		decoder{r}.into(document([]byte(text), r), defaults())
		for path := range r.lines {
			written[regexp.MustCompile(`\[[0-9]+\]`).ReplaceAllString(path, "")] = true
		}
	}
	for _, path := range fieldPaths(reflect.TypeFor[Config](), "") {
		if !written[path] {
			t.Errorf("example.yaml lacks %s", path)
		}
	}
}

func fieldPaths(t reflect.Type, prefix string) []string {
	var all []string
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		all = append(all, prefix+name)
		inner := f.Type
		if inner.Kind() == reflect.Slice || inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.PkgPath() == t.PkgPath() {
			all = append(all, fieldPaths(inner, prefix+name+".")...)
		}
	}
	return all
}

func TestEveryExportedNameHasAComment(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				for _, id := range n.Names {
					if id.IsExported() && n.Doc == nil {
						t.Errorf("%s: field %s has no comment", name, id)
					}
				}
			case *ast.FuncDecl:
				if n.Name.IsExported() && n.Doc == nil {
					t.Errorf("%s: func %s has no comment", name, n.Name)
				}
				return false
			case *ast.GenDecl:
				for _, s := range n.Specs {
					if s, ok := s.(*ast.TypeSpec); ok && s.Name.IsExported() && n.Doc == nil && s.Doc == nil {
						t.Errorf("%s: type %s has no comment", name, s.Name)
					}
				}
			}
			return true
		})
	}
}

func TestYAMLParsesToTheSame(t *testing.T) {
	c := parsed(t, minimal+"sweep: 90s\nservices: [{name: a, dnsNames: [], ipAddresses: ['fe80::1'], commonName: 'yes'}, {name: '0'}]")
	again(t, c)
	text, err := c.YAML()
	if err != nil || !strings.Contains(string(text), "sweep: 1m30s\n") || strings.Contains(string(text), "secret:") {
		t.Errorf("%s %v", text, err)
	}
	if c.Services[0].Secret != "a-mtls-cert" {
		t.Errorf("writing changed the Secret to %q", c.Services[0].Secret)
	}

	c = parsed(t, cluster+"services: [{name: a}, {name: b, secret: 'null', consumers: none, workloads: [{kind: DaemonSet, name: '0'}]}, {name: c, consumers: '', workloads: []}]")
	again(t, c)
	text, err = c.YAML()
	if err != nil || strings.Count(string(text), "secret:") != 3 || strings.Count(string(text), "consumers:") != 1 || strings.Count(string(text), "workloads:") != 1 {
		t.Errorf("%s %v", text, err)
	}
}

func again(t *testing.T, c *Config) {
	t.Helper()
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c, parsed(t, string(text)), same); diff != "" {
		t.Errorf("-before +after:\n%s\n%s", diff, text)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "meshca.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(minimal + "seal: {keyFile: /else/where.key}\n")
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{c.Store.Bolt.Path, c.Seal.KeyFile, c.Target.Directory.Path}
	want := []string{filepath.Join(dir, "data/meshca.db"), "/else/where.key", filepath.Join(dir, "mesh")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	write(minimal + "leaf:\n  lifetme: 1h\n")
	_, err = Load(file)
	if want := file + ":4: leaf.lifetme: unknown key (nearest: lifetime)"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	write(minimal + "seal: {keyFile: " + dir + "/mesh/key}\n") // absolute, in a folder that is written relatively
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "handed to services") {
		t.Errorf("seal in the target: %v", err)
	}
	write(strings.Repeat("#", maxSize+1))
	if _, err := Load(file); err == nil || err.Error() != file+": is larger than 1 MiB" {
		t.Errorf("too large: %v", err)
	}
	if _, err := Load(file + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	var many, few strings.Builder
	for i := range 301 {
		fmt.Fprintf(&many, "- name: a%d\n", i)
		if i < 300 {
			fmt.Fprintf(&few, "- name: a%d\n", i)
		}
	}
	tests := []struct {
		name, text string
		line       int
		field      string
		message    string
	}{
		{"no services", "", 1, "services", "no certificate will be issued"},
		{"no services, written", "services: []\n", 3, "services", "no certificate will be issued"},
		{"leaf key", "leaf: {key: Ed25519}\nservices: [{name: a}]\n", 3, "leaf.key", "Envoy's defaults and libpq's channel binding"},
		{"service key", "services:\n- name: a\n- name: b\n  key: Ed25519\n", 6, "services[1].key", "Envoy's defaults and libpq's channel binding"},
		{"backdate", "leaf: {backdate: 24h, lifetime: 200h}\nservices: [{name: a}]\n", 3, "leaf.backdate", "24h is cut to a tenth of leaf.lifetime, 20h"},
		{"one folder", "seal: {keyFile: data/key}\nservices: [{name: a}]\n", 3, "seal.keyFile", `shares the folder "data"`},
		{"every Secret", "target:\n  kubernetes:\n    watch: namespace\nservices: [{name: a}]\n", 4, "target.kubernetes.watch", "needs the right to read every Secret"},
		{"many watches", "target: {kubernetes: {}}\nservices:\n" + many.String(), 2, "target.kubernetes.watch", "80 kB of memory for each of 301 services, 24 MB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := minimal + tt.text
			if strings.HasPrefix(tt.text, "target:") {
				text = "version: 1\n" + tt.text
			}
			got := parsed(t, text).Warnings()
			if len(got) != 1 || got[0].Line != tt.line || got[0].Field != tt.field || !strings.Contains(got[0].Message, tt.message) {
				t.Errorf("got %+v", got)
			}
		})
	}
	for _, text := range []string{cluster + "services:\n" + few.String(), "version: 1\ntarget: {kubernetes: {watch: none}}\nservices:\n" + many.String(), minimal + "services:\n" + many.String()} {
		if got := parsed(t, text).Warnings(); got != nil {
			t.Errorf("got %+v", got)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 720 * time.Hour: "720h", 90 * time.Minute: "1h30m", time.Hour + time.Second: "1h0m1s", 10 * time.Second: "10s",
		20 * time.Minute: "20m", -time.Hour: "-1h",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%d: got %s, want %s", d, got, want)
		}
	}
	var d Duration
	if err := yaml.Unmarshal([]byte("1h30m"), &d); err != nil || d.Std() != 90*time.Minute {
		t.Errorf("got %s, %v", d, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(string(example))
	f.Add(clusterExample(f))
	for _, tt := range refusals {
		f.Add(tt.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text))
		if err == nil {
			again(t, c)
			return
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || len(e.Problems) == 0 {
			t.Fatalf("no problems in %v", err)
		}
		for _, p := range e.Problems {
			if p.Line < 1 || p.Message == "" || strings.ContainsAny(p.Error()+p.Hint, "\n\r") {
				t.Errorf("problem %+v", p)
			}
		}
	})
}
