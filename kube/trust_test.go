package kube

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshca/meshca/rotation"
)

// publisher is a target with a service in each of the namespaces.
func publisher(m *meshCluster, log *strings.Builder, namespaces ...string) *Target {
	target := New(m.client, WatchNone, slog.New(slog.NewTextHandler(log, nil)))
	var services []Service
	for i, namespace := range namespaces {
		services = append(services, Service{Name: fmt.Sprint("s", i), Namespace: namespace, Secret: "s-mtls-cert"})
	}
	target.SetCatalogue(services)
	return target
}

// publish publishes a bundle, and once more where somebody was seen to have written.
func publish(t *testing.T, target *Target, bundle string) {
	t.Helper()
	changed, err := target.Publish(t.Context(), []byte(bundle))
	if err == nil && len(changed) > 0 {
		changed, err = target.Publish(t.Context(), []byte(bundle))
	}
	if err != nil || len(changed) > 0 {
		t.Fatalf("changed %q (%v)", changed, err)
	}
}

func bundleMap(t *testing.T, m *meshCluster, namespace string) (live corev1.ConfigMap) {
	t.Helper()
	if err := m.client.get(t.Context(), bundleAt(namespace), &live, nil); err != nil {
		t.Fatal(err)
	}
	return live
}

// testBinaryBundle: whoever mounts the ConfigMap sees one file ca.crt, whichever of its two maps that is in. What
// somebody puts into binaryData is put right as well, with all else that is there left alone.
func testBinaryBundle(t *testing.T, m *meshCluster) {
	const namespace = "publish-binary"
	m.Do(t, "", "create", "namespace", namespace)
	for what, made := range map[string]string{"another's": "another", "the very bundle": "bundle"} {
		var log strings.Builder
		target := publisher(m, &log, namespace)
		publish(t, target, "bundle")
		m.Do(t, "", "-n", namespace, "delete", "configmap", BundleMap)
		binary := base64.StdEncoding.EncodeToString([]byte(made))
		m.Do(t, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: %s}, data: {more: theirs}, binaryData: {ca.crt: %s, blob: AAAA}}`,
			BundleMap, namespace, binary), "create", "-f", "-")
		publish(t, target, "bundle")
		live := bundleMap(t, m, namespace)
		if live.Data[rotation.CAFile] != "bundle" || len(live.BinaryData[rotation.CAFile]) > 0 {
			t.Errorf("%s: it holds %q and %q", what, live.Data, live.BinaryData)
		}
		if live.Data["more"] != "theirs" || len(live.BinaryData["blob"]) != 3 {
			t.Errorf("%s: what is theirs is gone: %q and %q", what, live.Data, live.BinaryData)
		}
		for _, words := range []string{"healed the published trust bundle", "configmap=publish-binary/meshca-ca", "by=\"kubectl-create at 2"} {
			if !strings.Contains(log.String(), words) {
				t.Errorf("%s: the log does not say %s:\n%s", what, words, log.String())
			}
		}
		before := live.ResourceVersion
		publish(t, target, "bundle 2") // and it is kept as any other is
		publish(t, target, "bundle 2")
		if live = bundleMap(t, m, namespace); live.Data[rotation.CAFile] != "bundle 2" || live.ResourceVersion == before {
			t.Errorf("%s: then it holds %q", what, live.Data)
		}
	}
}

// testPublishInSome: what cannot be published in one namespace is named, and what somebody has changed in another is
// told all the same, and put right.
func testPublishInSome(t *testing.T, m *meshCluster) {
	m.Do(t, "", "create", "namespace", "publish-there")
	var log strings.Builder
	target := publisher(m, &log, "publish-missing", "publish-there")
	if changed, err := target.Publish(t.Context(), []byte("bundle")); !is(err, NamespaceMissing) || len(changed) > 0 {
		t.Errorf("changed %q (%v)", changed, err)
	}
	m.Do(t, "", "-n", "publish-there", "patch", "configmap", BundleMap, "--type=merge", "-p", `{"data":{"ca.crt":"another"}}`)
	changed, err := target.Publish(t.Context(), []byte("bundle"))
	if want := []string{rotation.PublishedIn("publish-there")}; !is(err, NamespaceMissing) || !slices.Equal(changed, want) {
		t.Errorf("changed %q, want %q (%v)", changed, want, err)
	}
	if changed, err = target.Publish(t.Context(), []byte("bundle")); !is(err, NamespaceMissing) || len(changed) > 0 {
		t.Errorf("changed %q (%v)", changed, err)
	}
	if live := bundleMap(t, m, "publish-there"); live.Data[rotation.CAFile] != "bundle" {
		t.Errorf("it holds %q", live.Data)
	}
}

// testImmutableBundle: one that cannot be written is told of once, with who made it and what it holds, and made anew when
// somebody has deleted it.
func testImmutableBundle(t *testing.T, m *meshCluster) {
	const namespace = "publish-stuck"
	m.Do(t, "", "create", "namespace", namespace)
	var log strings.Builder
	target := publisher(m, &log, namespace)
	publish(t, target, "bundle")
	m.Do(t, "", "-n", namespace, "patch", "configmap", BundleMap, "--type=merge", "-p", `{"immutable":true,"data":{"ca.crt":"another"}}`)
	for range 3 {
		if _, err := target.Publish(t.Context(), []byte("bundle")); err == nil || !strings.Contains(err.Error(), "is immutable: delete it") {
			t.Errorf("%v", err)
		}
	}
	if n := len(target.events.waiting); n != 1 {
		t.Fatalf("%d Events wait", n)
	}
	event := <-target.events.waiting
	if event.Kind != rotation.NoticeAlarm {
		t.Errorf("the Event is %s", event.Kind)
	}
	for text, says := range map[string]string{"the log": log.String(), "the Event": event.Text} {
		if strings.Count(says, "immutable") != 1 || !strings.Contains(says, "kubectl-patch at 2") || !strings.Contains(says, "no certificate in 7 bytes") {
			t.Errorf("%s: %s", text, says)
		}
	}
	m.Do(t, "", "-n", namespace, "delete", "configmap", BundleMap)
	publish(t, target, "bundle")
	if live := bundleMap(t, m, namespace); live.Data[rotation.CAFile] != "bundle" {
		t.Errorf("it holds %q", live.Data)
	}
}
