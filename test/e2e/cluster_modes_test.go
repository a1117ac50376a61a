package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
)

// glass is the annotation by which an operator has a Secret left alone.
func glass(reason any) object {
	return object{"metadata": object{"annotations": object{"meshca.io/break-glass": reason}}}
}

// testGlass: while the glass is broken the Secret is left alone, and the others are not.
func testGlass(t *testing.T, k *kubernetes) {
	m := k.newMesh(t, "glass", clusterSettings{Services: []string{"envoy", "pgadmin", "bookapi"}, Sweep: "1s"})
	p := m.Start()
	m.AwaitSound(p)
	// Nothing else is to be put right.
	k.change(t, m.namespace, "envoy", "oncall", glass("a look"))
	m.AwaitState(p, "envoy", "resting")
	if a := m.Run("heal", "--resume", "envoy", "--config", m.Config()); a.Code != 0 {
		t.Errorf("meshca heal: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
	p.AwaitLine("healed", "service", "envoy", "file", "meshca.io/break-glass", "seen", "a look")
	if _, there := k.secret(t, m.namespace, "envoy").Metadata.Annotations["meshca.io/break-glass"]; there {
		t.Error("the annotation is still there")
	}
	k.kubectl(t, "", "-n", m.namespace, "annotate", "secret", "pgadmin-mtls-cert", "meshca.io/break-glass=ticket 42")
	k.change(t, m.namespace, "bookapi", "oncall", glass(""))
	m.AwaitEvent(p, "bookapi", "Resting", "service bookapi: rests, since somebody has broken the glass: no reason is given; when that is done: meshca heal --resume bookapi")
	m.awaitStatus(p, "resting pgadmin: glass/pgadmin-mtls-cert rests, since somebody has broken the glass: ticket 42",
		"hint: when that is done: meshca heal --resume pgadmin", "resting bookapi: ", "no reason is given")
	theirs := newForeignCA(t).PEM()
	for _, service := range []string{"pgadmin", "bookapi", "envoy"} {
		k.change(t, m.namespace, service, "oncall", data(caFile, theirs))
	}
	m.AwaitSound(p, "envoy")
	m.AwaitSweep(p)
	p.Stop()
	p = m.Start() // a restart does not mend it
	m.AwaitSweep(p)
	for _, service := range []string{"pgadmin", "bookapi"} {
		if err := same(theirs, k.secret(t, m.namespace, service).Data[caFile]); err != nil {
			t.Errorf("%s was not left alone: %v", service, err)
		}
	}

	if a := m.Run("heal", "--resume", "pgadmin", "--config", m.Config()); a.Code != 0 {
		t.Errorf("meshca heal: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
	m.AwaitSound(p, "pgadmin", "envoy")
	if _, there := k.secret(t, m.namespace, "pgadmin").Metadata.Annotations["meshca.io/break-glass"]; there {
		t.Error("the annotation is still there")
	}
	if a := m.Run("heal", "--resume", "pgadmin", "--config", m.Config()); a.Code != 1 || !strings.Contains(a.Stderr, "does not rest") {
		t.Errorf("meshca heal, again: %d %s%s", a.Code, a.Stdout, a.Stderr)
	}
	k.change(t, m.namespace, "bookapi", "oncall", glass(nil)) // who takes it away by hand has said the same
	m.AwaitSound(p)
}

// testClaimed: whatever anybody may write on a Secret of ours to make it look like another program's, it is kept, and
// that is told. One with an owner is left alone all the same.
func testClaimed(t *testing.T, k *kubernetes) {
	m := k.newMesh(t, "claimed", clusterSettings{Services: []string{"annotated", "labelled", "written", "owned"}})
	p := m.Start()
	m.AwaitSound(p)
	theirs := data(caFile, newForeignCA(t).PEM())
	meta := func(kind string, value any) object {
		return object{"metadata": object{kind: value}, "data": theirs["data"]}
	}
	// The write that is to be healed makes the claim.
	k.change(t, m.namespace, "annotated", "stranger", meta("annotations", object{"cert-manager.io/x": "y"}))
	k.change(t, m.namespace, "labelled", "stranger", meta("labels", object{"reconcile.external-secrets.io/managed": "true"}))
	k.change(t, m.namespace, "written", "cert-manager-x", theirs)
	for service, who := range map[string]string{"annotated": "cert-manager", "labelled": "External Secrets", "written": "cert-manager"} {
		p.AwaitLine("healed", "service", service, "file", caFile)
		e := m.AwaitEvent(p, service, "Alarm", "service "+service+": has marks of "+who+", and is kept all the same")
		if e.Type != "Warning" {
			t.Errorf("the Event on %s is %s", service, e.Type)
		}
	}
	m.AwaitSound(p)
	m.awaitStatus(p, "remark annotated: claimed/annotated-mtls-cert has marks of cert-manager", "hint: cert-manager writes it again",
		"remark labelled: ")
	for i := range 2 { // with the claim on it
		k.change(t, m.namespace, "annotated", "stranger", theirs)
		p.Await("it is healed again", func() error {
			if n := len(p.Lines("healed", "service", "annotated")); n != i+2 {
				return fmt.Errorf("healed %d times", n)
			}
			return nil
		})
	}
	m.AwaitEvent(p, "annotated", "Alarm", "somebody writes here again and again")

	owner := []object{{"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "name": "a", "uid": "c1a7d3b4-0000-4000-8000-000000000000"}}
	k.change(t, m.namespace, "owned", "stranger", meta("ownerReferences", owner))
	m.awaitStatus(p, "refused owned: claimed/owned-mtls-cert is written by cert-manager")
	m.AwaitEvent(p, "owned", "Refused", "is written by cert-manager")
	k.change(t, m.namespace, "owned", "stranger", meta("ownerReferences", nil))
	m.AwaitSound(p)
}

// testModes: changes are noticed by watches of names or of the namespace, or by the sweep.
func testModes(t *testing.T, k *kubernetes) {
	without := func(rbac string) string { // any right to watch
		return strings.NewReplacer("[get, watch, patch, create]", "[get, patch, create]").Replace(rbac)
	}
	all := func(rbac string) string {
		return strings.Replace(rbac, "rules:\n", "rules:\n- {apiGroups: [\"\"], resources: [secrets], verbs: [watch]}\n", 1)
	}
	for mode, s := range map[string]clusterSettings{
		"names": {}, "none": {Watch: "none", Sweep: "1s", Edit: without}, "namespace": {Watch: "namespace", Edit: all},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			m := k.newMesh(t, "mode-"+mode, s)
			p := m.Start()
			m.AwaitSound(p)
			k.change(t, m.namespace, "pgadmin", "stranger", data(caFile, []byte("nothing")))
			k.do(t, http.MethodDelete, secretPath(m.namespace, "envoy"), nil)
			for _, service := range []string{"pgadmin", "envoy"} {
				p.AwaitLine("healed", "service", service)
			}
			m.AwaitSound(p)
			if text := m.awaitStatus(p); strings.Contains(text, "remark") {
				t.Errorf("a right is missing:\n%s", text)
			}
			if mode == "none" { // whose sweeps are frequent: they write nothing
				before := m.versions()
				m.AwaitSweep(p)
				m.AwaitSweep(p)
				if after := m.versions(); !maps.Equal(before, after) {
					t.Errorf("sweeps write: %v → %v", before, after)
				}
			}
			checkComesAndGoes(t, m, p)
		})
	}
}

// checkComesAndGoes: a service that comes while the program runs is kept as the others are, and one that goes is left
// alone.
func checkComesAndGoes(t *testing.T, m *clusterMesh, p *Process) {
	t.Helper()
	s := m.settings
	s.Services = append([]string{"late"}, fiveServices...)
	m.k.account(t, m.namespace, s.Services, s.Edit)
	m.Configure(s)
	m.AwaitSound(p, s.Services...)
	m.k.change(t, m.namespace, "late", "stranger", data(caFile, []byte("nothing")))
	p.AwaitLine("healed", "service", "late")
	m.AwaitSound(p, s.Services...)
	m.Configure(m.settings)
	p.AwaitLine("service removed from the catalogue: no longer kept, what it has stays", "service", "late", "place", m.namespace+"/late-mtls-cert")
	if m.k.secret(t, m.namespace, "late") == nil {
		t.Error("its Secret is gone")
	}
	checkUnwatched(t, m, p)
}

// checkUnwatched changes the Secret of a service that has left the catalogue, and then one that has not: when that
// one is healed, the other would be as well.
func checkUnwatched(t *testing.T, m *clusterMesh, p *Process) {
	t.Helper()
	m.k.change(t, m.namespace, "late", "stranger", data(caFile, []byte("theirs")))
	m.k.change(t, m.namespace, "bookapi", "stranger", data(caFile, []byte("nothing")))
	p.AwaitLine("healed", "service", "bookapi")
	if now := m.k.secret(t, m.namespace, "late").Data[caFile]; string(now) != "theirs" {
		t.Error(fmt.Errorf("it is still kept: %q", now))
	}
}
