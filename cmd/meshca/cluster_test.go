package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/test/cluster"
	"github.com/meshca/meshca/test/mesh"
)

// TestCluster runs the commands that speak to a cluster against a real API server.
func TestCluster(t *testing.T) {
	c := cluster.Need(t, cluster.Options{})
	for name, test := range map[string]func(*testing.T, *cluster.Cluster){
		"verify": testVerifyCluster, "repair": testRepair, "repair is refused": testRepairRefused, "repair and pods": testRestarts,
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
	out, errs = meshca(t, 2, "verify", "--kubeconfig", nobody, "-n", "night")
	wantIn(t, out, "this is not all: what could not be read is named in 3 errors\n")
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

// testRepair: the plan writes nothing, --yes does, and then there is nothing left to do.
func testRepair(t *testing.T, c *cluster.Cluster) {
	ca, other, good := mesh.NewCA(t, "root"), mesh.NewCA(t, "other"), mesh.NewCA(t, "good")
	c.Create(t, "broken", mesh.Account+mesh.Secrets(mesh.Placeholder("bookapi"), ca.Service(t, "envoy", mesh.Expired), other.Service(t, "pgadmin"))+
		mesh.Pod("envoy-0", "envoy-mtls-cert"))
	dir := t.TempDir()
	mesh.Write(t, dir, good.Service(t, "bookapi"), good.Service(t, "envoy"), good.Service(t, "pgadmin"), good.Service(t, "timescaledb"))
	args := []string{"repair", "--kubeconfig", c.Kubeconfig, "-n", "broken", "--from", dir}
	version := func() string {
		return c.Do(t, "", "-n", "broken", "get", "secrets", "-o", "jsonpath={.items[*].metadata.resourceVersion}")
	}
	before := version()
	out, errs := meshca(t, 1, args...)
	wantIn(t, out, "bookapi      bookapi-mtls-cert      update  - → ", "timescaledb  timescaledb-mtls-cert  create  - → ", "now expired",
		"afterwards: 4 services, 12 pairs: all go together", "namespace broken: 1 to create, 3 to update, 0 equal, 0 refused")
	wantIn(t, errs, "meshca: nothing was written\nhint: the same with --yes carries it out\n")
	dry, errs := meshca(t, 1, append(args, "--dry-run")...)
	if dry != out || errs != "" || version() != before {
		t.Errorf("--dry-run prints something else, or writes:\n%s%s", dry, errs)
	}

	out, _ = meshca(t, 0, append(args, "--yes")...)
	wantIn(t, out, "\nwritten: envoy-mtls-cert\n", "written: timescaledb-mtls-cert\n")
	out, _ = meshca(t, 0, "verify", "--kubeconfig", c.Kubeconfig, "-n", "broken")
	wantIn(t, out, "4 services, 12 pairs: all go together")

	after := version()
	out, errs = meshca(t, 0, append(args, "--yes")...)
	wantIn(t, out, "0 to create, 0 to update, 4 equal, 0 refused")
	if version() != after || strings.Contains(out, "written") || errs != "" {
		t.Errorf("the second time writes:\n%s%s", out, errs)
	}
	meshca(t, 0, args...)
}

// testRestarts: pods that were there before are named with the way to restart them, also by a second run.
func testRestarts(t *testing.T, c *cluster.Cluster) {
	ca := mesh.NewCA(t, "root")
	c.Create(t, "pods", mesh.Account+mesh.Secrets(ca.Service(t, "envoy"), ca.Service(t, "pgadmin"))+mesh.Pod("envoy-0", "envoy-mtls-cert")+
		strings.Replace(mesh.Pod("pgadmin-0", "pgadmin-mtls-cert"), "name: pgadmin-0", "name: pgadmin-0, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: pgadmin, uid: u, controller: true}]", 1))
	dir := t.TempDir()
	args := []string{"repair", "--kubeconfig", c.Kubeconfig, "-n", "pods", "--from", dir, "--yes"}
	out := ""
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(out, "pod envoy-0") || !strings.Contains(out, "pod pgadmin-0"); { // the API server counts in seconds
		if time.Now().After(deadline) {
			t.Fatalf("no pod is older:\n%s", out)
		}
		next := mesh.NewCA(t, "next")
		mesh.Write(t, dir, next.Service(t, "envoy"), next.Service(t, "pgadmin"))
		out, _ = meshca(t, 0, args...)
	}
	wantIn(t, out, "all soon one after the other: until both have restarted, these refuse each other: envoy and pgadmin\n",
		"  envoy    pod envoy-0    kubectl delete pod envoy-0 -n pods", "  pgadmin  pod pgadmin-0  kubectl rollout restart statefulset/pgadmin -n pods\n")
	out, _ = meshca(t, 0, args...)
	wantIn(t, out, "by themselves\n  envoy    pod envoy-0")
	out, _ = meshca(t, 0, "verify", "--kubeconfig", c.Kubeconfig, "-n", "pods")
	wantIn(t, out, "may hold older files", "  pod pods/envoy-0    made ", "of Secret envoy-mtls-cert    changed ")
}

// testRepairRefused: each is refused, says why, and writes nothing.
func testRepairRefused(t *testing.T, c *cluster.Cluster) {
	ca, other := mesh.NewCA(t, "root"), mesh.NewCA(t, "other")
	c.Create(t, "kept", mesh.Secrets(ca.Service(t, "envoy"), ca.Service(t, "pgadmin"))+
		mesh.Secret("managed-mtls-cert", "{cert-manager.io/certificate-name: x}", "Opaque", ca.Service(t, "managed")))
	good, half := t.TempDir(), t.TempDir()
	mesh.Write(t, good, other.Service(t, "envoy"))
	mesh.Write(t, half, mesh.Placeholder("broken"), ca.Service(t, "managed"), ca.Service(t, "pgadmin"))
	args := []string{"repair", "--kubeconfig", c.Kubeconfig, "-n", "kept", "--yes", "--from"}

	out, errs := meshca(t, 1, append(args, good)...)
	wantIn(t, out, "would-break envoy-mtls-cert: envoy-mtls-cert accepts pgadmin-mtls-cert now, and afterwards would refuse it\n  hint: ")
	wantIn(t, errs, "meshca: the repair of namespace kept is refused: nothing was written\n")

	out, _ = meshca(t, 1, append(args, half)...)
	wantIn(t, out, "placeholder broken: tls.crt holds a placeholder", "foreign-owner managed: the Secret managed-mtls-cert is kept by cert-manager",
		"refused kept: 2 of 3 services of the folder are refused", "0 to create, 1 to update, 0 equal, 2 refused")
	out, _ = meshca(t, 0, append(args, half, "--partial")...)
	wantIn(t, out, "written: pgadmin-mtls-cert")
	if strings.Contains(out, "written: managed") || strings.Contains(out, "written: broken") {
		t.Errorf("writes what is refused:\n%s", out)
	}

	c.Do(t, "", "-n", "kept", "annotate", "secret", "pgadmin-mtls-cert", "meshca.io/stamp=x")
	out, _ = meshca(t, 1, append(args, half, "--partial")...)
	wantIn(t, out, "meshca-is-live pgadmin-mtls-cert: a meshca keeps the Secret pgadmin-mtls-cert")
	_, errs = meshca(t, 2, "repair", "--kubeconfig", c.As(t, "nobody"), "-n", "kept", "--from", half)
	wantIn(t, errs, "meshca: list secrets in namespace kept: RBAC does not allow it\nhint: to repair takes the rights to list, create and patch secrets")
}
