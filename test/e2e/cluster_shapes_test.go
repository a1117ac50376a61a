package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// A shape is a Secret as somebody has made it before meshca came.
type shape struct {
	how    string // create, apply, apply --server-side by kubectl, or a field manager's name
	object object // without its name
	says   string // a remark in the status
}

// shapes are those that are taken over where they are. f has made the leaves of all.
func shapes(t *testing.T, f *foreignCA) map[string]shape {
	const opaque, tls = "Opaque", "kubernetes.io/tls"
	const lastApplied = "last-applied-configuration holds keys of the manifest"
	helm := object{"labels": object{"app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "mesh-1.2.3"},
		"annotations": object{"meta.helm.sh/release-name": "mesh", "meta.helm.sh/release-namespace": "shapes"}}
	own := object{"labels": object{"team": "core", "app.kubernetes.io/part-of": "mesh"}, "finalizers": []string{"example.com/keep"},
		"annotations": object{"example.com/note": "do not lose", "reloader.stakater.com/match": "true"}}
	set := func(service string, more ...string) map[string][]byte {
		all := f.set(t, service)
		for _, key := range more {
			all[key] = []byte("of " + key)
		}
		return all
	}
	crlf := set("crlf")
	for key, value := range crlf {
		crlf[key] = bytes.ReplaceAll(value, []byte("\n"), []byte("\r\n"))
	}
	text := object{}
	for key, value := range set("string-data") {
		text[key] = string(value)
	}
	big := set("big")
	big["dump"] = bytes.Repeat([]byte("0123456789"), 90_000)
	combined := set("combined")
	combined[certFile] = slices.Concat(combined[certFile], combined[keyFile])
	kept := set("manifest-kept")
	manifest, err := json.Marshal(typed(opaque, nil, kept))
	must(t, err)
	short, err := json.Marshal(object{"stringData": object{keyFile: string(kept[keyFile])}})
	must(t, err)
	annotated := object{"annotations": object{"kapp.k14s.io/original": string(manifest), "example.com/applied": string(short), "example.com/note": "do not lose"}}
	pair := set("tls-create")
	delete(pair, caFile)
	return map[string]shape{
		"opaque-create": {"create", typed(opaque, nil, set("opaque-create")), ""},
		"tls-create":    {"create", typed(tls, nil, pair), ""},
		"opaque-apply":  {"apply", typed(opaque, own, set("opaque-apply", "token")), lastApplied},
		"tls-apply":     {"apply", typed(tls, own, set("tls-apply", "token")), lastApplied},
		"opaque-server": {"apply --server-side", typed(opaque, own, set("opaque-server", "token")), ""},
		"tls-server":    {"apply --server-side", typed(tls, own, set("tls-server", "token")), ""},
		"opaque-helm":   {"helm", typed(opaque, helm, set("opaque-helm", "values.yaml")), ""},
		"tls-helm":      {"helm", typed(tls, helm, set("tls-helm")), ""},
		"empty":         {"create", typed(opaque, own, nil), ""},
		"placeholder":   {"helm", typed(opaque, helm, map[string][]byte{certFile: []byte("placeholder"), keyFile: []byte("placeholder")}), ""},
		"tls-empty":     {"create", typed(tls, own, map[string][]byte{certFile: {}, keyFile: {}}), ""},
		"null":          {"somebody", object{"type": opaque, "data": object{certFile: nil, caFile: nil}}, ""},
		"ca-only":       {"create", typed(opaque, nil, map[string][]byte{caFile: f.PEM()}), ""},
		"string-data":   {"apply", object{"type": opaque, "stringData": text}, lastApplied},
		"big":           {"create", typed(opaque, nil, big), ""},
		"combined":      {"create", typed(opaque, nil, combined), ""},
		"manifest-kept": {"create", typed(opaque, annotated, kept), ""},
		"crlf":          {"somebody", typed(tls, nil, crlf), ""},
	}
}

// typed is a Secret of a type.
func typed(kind string, metadata object, data map[string][]byte) object {
	return object{"type": kind, "metadata": maps.Clone(metadata), "data": data}
}

// testShapes takes over what people have.
func testShapes(t *testing.T, k *kubernetes) {
	all := shapes(t, newForeignCA(t))
	extra := make(map[string]string)
	for service := range all {
		extra[service] = "consumers: none"
	}
	taken := slices.Sorted(maps.Keys(all))
	m := k.newMesh(t, "shapes", clusterSettings{Services: taken, Extra: extra, Sweep: "1s"})
	before := make(map[string]*secret)
	for service, s := range all {
		before[service] = m.makeShape(t, service, s)
	}
	p := m.Start()
	p.Await("all are taken over", func() error {
		status, _ := m.Status()
		for _, service := range taken {
			if s := status.Of(service); s.State != "kept" {
				return fmt.Errorf("%s is %s: %s", service, s.State, s.Error)
			}
		}
		return m.sound(taken...)
	})
	for _, service := range taken {
		after := k.secret(t, m.namespace, service)
		if err := foreignLost(before[service], after); err != nil {
			t.Errorf("%s: %v", service, err)
		}
		if err := managersLost(before[service], after); err != nil {
			t.Errorf("%s: %v", service, err)
		}
		if says := all[service].says; says != "" {
			m.awaitStatus(p, "remark "+service, says)
		}
		reason := "TakenOver"
		if service == "empty" {
			reason = "Issued"
		}
		m.AwaitEvent(p, service, reason, "service "+service+": ")
	}
}

// testLeft: what is not ours to write is named and left alone. Others whose CA it trusts are not signed anew then, but
// by an operator's word.
func testLeft(t *testing.T, k *kubernetes) {
	f := newForeignCA(t)
	left := refusedShapes(t, f)
	m := k.newMesh(t, "left", clusterSettings{Services: append(slices.Sorted(maps.Keys(left)), "envoy"), Sweep: "1s",
		Extra: map[string]string{"envoy": "consumers: none"}})
	before := make(map[string]*secret)
	for service, s := range left {
		before[service] = m.makeShape(t, service, s.shape)
	}
	f.makeSecret(t, m, "envoy")
	p := m.Start()
	m.checkLeft(p, left, before)
	m.awaitStatus(p, "refused immutable: ", "others wait for it: ", "its processes would refuse leaves that are signed anew")
	if s, _ := m.Status(); s.Of("envoy").State != "taking over" {
		t.Errorf("envoy is %+v", s.Of("envoy"))
	}
	m.goOnWithout(p, left)
	for service := range left {
		k.do(t, http.MethodDelete, secretPath(m.namespace, service), nil)
	}
	m.AwaitSigned(p)
}

// goOnWithout has an operator say that nobody need wait for what is left alone: first for one, then for all.
func (m *clusterMesh) goOnWithout(p *Process, left map[string]leftShape) {
	if plan := m.Run("adopt", "--config", m.Config()); !strings.Contains(plan.Stdout, "others wait for it: its place is left alone") ||
		!strings.Contains(plan.Stdout, "its leaf is signed anew when these are ready: cert-manager, external, immutable") {
		m.t.Errorf("meshca adopt does not say who waits for whom:\n%s", plan.Stdout)
	}
	const refuse = "readers of %s that do not trust our root yet will refuse the new leaves of envoy, with CERTIFICATE_VERIFY_FAILED"
	one := m.Run("adopt", "immutable", "--config", m.Config(), "--continue")
	if one.Code != 0 || !strings.Contains(one.Stdout, fmt.Sprintf(refuse, "immutable")) ||
		!strings.Contains(one.Stdout, "signed anew when these are ready too: cert-manager, external, owned, sealed, token\n") {
		m.t.Errorf("meshca adopt immutable --continue: %d\n%s%s", one.Code, one.Stdout, one.Stderr)
	}
	m.AwaitSweep(p)
	if s, _ := m.Status(); s.Of("envoy").State != "taking over" {
		m.t.Errorf("envoy is %+v", s.Of("envoy"))
	}
	all := m.Run("adopt", "--config", m.Config(), "--continue")
	for service := range left {
		if said := strings.Contains(all.Stdout, fmt.Sprintf(refuse, service)); all.Code != 0 || said == (service == "immutable") {
			m.t.Errorf("meshca adopt --continue: %d, of %s:\n%s%s", all.Code, service, all.Stdout, all.Stderr)
		}
	}
	m.AwaitState(p, "envoy", "kept")
	if s, _ := m.Status(); s.Of("immutable").State != "refused" {
		m.t.Errorf("immutable is %+v", s.Of("immutable"))
	}
}

// makeShape makes the Secret of a service.
func (m *clusterMesh) makeShape(t *testing.T, service string, s shape) *secret {
	t.Helper()
	o := maps.Clone(s.object)
	o["apiVersion"], o["kind"] = "v1", "Secret"
	metadata, _ := o["metadata"].(object)
	if metadata == nil {
		metadata = object{}
	}
	metadata["name"], metadata["namespace"] = service+"-mtls-cert", m.namespace
	o["metadata"] = metadata
	if s.how == "create" || strings.HasPrefix(s.how, "apply") {
		text, err := json.Marshal(o)
		must(t, err)
		m.k.kubectl(t, string(text), append(strings.Fields(s.how), "-f", "-")...)
	} else {
		m.k.do(t, http.MethodPost, "/api/v1/namespaces/"+m.namespace+"/secrets?fieldManager="+s.how, o)
	}
	m.noteKeys()
	return m.k.secret(t, m.namespace, service)
}

// managersLost sees that who held fields that are not meshca's holds them still.
func managersLost(before, after *secret) error {
	type fields struct {
		Data     map[string]any `json:"f:data"`
		Metadata struct {
			Labels      map[string]any `json:"f:labels"`
			Annotations map[string]any `json:"f:annotations"`
		} `json:"f:metadata"`
	}
	held := func(s *secret) map[string]bool {
		all := make(map[string]bool)
		for _, entry := range s.Metadata.ManagedFields {
			var f fields
			if json.Unmarshal(entry.FieldsV1, &f) != nil {
				continue
			}
			for _, names := range []map[string]any{f.Data, f.Metadata.Labels, f.Metadata.Annotations} {
				for name := range names {
					if name == "." {
						continue // the map itself: who holds nothing in it does not hold it
					}
					all[entry.Manager+" holds "+name] = true
				}
			}
		}
		return all
	}
	now := held(after)
	for claim := range held(before) {
		if ours := slices.ContainsFunc(setFiles, func(file string) bool { return strings.HasSuffix(claim, "f:"+file) }); !ours && !now[claim] {
			return fmt.Errorf("%s no more", claim)
		}
	}
	return nil
}

// A leftShape is one that is not meshca's to write, and what is said of it.
type leftShape struct {
	shape
	says string
}

func refusedShapes(t *testing.T, f *foreignCA) map[string]leftShape {
	with := func(service string, more, metadata object) shape {
		o := object{"type": "kubernetes.io/tls", "metadata": metadata, "data": f.set(t, service)}
		maps.Copy(o, more)
		return shape{how: "somebody", object: o}
	}
	owner := []object{{"apiVersion": "example.com/v1", "kind": "Mesh", "name": "mesh", "uid": "c1a7d3b4-0000-4000-8000-000000000000"}}
	return map[string]leftShape{
		"immutable":    {with("immutable", object{"immutable": true}, nil), "is immutable"},
		"owned":        {with("owned", nil, object{"ownerReferences": owner}), `is written by its owner, "mesh" of kind "Mesh"`},
		"cert-manager": {with("cert-manager", nil, object{"annotations": object{"cert-manager.io/certificate-name": "a"}}), "is written by cert-manager"},
		"external":     {with("external", nil, object{"labels": object{"reconcile.external-secrets.io/managed": "true"}}), "is written by External Secrets"},
		"token": {with("token", object{"type": "kubernetes.io/service-account-token"}, object{"annotations": object{"kubernetes.io/service-account.name": "default"}}),
			"is of type kubernetes.io/service-account-token"},
		"sealed": {with("sealed", nil, object{"annotations": object{"sealedsecrets.bitnami.com/managed": "true"}}), "is written by Sealed Secrets"},
	}
}

// checkLeft sees that what is not ours is named, with a way on, and was not written in any of several sweeps.
func (m *clusterMesh) checkLeft(p *Process, left map[string]leftShape, before map[string]*secret) {
	for service, s := range left {
		text := m.awaitStatus(p, "refused "+service+": "+m.namespace+"/"+service+"-mtls-cert "+s.says)
		_, after, _ := strings.Cut(text, "refused "+service+": ")
		if _, next, _ := strings.Cut(after, "\n"); !strings.HasPrefix(next, "  hint: ") {
			m.t.Errorf("%s has no hint:\n%s", service, text)
		}
		m.AwaitEvent(p, service, "Refused", s.says)
	}
	for range 2 {
		m.AwaitSweep(p)
	}
	for service := range left {
		if was, is := before[service].Metadata.ResourceVersion, m.k.secret(m.t, m.namespace, service).Metadata.ResourceVersion; was != is {
			m.t.Errorf("%s was written: resourceVersion %s → %s", service, was, is)
		}
		if n := len(m.events(service)); n != 1 {
			m.t.Errorf("%d Events on %s, want 1", n, service)
		}
		out := m.k.kubectl(m.t, "", "-n", m.namespace, "events", "--for", "secret/"+service+"-mtls-cert")
		if !strings.Contains(out, "Refused") {
			m.t.Errorf("kubectl events says %s", out)
		}
	}
}

// testTypes takes over Secrets of types that must have keys of their own. Deleted, those keys are gone and the types
// with them: the API server takes no such Secret without.
func testTypes(t *testing.T, k *kubernetes) {
	f := newForeignCA(t)
	types := map[string]struct{ kind, key, value string }{
		"basic":  {"kubernetes.io/basic-auth", "username", "admin"},
		"ssh":    {"kubernetes.io/ssh-auth", "ssh-privatekey", "a key"},
		"docker": {"kubernetes.io/dockerconfigjson", ".dockerconfigjson", "{}"},
		"old":    {"kubernetes.io/dockercfg", ".dockercfg", "{}"},
		"own":    {"example.com/mesh", "notes", "notes"},
	}
	services, extra := slices.Sorted(maps.Keys(types)), make(map[string]string)
	for _, service := range services {
		extra[service] = "consumers: none"
	}
	m := k.newMesh(t, "types", clusterSettings{Services: services, Extra: extra, Sweep: "1s"})
	for _, service := range services {
		set := f.set(t, service)
		set[types[service].key] = []byte(types[service].value)
		m.makeShape(t, service, shape{how: "somebody", object: typed(types[service].kind, nil, set)})
	}
	p := m.Start()
	m.AwaitSound(p)
	for service, is := range types {
		if now := k.secret(t, m.namespace, service); now.Type != is.kind || string(now.Data[is.key]) != is.value {
			t.Errorf("%s: type %s, %s is %q", service, now.Type, is.key, now.Data[is.key])
		}
		k.do(t, http.MethodDelete, secretPath(m.namespace, service), nil)
	}
	m.AwaitSound(p)
	for service, was := range types {
		kind, gone := "Opaque", was.key+", type "+was.kind+" (it is Opaque now)"
		if service == "own" {
			kind, gone = was.kind, was.key
		}
		if now := k.secret(t, m.namespace, service); now.Type != kind {
			t.Errorf("%s was made again as %s, want %s", service, now.Type, kind)
		}
		m.AwaitEvent(p, service, "Healed", "gone with it, and not kept: "+gone)
	}
}
