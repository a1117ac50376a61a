package kube

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/verify"
)

// The codes of findings about Secrets and ConfigMaps; those of what is in them are verify's.
const (
	// MissingSecret: there is no such Secret.
	MissingSecret verify.Code = "missing-secret"
	// ImmutableSecret: the Secret can only be deleted and made again, so no renewal reaches it.
	ImmutableSecret verify.Code = "immutable-secret"
	// ForeignOwner: other software keeps the Secret, and would write back what it wants.
	ForeignOwner verify.Code = "foreign-owner"
	// AppliedManifest: the Secret's annotation kubectl.kubernetes.io/last-applied-configuration has a copy of
	// what kubectl apply once wrote into the keys: whoever applies that manifest again undoes every renewal.
	AppliedManifest verify.Code = "applied-manifest"
	// BundleMapDiffers: the ConfigMap meshca-ca has another ca.crt than Secrets of its namespace.
	BundleMapDiffers verify.Code = "configmap-differs"
)

// Report verifies what was read.
func (m *Mesh) Report(now time.Time) *verify.Report {
	r := verify.Check(m.Services, now)
	missing := make(map[string]bool)
	for _, f := range m.Findings {
		missing[f.Service] = missing[f.Service] || f.Code == MissingSecret
	}
	// Of a Secret that is not there it is enough to say so.
	r.Findings = slices.DeleteFunc(r.Findings, func(f verify.Finding) bool { return missing[f.Service] && f.Code == verify.MissingFile })
	for i := range r.Services {
		row := &r.Services[i]
		if missing[row.Name] {
			row.Verdict = "not compared: " + string(MissingSecret)
		}
	}
	r.Add(m.Findings...)
	return r
}

// findings is what is to be said of a Secret itself.
func (f found) findings() []verify.Finding {
	var all []verify.Finding
	add := func(code verify.Code, hint, format string, args ...any) {
		all = append(all, verify.Finding{Code: code, Service: f.Service, Sentence: fmt.Sprintf(format, args...), Hint: hint})
	}
	if f.secret == nil {
		add(MissingSecret, "make it from a folder of certificates: meshca repair --from DIR", "there is no Secret %s in namespace %s", f.Secret, f.Namespace)
		return all
	}
	if f.secret.Immutable != nil && *f.secret.Immutable {
		add(ImmutableSecret, "delete it and make it again without immutable, when its pods can do without it", "the Secret %s is immutable: no renewal can be written to it", f.Secret)
	}
	if who, hint := foreignOwner(f.secret); who != "" {
		add(ForeignOwner, hint, "the Secret %s is kept by %s", f.Secret, who)
	}
	if held := lastAppliedKeys(f.secret); len(held) > 0 {
		shown := strings.Join(held, ", ")
		if slices.Contains(held, rotation.KeyFile) {
			shown += ": the old private key, to whoever may read it"
		}
		add(AppliedManifest, "remove the manifest: its next kubectl apply wins all keys back; then take the annotation off: kubectl annotate secret "+f.Secret+" -n "+f.Namespace+" "+corev1.LastAppliedConfigAnnotation+"-",
			"the Secret %s was made by kubectl apply, whose annotation still has %s", f.Secret, shown)
	}
	return all
}

// bundleMapFindings compares the ConfigMap of a namespace with the Secrets there, byte for byte.
func bundleMapFindings(namespace, bundle string, present bool, all []found) []verify.Finding {
	f := verify.Finding{
		Code: BundleMapDiffers, Service: namespace + "/" + BundleMap,
		Hint: "whoever trusts by the ConfigMap and whoever trusts by a Secret trust differently: give both the same ca.crt",
	}
	if !present {
		f.Sentence = fmt.Sprintf("the ConfigMap %s has no ca.crt", BundleMap)
		return []verify.Finding{f}
	}
	for _, s := range all {
		if s.secret == nil || s.Namespace != namespace {
			continue
		}
		if ca, ok := s.secret.Data[rotation.CAFile]; ok && string(ca) != bundle {
			f.Peers = append(f.Peers, s.Service)
		}
	}
	if len(f.Peers) == 0 {
		return nil
	}
	f.Sentence = fmt.Sprintf("the ConfigMap %s has another ca.crt than %s", BundleMap, strings.Join(f.Peers, ", "))
	return []verify.Finding{f}
}
