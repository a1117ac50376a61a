package kube_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"testing"

	"github.com/meshca/meshca/kube"
	"github.com/meshca/meshca/rotation/targettest"
	"github.com/meshca/meshca/test/cluster"
)

// kubectl runs kubectl as cluster-admin.
func kubectl(t testing.TB, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), c.Kubectl, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// connect makes a client of cluster-admin.
func connect(t testing.TB, c *cluster.Cluster) *kube.Client {
	t.Helper()
	client, err := kube.Connect(kube.Options{Kubeconfig: c.Kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// open makes a target for the services a and b in a namespace of their own.
func open(t testing.TB, c *cluster.Cluster, mode kube.WatchMode, n int) targettest.Subject {
	t.Helper()
	namespace := fmt.Sprintf("test-%d", n)
	kubectl(t, c, "create", "namespace", namespace)
	target := kube.New(connect(t, c), mode, slog.New(slog.DiscardHandler))
	target.SetCatalogue([]kube.Service{
		{Name: "a", Namespace: namespace, Secret: "a-mtls-cert"}, {Name: "b", Namespace: namespace, Secret: "b-mtls-cert"},
	})
	return targettest.Subject{Target: target, Tamper: func(t testing.TB, service, file string, content []byte) {
		t.Helper()
		tamper(t, c, namespace, service+"-mtls-cert", file, content)
	}}
}

// tamper changes one key of a Secret. A Secret of type kubernetes.io/tls cannot lose a key that the type asks
// for, so it is made anew as a generic one: that is what scripts do.
func tamper(t testing.TB, c *cluster.Cluster, namespace, name, file string, content []byte) {
	t.Helper()
	if content != nil {
		patch, err := json.Marshal(map[string]any{"data": map[string]string{file: base64.StdEncoding.EncodeToString(content)}})
		if err != nil {
			t.Fatal(err)
		}
		kubectl(t, c, "-n", namespace, "patch", "secret", name, "--type=merge", "-p", string(patch))
		return
	}
	var secret map[string]any
	if err := json.Unmarshal([]byte(kubectl(t, c, "-n", namespace, "get", "secret", name, "-o", "json")), &secret); err != nil {
		t.Fatal(err)
	}
	delete(secret["data"].(map[string]any), file)
	secret["type"] = "Opaque"
	metadata := secret["metadata"].(map[string]any)
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields"} {
		delete(metadata, field)
	}
	text, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, c, "-n", namespace, "delete", "secret", name)
	cmd := exec.CommandContext(t.Context(), c.Kubectl, "--kubeconfig", c.Kubeconfig, "create", "-f", "-")
	cmd.Stdin = strings.NewReader(string(text))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("create %s: %v\n%s", name, err, out)
	}
}
