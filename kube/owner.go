package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshca/meshca/rotation"
)

// keys are the parts of a set, as a Secret has them.
var keys = []string{rotation.CertFile, rotation.KeyFile, rotation.CAFile}

// A controller is software that makes Secrets, and how one is known to be its own.
type controller struct {
	name    string
	marks   string // labels and annotations begin with it
	except  string // but this one, which people set on Secrets of their own
	group   string // API group of what it makes Secrets for, as an owner reference has it
	manager string // field managers that hold one of the keys begin with it; "" is not known
	hint    string
}

var controllers = []controller{
	{
		name: "cert-manager", marks: "cert-manager.io/", except: "cert-manager.io/allow-direct-injection",
		group: "cert-manager.io", manager: "cert-manager",
		hint: "cert-manager writes it again at the next renewal: delete the Certificate that names it, then take the cert-manager.io annotations off the Secret",
	},
	{
		name: "External Secrets", marks: "reconcile.external-secrets.io/",
		group: "external-secrets.io", manager: "externalsecrets.external-secrets.io/",
		hint: "External Secrets writes it again at the next refresh: delete the ExternalSecret with deletionPolicy Retain, then take its marks and ownerReferences off the Secret",
	},
	{
		name: "Sealed Secrets", marks: "sealedsecrets.bitnami.com/", group: "bitnami.com",
		hint: "Sealed Secrets writes it again whenever its SealedSecret changes: take its ownerReferences and annotations off the Secret, then delete the SealedSecret",
	},
}

// foreignOwner says which other software keeps the Secret, and how it lets go of it; "" is none. What it keeps
// must not be written: it would write it back, and the services would be given one and the other in turn.
func foreignOwner(s *corev1.Secret) (who, hint string) {
	for _, c := range controllers {
		if c.owns(s) {
			return c.name, c.hint
		}
	}
	if len(s.OwnerReferences) > 0 {
		o := s.OwnerReferences[0]
		return fmt.Sprintf("its owner, %q of kind %q", o.Name, o.Kind),
			"the Secret is deleted with its owner, which may write it back as well: take the ownerReferences off the Secret if nothing keeps it any more"
	}
	return "", ""
}

// owns says whether the Secret is one of the controller's.
func (c controller) owns(s *corev1.Secret) bool {
	for _, marks := range []map[string]string{s.Annotations, s.Labels} {
		for mark := range marks {
			if strings.HasPrefix(mark, c.marks) && mark != c.except {
				return true
			}
		}
	}
	return slices.ContainsFunc(s.OwnerReferences, func(o metav1.OwnerReference) bool {
		return strings.HasPrefix(o.APIVersion, c.group+"/")
	}) || slices.ContainsFunc(s.ManagedFields, func(f metav1.ManagedFieldsEntry) bool {
		return c.manager != "" && strings.HasPrefix(f.Manager, c.manager) && holdsKeys(f)
	})
}

// holdsKeys says whether a field manager holds one of the keys.
func holdsKeys(f metav1.ManagedFieldsEntry) bool {
	var fields struct {
		Data map[string]json.RawMessage `json:"f:data"`
	}
	if f.FieldsV1 == nil || json.Unmarshal(f.FieldsV1.GetRawBytes(), &fields) != nil {
		return false
	}
	return slices.ContainsFunc(keys, func(key string) bool { return fields.Data["f:"+key] != nil })
}

// lastAppliedHoldsKeys says whether kubectl apply has left a copy of one of the keys in the Secret's
// annotations: whoever reads the Secret's metadata reads it, and the next kubectl apply of that manifest writes
// the old values back.
func lastAppliedHoldsKeys(s *corev1.Secret) bool { return len(lastAppliedKeys(s)) > 0 }

// lastAppliedKeys names the keys of which there is such a copy. The copy is never quoted.
func lastAppliedKeys(s *corev1.Secret) (held []string) {
	var applied struct {
		Data       map[string]json.RawMessage `json:"data"`
		StringData map[string]json.RawMessage `json:"stringData"`
	}
	if json.Unmarshal([]byte(s.Annotations[corev1.LastAppliedConfigAnnotation]), &applied) != nil {
		return nil
	}
	for _, key := range keys {
		if applied.Data[key] != nil || applied.StringData[key] != nil {
			held = append(held, key)
		}
	}
	return held
}
