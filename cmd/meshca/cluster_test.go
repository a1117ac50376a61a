package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/meshca/meshca/test/cluster"
	"github.com/meshca/meshca/test/mesh"
)

// TestCluster runs the commands that speak to a cluster against a real API server.
func TestCluster(t *testing.T) {
	c := cluster.Need(t, cluster.Options{})
	for name, test := range map[string]func(*testing.T, *cluster.Cluster){
		"verify": testVerifyCluster,
	} {
		t.Run(name, func(t *testing.T) { test(t, c) })
	}
}

// meshca runs the program and wants an exit code.
func meshca(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(args, strings.NewReader(""), &out, &errs); got != code {
		t.Errorf("meshca %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, &out, &errs)
	}
	if text := out.String() + errs.String(); strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, "LS0tLS1") {
		t.Errorf("meshca %s: prints what is in the Secrets", strings.Join(args, " "))
	}
	return out.String(), errs.String()
}

func wantIn(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("no %q in:\n%s", w, text)
		}
	}
}

// testVerifyCluster: the same table as for folders, and what is said of the Secrets besides.
func testVerifyCluster(t *testing.T, c *cluster.Cluster) {
	ca, other := mesh.NewCA(t, "root"), mesh.NewCA(t, "other")
	c.Create(t, "fine", mesh.Secrets(ca.Service(t, "envoy"), ca.Service(t, "pgadmin")))
	c.Create(t, "night", mesh.Account+mesh.Secrets(ca.Service(t, "envoy"), mesh.Trusting(ca.Service(t, "pgadmin"), other), ca.Service(t, "bookapi")))
	c.Create(t, "empty", "")

	out, _ := meshca(t, 0, "verify", "--kubeconfig", c.Kubeconfig, "-n", "fine")
	wantIn(t, out, "envoy-mtls-cert  ", "2 services, 2 pairs: all go together")
	out, _ = meshca(t, 1, "verify", "--kubeconfig", c.Kubeconfig, "-n", "night")
	wantIn(t, out, "would-refuse pgadmin-mtls-cert: ", "server refuses")
	out, _ = meshca(t, 1, "verify", "--kubeconfig", c.Kubeconfig, "-A")
	wantIn(t, out, "fine/envoy-mtls-cert", "would-refuse night/pgadmin-mtls-cert: ")
	_, errs := meshca(t, 2, "verify", "--kubeconfig", c.Kubeconfig, "-n", "empty")
	wantIn(t, errs, "meshca: namespace empty holds no Secret with the keys tls.crt and ca.crt")
	out, _ = meshca(t, 1, "verify", "--kubeconfig", c.Kubeconfig, "-n", "fine", "envoy-mtls-cert", "gone")
	wantIn(t, out, "missing-secret gone: there is no Secret gone in namespace fine", "1 finding")
	if strings.Contains(out, "pgadmin") {
		t.Errorf("shows what was not named:\n%s", out)
	}

	// Without rights nothing is found out, and each right that lacks is named.
	nobody := c.As(t, "nobody")
	_, errs = meshca(t, 2, "verify", "--kubeconfig", nobody, "-n", "night")
	wantIn(t, errs, "meshca: list secrets in namespace night: RBAC does not allow it\n", "meshca: list pods in namespace night: RBAC",
		`meshca: get configmaps "meshca-ca" in namespace night: RBAC`, "hint: to read a namespace takes the rights to list secrets")

	out, _ = meshca(t, 2, "verify", "--kubeconfig", nobody, "-n", "night", "-o", "json")
	var report struct {
		Services, Findings, MayHoldOlderFiles []any
		Unread                                []string
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Services == nil || report.MayHoldOlderFiles == nil || len(report.Unread) != 3 {
		t.Errorf("JSON: %v\n%s", err, out)
	}
	if !slices.ContainsFunc(report.Unread, func(s string) bool { return strings.HasPrefix(s, "list pods") }) {
		t.Errorf("unread: %v", report.Unread)
	}
}
