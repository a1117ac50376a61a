package kube

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshca/meshca/test/mesh"
	"github.com/meshca/meshca/verify"
)

const suffix = "-mtls-cert"

// secret is what a namespace has of a service.
func secret(s verify.Service, change ...func(*corev1.Secret)) *corev1.Secret {
	live := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: s.Name + suffix, Namespace: "demo", UID: "u", ResourceVersion: "7"},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{"tls.crt": s.Cert, "tls.key": s.Key, "ca.crt": s.CA},
	}
	for _, f := range change {
		f(live)
	}
	return live
}

// plans shows a plan in short.
func plans(r *Repair) (lines []string) {
	for _, s := range r.Steps {
		lines = append(lines, strings.TrimSpace(s.Service+" "+string(s.Action)+" "+s.Reason))
	}
	for _, f := range r.Objections {
		lines = append(lines, string(f.Code)+" "+f.Service)
	}
	return lines
}

// TestPlanRepair: what is decided for each state of a Secret and each fault of the folder.
func TestPlanRepair(t *testing.T) {
	ca, other := mesh.NewCA(t, "root"), mesh.NewCA(t, "other")
	a, b := ca.Service(t, "a"), ca.Service(t, "b")
	old := other.Service(t, "a")
	mismatched := ca.Service(t, "b")
	mismatched.Key = a.Key
	leaking := b
	leaking.CA = slices.Concat(b.CA, b.Key)
	inter := ca.Below(t, "below")
	below := func(name string, trusts *mesh.CA) verify.Service {
		s := inter.Service(t, name)
		s.Cert = append(s.Cert, inter.PEM()...)
		return mesh.Trusting(s, trusts)
	}
	changed := func(f func(*corev1.Secret)) []*corev1.Secret { return []*corev1.Secret{secret(old, f)} }
	for name, tt := range map[string]struct {
		from    []verify.Service
		live    []*corev1.Secret
		partial bool
		want    []string
	}{
		"nothing is there":    {[]verify.Service{b, a}, nil, false, []string{"a create there is none", "b create there is none"}},
		"equal":               {[]verify.Service{a}, []*corev1.Secret{secret(a)}, false, []string{"a equal"}},
		"another key is live": {[]verify.Service{a}, changed(func(s *corev1.Secret) { s.Data["tls.crt"], s.Data["ca.crt"] = a.Cert, a.CA }), false, []string{"a update now key-mismatch"}},
		"another CA":          {[]verify.Service{a}, []*corev1.Secret{secret(old)}, false, []string{"a update now ok"}},
		"placeholder is live": {[]verify.Service{a}, []*corev1.Secret{secret(mesh.Placeholder("a"))}, false, []string{"a update now not compared: placeholder"}},
		"empty is live":       {[]verify.Service{a}, changed(func(s *corev1.Secret) { s.Data = nil }), false, []string{"a update now not compared: missing-file"}},
		"placeholder": {[]verify.Service{a, mesh.Placeholder("b")}, nil, false,
			[]string{"a create there is none", "b refuse placeholder", "refused demo"}},
		"placeholder, partial": {[]verify.Service{a, mesh.Placeholder("b")}, nil, true, []string{"a create there is none", "b refuse placeholder"}},
		"only refused":         {[]verify.Service{mesh.Placeholder("b")}, nil, true, []string{"b refuse placeholder", "refused demo"}},
		"wrong key":            {[]verify.Service{mismatched}, nil, false, []string{"b refuse key-mismatch", "refused demo"}},
		"key in ca.crt":        {[]verify.Service{leaking}, nil, false, []string{"b refuse private-key-in-certificate-file", "refused demo"}},
		"expired":              {[]verify.Service{ca.Service(t, "b", mesh.Expired)}, nil, false, []string{"b refuse expired", "refused demo"}},
		"expired, and live":    {[]verify.Service{old}, []*corev1.Secret{secret(old)}, false, []string{"a equal"}},
		"another's leaf":       {[]verify.Service{mesh.Trusting(b, other)}, nil, false, []string{"b refuse leaf-not-signed-by-own-bundle", "refused demo"}},
		"two meshes":           {[]verify.Service{b, old}, nil, false, []string{"a refuse would-refuse", "b refuse would-refuse", "refused demo"}},
		"server only": {[]verify.Service{a, ca.Service(t, "b", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })}, nil, false,
			[]string{"a refuse would-refuse", "b create there is none", "refused demo"}},
		"expires soon": {[]verify.Service{ca.Service(t, "b", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })}, nil, false, []string{"b create there is none"}},
		"bad name":     {[]verify.Service{ca.Service(t, "B_x")}, nil, false, []string{"B_x refuse bad-name", "refused demo"}},
		"immutable": {[]verify.Service{a}, changed(func(s *corev1.Secret) { s.Immutable = new(bool); *s.Immutable = true }), false,
			[]string{"a refuse immutable-secret", "refused demo"}},
		"owned": {[]verify.Service{a}, changed(func(s *corev1.Secret) { s.OwnerReferences = []metav1.OwnerReference{{Kind: "X"}} }), false,
			[]string{"a refuse foreign-owner", "refused demo"}},
		"owned and equal": {[]verify.Service{a}, []*corev1.Secret{secret(a, func(s *corev1.Secret) { s.OwnerReferences = []metav1.OwnerReference{{Kind: "X"}} })}, false, []string{"a equal"}},
		"cert-manager's": {[]verify.Service{a}, changed(func(s *corev1.Secret) { s.Annotations = map[string]string{"cert-manager.io/issuer-name": "x"} }), false,
			[]string{"a refuse foreign-owner", "refused demo"}},
		"going": {[]verify.Service{a}, changed(func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{} }), false,
			[]string{"a refuse secret-terminating", "refused demo"}},
		"stamped": {[]verify.Service{a}, changed(func(s *corev1.Secret) { s.Annotations = map[string]string{annotationStamp: "x"} }), true,
			[]string{"a update now ok", "meshca-is-live a-mtls-cert"}},
		"labelled, and not in the folder": {[]verify.Service{b}, changed(func(s *corev1.Secret) { s.Labels = map[string]string{labelService: "a"} }), true,
			[]string{"b create there is none", "meshca-is-live a-mtls-cert"}},
		"breaks one that stays": {[]verify.Service{other.Service(t, "b")}, []*corev1.Secret{secret(a), secret(b)}, false,
			[]string{"b update now ok", "would-break a-mtls-cert", "would-break b-mtls-cert"}},
		"breaks for OpenSSL alone": {[]verify.Service{below("b", inter)}, []*corev1.Secret{secret(below("a", ca)), secret(below("b", ca))}, false,
			[]string{"b update now ok", "would-break b-mtls-cert"}},
		"one that stays goes along": {[]verify.Service{mesh.Trusting(b, ca, other)}, []*corev1.Secret{secret(a), secret(b)}, false, []string{"b update now ok"}},
		"what refuses now may":      {[]verify.Service{b}, []*corev1.Secret{secret(old), secret(other.Service(t, "c"))}, false, []string{"b create there is none"}},
		"manifest of kubectl apply": {[]verify.Service{a}, changed(func(s *corev1.Secret) {
			s.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: `{"data":{"tls.key":"eA=="}}`}
		}), false, []string{"a update now ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := planRepair(RepairOptions{Namespace: "demo", Suffix: suffix, From: tt.from, Partial: tt.partial, Now: time.Now()}, tt.live)
			if diff := cmp.Diff(tt.want, plans(r)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, f := range slices.Concat(r.Findings, r.Objections) {
				if f.Hint == "" || strings.Contains(f.Sentence, "PRIVATE") {
					t.Errorf("finding without a hint, or with a key: %+v", f)
				}
			}
			if manifest := name == "manifest of kubectl apply"; manifest != slices.ContainsFunc(r.Findings, func(f verify.Finding) bool { return f.Code == AppliedManifest }) {
				t.Errorf("findings %v", r.Findings)
			}
		})
	}
}

// TestRestartOrder: who may go before whom, on the way from one CA to another.
func TestRestartOrder(t *testing.T) {
	one, two := mesh.NewCA(t, "one"), mesh.NewCA(t, "two")
	step := func(name string, was, then verify.Service) RepairStep {
		was.Name, then.Name = name, name
		return RepairStep{Service: name, Secret: name, Action: Update, live: secret(was), files: then}
	}
	first, second := one.Service(t, "x"), two.Service(t, "x")
	both := mesh.Trusting(first, one, two)
	for name, tt := range map[string]struct {
		steps []RepairStep
		want  Order
	}{
		"nothing": {nil, Order{Any: true}},
		"one CA to another": {[]RepairStep{step("b", first, second), step("a", first, second)},
			Order{Services: []string{"a", "b"}, Apart: [][2]string{{"a", "b"}}}},
		"a root more":       {[]RepairStep{step("b", first, both), step("a", first, both)}, Order{Services: []string{"a", "b"}, Any: true}},
		"a new leaf":        {[]RepairStep{step("a", first, one.Service(t, "x")), step("b", first, first)}, Order{Services: []string{"a", "b"}, Any: true}},
		"trust comes first": {[]RepairStep{step("a", both, mesh.Trusting(second, one, two)), step("b", first, both)}, Order{Services: []string{"b", "a"}}},
		"trust goes last":   {[]RepairStep{step("a", both, second), step("b", mesh.Trusting(first, one, two), mesh.Trusting(second, one, two))}, Order{Services: []string{"b", "a"}}},
		"refused already":   {[]RepairStep{step("a", first, second), step("b", second, first)}, Order{Services: []string{"a", "b"}, Any: true}},
		"was nothing":       {[]RepairStep{step("a", mesh.Placeholder("a"), second), step("b", first, second)}, Order{Services: []string{"a", "b"}, Any: true}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, restartOrder(tt.steps, time.Now())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	var many []RepairStep
	for i := range maxOrdered + 1 {
		many = append(many, step(fmt.Sprintf("s%03d", i), first, second))
	}
	if o := restartOrder(many, time.Now()); !o.Unknown || len(o.Services) != len(many) {
		t.Errorf("too many: %v", o)
	}
}

// TestOrderRing: of three that wait for each other one goes first all the same, and it is said what that costs.
func TestOrderRing(t *testing.T) {
	var o Order
	o.sort([]string{"a", "b", "c", "d"}, map[[2]string]bool{{"a", "b"}: true, {"b", "c"}: true, {"c", "a"}: true, {"d", "c"}: true})
	if diff := cmp.Diff(Order{Services: []string{"d", "a", "b", "c"}, Apart: [][2]string{{"a", "c"}}}, o); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func (m *meshCluster) plan(t *testing.T, namespace string, from ...verify.Service) *Repair {
	t.Helper()
	r, notLooked, err := m.client.PlanRepair(t.Context(), RepairOptions{Namespace: namespace, Suffix: suffix, From: from, Now: time.Now()})
	if err != nil || notLooked != nil {
		t.Fatal(err, notLooked)
	}
	return r
}

func (m *meshCluster) secret(t *testing.T, namespace, name string) *corev1.Secret {
	t.Helper()
	s, err := m.client.getSecret(t.Context(), namespace, name)
	if err != nil || s == nil {
		t.Fatalf("Secret %s: %v", name, err)
	}
	return s
}

// holders names the field managers that hold a key.
func holders(s *corev1.Secret) (names []string) {
	for _, f := range s.ManagedFields {
		if holdsKeys(f) {
			names = append(names, f.Manager)
		}
	}
	return names
}

var night = []string{"bookapi", "bookapi-mcp-server", "envoy", "pgadmin", "timescaledb"}

// testRepairIncident: the night's five Secrets are repaired from a folder; the second time nothing is written;
// and a meshca takes them over in place.
func testRepairIncident(t *testing.T, m *meshCluster) {
	ca, other, good := mesh.NewCA(t, "root"), mesh.NewCA(t, "other"), mesh.NewCA(t, "good")
	m.Create(t, "incident", mesh.Secrets(mesh.Placeholder("bookapi"), ca.Service(t, "bookapi-mcp-server", mesh.Expired), other.Service(t, "pgadmin"),
		mesh.Trusting(ca.Service(t, "timescaledb"), other))+
		strings.Replace(mesh.Secret("envoy-mtls-cert", "{team: edge}", "Opaque", ca.Service(t, "envoy")), "\ndata: {", "\ndata: {extra: eA==, ", 1))
	var from []verify.Service
	for _, name := range append(night, "new") {
		from = append(from, good.Service(t, name))
	}
	r := m.plan(t, "incident", from...)
	if diff := cmp.Diff([]string{
		"bookapi update now not compared: placeholder", "bookapi-mcp-server update now expired, would-refuse", "envoy update now would-refuse",
		"new create there is none", "pgadmin update now bundle-differs, would-refuse",
		"timescaledb update now bundle-differs, leaf-not-signed-by-own-bundle, would-refuse",
	}, plans(r)); diff != "" {
		t.Fatalf("plan (-want +got):\n%s", diff)
	}
	var wrote []string
	if err := m.client.Repair(t.Context(), r, func(s *RepairStep) { wrote = append(wrote, s.Service) }); err != nil || len(wrote) != 6 {
		t.Fatalf("written %v: %v", wrote, err)
	}
	versions := make(map[string]string)
	for _, s := range from {
		live := m.secret(t, "incident", s.Name+suffix)
		versions[s.Name] = live.ResourceVersion
		if !slices.Equal(holders(live), []string{RepairManager}) {
			t.Errorf("%s: keys are held by %v", s.Name, holders(live))
		}
	}
	got, err := m.client.ReadNamespace(t.Context(), "incident")
	if err != nil || !got.Report(time.Now()).OK() {
		t.Errorf("afterwards: %v %v", err, got.Report(time.Now()).Findings)
	}
	if envoy := m.secret(t, "incident", "envoy-mtls-cert"); envoy.Type != "Opaque" || string(envoy.Data["extra"]) != "x" || envoy.Annotations["team"] != "edge" {
		t.Errorf("what is not ours has changed: %s %v %v", envoy.Type, len(envoy.Data), envoy.Annotations)
	}

	r = m.plan(t, "incident", from...)
	if r.Changes() {
		t.Errorf("the second time: %v", plans(r))
	}
	if err := m.client.Repair(t.Context(), r, func(s *RepairStep) { t.Errorf("written again: %s", s.Service) }); err != nil {
		t.Error(err)
	}
	for _, s := range from {
		if live := m.secret(t, "incident", s.Name+suffix); live.ResourceVersion != versions[s.Name] {
			t.Errorf("%s has another resourceVersion", s.Name)
		}
	}
	testTakeOver(t, m, ca.Service(t, "envoy"))
}

// testTakeOver: what a repair has written a meshca writes anew in place, and then holds the keys alone.
func testTakeOver(t *testing.T, m *meshCluster, s verify.Service) {
	live := m.secret(t, "incident", "envoy-mtls-cert")
	written, err := m.client.applySecret(t.Context(), manifest{
		Metadata: manifestMeta{Name: live.Name, Namespace: live.Namespace, UID: live.UID, ResourceVersion: live.ResourceVersion, Annotations: map[string]string{annotationStamp: "x"}},
		Type:     live.Type, Data: map[string][]byte{"tls.crt": s.Cert, "tls.key": s.Key, "ca.crt": s.CA},
	})
	if err != nil || written.UID != live.UID || !slices.Equal(holders(written), []string{FieldManager}) {
		t.Fatalf("take over: %v, keys are held by %v", err, holders(written))
	}
	r := m.plan(t, "incident", s)
	if got := plans(r); !slices.Contains(got, "meshca-is-live envoy-mtls-cert") {
		t.Errorf("after it: %v", got)
	}
	if err := m.client.Repair(t.Context(), r, func(*RepairStep) { t.Error("written") }); err == nil {
		t.Error("a plan with objections was carried out")
	}
}

// testRepairRaces: what changes between the plan and the writing is not overwritten.
func testRepairRaces(t *testing.T, m *meshCluster) {
	ca := mesh.NewCA(t, "root")
	a := ca.Service(t, "a")
	m.Create(t, "races", mesh.Secrets(ca.Service(t, "a")))
	made := func() { m.Do(t, mesh.Secrets(ca.Service(t, "a")), "-n", "races", "create", "-f", "-") }
	gone := func() { m.Do(t, "", "-n", "races", "delete", "secret", "a-mtls-cert") }
	for _, race := range []struct {
		name string
		do   func()
	}{
		{"changed", func() { m.Do(t, "", "-n", "races", "label", "secret", "a-mtls-cert", "x=y") }},
		{"made again", func() { gone(); made() }},
		{"deleted", gone},
		{"made", made},
	} {
		r := m.plan(t, "races", a)
		race.do()
		err := m.client.Repair(t.Context(), r, func(*RepairStep) { t.Errorf("%s: written", race.name) })
		if !is(err, Changed, Replaced) {
			t.Errorf("%s: %v", race.name, err)
		}
		s, err := m.client.getSecret(t.Context(), "races", "a-mtls-cert")
		if err != nil || (s == nil) != (race.name == "deleted") || s != nil && string(s.Data["tls.crt"]) == string(a.Cert) {
			t.Errorf("%s: the Secret was written (%v)", race.name, err)
		}
	}
}

const guardPolicy = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %s, labels: {app.kubernetes.io/name: %s}}
spec:
  failurePolicy: Ignore
  matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [UPDATE], resources: [secrets]}]}
  validations: [{expression: 'true'}]
`

// testRepairGuard: where a meshca guards the cluster, its policy is named; who may not look is told.
func testRepairGuard(t *testing.T, m *meshCluster) {
	a := mesh.NewCA(t, "root").Service(t, "a")
	m.Create(t, "guarded", "")
	for name, label := range map[string]string{"meshca-guard": "x", "named-otherwise": "meshca"} {
		m.Do(t, fmt.Sprintf(guardPolicy, name, label), "create", "-f", "-")
		if diff := cmp.Diff([]string{"a create there is none", "meshca-is-live " + name}, plans(m.plan(t, "guarded", a))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		m.Do(t, "", "delete", "validatingadmissionpolicy", name)
	}
	m.Do(t, "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: edit}\nrules: [{apiGroups: [''], resources: [secrets], verbs: ['*']}]\n"+
		"---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: edit}\n"+
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: edit}\nsubjects: [{kind: User, name: editor}]\n", "-n", "guarded", "create", "-f", "-")
	o := RepairOptions{Namespace: "guarded", Suffix: suffix, From: []verify.Service{a}, Now: time.Now()}
	editor := connectBy(t, m.As(t, "editor"))
	eventually(t, "RBAC knows of the role", func() bool {
		r, notLooked, err := editor.PlanRepair(t.Context(), o)
		if err != nil {
			return false
		}
		if len(r.Objections) > 0 || notLooked == nil || notLooked.Error() != "list validatingadmissionpolicies: RBAC does not allow it" {
			t.Errorf("%v %v", plans(r), notLooked)
		}
		return true
	})
	if _, _, err := connectBy(t, m.As(t, "nobody")).PlanRepair(context.Background(), o); !is(err, Forbidden) {
		t.Errorf("without rights: %v", err)
	}
}

// testRepairPods: the pods that read what was repaired are named, in the order in which to restart them.
func testRepairPods(t *testing.T, m *meshCluster) {
	one, two := mesh.NewCA(t, "one"), mesh.NewCA(t, "two")
	a, b := mesh.Trusting(one.Service(t, "a"), one, two), one.Service(t, "b")
	m.Create(t, "pods-of", mesh.Account+mesh.Secrets(a, b)+mesh.Pod("a-0", "a-mtls-cert")+mesh.Pod("b-0", "b-mtls-cert")+mesh.Pod("c-0", "other"))
	born := func() time.Time {
		u, err := m.client.uses(t.Context(), "pods-of", func(place) bool { return true })
		if err != nil || len(u.secrets) != 3 {
			t.Fatal(err, u)
		}
		return u.secrets[place{"pods-of", "b-mtls-cert"}][0].Created
	}()
	eventually(t, "the API server's second passes", func() bool {
		s := m.Do(t, "", "-n", "pods-of", "create", "secret", "generic", "clock", "--dry-run=server", "-o", "jsonpath={.metadata.creationTimestamp}")
		now, err := time.Parse(time.RFC3339, s)
		return err == nil && now.After(born)
	})
	r := m.plan(t, "pods-of", mesh.Trusting(two.Service(t, "a"), one, two), mesh.Trusting(b, one, two))
	if len(r.Objections) > 0 {
		t.Fatal(plans(r))
	}
	var wrote []string
	if err := m.client.Repair(t.Context(), r, func(s *RepairStep) { wrote = append(wrote, s.Service) }); err != nil {
		t.Fatal(err)
	}
	older, err := m.client.OlderPods(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	var pods []string
	for _, o := range older {
		pods = append(pods, o.Pod)
	}
	if !slices.Equal(wrote, []string{"b", "a"}) || !slices.Equal(pods, []string{"b-0", "a-0"}) || r.Order.Any || len(r.Order.Apart) > 0 {
		t.Errorf("written %v, to restart %v, order %+v", wrote, pods, r.Order)
	}
}
