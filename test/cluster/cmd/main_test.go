package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshca/meshca/test/cluster"
)

// commandEnv makes the test's own program the command.
const commandEnv = "MESHCA_TEST_CLUSTER_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(commandEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// command is the command in a folder, as the leader of a process group of its own.
func command(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), commandEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// TestUp: what it prints is all that a terminal needs, a second one is refused, and nothing is left after it.
func TestUp(t *testing.T) {
	cluster.NeedPrograms(t)
	dir := t.TempDir()
	t.Cleanup(func() { _ = command(t, dir, "down").Run() }) // where the test fails in between
	out, err := command(t, dir, "up", "api").CombinedOutput()
	if err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
	_, export, found := strings.Cut(string(out), "    export ")
	if !found {
		t.Fatalf("no line to paste in %s", out)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", "export "+export+"\nkubectl get namespace default").CombinedOutput(); err != nil {
		t.Errorf("kubectl: %v\n%s", err, out)
	}
	if out, err := command(t, dir, "up").CombinedOutput(); err == nil || !strings.Contains(string(out), "one runs already (pid ") {
		t.Errorf("a second one: %v\n%s", err, out)
	}
	if out, err := command(t, dir, "down").CombinedOutput(); err != nil {
		t.Errorf("down: %v\n%s", err, out)
	}
	if left := processesOf(t, dir); len(left) > 0 {
		t.Errorf("left running: %q", left)
	}
	if _, err := os.Stat(filepath.Join(dir, ".cluster")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}

// TestInterrupt: Ctrl-C before it is ready ends all of it, and the command ends last.
func TestInterrupt(t *testing.T) {
	cluster.NeedPrograms(t)
	dir := t.TempDir()
	cmd := command(t, dir, "up")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); len(processesOf(t, dir)) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no server is started")
		}
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if left := processesOf(t, dir); cmd.ProcessState.ExitCode() != 1 || len(left) > 0 {
		t.Errorf("it ends with %d, left running: %q", cmd.ProcessState.ExitCode(), left)
	}
	if out, err := command(t, dir, "down").CombinedOutput(); err != nil || string(out) != "none runs\n" {
		t.Errorf("down: %v\n%s", err, out)
	}
}

// TestStranger: a pid that a crash or a reboot left in the file may be somebody else's by now.
func TestStranger(t *testing.T) {
	dir := t.TempDir()
	stranger := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stranger.Wait() }() // ends with the test's context
	if err := os.Mkdir(filepath.Join(dir, ".cluster"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, pidFile), []byte(strconv.Itoa(stranger.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command(t, dir, "down").CombinedOutput(); err != nil || string(out) != "none runs\n" {
		t.Errorf("down: %v\n%s", err, out)
	}
	select {
	case err := <-ended:
		t.Errorf("the stranger was ended: %v", err)
	default:
	}
}

// TestUnknownKind: it is said what there is.
func TestUnknownKind(t *testing.T) {
	cluster.NeedPrograms(t)
	out, err := command(t, t.TempDir(), "up", "moon").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `no kind of cluster is called "moon": there is ["api"]`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// processesOf lists the servers of the cluster in a folder, which all name it, and their holder, which works in it.
func processesOf(t *testing.T, dir string) (found []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // no process, or one that has just ended
		}
		at, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if args := strings.ReplaceAll(string(line), "\x00", " "); strings.Contains(args, dir) || at == dir && strings.Contains(args, " hold ") {
			found = append(found, fmt.Sprintf("%s: %.80s", e.Name(), args))
		}
	}
	return found
}
