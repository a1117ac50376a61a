package guard_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/meshca/meshca/kube/guard"
)

// An object is what of a rendered object is looked at here.
type object struct {
	Kind     string
	Metadata struct {
		Name   string
		Labels map[string]string
	}
	Spec struct {
		FailurePolicy     string                        `yaml:"failurePolicy"`
		ValidationActions []string                      `yaml:"validationActions"`
		MatchConditions   []struct{ Expression string } `yaml:"matchConditions"`
		Validations       []struct{ Expression string }
	}
}

func objects(t interface{ Fatal(...any) }, rendered []byte) []object {
	var all []object
	for d := yaml.NewDecoder(bytes.NewReader(rendered)); ; {
		var o object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if o.Kind != "" { // the comment at the head is a document too
			all = append(all, o)
		}
	}
}

func render(t testing.TB, o guard.Options) []byte {
	t.Helper()
	rendered, err := guard.Render(o)
	if err != nil {
		t.Fatal(err)
	}
	return rendered
}

// TestRender: four policies that fail closed, four bindings of the mode, all with the labels to remove them by.
func TestRender(t *testing.T) {
	for mode, actions := range map[guard.Mode][]string{"": {"Warn", "Audit"}, guard.Warn: {"Warn", "Audit"}, guard.Deny: {"Deny"}} {
		all := objects(t, render(t, guard.Options{Mode: mode, Secrets: []guard.Name{{Namespace: "payments", Name: "envoy-mtls-cert"}}}))
		var kinds []string
		for _, o := range all {
			kinds = append(kinds, o.Kind+" "+o.Metadata.Name)
			if o.Metadata.Labels["app.kubernetes.io/name"] != "meshca" || o.Metadata.Labels["app.kubernetes.io/component"] != "guard" {
				t.Errorf("%s has labels %v", o.Metadata.Name, o.Metadata.Labels)
			}
			if strings.HasSuffix(o.Kind, "Binding") && !slices.Equal(o.Spec.ValidationActions, actions) {
				t.Errorf("mode %q: %s has %v", mode, o.Metadata.Name, o.Spec.ValidationActions)
			}
			if !strings.HasSuffix(o.Kind, "Binding") && o.Spec.FailurePolicy != "Fail" {
				t.Errorf("%s has failurePolicy %q", o.Metadata.Name, o.Spec.FailurePolicy)
			}
		}
		want := []string{
			"ValidatingAdmissionPolicy meshca-managed-secrets", "ValidatingAdmissionPolicyBinding meshca-managed-secrets",
			"ValidatingAdmissionPolicy meshca-catalogue-names", "ValidatingAdmissionPolicyBinding meshca-catalogue-names",
			"ValidatingAdmissionPolicy meshca-trust-bundle", "ValidatingAdmissionPolicyBinding meshca-trust-bundle",
			"ValidatingAdmissionPolicy meshca-broken-glass", "ValidatingAdmissionPolicyBinding meshca-broken-glass",
		}
		if !slices.Equal(kinds, want) {
			t.Errorf("mode %q: %q", mode, kinds)
		}
	}
}

// TestOff prints nothing that could be applied, and how to remove.
func TestOff(t *testing.T) {
	out := string(render(t, guard.Options{Mode: guard.Off}))
	if !strings.Contains(out, "kubectl delete validatingadmissionpolicybinding,validatingadmissionpolicy -l ") {
		t.Errorf("it does not say how to remove:\n%s", out)
	}
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "#") {
			t.Errorf("it prints something to apply: %s", line)
		}
	}
}

// TestDeterministic: the order in which names are given, and how often, does not matter.
func TestDeterministic(t *testing.T) {
	a, b, c := guard.Name{Namespace: "a", Name: "z"}, guard.Name{Namespace: "b", Name: "a"}, guard.Name{Namespace: "b", Name: "b.c"}
	one := render(t, guard.Options{Secrets: []guard.Name{a, b, c}})
	other := render(t, guard.Options{Secrets: []guard.Name{c, b, a, c}})
	if !bytes.Equal(one, other) {
		t.Errorf("they differ:\n%s\n%s", one, other)
	}
}

func TestRefusals(t *testing.T) {
	secret := func(namespace, name string) guard.Options {
		return guard.Options{Secrets: []guard.Name{{Namespace: namespace, Name: name}}}
	}
	for _, c := range []struct {
		options guard.Options
		want    string
	}{
		{guard.Options{Mode: "strict"}, `mode "strict" is not warn, deny or off`},
		{guard.Options{Mode: "Deny"}, `mode "Deny" is not`},
		{guard.Options{User: "x' || 'a' == 'a"}, "is no name of an account"},
		{guard.Options{User: "x\"\n    expression: true"}, "is no name of an account"},
		{guard.Options{User: "x'y"}, "is no name of an account"},
		{guard.Options{User: `x"y`}, "is no name of an account"},
		{guard.Options{User: `x\y`}, "is no name of an account"},
		{guard.Options{User: "x y"}, "is no name of an account"},
		{guard.Options{User: "x\ny"}, "is no name of an account"},
		{guard.Options{User: "-x"}, "is no name of an account"},
		{guard.Options{User: "x\n"}, "is no name of an account"},
		{guard.Options{User: strings.Repeat("x", 254)}, "has 254 bytes"},
		{guard.Options{User: "system:anonymous"}, "is whoever"},
		{guard.Options{User: "meshca:break-glass"}, "break the glass"},
		{guard.Options{User: "system:serviceaccount:meshca"}, "is no ServiceAccount"},
		{guard.Options{User: "system:serviceaccount:meshca:"}, "is no ServiceAccount"},
		{guard.Options{User: "system:serviceaccount:Meshca:meshca"}, "is no ServiceAccount"},
		{guard.Options{User: "system:serviceaccount:a:b:c"}, "is no ServiceAccount"},
		{secret("", "a"), `namespace "" is empty`},
		{secret("a.b", "a"), `namespace "a.b" holds '.'`},
		{secret("a", ""), `secret "" in namespace a is no DNS subdomain`},
		{secret("a", "b'] || ['"), "is no DNS subdomain"},
		{secret("a", "b\n"), "is no DNS subdomain"},
		{secret("a", "b'c"), "is no DNS subdomain"},
		{secret("a", "b..c"), "is no DNS subdomain"},
		{secret("a", "B"), "is no DNS subdomain"},
		{secret("a", strings.Repeat("b", 254)), "has 254 bytes"},
	} {
		if out, err := guard.Render(c.options); err == nil || !strings.Contains(err.Error(), c.want) || out != nil {
			t.Errorf("%+v: %v, want %q", c.options, err, c.want)
		}
	}
}

// TestNothingIsInjected: whatever is said in the options is refused, or stands where it belongs and nowhere else.
func TestNothingIsInjected(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z][:'"\\ \n#@/]?[a-z]`), rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,70}[a-z0-9])?`))
		o := guard.Options{
			Mode:    rapid.SampledFrom([]guard.Mode{guard.Warn, guard.Deny}).Draw(t, "mode"),
			User:    text.Draw(t, "user"),
			Secrets: []guard.Name{{Namespace: rapid.SampledFrom([]string{"a", "b", "b'"}).Draw(t, "namespace"), Name: text.Draw(t, "name")}},
		}
		rendered, err := guard.Render(o)
		if err != nil {
			return
		}
		if o.User == "" {
			o.User = guard.DefaultUser
		}
		all := objects(t, rendered)
		user := fmt.Sprintf("request.userInfo.username != '%s'", o.User)
		if len(all) != 8 {
			t.Fatalf("user %q:\n%s", o.User, rendered)
		}
		for i := 0; i < len(all); i += 2 {
			if all[i].Spec.MatchConditions[0].Expression != user {
				t.Fatalf("user %q:\n%s", o.User, rendered)
			}
		}
		name := fmt.Sprintf("!(variables.secret in [\n'%s/%s'])", o.Secrets[0].Namespace, o.Secrets[0].Name)
		if rules := all[2].Spec.Validations; len(rules) != 1 || rules[0].Expression != name {
			t.Fatalf("secret %q:\n%s", o.Secrets, rendered)
		}
		// In CEL each is one text: it ends where it should.
		if text := user + name; strings.Count(text, "'") != 4 || strings.ContainsAny(text, "\\\"") {
			t.Fatalf("user %q and secret %q leave their quotes", o.User, o.Secrets)
		}
	})
}

// long is a name of n bytes that ends in a number.
func long(n, i int) string {
	return fmt.Sprintf("%s%05d", strings.Repeat("x", n-5), i)
}

// catalogue is as many of the longest names as config gives a Secret without being told one.
func catalogue(n int) []guard.Name {
	var names []guard.Name
	for i := range n {
		names = append(names, guard.Name{Namespace: long(63, 0), Name: long(63, i) + "-mtls-cert"})
	}
	return names
}

// TestLargest: a thousand of the longest usual names are taken, in expressions that the API server's parser takes;
// what kubectl apply could not take is refused by name.
func TestLargest(t *testing.T) {
	var found int
	for _, o := range objects(t, render(t, guard.Options{Secrets: catalogue(1000)})) {
		for _, v := range o.Spec.Validations {
			if len(v.Expression) > 100_000 {
				t.Errorf("an expression has %d bytes", len(v.Expression))
			}
			found += strings.Count(v.Expression, "-mtls-cert'")
		}
	}
	if found != 1000 {
		t.Errorf("%d names are in the policy", found)
	}
	var names []guard.Name
	for i := range 1000 {
		names = append(names, guard.Name{Namespace: long(63, i), Name: long(253, i)})
	}
	if _, err := guard.Render(guard.Options{Secrets: names}); err == nil || !strings.Contains(err.Error(), "1000 Secrets have") {
		t.Errorf("too large: %v", err)
	}
}
