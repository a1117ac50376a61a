package kube

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/rotation"
)

// wrote is a field manager's claim to a key.
func wrote(manager, key string, operation metav1.ManagedFieldsOperationType, at time.Time) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, Operation: operation, Time: &metav1.Time{Time: at},
		FieldsV1: metav1.NewFieldsV1(`{"f:data":{"f:` + key + `":{}}}`)}
}

// TestWriters: who held a value before our last write has not changed it since.
func TestWriters(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	s := &corev1.Secret{}
	s.ManagedFields = []metav1.ManagedFieldsEntry{
		wrote("deploy-script", "tls.crt", metav1.ManagedFieldsOperationUpdate, noon.Add(-time.Hour)),
		wrote(FieldManager, "ca.crt", metav1.ManagedFieldsOperationApply, noon),
		wrote("someone", "notes", metav1.ManagedFieldsOperationUpdate, noon.Add(time.Hour)),
	}
	if by := writers(s); by != removed {
		t.Errorf("nobody wrote, and it says %q", by)
	}
	labelled := wrote("helm", "notes", metav1.ManagedFieldsOperationUpdate, noon)
	labelled.FieldsV1 = metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{"f:app.kubernetes.io/managed-by":{}}}}`)
	s.ManagedFields = append(s.ManagedFields, labelled)
	if by := writers(s); by != removed { // it may have made the Secret
		t.Errorf("nobody wrote since, and it says %q", by)
	}
	s.ManagedFields[len(s.ManagedFields)-1].Time = &metav1.Time{Time: noon.Add(time.Second)}
	if by := writers(s); !strings.HasPrefix(by, "helm at ") {
		t.Errorf("helm took the label, and it says %q", by)
	}
	s.ManagedFields = slices.Delete(s.ManagedFields, 3, 4)
	s.ManagedFields = append(s.ManagedFields,
		wrote("kubectl-edit", "ca.crt", metav1.ManagedFieldsOperationUpdate, noon),
		wrote(FieldManager, "tls.key", metav1.ManagedFieldsOperationUpdate, noon.Add(time.Minute)))
	by := writers(s)
	if want := "meshca at 2026-11-24T12:01:00Z, kubectl-edit at 2026-11-24T12:00:00Z ("; !strings.HasPrefix(by, want) {
		t.Errorf("it says %q, want %q", by, want)
	}
}

// TestNull: a key that is null is there, and empty; so it is not a Secret in which nothing is.
func TestNull(t *testing.T) {
	t.Parallel()
	s := &corev1.Secret{Data: map[string][]byte{rotation.CAFile: nil}}
	if o := observe(s, "a"); o.CA == nil || o.Cert != nil || o.Empty() {
		t.Errorf("a null ca.crt is seen as %+v", o)
	}
}

// TestTLSWithoutLeaf: kubernetes.io/tls must have both keys, also where there is no leaf.
func TestTLSWithoutLeaf(t *testing.T) {
	t.Parallel()
	for kind, want := range map[corev1.SecretType]bool{corev1.SecretTypeTLS: true, corev1.SecretTypeOpaque: false} {
		m := manifestOf(Service{}, rotation.Material{CA: []byte("ca")}, secretVersion{resourceVersion: "7", kind: kind})
		data := m.Data.(map[string][]byte)
		for _, key := range []string{rotation.CertFile, rotation.KeyFile} {
			if value, there := data[key]; there != want || want && value == nil {
				t.Errorf("%s: %s is %v, there is %v", kind, key, value, there)
			}
		}
	}
}

// TestKeyInAnnotation: what tools keep of a manifest in an annotation shows the private key, and is not kept.
func TestKeyInAnnotation(t *testing.T) {
	t.Parallel()
	key := catest.NewForeign(t, "a", time.Now()).KeyPEM(t)
	block, _ := pem.Decode(key)
	text := func(v any) string {
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(encoded)
	}
	secret := &corev1.Secret{Data: map[string][]byte{rotation.KeyFile: key}}
	secret.Labels = map[string]string{"team": "core"}
	secret.Annotations = map[string]string{
		"example.com/note":                 "do not lose: the PRIVATE road",
		"example.com/longest":              strings.Repeat("a", maxAnnotation),
		"example.com/too-long":             strings.Repeat("a", maxAnnotation+1),
		"kapp.k14s.io/original":            text(map[string]any{"data": map[string][]byte{"tls.key": key}}),
		"example.com/string-data":          text(map[string]any{"stringData": map[string]string{"tls.key": string(key)}}),
		"example.com/after-one":            base64.StdEncoding.EncodeToString(append([]byte("a"), key...)),
		"example.com/after-two":            base64.StdEncoding.EncodeToString(append([]byte("ab"), key...)),
		"example.com/der":                  base64.StdEncoding.EncodeToString(block.Bytes),
		"example.com/end":                  base64.StdEncoding.EncodeToString(block.Bytes)[128:],
		corev1.LastAppliedConfigAnnotation: "{}",
	}
	f := formOf(secret)
	if got, want := slices.Sorted(maps.Keys(f.Annotations)), []string{"example.com/longest", "example.com/note"}; !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	if f.Labels["team"] != "core" {
		t.Errorf("labels %v", f.Labels)
	}
}

// TestFormIsBounded: however much others write beside a set, the store keeps little of it, the same each time.
func TestFormIsBounded(t *testing.T) {
	t.Parallel()
	secret := &corev1.Secret{Data: make(map[string][]byte)}
	secret.Labels, secret.Annotations = make(map[string]string), make(map[string]string)
	for i := range 10_000 {
		name := fmt.Sprintf("example.com/%030d", i)
		secret.Labels[name], secret.Annotations[name], secret.Data[name] = "a", strings.Repeat("a", 1000), nil
	}
	f := formOf(secret)
	encoded, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Labels) < 100 || len(f.Annotations) < 10 || len(f.Keys) < 100 || len(encoded) > 4*maxKept {
		t.Errorf("%d labels, %d annotations, %d keys, %d bytes", len(f.Labels), len(f.Annotations), len(f.Keys), len(encoded))
	}
	if diff := cmp.Diff(f, formOf(secret)); diff != "" {
		t.Errorf("another form each time: %s", diff)
	}
}
