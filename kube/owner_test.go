package kube

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func holding(manager, fields string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, FieldsV1: metav1.NewFieldsV1(fields)}
}

func TestForeignOwner(t *testing.T) {
	annotated := func(key string) metav1.ObjectMeta { return metav1.ObjectMeta{Annotations: map[string]string{key: "x"}} }
	labelled := func(key string) metav1.ObjectMeta { return metav1.ObjectMeta{Labels: map[string]string{key: "x"}} }
	owned := func(version, kind string) metav1.ObjectMeta {
		return metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{{APIVersion: version, Kind: kind, Name: "envoy"}}}
	}
	managed := func(manager, fields string) metav1.ObjectMeta {
		return metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{holding("kubectl", `{}`), holding(manager, fields)}}
	}
	const certKey, otherKey = `{"f:data":{".":{},"f:tls.crt":{}},"f:type":{}}`, `{"f:data":{"f:other":{}}}`
	for name, tt := range map[string]struct {
		meta metav1.ObjectMeta
		want string
	}{
		"nobody":                         {metav1.ObjectMeta{}, ""},
		"people":                         {managed("kubectl-create", certKey), ""},
		"cert-manager's annotation":      {annotated("cert-manager.io/certificate-name"), "cert-manager"},
		"cert-manager's owner":           {owned("cert-manager.io/v1", "Certificate"), "cert-manager"},
		"cert-manager's fields":          {managed("cert-manager-certificates-issuing", certKey), "cert-manager"},
		"cert-manager's other fields":    {managed("cert-manager-cainjector", otherKey), ""},
		"injection is allowed":           {annotated("cert-manager.io/allow-direct-injection"), ""},
		"Certificate of somebody else":   {owned("networking.example/v1", "Certificate"), `its owner, "envoy" of kind "Certificate"`},
		"External Secrets' annotation":   {annotated("reconcile.external-secrets.io/data-hash"), "External Secrets"},
		"External Secrets' label":        {labelled("reconcile.external-secrets.io/managed"), "External Secrets"},
		"External Secrets' owner":        {owned("external-secrets.io/v1beta1", "ExternalSecret"), "External Secrets"},
		"External Secrets' fields":       {managed("externalsecrets.external-secrets.io/envoy", certKey), "External Secrets"},
		"Sealed Secrets' annotation":     {annotated("sealedsecrets.bitnami.com/managed"), "Sealed Secrets"},
		"Sealed Secrets' key":            {labelled("sealedsecrets.bitnami.com/sealed-secrets-key"), "Sealed Secrets"},
		"Sealed Secrets' owner":          {owned("bitnami.com/v1alpha1", "SealedSecret"), "Sealed Secrets"},
		"another owner":                  {owned("apps/v1", "Deployment"), `its owner, "envoy" of kind "Deployment"`},
		"a field manager without a name": {managed("", certKey), ""},
		"fields that are no JSON":        {managed("cert-manager", `{`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			who, hint := foreignOwner(&corev1.Secret{ObjectMeta: tt.meta})
			if who != tt.want || (hint == "") != (tt.want == "") {
				t.Errorf("%q, hint %q, want %q", who, hint, tt.want)
			}
		})
	}
}

// TestObstacle: what only marks speak for names who claims it; an owner and immutability are facts.
func TestObstacle(t *testing.T) {
	marked := metav1.ObjectMeta{Annotations: map[string]string{"cert-manager.io/x": "y"}}
	owned := marked
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "envoy"}}
	yes := true
	for name, tt := range map[string]struct {
		secret   corev1.Secret
		claimant string
	}{
		"marks":               {corev1.Secret{ObjectMeta: marked}, "cert-manager"},
		"marks and an owner":  {corev1.Secret{ObjectMeta: owned}, ""},
		"marks and immutable": {corev1.Secret{ObjectMeta: marked, Immutable: &yes}, ""},
		"immutable":           {corev1.Secret{Immutable: &yes}, ""},
	} {
		if o := obstacle(&tt.secret); o.Reason == "" || o.Hint == "" || o.Claimant != tt.claimant {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

func TestLastAppliedHoldsKeys(t *testing.T) {
	for applied, want := range map[string]bool{
		"":              false,
		"{":             false,
		`{"data":null}`: false,
		`{"kind":"Secret","data":{"other":"eA=="}}`:                         false,
		`{"metadata":{"annotations":{"tls.key":"x"}},"type":"Opaque"}`:      false,
		`{"data":{"ca.crt":"eA=="}}`:                                        true,
		`{"data":{"other":"eA==","tls.key":"eA=="}}`:                        true,
		`{"data":{"other":"eA=="},"stringData":{"tls.crt":"-----BEGIN"}}`:   true,
		strings.Repeat(" ", 9) + `{"stringData":{"tls.key":"<PASTE KEY>"}}`: true,
	} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: applied}}}
		if got := lastAppliedHoldsKeys(s); got != want {
			t.Errorf("%s: %t, want %t", applied, got, want)
		}
	}
}
