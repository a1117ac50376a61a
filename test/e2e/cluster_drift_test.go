package e2e

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A drift is one thing that somebody does to the Secret of a service.
type drift struct {
	change object
	file   string // as it is named
	seen   string
	wanted string // "" is not looked at
	leaf   string // "kept" or "new"
}

// drifts are done at the same time, each to a service of its own. The Secrets are Opaque, so that keys can go.
func drifts(f *foreignCA, set map[string][]byte) map[string]drift {
	const marks = "meshca.io/* annotations"
	meta := func(kind, name string, value any) object {
		return object{"metadata": object{kind: object{"meshca.io/" + name: value}}}
	}
	all := map[string]drift{
		"ca-changed":    {data(caFile, f.PEM()), caFile, shortFingerprint(f.cert), "root", "kept"},
		"ca-removed":    {data(caFile, nil), caFile, "absent", "root", "kept"},
		"ca-empty":      {data(caFile, []byte{}), caFile, "empty", "root", "kept"},
		"ca-spaced":     {data(caFile, []byte("no certificate")), caFile, "no certificate in 14 bytes", "root", "kept"},
		"crt-changed":   {data(certFile, set[certFile]), certFile, leafOf(set), "leaf", "kept"},
		"crt-removed":   {data(certFile, nil), certFile, "absent", "leaf", "kept"},
		"key-changed":   {data(keyFile, set[keyFile]), keyFile, "bytes that are not it", "the leaf's key", "new"},
		"key-removed":   {data(keyFile, nil), keyFile, "absent", "the leaf's key", "new"},
		"all-changed":   {object{"data": set}, certFile + ", " + keyFile + ", " + caFile, leafOf(set), "root", "new"},
		"label-changed": {meta("labels", "service", "other"), marks + ", meshca.io/service", "other", "label-changed", "kept"},
		"label-removed": {meta("labels", "service", nil), marks + ", meshca.io/service", "absent", "label-removed", "kept"},
	}
	for _, name := range []string{"stamp", "epoch", "bundle-sha256", "serial", "not-before", "not-after", "issuer"} {
		file := marks
		if strings.HasPrefix(name, "not-") || name == "issuer" {
			file = "meshca.io/" + name
		}
		all[name+"-changed"] = drift{meta("annotations", name, "00"), file, "", "", "kept"}
		all[name+"-removed"] = drift{meta("annotations", name, nil), file, "", "", "kept"}
	}
	return all
}

func leafOf(set map[string][]byte) string { return shortFingerprint(firstOf(set[certFile])) }

// testDrift: whatever of meshca's is changed or removed is put right at once, and it is told what, who, and what was
// seen. Services that nothing is done to notice nothing.
func testDrift(t *testing.T, k *kubernetes) {
	f := newForeignCA(t)
	all := drifts(f, f.set(t, "stranger"))
	names := slices.Sorted(maps.Keys(all))
	m := k.newMesh(t, "drift", clusterSettings{Services: append(slices.Clone(names), "quiet")})
	foreign := object{"type": "Opaque", "data": object{"notes": "bm90ZXM="}, "metadata": object{"labels": object{"team": "core"}}}
	for _, service := range names {
		m.makeShape(t, service, shape{how: "somebody", object: foreign})
	}
	p := m.Start()
	m.AwaitSound(p)
	before := make(map[string]*secret)
	for _, service := range m.Services {
		before[service] = k.secret(t, m.namespace, service)
	}
	m.noteKeys()
	for _, service := range names {
		k.change(t, m.namespace, service, "stranger", all[service].change)
	}
	for _, service := range names {
		line := p.AwaitLine("healed", "service", service)
		all[service].check(t, m, line, before[service])
		m.AwaitEvent(p, service, "Healed", "service "+service+": ", strings.Split(all[service].file, ",")[0]+": ", " → ", line.Get("by"))
	}
	m.AwaitSound(p)
	for _, service := range names {
		if err := foreignLost(before[service], k.secret(t, m.namespace, service)); err != nil {
			t.Errorf("%s: %v", service, err)
		}
		if n := len(p.Lines("healed", "service", service)); n != 1 {
			t.Errorf("%d lines tell of the healing of %s, want 1", n, service)
		}
	}
	if is := k.secret(t, m.namespace, "quiet").Metadata.ResourceVersion; is != before["quiet"].Metadata.ResourceVersion {
		t.Error("the service that nothing was done to was written")
	}
	if n := len(m.events("quiet")); n != 1 { // that it was issued
		t.Errorf("%d Events on it, want 1", n)
	}
}

// check sees what the log says of one drift, and what was done about it.
func (d drift) check(t *testing.T, m *clusterMesh, line Line, before *secret) {
	t.Helper()
	service := line.Get("service")
	now := m.k.secret(t, m.namespace, service)
	want := map[string]string{"seen": d.seen, "leaf": d.leaf, "wanted": d.wanted}
	if line.Get("file") != d.file {
		t.Errorf("%s: the line says file %q, want %q", service, line.Get("file"), d.file)
	}
	switch d.wanted {
	case "root":
		want["wanted"] = shortFingerprint(firstOf(now.Data[caFile]))
	case "leaf":
		want["wanted"] = shortFingerprint(firstOf(now.Data[certFile]))
	}
	want["by"] = "stranger at 2"
	if strings.HasSuffix(service, "-removed") {
		want["by"] = "nobody knows"
	}
	for field, words := range want {
		if !strings.Contains(line.Get(field), words) {
			t.Errorf("%s: the line says %s %q, want %q", service, field, line.Get(field), words)
		}
	}
	if kept := bytes.Equal(before.Data[certFile], now.Data[certFile]) && bytes.Equal(before.Data[keyFile], now.Data[keyFile]); kept != (d.leaf == "kept") {
		t.Errorf("%s: leaf and key kept is %v", service, kept)
	}
}

// testMarksOfNoLeaf: what somebody writes of a leaf beside one that meshca does not know is put right once, be it there
// before or come later, and holds nobody up.
func testMarksOfNoLeaf(t *testing.T, k *kubernetes) {
	m := k.newMesh(t, "no-leaf", clusterSettings{Services: []string{"before", "later"}, Sweep: "1s", Extra: map[string]string{"before": "consumers: none"}})
	a := newForeignCA(t)
	marks := object{"annotations": object{"meshca.io/serial": "0123", "meshca.io/not-before": "then", "meshca.io/not-after": "never", "meshca.io/issuer": "me"}}
	for _, service := range m.Services {
		set := a.set(t, service)
		set[keyFile] = a.set(t, service)[keyFile]
		s := shape{how: "somebody", object: object{"type": "kubernetes.io/tls", "data": set}}
		if service == "before" {
			s.object["metadata"] = maps.Clone(marks)
		}
		m.makeShape(t, service, s)
	}
	p := m.Start()
	m.awaitStatus(p, "taking over later: waits for nobody is seen to read it")
	k.change(t, m.namespace, "later", "stranger", object{"metadata": marks})
	p.AwaitLine("healed", "service", "later")
	m.AwaitSweep(p)
	held := make(map[string]string)
	for _, service := range m.Services {
		held[service] = k.secret(t, m.namespace, service).Metadata.ResourceVersion
	}
	for range 3 {
		m.AwaitSweep(p)
	}
	for service, heals := range map[string]int{"before": 0, "later": 1} {
		if n := len(p.Lines("healed", "service", service)); n != heals {
			t.Errorf("%s was healed %d times, want %d", service, n, heals)
		}
		if is := k.secret(t, m.namespace, service).Metadata.ResourceVersion; is != held[service] {
			t.Errorf("%s was written though nobody had been there: resourceVersion %s → %s", service, held[service], is)
		}
	}
	if s, _ := m.Status(); s.Of("before").WaitsFor != "" {
		t.Errorf("before is waited for: %+v", s.Of("before"))
	}
	if answer := m.Run("adopt", "later", "--config", m.Config(), "--continue"); answer.Code != 0 {
		t.Errorf("meshca adopt later --continue: %d %s%s", answer.Code, answer.Stdout, answer.Stderr)
	}
	m.AwaitSigned(p)
}

// testDeleted deletes Secrets, and makes others in their place.
func testDeleted(t *testing.T, k *kubernetes) {
	services := []string{"helm", "plain", "race-mine", "race-theirs", "half"}
	m := k.newMesh(t, "deleted", clusterSettings{Services: services, Extra: map[string]string{"helm": "consumers: none"}})
	m.makeShape(t, "helm", shape{how: "helm", object: object{"type": "Opaque", "data": object{"values": "dmFsdWVz", "more": "bW9yZQ==", caFile: ""}, "metadata": object{
		"labels": object{"app.kubernetes.io/managed-by": "Helm"}, "annotations": object{"meta.helm.sh/release-name": "mesh"}}}})
	p := m.Start()
	m.AwaitSound(p)
	before := make(map[string]*secret)
	for _, service := range services {
		before[service] = k.secret(t, m.namespace, service)
	}
	for _, service := range []string{"helm", "plain"} {
		k.kubectl(t, "", "-n", m.namespace, "delete", "secret", service+"-mtls-cert")
	}
	checkMadeAgain(t, m, p, before)
	checkRaces(t, m, p, before["half"].Data[keyFile])
	checkBundleHealed(t, m, p)
}

// checkRaces deletes Secrets and makes them again of another CA's files, as a script does, in either order of the race
// with meshca. half gets its own key, which somebody had kept.
func checkRaces(t *testing.T, m *clusterMesh, p *Process, key []byte) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range newForeignCA(t).set(t, "pgadmin") {
		writeFile(t, filepath.Join(dir, name), content)
	}
	writeFile(t, filepath.Join(dir, "own.key"), key)
	create := func(service, keyPath string) Answer {
		return runCommand(t, dir, m.k.Kubectl, "--kubeconfig", m.k.Kubeconfig, "-n", m.namespace, "create", "secret", "generic",
			service+"-mtls-cert", "--from-file="+certFile, "--from-file="+keyFile+"="+keyPath, "--from-file="+caFile)
	}
	remove := func(service string) {
		m.k.kubectl(t, "", "-n", m.namespace, "delete", "secret", service+"-mtls-cert")
	}

	// meshca is first.
	remove("race-mine")
	p.AwaitLine("healed", "service", "race-mine")
	if a := create("race-mine", keyFile); a.Code == 0 || !strings.Contains(a.Stderr, "already exists") {
		t.Errorf("kubectl create after the healing: %+v", a)
	}
	// The other one is first.
	p.Paused(func() {
		for service, key := range map[string]string{"race-theirs": keyFile, "half": "own.key"} {
			remove(service)
			if a := create(service, key); a.Code != 0 {
				t.Errorf("kubectl create: %+v", a)
			}
		}
	})
	m.AwaitSound(p)
	for service, leaf := range map[string]string{"race-mine": "new", "race-theirs": "new", "half": "kept"} {
		if line := p.AwaitLine("healed", "service", service); !strings.HasPrefix(line.Get("leaf"), leaf) {
			t.Errorf("%s: leaf %s, want %s", service, line.Get("leaf"), leaf)
		}
	}
	if line := p.AwaitLine("healed", "service", "race-theirs"); !strings.Contains(line.Get("by"), "kubectl-create") {
		t.Errorf("made by kubectl: the line says %q", line.Get("by"))
	}
}

// checkMadeAgain sees that deleted Secrets come back as they were, as far as that is kept.
func checkMadeAgain(t *testing.T, m *clusterMesh, p *Process, before map[string]*secret) {
	t.Helper()
	m.AwaitSound(p, "helm", "plain")
	for _, service := range []string{"helm", "plain"} {
		was, is := before[service], m.k.secret(t, m.namespace, service)
		if was.Metadata.UID == is.Metadata.UID {
			t.Errorf("%s was not deleted", service)
		}
		maps.DeleteFunc(was.Data, func(key string, _ []byte) bool { return key == "values" || key == "more" })
		if err := foreignLost(was, is); err != nil {
			t.Errorf("%s: %v", service, err)
		}
	}
	m.AwaitEvent(p, "helm", "Healed", "gone with it, and not kept: more, values", "nobody knows")
	// What it was made again with stays when it is written again.
	was := m.k.secret(t, m.namespace, "helm")
	m.k.change(t, m.namespace, "helm", "stranger", data(caFile, nil))
	p.Await("helm is healed", func() error { return same(was.Data[caFile], m.k.secret(t, m.namespace, "helm").Data[caFile]) })
	if err := foreignLost(was, m.k.secret(t, m.namespace, "helm")); err != nil {
		t.Error(err)
	}
}

// checkBundleHealed changes the published bundle, and deletes it.
func checkBundleHealed(t *testing.T, m *clusterMesh, p *Process) {
	t.Helper()
	bundle, err := m.bundle()
	must(t, err)
	healed := func() error {
		now, err := m.bundle()
		return errors.Join(err, same(bundle, now))
	}
	m.k.do(t, http.MethodPatch, bundlePath(m.namespace), object{"data": object{caFile: "nothing", "more": "theirs"}})
	p.Await("the changed ConfigMap is healed", healed)
	if text := m.k.do(t, http.MethodGet, bundlePath(m.namespace), nil); !bytes.Contains(text, []byte(`"more":"theirs"`)) {
		t.Errorf("what others have in it is gone: %s", text)
	}
	m.k.do(t, http.MethodPatch, bundlePath(m.namespace), object{"data": nil})
	p.Await("the emptied ConfigMap is healed", healed)
	m.k.do(t, http.MethodDelete, bundlePath(m.namespace), nil)
	p.Await("the deleted ConfigMap is healed", healed)

	// For who mounts it this is one file with the other; for the API server it is another, and no apply removes it.
	f := newForeignCA(t)
	m.k.do(t, http.MethodPatch, bundlePath(m.namespace)+"?fieldManager=stranger", object{
		"data": object{caFile: nil}, "binaryData": object{caFile: base64.StdEncoding.EncodeToString(f.PEM())}})
	p.Await("the ConfigMap with binaryData is healed", healed)
	if text := m.k.do(t, http.MethodGet, bundlePath(m.namespace), nil); bytes.Contains(text, []byte(`"binaryData"`)) {
		t.Errorf("its binaryData is still there: %s", text)
	}
	seen, right := shortFingerprint(f.cert), shortFingerprint(firstOf(bundle))
	line := p.AwaitLine("healed the published trust bundle", "configmap", m.namespace+"/meshca-ca", "seen", seen, "wanted", right)
	if !strings.Contains(line.Get("by"), "stranger at 2") {
		t.Errorf("the line says by %q", line.Get("by"))
	}
	p.Await("an Event on the ConfigMap", func() error {
		for _, e := range m.events("") {
			if e.Regarding.Kind == "ConfigMap" && e.Regarding.Name == "meshca-ca" && e.Reason == "Healed" &&
				strings.Contains(e.Note, "ca.crt: "+seen+" → "+right+"; by stranger") {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

// testFight has somebody who writes again and again.
func testFight(t *testing.T, k *kubernetes) {
	m := k.newMesh(t, "fight", clusterSettings{Services: []string{"envoy", "quiet"}})
	p := m.Start()
	m.AwaitSound(p)
	quiet := k.secret(t, m.namespace, "quiet").Metadata.ResourceVersion
	began := time.Now()
	for i := range 22 {
		k.change(t, m.namespace, "envoy", "stranger", data(caFile, fmt.Appendf(nil, "%d", i)))
		p.Await(fmt.Sprintf("heal %d", i), func() error {
			if n := len(p.Lines("healed", "service", "envoy")); n <= i {
				return fmt.Errorf("there were %d", n)
			}
			return nil
		})
		switch i {
		case 1:
			if s, _ := m.Status(); s.Of("envoy").State != "kept" {
				t.Errorf("after two foreign writes: %+v", s.Of("envoy"))
			}
		case 2:
			m.checkAlarm(p)
		}
	}
	// Of 22 heals 20 were free, less what came back meanwhile: one each 5 s.
	took := time.Since(began)
	if free := 20 + int(took/(5*time.Second)); free < 22 {
		t.Errorf("22 heals took %s, so that at most %d were to be had", took, free)
	}
	if k.secret(t, m.namespace, "quiet").Metadata.ResourceVersion != quiet {
		t.Error("the other service was written")
	}
}

// checkAlarm sees what is said from the third foreign write on.
func (m *clusterMesh) checkAlarm(p *Process) {
	m.awaitStatus(p, "alarm envoy: 3 foreign writes within ten minutes", "hint: find out who writes to fight/envoy-mtls-cert")
	m.AwaitEvent(p, "envoy", "Alarm", "service envoy: somebody writes here again and again: 3 times")
	p.AwaitLine("somebody writes here again and again", "service", "envoy")
	p.Await("the metric", func() error {
		_, text, err := m.get(p, "/metrics")
		if !strings.Contains(text, `meshca_foreign_writes{service="envoy"} 3`) {
			err = errors.Join(err, errors.New("it does not say 3"))
		}
		return err
	})
}

// testManagedBy: who manages a Secret is ours to say of those that meshca has made, and is put right there. On those that
// it has found it is whatever their makers say.
func testManagedBy(t *testing.T, k *kubernetes) {
	const label = "app.kubernetes.io/managed-by"
	m := k.newMesh(t, "managed-by", clusterSettings{Services: []string{"made", "found", "helm"}})
	labelled := func(value any) object { return object{"metadata": object{"labels": object{label: value}}} }
	is := func(service string) string { return k.secret(t, m.namespace, service).Metadata.Labels[label] }
	m.makeShape(t, "found", shape{how: "somebody", object: typed("Opaque", nil, nil)})
	m.makeShape(t, "helm", shape{how: "helm", object: typed("Opaque", labelled("Helm")["metadata"].(object), nil)})
	p := m.Start()
	m.AwaitSound(p)

	healed := func(p *Process, seen string) {
		t.Helper()
		p.AwaitLine("healed", "service", "made", "file", label, "seen", seen, "wanted", "meshca")
		if now := is("made"); now != "meshca" {
			t.Errorf("healed, and it is %q", now)
		}
	}
	k.change(t, m.namespace, "made", "stranger", labelled(nil))
	healed(p, "absent")
	k.change(t, m.namespace, "made", "stranger", labelled("Helm"))
	healed(p, "Helm")
	p.Stop()
	k.change(t, m.namespace, "made", "stranger", labelled(nil))
	p = m.Start() // it is known of a Secret that another process has made
	healed(p, "absent")

	k.change(t, m.namespace, "helm", "stranger", labelled("Argo"))
	for service, want := range map[string]string{"found": "", "helm": "Argo"} {
		k.change(t, m.namespace, service, "stranger", data(caFile, nil))
		line := p.AwaitLine("healed", "service", service)
		if now := is(service); now != want || line.Get("file") != caFile {
			t.Errorf("%s is managed by %q, want %q; healed %s", service, now, want, line.Get("file"))
		}
	}
}
