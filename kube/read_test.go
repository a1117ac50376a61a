package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshca/meshca/test/cluster"
	"github.com/meshca/meshca/test/mesh"
	"github.com/meshca/meshca/verify"
)

func said(m *Mesh) (lines []string) {
	for _, f := range m.Findings {
		lines = append(lines, string(f.Code)+" "+f.Service)
	}
	return lines
}

func names(m *Mesh) (names []string) {
	for _, s := range m.Services {
		names = append(names, s.Name)
	}
	return names
}

// testReadNamespace: what is read of each kind of Secret, and what is said of it.
func testReadNamespace(t *testing.T, m *meshCluster) {
	ca := mesh.NewCA(t, "root")
	set := func(name string) verify.Service { return ca.Service(t, name) }
	plain := set("plain")
	m.Create(t, "read", mesh.Secrets(plain)+
		mesh.Secret("certmanaged", `{cert-manager.io/certificate-name: x}`, "Opaque", set("b"))+
		strings.Replace(mesh.Secret("fixed", "{}", "Opaque", set("c")), "type:", "immutable: true\ntype:", 1)+
		"---\napiVersion: v1\nkind: Secret\nmetadata: {name: other}\ndata: {ca.crt: eA==, password: eA==}\n"+
		fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: meshca-ca}\ndata: {ca.crt: %q}\n", mesh.NewCA(t, "root").PEM()))
	m.Do(t, mesh.Secret("applied", "{}", "Opaque", set("d")), "-n", "read", "apply", "-f", "-")
	got, err := m.client.ReadNamespace(t.Context(), "read")
	if err != nil || len(got.Unread) > 0 {
		t.Fatal(err, got.Unread)
	}
	if diff := cmp.Diff([]string{"applied", "certmanaged", "fixed", "plain-mtls-cert"}, names(got)); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	want := []string{"applied-manifest applied", "foreign-owner certmanaged", "immutable-secret fixed", "configmap-differs read/meshca-ca"}
	if diff := cmp.Diff(want, said(got)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	if f := got.Findings[0]; !strings.Contains(f.Sentence, "tls.crt, tls.key, ca.crt: the old private key") || strings.Contains(fmt.Sprint(f), "LS0t") {
		t.Errorf("of the annotation of kubectl apply: %s", f)
	}
	if f := got.Findings[3]; !slices.Equal(f.Peers, names(got)) {
		t.Errorf("the ConfigMap differs from %v", f.Peers)
	}
	for _, s := range got.Services {
		if s.Name == "plain-mtls-cert" && (string(s.Cert) != string(plain.Cert) || string(s.Key) != string(plain.Key) || string(s.CA) != string(plain.CA)) {
			t.Error("the keys are not those of the Secret")
		}
	}
}

// testReadAll: services of two namespaces are told apart.
func testReadAll(t *testing.T, m *meshCluster) {
	ca := mesh.NewCA(t, "root")
	bundle := fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: meshca-ca}\ndata: {ca.crt: %q}\n", ca.PEM())
	m.Create(t, "one", mesh.Secrets(ca.Service(t, "envoy"))+bundle)
	m.Create(t, "two", mesh.Secrets(ca.Service(t, "envoy"))+"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: meshca-ca}\ndata: {other: x}\n")
	got, err := m.client.ReadNamespace(t.Context(), "")
	if err != nil || len(got.Unread) > 0 {
		t.Fatal(err, got.Unread)
	}
	for _, want := range []string{"one/envoy-mtls-cert", "two/envoy-mtls-cert"} {
		if !slices.Contains(names(got), want) {
			t.Errorf("no %s among %v", want, names(got))
		}
	}
	if s := said(got); slices.Contains(s, "configmap-differs one/meshca-ca") || !slices.Contains(s, "configmap-differs two/meshca-ca") {
		t.Errorf("findings %v", s)
	}
}

// testOlder: a pod is named once the Secret's keys change after it was made, and not for another change.
func testOlder(t *testing.T, m *meshCluster) {
	ca := mesh.NewCA(t, "root")
	m.Create(t, "older", mesh.Account+mesh.Secrets(ca.Service(t, "envoy"), ca.Service(t, "pgadmin"))+
		mesh.Pod("envoy-0", "envoy-mtls-cert")+mesh.Pod("pgadmin-0", "pgadmin-mtls-cert"))
	read := func() *Mesh {
		t.Helper()
		got, err := m.client.ReadNamespace(t.Context(), "older")
		if err != nil || len(got.Unread) > 0 {
			t.Fatal(err, got.Unread)
		}
		return got
	}
	if got := read(); len(got.Older) > 0 {
		t.Fatalf("older than what was made before them: %v", got.Older)
	}
	eventually(t, "the API server's second passes and the pod is older than the Secret", func() bool {
		m.Do(t, "", "-n", "older", "label", "secret", "pgadmin-mtls-cert", "--overwrite", "n="+fmt.Sprint(time.Now().UnixNano()))
		m.Do(t, mesh.Secrets(ca.Service(t, "envoy")), "-n", "older", "replace", "-f", "-")
		return len(read().Older) > 0
	})
	got := read().Older
	if len(got) != 1 || got[0].Pod != "envoy-0" || got[0].Secret != "envoy-mtls-cert" || got[0].Fixed || got[0].Created.After(got[0].Changed) {
		t.Errorf("older: %+v", got)
	}
}

// TestOlder: in the second of a change a pod may be older, in that of the Secret's making it is not.
func TestOlder(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	for _, tt := range []struct {
		pod, made, changed int
		want               bool
	}{{9, 10, 10, true}, {10, 10, 10, false}, {11, 10, 10, false}, {19, 10, 20, true}, {20, 10, 20, true}, {21, 10, 20, false}} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Time{Time: at(tt.made)}, ManagedFields: []metav1.ManagedFieldsEntry{
			{Time: &metav1.Time{Time: at(tt.changed)}, FieldsV1: metav1.NewFieldsV1(`{"f:data":{"f:ca.crt":{}}}`)},
		}}}
		pods := &uses{secrets: map[place][]Pod{{"n", "s"}: {{Namespace: "n", Name: "p", Created: at(tt.pod)}}}}
		if got := older([]found{{Item{"a", "n", "s"}, s}}, pods); (len(got) == 1) != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

func TestLastChange(t *testing.T) {
	at := func(s int) *metav1.Time { return &metav1.Time{Time: time.Unix(int64(s), 0)} }
	entry := func(s int, fields string) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Time: at(s), FieldsV1: metav1.NewFieldsV1(fields)}
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: *at(10)}}
	if got := lastChange(s).Unix(); got != 10 {
		t.Errorf("without managers: %d, want when it was made", got)
	}
	s.ManagedFields = []metav1.ManagedFieldsEntry{
		entry(30, `{"f:data":{"f:ca.crt":{}}}`), entry(20, `{"f:data":{"f:tls.crt":{}}}`), entry(40, `{"f:data":{"f:other":{}}}`),
		entry(50, `{"f:metadata":{}}`), {FieldsV1: metav1.NewFieldsV1(`{"f:data":{"f:ca.crt":{}}}`)},
	}
	if got := lastChange(s).Unix(); got != 30 {
		t.Errorf("%d, want the newest that holds a key", got)
	}
}

// testReadSome: whoever may get some Secrets by name verifies those, and is told of the rest.
func testReadSome(t *testing.T, m *meshCluster) {
	ca := mesh.NewCA(t, "root")
	m.Create(t, "some", mesh.Secrets(ca.Service(t, "envoy"), ca.Service(t, "pgadmin"))+
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: some}\n"+
		"rules: [{apiGroups: ['' ], resources: [secrets], resourceNames: [envoy-mtls-cert, gone], verbs: [get]}]\n"+
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: some}\n"+
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: some}\nsubjects: [{kind: User, name: reader}]\n")
	client := connectBy(t, m.As(t, "reader"))
	items := []Item{{"envoy", "some", "envoy-mtls-cert"}, {"pgadmin", "some", "pgadmin-mtls-cert"}, {"gone", "some", "gone"}}
	var got *Mesh
	eventually(t, "RBAC knows of the role", func() bool {
		var err error
		if got, err = client.ReadSecrets(t.Context(), items); err != nil {
			t.Fatal(err)
		}
		return len(got.Services) > 0
	})
	if diff := cmp.Diff([]string{"envoy", "gone"}, names(got)); diff != "" || got.Services[0].Key == nil || got.Services[1].Cert != nil {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"missing-secret gone"}, said(got)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	var unread []string
	for _, e := range got.Unread {
		unread = append(unread, e.Error())
	}
	if diff := cmp.Diff([]string{
		`get secrets "pgadmin-mtls-cert" in namespace some: RBAC does not allow it`,
		`get configmaps "meshca-ca" in namespace some: RBAC does not allow it`,
		`list pods in namespace some: RBAC does not allow it`,
	}, unread); diff != "" {
		t.Errorf("not read (-want +got):\n%s", diff)
	}
	if all, err := client.ReadNamespace(t.Context(), "some"); err != nil || len(all.Unread) != 3 || all.Unread[0].Error() != "list secrets in namespace some: RBAC does not allow it" {
		t.Errorf("the namespace as a whole: %v %v", err, all.Unread)
	}
}

// testNobodyAnswers: where the API server is not there, it is asked once and no more.
func testNobodyAnswers(t *testing.T, _ *meshCluster) {
	c := cluster.Need(t, cluster.Options{})
	client := connectBy(t, c.Kubeconfig)
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ReadSecrets(t.Context(), []Item{{"a", "b", "c"}}); !is(err, Away) {
		t.Errorf("by name: %v", err)
	}
	if _, err := client.ReadNamespace(t.Context(), ""); !is(err, Away) {
		t.Errorf("all: %v", err)
	}
}
