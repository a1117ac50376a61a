package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/meshca/meshca/kube/guard"
)

// passes: what is not meshca's is free, for everybody who has the right to it, without a word.
func passes(w *world) {
	for _, account := range accounts {
		w.reset()
		same := w.must("", "get", "secret", managed, "-o", "json")
		for _, a := range []attack{
			{name: "a foreign key", args: patch + `{"stringData":{"other":"x"}}`},
			{name: "a foreign key's removal", args: patch + `{"data":{"foreign":null}}`},
			{name: "a foreign label", args: "label secret pgadmin-mtls-cert app=pgadmin"},
			{name: "a foreign label's removal", args: "label secret pgadmin-mtls-cert app-"},
			{name: "a label whose name only begins alike", args: "label secret pgadmin-mtls-cert meshca.io.example.com/x=y"},
			{name: "a foreign annotation", args: "annotate secret pgadmin-mtls-cert kubectl.kubernetes.io/last-applied-configuration=x"},
			{name: "a foreign annotation's removal", args: "annotate secret pgadmin-mtls-cert kubectl.kubernetes.io/last-applied-configuration-"},
			{name: "what changes nothing", args: "apply --server-side --force-conflicts -f -", stdin: managedYAML},
			{name: "what is there", args: "apply -f -", stdin: managedYAML},
			{name: "immutable: false", args: patch + `{"immutable":false}`},
			{name: "a whole object with nothing of meshca's changed", args: "replace -f -",
				stdin: strings.Replace(withoutVersion(same), `"meshca.io/service": "pgadmin"`, `"meshca.io/service": "pgadmin", "a": "b"`, 1)},
			{name: "a foreign Secret's data", args: `patch secret foreign -p {"stringData":{"tls.crt":"x"}}`},
			{name: "a foreign Secret's annotation of meshca's", args: "annotate secret foreign meshca.io/x=y"},
			{name: "a foreign Secret that becomes immutable", args: `patch secret foreign -p {"immutable":true}`},
			{name: "a foreign Secret's end", args: "delete secret foreign"},
			{name: "a new Secret", args: "create secret generic other --from-literal=tls.crt=x"},
			{name: "a collection's end", args: "delete --raw /api/v1/namespaces/payments/secrets?labelSelector=!meshca.io/service"},
		} {
			if out, err := w.try(a, account.flags); err != nil || strings.Contains(out, "ValidatingAdmissionPolicy") {
				w.t.Errorf("%s by %s: %v\n%s", a.name, account.name, err, out)
			}
		}
	}
	// A name of the catalogue is one in its own namespace only.
	w.must("", "create", "secret", "generic", absent, "--namespace=default")
}

// withoutVersion takes the line out of an object by which an old one would be refused.
func withoutVersion(json string) string {
	var b strings.Builder
	for line := range strings.Lines(json) {
		if !strings.Contains(line, `"resourceVersion"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// letsMeshca: its own account does all of it.
func letsMeshca(w *world) {
	w.reset()
	for _, a := range attacks {
		w.reset()
		if out, err := w.try(a, []string{asMeshca}); err != nil || strings.Contains(out, "ValidatingAdmissionPolicy") {
			w.t.Errorf("%s: %v\n%s", a.name, err, out)
		}
	}
}

// typeChecks: the API server's own check of the expressions finds nothing.
func typeChecks(w *world) {
	for _, policy := range []string{"meshca-managed-secrets", "meshca-catalogue-names", "meshca-trust-bundle", "meshca-broken-glass"} {
		w.await("the types are checked", func() error {
			status := w.must("", "get", "validatingadmissionpolicy", policy, "-o", "jsonpath={.status.typeChecking}")
			if status != "{}" {
				return fmt.Errorf("%s: %s", policy, status)
			}
			return nil
		})
	}
}

// letsNamespacesDie: a namespace takes its managed Secrets along, whoever may delete it.
func letsNamespacesDie(w *world) {
	w.guard(guard.Options{Mode: guard.Deny, Secrets: append(protected, guard.Name{Namespace: "doomed", Name: managed})})
	w.must("", "create", "namespace", "doomed")
	w.must(manifest("namespace: payments", "namespace: doomed"), "apply", "--server-side", "--namespace=doomed", asMeshca, "-f", "-")
	if out, err := w.run("", "delete", "secret", managed, "--namespace=doomed"); err == nil || !strings.Contains(out, wantDelete) {
		w.t.Fatalf("it is not guarded: %v\n%s", err, out)
	}
	w.publishBundle("doomed")
	w.await("its trust bundle is guarded", func() error { // each policy is taken up by itself
		if out, err := w.run("", "delete", "configmap", guard.TrustBundle, "--namespace=doomed", "--dry-run=server"); err == nil || !strings.Contains(out, wantBundleKept) {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	})
	if out, err := w.run("", "delete", "namespace", "doomed", "--timeout=30s"); err != nil {
		w.t.Errorf("the namespace does not die: %v\n%s\n%s", err, out, w.must("", "get", "namespace", "doomed", "-o", "yaml"))
	}
}

// breaksGlass: whoever may impersonate does what nobody else may, the audit log has both names, and whoever may not
// impersonate does not get there. The rights are those of docs/guard.md.
func breaksGlass(w *world) {
	w.reset()
	w.must(documented(w, "break-glass.yaml"), "apply", "-f", "-")
	oncall, outsider := w.token("oncall"), w.token("outsider")
	glass := []string{"--as=" + guard.BreakGlassUser, "--as-group=" + guard.BreakGlassGroup}
	write := append(strings.Split(patch+`{"metadata":{"annotations":{"meshca.io/break-glass":"wrong-root"}},"stringData":{"ca.crt":"PLACEHOLDER"}}`, " "), glass...)

	before := w.state()
	out, err := w.runWith(outsider, write...)
	if err == nil || !strings.Contains(out, "cannot impersonate") || w.state() != before {
		w.t.Errorf("somebody who may not impersonate: %v\n%s", err, out)
	}
	// The group alone is reached under no other name.
	if out, err := w.runWith(oncall, append(write, "--as=alice")...); err == nil || !strings.Contains(out, "cannot impersonate") {
		w.t.Errorf("under another's name: %v\n%s", err, out)
	}
	w.wantsReason(oncall, glass)
	if out, err := w.runWith(oncall, write...); err != nil || strings.Contains(out, "ValidatingAdmissionPolicy") {
		w.t.Fatalf("whoever may break the glass does not: %v\n%s", err, out)
	}
	if got := w.must("", "get", "secret", managed, "-o", `jsonpath={.data.ca\.crt} {.metadata.annotations.meshca\.io/break-glass}`); got != "UExBQ0VIT0xERVI= wrong-root" {
		w.t.Errorf("the Secret holds %q", got)
	}
	w.audited(`"verb":"patch"`, `"username":"system:serviceaccount:payments:oncall"`,
		`"impersonatedUser":{"username":"meshca:break-glass","groups":["meshca:break-glass"`, `"code":200`)
	// With the reason on the Secret, further writes need no other; without it there are none.
	again := patch + `{"stringData":{"tls.crt":"PLACEHOLDER"}}`
	if out, err := w.runWith(oncall, append(strings.Split(again, " "), glass...)...); err != nil || strings.Contains(out, "ValidatingAdmissionPolicy") {
		w.t.Errorf("another write: %v\n%s", err, out)
	}
	// It is broken for those writes only.
	if out, err := w.run("", "annotate", "secret", managed, "meshca.io/break-glass-"); err == nil || !strings.Contains(out, wantAnnotations) {
		w.t.Errorf("the reason can be taken away: %v\n%s", err, out)
	}
	// The rights are no more than were given: no deletion, no list of Secrets, no other namespace.
	for _, args := range [][]string{{"delete", "secret", managed}, {"get", "secrets"}, {"get", "secret", absent, "--namespace=default"}} {
		if out, err := w.runWith(oncall, append(args, glass...)...); err == nil || !strings.Contains(out, `User "meshca:break-glass" cannot`) {
			w.t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
	// cluster-admin has the right to impersonate, and to all else by its group.
	w.must("", append([]string{"delete", "secret", managed, "--as-group=system:masters"}, glass...)...)
}

// wantsReason: who breaks the glass and does not say why is refused, and told how.
func (w *world) wantsReason(token string, glass []string) {
	w.t.Helper()
	before := w.state()
	for name, metadata := range map[string]string{
		"no reason": `{}`, "an empty one": `{"annotations":{"meshca.io/break-glass":""}}`, "a blank one": `{"annotations":{"meshca.io/break-glass":"\t"}}`,
		"another annotation": `{"annotations":{"meshca.io/reason":"x"}}`, "a label": `{"labels":{"meshca.io/break-glass":"x"}}`, "the label goes": `{"labels":{"meshca.io/service":null}}`,
	} {
		for _, change := range []string{`"stringData":{"ca.crt":"PLACEHOLDER"}`, `"data":{"tls.key":null}`, `"data":null`} {
			args := strings.Split(patch+`{"metadata":`+metadata+`,`+change+`}`, " ")
			out, err := w.runWith(token, append(args, glass...)...)
			if err == nil || !strings.Contains(out, "denied request") || !strings.Contains(out, wantReason) || w.state() != before {
				w.t.Errorf("%s, %s: %v, want a refusal that says %q\n%s", name, change, err, wantReason, out)
			}
			wantNoData(w.t, out)
		}
	}
	// What is not healed over needs no reason.
	for _, change := range []string{`{"stringData":{"foreign":"x"}}`, `{"metadata":{"labels":{"a":"b"}}}`} {
		if out, err := w.runWith(token, append(strings.Split(patch+change, " "), append(glass, "--dry-run=server")...)...); err != nil {
			w.t.Errorf("%s: %v\n%s", change, err, out)
		}
	}
}

// documented is the file of that name that docs/guard.md shows.
func documented(w *world, name string) string {
	w.t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "guard.md"))
	if err != nil {
		w.t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "\n    # "+name+"\n")
	if !found {
		w.t.Fatalf("docs/guard.md does not show %s", name)
	}
	var file strings.Builder
	for line := range strings.Lines(rest) {
		code, indented := strings.CutPrefix(line, "    ")
		if !indented {
			break
		}
		file.WriteString(code)
	}
	return file.String()
}

// takesLargeCatalogues: with a thousand of the longest usual names, each is guarded, and others are free.
func takesLargeCatalogues(w *world) {
	names := catalogue(1000)
	w.must("", "create", "namespace", names[0].Namespace)
	w.guard(guard.Options{Mode: guard.Deny, Secrets: names})
	create := func(name string) (string, error) {
		return w.run("", "create", "secret", "generic", name, "--dry-run=server", "--namespace="+names[0].Namespace)
	}
	for _, i := range []int{0, 500, 999} {
		if out, err := create(names[i].Name); err == nil || !strings.Contains(out, wantName) {
			w.t.Errorf("name %d: %v\n%s", i, err, out)
		}
	}
	if out, err := create("other"); err != nil {
		w.t.Errorf("a foreign name: %v\n%s", err, out)
	}
}

// removes: what mode off says takes all of it out of the cluster.
func removes(w *world) {
	w.reset()
	_, command, _ := strings.Cut(string(render(w.t, guard.Options{Mode: guard.Off})), "kubectl ")
	w.must("", strings.Fields(command)...)
	if left := w.must("", "get", "validatingadmissionpolicies,validatingadmissionpolicybindings", "-o", "name"); strings.Contains(left, "meshca") {
		w.t.Errorf("left: %s", left)
	}
	w.await("the guard is gone", func() error {
		out, err := w.run("", "delete", "secret", managed, "--dry-run=server")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}
