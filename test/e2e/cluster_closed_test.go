package e2e

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// wayOn is what a refusal says of how to go on.
const wayOn = "start with --accept, which says first what"

// testClosed: where the store is lost, older than what it serves, or another's, nothing is written before an operator
// has said so.
func testClosed(t *testing.T, k *kubernetes) {
	m := k.newMesh(t, "closed", clusterSettings{Services: []string{"envoy", "pgadmin"}})
	p := m.Start()
	m.AwaitSound(p)
	p.Stop()
	older := filepath.Join(t.TempDir(), "older")
	for _, dir := range []string{"data", "seal"} {
		copyTree(t, filepath.Join(m.Dir, dir), filepath.Join(older, dir))
	}
	p = m.Start()
	k.change(t, m.namespace, "envoy", "stranger", data(keyFile, []byte("nothing")))
	m.AwaitSound(p) // with a leaf that the older store knows nothing of
	p.Stop()

	for _, dir := range []string{"data", "seal"} {
		must(t, os.RemoveAll(filepath.Join(m.Dir, dir)))
		copyTree(t, filepath.Join(older, dir), filepath.Join(m.Dir, dir))
	}
	m.checkClosed(wayOn, "closed/envoy-mtls-cert holds leaf", "the store is older than what it serves")
	p = m.Start("--accept", "--yes")
	m.AwaitSound(p)
	p.Stop()

	must(t, os.RemoveAll(filepath.Join(m.Dir, "data")))
	must(t, os.RemoveAll(filepath.Join(m.Dir, "seal")))
	m.checkClosed(wayOn, "is empty, but there was one", "closed/envoy-mtls-cert was written by store")
	p = m.Start("--accept", "--yes")
	m.AwaitSound(p)
}

// checkClosed sees a start refused that says all the words, also when --accept finds no terminal to ask on, and no
// Secret written.
func (m *clusterMesh) checkClosed(words ...string) {
	m.t.Helper()
	before := m.versions()
	for _, flags := range [][]string{nil, {"--accept"}} {
		p := m.Serve(flags...)
		if code := p.Wait(); code != 1 {
			m.t.Errorf("exit code %d", code)
		}
		want := words
		if flags != nil {
			want = []string{"this needs a yes, and there is no terminal to ask on", "add --yes", m.namespace + "/envoy-mtls-cert", "CERTIFICATE_VERIFY_FAILED"}
		}
		for _, w := range want {
			if !strings.Contains(p.out.String(), w) {
				m.t.Errorf("serve %v does not say %q:\n%s", flags, w, p.out.String())
			}
		}
	}
	if after := m.versions(); !maps.Equal(before, after) {
		m.t.Errorf("Secrets were written: %v → %v", before, after)
	}
}

// versions are the resourceVersions of all that the program may write in the namespace: they tell of every write, also
// of one that changes nothing that people see.
func (m *clusterMesh) versions() map[string]string {
	all := make(map[string]string)
	note := func(name, path string) {
		var live struct {
			Metadata metadata `json:"metadata"`
		}
		if err := m.k.read(path, &live); err != nil {
			all[name] = err.Error()
			return
		}
		all[name] = live.Metadata.UID + " " + live.Metadata.ResourceVersion
	}
	note(caFile, bundlePath(m.namespace))
	for _, service := range m.Services {
		note(service, secretPath(m.namespace, service))
	}
	return all
}

// testStamps moves stamps to where they were not made.
func testStamps(t *testing.T, k *kubernetes) {
	all := clusterSettings{Services: []string{"envoy", "pgadmin", "copied", "strange"}}
	m := k.newMesh(t, "stamps", all)
	known := all
	known.Services = []string{"envoy", "pgadmin"}
	m.Configure(known)
	other := k.newMesh(t, "stamps-other", clusterSettings{Services: []string{"strange"}})
	p, q := m.Start(), other.Start()
	m.AwaitSound(p, "envoy", "pgadmin")
	other.AwaitSound(q)

	// On a service that the store knows, it is content like any other.
	envoy, pgadmin := k.secret(t, "stamps", "envoy"), k.secret(t, "stamps", "pgadmin")
	stranger := k.secret(t, "stamps-other", "strange")
	for i, from := range []*secret{envoy, stranger} {
		k.change(t, "stamps", "pgadmin", "copier", object{"data": from.Data, "metadata": object{"annotations": from.Metadata.Annotations}})
		p.Await("it is healed", func() error {
			if n := len(p.Lines("healed", "service", "pgadmin")); n != i+1 {
				return os.ErrNotExist
			}
			return m.sound("envoy", "pgadmin")
		})
	}
	if now := k.secret(t, "stamps", "pgadmin"); now.Metadata.Annotations["meshca.io/stamp"] == pgadmin.Metadata.Annotations["meshca.io/stamp"] {
		t.Error("the leaf was kept, and its key was gone")
	}
	// On one that it does not know, it is refused.
	for service, from := range map[string]*secret{"copied": envoy, "strange": stranger} {
		k.do(t, http.MethodPost, "/api/v1/namespaces/stamps/secrets", object{"metadata": object{"name": service + "-mtls-cert",
			"labels": from.Metadata.Labels, "annotations": from.Metadata.Annotations}, "type": from.Type, "data": from.Data})
	}
	before := m.versions()
	m.Configure(all)
	m.awaitStatus(p, "refused strange: stamps/strange-mtls-cert was written by another meshca", "refused copied: stamps/copied-mtls-cert", wayOn)
	m.AwaitEvent(p, "strange", "Refused", "was written by another meshca")
	if after := m.versions(); !maps.Equal(before, after) {
		t.Errorf("Secrets were written: %v → %v", before, after)
	}
	m.AwaitSound(p, "envoy", "pgadmin")
	// So it is at a start, and whoever keeps another Secret need not fear a stamp that somebody writes there.
	p.Stop()
	p = m.Start()
	m.awaitStatus(p, "refused strange: ", "refused copied: ")
	k.change(t, "stamps", "envoy", "stranger", data(caFile, []byte("another")))
	m.AwaitSound(p, "envoy", "pgadmin")
	if after := m.versions(); after["strange"] != before["strange"] || after["copied"] != before["copied"] {
		t.Errorf("Secrets were written: %v → %v", before, after)
	}
}

// inBundle sees that a ca.crt holds the CA's root.
func inBundle(f *foreignCA, bundle []byte) error {
	if !bytes.Contains(bundle, bytes.TrimSpace(f.PEM())) {
		return errors.New("the other CA's root is not in ca.crt")
	}
	return nil
}

// testMoved gives services other Secrets, by a reload and by a restart: one that another CA has filled is taken over,
// and one with another meshca's stamp is refused. What they had stays.
func testMoved(t *testing.T, k *kubernetes) {
	m := k.newMesh(t, "moved", clusterSettings{Services: []string{"envoy", "pgadmin", "filled", "strange"}})
	other := k.newMesh(t, "moved-other", clusterSettings{Services: []string{"strange"}})
	q := other.Start()
	other.AwaitSound(q)
	stranger := k.secret(t, "moved-other", "strange")
	k.do(t, http.MethodPost, "/api/v1/namespaces/moved/secrets", object{"metadata": object{"name": "strange-mtls-cert",
		"labels": stranger.Metadata.Labels, "annotations": stranger.Metadata.Annotations}, "type": stranger.Type, "data": stranger.Data})
	f := newForeignCA(t)
	f.makeSecret(t, m, "filled")
	before := k.secret(t, "moved", "filled")

	here := clusterSettings{Services: []string{"envoy", "pgadmin"}}
	m.Configure(here)
	p := m.Start()
	m.AwaitSound(p, "envoy", "pgadmin")
	old := m.versions()
	here.Extra = map[string]string{"pgadmin": "secret: strange-mtls-cert"}
	m.Configure(here)
	m.awaitStatus(p, "refused pgadmin: moved/strange-mtls-cert was written by another meshca")
	p.Stop()
	here.Extra = map[string]string{"pgadmin": "secret: filled-mtls-cert"}
	m.Configure(here)
	p = m.Start()
	m.letIn(p, "pgadmin")
	m.awaitStatus(p, "taking over pgadmin")
	p.Await("both trust the union, and the leaf stays", func() error {
		now, envoy := k.secret(t, "moved", "filled"), k.secret(t, "moved", "envoy")
		return errors.Join(same(before.Data[certFile], now.Data[certFile]), same(before.Data[keyFile], now.Data[keyFile]),
			same(now.Data[caFile], envoy.Data[caFile]), inBundle(f, envoy.Data[caFile]))
	})
	if now := m.versions(); now["pgadmin"] != old["pgadmin"] || now["strange"] != old["strange"] {
		t.Errorf("written: %v → %v", old, now)
	}
}
