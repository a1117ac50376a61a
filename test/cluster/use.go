package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Do runs kubectl as the cluster's administrator and returns what it says; its failure ends the test.
func (c *Cluster) Do(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.Kubectl, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Create makes the objects of a manifest, in a namespace that it makes first. No annotation of kubectl apply
// is left on them.
func (c *Cluster) Create(t testing.TB, namespace, manifest string) {
	t.Helper()
	c.Do(t, "", "create", "namespace", namespace)
	if manifest != "" {
		c.Do(t, manifest, "-n", namespace, "create", "-f", "-")
	}
}

// As writes a kubeconfig for a user, who has no right but what is given to that name.
func (c *Cluster) As(t testing.TB, user string) (kubeconfig string) {
	t.Helper()
	admin, err := os.ReadFile(c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig = filepath.Join(t.TempDir(), user+".kubeconfig")
	as := strings.Replace(string(admin), "user: {client-certificate", fmt.Sprintf("user: {as: %q, client-certificate", user), 1)
	if err := os.WriteFile(kubeconfig, []byte(as), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}
