package kube

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshca/meshca/test/cluster"
)

// A meshCluster is a real API server with what the tests of what is read and repaired need.
type meshCluster struct {
	*cluster.Cluster
	client *Client
}

// TestMesh has one API server for all that reads and repairs: each test has namespaces of its own.
func TestMesh(t *testing.T) {
	m := &meshCluster{Cluster: cluster.Need(t, cluster.Options{})}
	m.client = m.connect(t, "")
	t.Run("readers", func(t *testing.T) { testReaders(t, m) })
}

// connect is a client for a user, the cluster's administrator where it is "".
func (m *meshCluster) connect(t *testing.T, user string) *Client {
	t.Helper()
	client, err := Connect(Options{Kubeconfig: m.kubeconfig(t, user)})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// kubeconfig writes one for a user.
func (m *meshCluster) kubeconfig(t *testing.T, user string) string {
	t.Helper()
	if user == "" {
		return m.Kubeconfig
	}
	admin, err := os.ReadFile(m.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), user+".kubeconfig")
	as := strings.Replace(string(admin), "user: {client-certificate", fmt.Sprintf("user: {as: %q, client-certificate", user), 1)
	if err := os.WriteFile(path, []byte(as), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// kubectl runs a command as the cluster's administrator.
func (m *meshCluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return m.run(t, "", args...)
}

// applyManifest makes the objects of a manifest, without the annotation that kubectl apply leaves.
func (m *meshCluster) applyManifest(t *testing.T, namespace, manifest string) {
	t.Helper()
	m.run(t, manifest, "-n", namespace, "create", "-f", "-")
}

func (m *meshCluster) run(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), m.Kubectl, append([]string{"--kubeconfig", m.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (m *meshCluster) namespace(t *testing.T, name string) {
	t.Helper()
	m.kubectl(t, "create", "namespace", name)
}
