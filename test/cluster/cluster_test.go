package cluster_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshca/meshca/test/cluster"
)

// holdEnv makes the test's own program a process that starts a cluster in the folder it names and waits.
const holdEnv = "MESHCA_TEST_HOLD_CLUSTER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdEnv); dir != "" {
		hold(dir)
	}
	os.Exit(m.Run())
}

// hold starts a cluster, prints its processes, and panics when its standard input ends.
func hold(dir string) {
	c, err := cluster.Start(context.Background(), cluster.Options{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(c.PIDs()); err != nil {
		os.Exit(1)
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	panic("ended on purpose")
}

func kubectl(t *testing.T, c *cluster.Cluster, args ...string) (out string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.Kubectl, append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	b, err := cmd.CombinedOutput()
	return string(b), err
}

// TestCluster is a real API server: it has namespaces, keeps Secrets, and refuses what RBAC does not give.
func TestCluster(t *testing.T) {
	c := cluster.Need(t, cluster.Options{ControllerManager: true})
	if out, err := kubectl(t, c, "version", "-o", "json"); err != nil || !strings.Contains(out, `"gitVersion": "v1.37.2"`) {
		t.Errorf("version: %v\n%s", err, out)
	}
	if out, err := kubectl(t, c, "create", "secret", "generic", "a", "--from-literal=k=v"); err != nil {
		t.Fatalf("create a secret: %v\n%s", err, out)
	}
	if out, err := kubectl(t, c, "get", "secret", "a", "-o", "jsonpath={.data.k}"); err != nil || out != "dg==" {
		t.Errorf("get the secret: %v %q", err, out)
	}
	// The controller manager makes each namespace's ServiceAccount.
	if out, err := kubectl(t, c, "wait", "--for=create", "serviceaccount/default", "--timeout=30s"); err != nil {
		t.Errorf("wait for the ServiceAccount: %v\n%s", err, out)
	}
	out, err := kubectl(t, c, "get", "secret", "a", "--as=system:serviceaccount:default:default")
	if err == nil || !strings.Contains(out, "Forbidden") {
		t.Errorf("an account without rights reads a secret: %v\n%s", err, out)
	}
}

// TestRestart: what was there before is there afterwards, at the same address, and nobody answers in between.
func TestRestart(t *testing.T) {
	c := cluster.Need(t, cluster.Options{})
	if out, err := kubectl(t, c, "create", "namespace", "kept"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before := c.PIDs()
	err := c.RestartAPIServer(t.Context(), func() {
		if out, err := kubectl(t, c, "get", "namespace", "kept"); err == nil {
			t.Errorf("it answers while it is stopped: %s", out)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := kubectl(t, c, "get", "namespace", "kept"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if after := c.PIDs(); len(after) != 2 || after[0] != before[0] || after[1] == before[1] {
		t.Errorf("the processes were %v and are %v: etcd is to stay, the API server to be another", before, after)
	}
}

// TestAuditLog: it names who asked, and holds nothing of what a Secret holds.
func TestAuditLog(t *testing.T) {
	dir := t.TempDir()
	c := cluster.Need(t, cluster.Options{Dir: dir, AuditLog: true})
	if out, err := kubectl(t, c, "create", "secret", "generic", "a", "--from-literal=k=hidden"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log := awaitAudit(t, filepath.Join(dir, "audit.log"), `"username":"admin"`, `"verb":"create"`, `"resource":"secrets"`)
	for _, data := range []string{"hidden", base64.StdEncoding.EncodeToString([]byte("hidden"))} {
		if strings.Contains(log, data) {
			t.Errorf("the log holds %s", data)
		}
	}
}

// awaitAudit waits for a line of the log that has all the parts, and returns the log.
func awaitAudit(t *testing.T, path string, parts ...string) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		log, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(log)) {
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
				return string(log)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no line has %q:\n%s", parts, log)
		}
	}
}

// TestTwoAtOnce: each has ports and state of its own.
func TestTwoAtOnce(t *testing.T) {
	a, b := cluster.Need(t, cluster.Options{}), cluster.Need(t, cluster.Options{})
	if out, err := kubectl(t, a, "create", "namespace", "only-in-a"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := kubectl(t, b, "get", "namespace", "only-in-a"); err == nil {
		t.Errorf("it is in the other one too: %s", out)
	}
}

// TestNothingIsLeft starts and stops several times; MESHCA_CLUSTER_ROUNDS says how often.
func TestNothingIsLeft(t *testing.T) {
	cluster.NeedPrograms(t)
	rounds, err := strconv.Atoi(os.Getenv("MESHCA_CLUSTER_ROUNDS"))
	if err != nil {
		rounds = 2
	}
	var took []time.Duration
	for range rounds {
		began := time.Now()
		c, err := cluster.Start(t.Context(), cluster.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began).Round(10*time.Millisecond))
		pids := c.PIDs()
		if err := c.Stop(); err != nil || len(pids) != 2 {
			t.Fatalf("stop of %d processes: %v", len(pids), err)
		}
		wantGone(t, pids)
	}
	t.Logf("%d starts, ready within %s to %s", len(took), slices.Min(took), slices.Max(took)) // for people: the machine decides
}

// TestEndsWithItsStarter: when the process that started a cluster panics, is killed or is interrupted, all of it ends.
func TestEndsWithItsStarter(t *testing.T) {
	cluster.NeedPrograms(t)
	for name, end := range map[string]func(*exec.Cmd, func() error) error{
		"panic":  func(_ *exec.Cmd, closeInput func() error) error { return closeInput() },
		"kill":   func(cmd *exec.Cmd, _ func() error) error { return cmd.Process.Kill() },
		"Ctrl-C": func(cmd *exec.Cmd, _ func() error) error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), holdEnv+"="+t.TempDir())
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell has it: Ctrl-C is for the whole group
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadBytes('\n')
			if err != nil {
				t.Fatal(err)
			}
			var pids []int
			if err := json.Unmarshal(line, &pids); err != nil || len(pids) != 2 {
				t.Fatalf("processes %s: %v", line, err)
			}
			if err := end(cmd, in.Close); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it was ended on purpose
			wantGone(t, pids)
		})
	}
}

// alive says whether the process runs; one that has ended and that nobody has waited for does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

// wantGone waits until none of the processes is there.
func wantGone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		deadline := time.Now().Add(10 * time.Second)
		for alive(pid) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d is left", pid)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// TestVersions: the module's pins and the names of the cache folder go together.
func TestVersions(t *testing.T) {
	pins, err := os.ReadFile("kubernetes/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := cluster.Binaries()
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"k8s.io/kubernetes ", "go.etcd.io/etcd/server/v3 "} {
		_, rest, _ := strings.Cut(string(pins), module)
		version, _, _ := strings.Cut(rest, " ")
		if version == "" || !strings.Contains(dir, version) {
			t.Errorf("%sis pinned at %q, the programs lie in %s", module, version, dir)
		}
	}
}
