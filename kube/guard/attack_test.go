package guard_test

import (
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/meshca/meshca/kube/guard"
)

// An attack is a write that the guard is against.
type attack struct {
	name  string
	args  string // of kubectl; a word of its own for each space
	stdin string
	want  string // of the message: what to do instead
}

// What the messages say of each rule.
const (
	wantKeys        = "tls.crt, tls.key and ca.crt of this Secret are meshca's, which would put them back: leave them as they are"
	wantLabels      = "labels meshca.io/* of this Secret are meshca's: do not add, change or remove them"
	wantAnnotations = "annotations meshca.io/* of this Secret are meshca's: do not add, change or remove them"
	wantOwners      = "ownerReferences of this Secret are meshca's"
	wantImmutable   = "leave immutable as it is"
	wantDelete      = "meshca keeps this Secret for a service that cannot start without it: leave it"
	wantLabelled    = "only meshca makes Secrets with the label meshca.io/service: leave the label out"
	wantName        = "this name is in meshca's catalogue, and meshca makes the Secret itself: wait for it, or use another name"
	wantReason      = "give it the annotation meshca.io/break-glass=<reason> in the same write"
	wantGlass       = "kubectl --as=meshca:break-glass --as-group=meshca:break-glass"
)

// placeholder is the manifest of that night: the Secret's name, and text in place of certificates.
func placeholder(name string) string {
	return `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"` + name + `"},"stringData":{"tls.crt":"PLACEHOLDER","tls.key":"PLACEHOLDER","ca.crt":"PLACEHOLDER"}}`
}

// manifest is meshca's own, with something exchanged.
func manifest(oldnew ...string) string { return strings.NewReplacer(oldnew...).Replace(managedYAML) }

const patch = "patch secret pgadmin-mtls-cert --type=merge -p "

// manyAnnotations are more than the guard looks at.
func manyAnnotations() string {
	var b strings.Builder
	for i := range 1001 {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(`"` + long(9, i) + `":""`)
	}
	return b.String()
}

var attacks = []attack{
	{"merge patch of ca.crt", patch + `{"data":{"ca.crt":"UExBQ0VIT0xERVI="}}`, "", wantKeys},
	{"merge patch of tls.key", patch + `{"data":{"tls.key":"UExBQ0VIT0xERVI="}}`, "", wantKeys},
	{"strategic patch of stringData", `patch secret pgadmin-mtls-cert -p {"stringData":{"tls.crt":"PLACEHOLDER"}}`, "", wantKeys},
	{"JSON patch", `patch secret pgadmin-mtls-cert --type=json -p [{"op":"replace","path":"/data/tls.crt","value":"UExBQ0VIT0xERVI="}]`, "", wantKeys},
	{"JSON patch that moves a key", `patch secret pgadmin-mtls-cert --type=json -p [{"op":"move","from":"/data/foreign","path":"/data/ca.crt"}]`, "", wantKeys},
	{"empty key", patch + `{"data":{"ca.crt":""}}`, "", wantKeys},
	{"remove a key", patch + `{"data":{"ca.crt":null}}`, "", wantKeys},
	{"remove all data", patch + `{"data":null}`, "", wantKeys},
	{"PUT of other data", "replace -f -", manifest("HIDDEN-bundle", "PLACEHOLDER"), wantKeys},
	{"PUT without data", "replace -f -", manifest("stringData", "# stringData"), wantKeys},
	{"apply of a placeholder", "apply -f -", placeholder(managed), wantKeys},
	{"server-side apply by force", "apply --server-side --force-conflicts -f -", placeholder(managed), wantKeys},
	{"server-side apply by force as manager meshca", "apply --server-side --force-conflicts --field-manager=meshca -f -", placeholder(managed), wantKeys},
	{"data with a reason to break the glass, without its group",
		patch + `{"metadata":{"annotations":{"meshca.io/break-glass":"because"}},"stringData":{"ca.crt":"PLACEHOLDER"}}`, "", wantKeys},

	{"take the label away", "label secret pgadmin-mtls-cert meshca.io/service-", "", wantLabels},
	{"change the label", "label secret pgadmin-mtls-cert --overwrite meshca.io/service=envoy", "", wantLabels},
	{"another label of meshca's", "label secret pgadmin-mtls-cert meshca.io/x=y", "", wantLabels},
	{"take all labels away", patch + `{"metadata":{"labels":null}}`, "", wantLabels},
	{"PUT without the label", "replace -f -", manifest("meshca.io/service", "service"), wantLabels},
	{"put the label on another Secret", "label secret foreign meshca.io/service=foreign", "", wantLabels},

	{"change an annotation", "annotate secret pgadmin-mtls-cert --overwrite meshca.io/stamp=two", "", wantAnnotations},
	{"another annotation of meshca's", "annotate secret pgadmin-mtls-cert meshca.io/x=y", "", wantAnnotations},
	{"remove an annotation", "annotate secret pgadmin-mtls-cert meshca.io/stamp-", "", wantAnnotations},
	{"remove all annotations", `patch secret pgadmin-mtls-cert --type=json -p [{"op":"remove","path":"/metadata/annotations"}]`, "", wantAnnotations},
	{"rest the healing, without the group", "annotate secret pgadmin-mtls-cert meshca.io/break-glass=because", "", wantAnnotations},
	{"more annotations than are looked at", patch + `{"metadata":{"annotations":{` + manyAnnotations() + `}}}`, "", wantAnnotations},

	{"an owner", patch + `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"1"}]}}`, "", wantOwners},
	{"immutable", patch + `{"immutable":true}`, "", wantImmutable},

	{"delete", "delete secret pgadmin-mtls-cert", "", wantDelete},
	{"delete by force", "delete secret pgadmin-mtls-cert --force --grace-period=0", "", wantDelete},
	{"delete all", "delete secrets --field-selector=metadata.name=pgadmin-mtls-cert", "", wantDelete},
	{"deletecollection", "delete --raw /api/v1/namespaces/payments/secrets?labelSelector=meshca.io/service", "", wantDelete},
	{"replace by delete and create", "replace --force -f -", placeholder(managed), wantDelete},

	{"create under a name of the catalogue", "create -f -", placeholder(absent), wantName},
	{"apply under a name of the catalogue", "apply --server-side -f -", placeholder(absent), wantName},
	{"create with the label", "create -f -", manifest(managed, "elsewhere"), wantLabelled},
	{"create with the label under a made up name", "create -f -", manifest("name: "+managed, "generateName: else"), wantLabelled},
}

// TestGuard is one cluster for all that the policies do in it: each part leaves the guard as the next wants it.
func TestGuard(t *testing.T) {
	w := newWorld(t)
	for _, part := range []struct {
		name string
		run  func(*world)
	}{
		{"warn", warns}, {"deny", denies}, {"bundle", guardsTheBundle}, {"passes", passes}, {"meshca", letsMeshca},
		{"types", typeChecks}, {"namespace", letsNamespacesDie}, {"glass", breaksGlass}, {"large", takesLargeCatalogues}, {"off", removes},
	} {
		t.Run(part.name, func(t *testing.T) {
			outer := w.t
			defer func() { w.t = outer }()
			w.t = t
			part.run(w)
		})
	}
}

// protected is the catalogue of most parts.
var protected = []guard.Name{{Namespace: namespace, Name: managed}, {Namespace: namespace, Name: absent}}

// try makes an attack and returns what its author is told.
func (w *world) try(a attack, flags []string) (out string, err error) {
	return w.run(a.stdin, append(strings.Split(a.args, " "), flags...)...)
}

// warns: in mode warn every attack passes, its author is warned, and nothing of the data is said.
func warns(w *world) {
	w.guard(guard.Options{Mode: guard.Warn, Secrets: protected})
	for _, a := range attacks {
		w.reset()
		out, err := w.try(a, nil)
		if err != nil || !strings.Contains(out, "Warning: Validation failed for ValidatingAdmissionPolicy 'meshca-") || !strings.Contains(out, a.want) {
			w.t.Errorf("%s: %v, want a warning that says %q\n%s", a.name, err, a.want, out)
		}
		if !strings.Contains(a.args, "--raw") { // which is asked to print what was deleted
			wantNoData(w.t, out)
		}
	}
	w.audited("validation.policy.admission.k8s.io/validation_failure", wantDelete, `"username":"admin"`)
}

// denies: in mode deny every attack is refused whoever makes it, changes nothing, and its message says what to
// do and nothing of the data. Since each changes nothing, they are made at once.
func denies(w *world) {
	w.guard(guard.Options{Mode: guard.Deny, Secrets: protected})
	w.reset()
	before := w.state()
	for _, account := range accounts {
		var group errgroup.Group
		group.SetLimit(4)
		for _, a := range attacks {
			group.Go(func() error {
				out, err := w.try(a, account.flags)
				if err == nil || !strings.Contains(out, "denied request") || !strings.Contains(out, a.want) || !strings.Contains(out, wantGlass) {
					w.t.Errorf("%s by %s: %v, want a refusal that says %q\n%s", a.name, account.name, err, a.want, out)
				}
				wantNoData(w.t, out)
				return nil
			})
		}
		_ = group.Wait() // no error is returned above
		if after := w.state(); after != before {
			w.t.Fatalf("what %s has tried has changed something: it was\n%s\nand is\n%s", account.name, before, after)
		}
		// The others are deleted, this one is kept.
		out, err := w.run("", append([]string{"delete", "secrets", "--all"}, account.flags...)...)
		if err == nil || !strings.Contains(out, wantDelete) {
			w.t.Errorf("delete --all by %s: %v\n%s", account.name, err, out)
		}
		if kept := w.must("", "get", "secrets", "-o", "name"); strings.TrimSpace(kept) != "secret/"+managed {
			w.t.Errorf("delete --all by %s leaves %q", account.name, kept)
		}
		w.reset()
		before = w.state()
	}
}
