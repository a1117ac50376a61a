package guard_test

import (
	"fmt"
	"strings"

	"github.com/meshca/meshca/kube/guard"
)

// What the messages say of the trust bundle's ConfigMap.
const (
	wantBundle       = "ca.crt of this ConfigMap is meshca's, which would put it back: leave it as it is"
	wantBundleKept   = "meshca keeps the trust bundle of the mesh here, for whoever verifies by it: leave it"
	wantBundleMade   = "meshca makes this ConfigMap itself, with the trust bundle of the mesh: wait for it, or use another name"
	wantBundleFitted = "meshca brings this ConfigMap up to date: leave immutable and ownerReferences as they are"
)

const patchBundle = "patch configmap meshca-ca --type=merge -p "

// configMap is one of that name that holds a ca.crt, and a key of somebody else's.
func configMap(name, bundle string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"ca.crt":%q,"foreign":"x"}}`, name, bundle)
}

// bundleAttacks are made on a ConfigMap that is there.
var bundleAttacks = []attack{
	{"merge patch", patchBundle + `{"data":{"ca.crt":"PLACEHOLDER"}}`, "", wantBundle},
	{"a key's removal", patchBundle + `{"data":{"ca.crt":null}}`, "", wantBundle},
	{"the removal of all data", patchBundle + `{"data":null}`, "", wantBundle},
	{"binaryData in its stead", patchBundle + `{"data":{"ca.crt":null},"binaryData":{"ca.crt":"UExBQ0VIT0xERVI="}}`, "", wantBundle},
	{"PUT", "replace -f -", configMap(guard.TrustBundle, "PLACEHOLDER"), wantBundle},
	{"server-side apply by force as manager meshca", "apply --server-side --force-conflicts --field-manager=meshca -f -", configMap(guard.TrustBundle, "PLACEHOLDER"), wantBundle},
	{"immutable", patchBundle + `{"immutable":true}`, "", wantBundleFitted},
	{"immutable, with another bundle", patchBundle + `{"immutable":true,"data":{"ca.crt":"PLACEHOLDER"}}`, "", wantBundle},
	{"an owner", patchBundle + `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Secret","name":"x","uid":"1"}]}}`, "", wantBundleFitted},
	{"delete", "delete configmap meshca-ca", "", wantBundleKept},
	{"delete all", "delete configmaps --field-selector=metadata.name=meshca-ca", "", wantBundleKept},
	{"deletecollection", "delete --raw /api/v1/namespaces/payments/configmaps?fieldSelector=metadata.name=meshca-ca", "", wantBundleKept},
}

// bundleMakers are made where there is none.
var bundleMakers = []attack{
	{"create", "create -f -", configMap(guard.TrustBundle, "PLACEHOLDER"), wantBundleMade},
	{"server-side apply", "apply --server-side -f -", configMap(guard.TrustBundle, "PLACEHOLDER"), wantBundleMade},
	{"an immutable one", "create -f -", `{"apiVersion":"v1","kind":"ConfigMap","immutable":true,"metadata":{"name":"meshca-ca"},"data":{"ca.crt":"PLACEHOLDER"}}`, wantBundleMade},
}

// publishBundle applies the ConfigMap as meshca does.
func (w *world) publishBundle(namespace string) {
	w.t.Helper()
	w.must(configMap(guard.TrustBundle, "bundle"), "apply", "--server-side", "--force-conflicts", "--field-manager=meshca", asMeshca, "--namespace="+namespace, "-f", "-")
}

// guardsTheBundle: what everybody verifies by is changed by nobody else, in no namespace of the catalogue.
func guardsTheBundle(w *world) {
	w.guard(guard.Options{Mode: guard.Deny, Secrets: protected})
	refused := func(a attack, account string, flags []string) {
		w.t.Helper()
		out, err := w.try(a, flags)
		if err == nil || !strings.Contains(out, "denied request") || !strings.Contains(out, a.want) || !strings.Contains(out, wantGlass) {
			w.t.Errorf("%s by %s: %v, want a refusal that says %q\n%s", a.name, account, err, a.want, out)
		}
		wantNoData(w.t, out)
	}
	for _, account := range accounts {
		for _, a := range bundleMakers {
			refused(a, account.name, account.flags)
		}
	}
	w.publishBundle(namespace)
	look := func() string {
		return w.must("", "get", "configmap", guard.TrustBundle, "-o", `jsonpath={.metadata.resourceVersion} {.data} {.binaryData}`)
	}
	before := look()
	for _, account := range accounts {
		for _, a := range bundleAttacks {
			refused(a, account.name, account.flags)
		}
	}
	if after := look(); after != before {
		w.t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	for _, a := range []attack{
		{name: "a foreign key", args: patchBundle + `{"data":{"foreign":"y","other":"x"}}`},
		{name: "a label", args: "label configmap meshca-ca app=x"},
		{name: "what changes nothing", args: "apply --server-side --force-conflicts -f -", stdin: configMap(guard.TrustBundle, "bundle")},
		{name: "another ConfigMap", args: "create -f -", stdin: configMap("other", "x")},
		{name: "another's end", args: "delete configmap other"},
		{name: "one outside the catalogue's namespaces", args: "create --namespace=default -f -", stdin: configMap(guard.TrustBundle, "x")},
	} {
		if out, err := w.try(a, nil); err != nil || strings.Contains(out, "ValidatingAdmissionPolicy") {
			w.t.Errorf("%s: %v\n%s", a.name, err, out)
		}
	}
	// An immutable one from before is deleted through the glass, and meshca makes it anew.
	w.must("", "patch", "configmap", guard.TrustBundle, "--type=merge", "-p", `{"immutable":true}`, asMeshca)
	w.must("", "delete", "configmap", guard.TrustBundle, "--as="+guard.BreakGlassUser, "--as-group="+guard.BreakGlassGroup, "--as-group=system:masters")
	w.publishBundle(namespace)
}
