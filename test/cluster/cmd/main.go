// Command cmd starts and stops a real API server for people: `make cluster-up` and `make cluster-down`.
//
//	go run ./test/cluster/cmd up [KIND]   builds the programs at first use, starts, prints how to use it
//	go run ./test/cluster/cmd down        stops it, and removes all of it
//	go run ./test/cluster/cmd build       builds the programs alone
//
// KIND is api, which is all there is so far.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meshca/meshca/test/cluster"
)

// dir is where the cluster's state lies; the kubeconfig has a name that stays.
const dir = ".cluster"

var (
	kubeconfig = filepath.Join(dir, "kubeconfig")
	pidFile    = filepath.Join(dir, "pid")
	logFile    = filepath.Join(dir, "hold.log") // of the process that holds the servers
)

var errUsage = errors.New("usage: cmd up [KIND] | down | build")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch err := run(ctx, os.Args[1:]); {
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	kind := cluster.API
	if len(args) == 2 && (args[0] == "up" || args[0] == "hold") {
		kind, args = cluster.Kind(args[1]), args[:1]
	}
	switch strings.Join(args, " ") {
	case "build":
		return build(ctx)
	case "up":
		return up(ctx, kind)
	case "hold":
		return hold(ctx, kind)
	case "down":
		return down()
	}
	return errUsage
}

func build(ctx context.Context) error { return cluster.Build(ctx, os.Stderr) }

// up starts a process of its own that holds the servers, and waits until they are ready. Where it is told to end
// before, it ends when that process has.
func up(ctx context.Context, kind cluster.Kind) error {
	if err := build(ctx); err != nil {
		return err
	}
	lock, err := claim()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := removeRest(); err != nil {
		return err
	}
	ended, holder, err := startHolder(kind, lock)
	if err != nil {
		return err
	}
	for {
		if _, err := os.Stat(kubeconfig); err == nil {
			return printUse()
		}
		select {
		case <-ended:
			return errors.New("it has ended" + said())
		case <-ctx.Done():
			err := holder.Signal(syscall.SIGTERM)
			<-ended
			return errors.Join(errors.New("stopped before it was ready; nothing is left running"), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startHolder starts the process that holds the servers and, from here on, the lock. ended is closed at its end.
func startHolder(kind cluster.Kind, lock *os.File) (ended chan struct{}, holder *os.Process, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	log, err := os.Create(logFile)
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	cmd := exec.Command(self, "hold", string(kind))
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this command and its terminal
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	ended = make(chan struct{})
	go func() { // ends with the holder, or with this command
		defer close(ended)
		_ = cmd.Wait() // what went wrong is in its log
	}()
	return ended, cmd.Process, nil
}

// said is what the holder has said, for an error.
func said() string {
	text, err := os.ReadFile(logFile)
	if err != nil {
		return ": " + err.Error()
	}
	return ": " + strings.TrimPrefix(strings.TrimSpace(string(text)), "cluster: ")
}

// printUse says how to use the cluster, in lines to paste.
func printUse() error {
	bin, err := cluster.Binaries()
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	fmt.Printf("kubeconfig  %s\nkubectl     %s\n\nin each terminal that is to use it:\n", kubeconfig, filepath.Join(bin, "kubectl"))
	fmt.Printf("    export KUBECONFIG=%q PATH=%q\n", filepath.Join(abs, "kubeconfig"), abs+":$PATH")
	return nil
}

// hold holds the servers until a signal. Its file 3 is the locked pid file.
func hold(ctx context.Context, kind cluster.Kind) error {
	syscall.CloseOnExec(3) // the lock is its own, not the servers'
	lock := os.NewFile(3, pidFile)
	defer lock.Close()
	if _, err := lock.WriteString(strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Options{Kind: kind, Dir: abs, ControllerManager: true})
	if err != nil {
		return err
	}
	// The name that stays appears when all is ready.
	err = errors.Join(os.Symlink(c.Kubectl, filepath.Join(dir, "kubectl")), os.Rename(c.Kubeconfig, kubeconfig))
	if err == nil {
		<-ctx.Done()
	}
	return errors.Join(err, c.Stop())
}

// down ends the holder, waits until it has stopped the servers, and removes what they left.
func down() error {
	lock, err := claim()
	var held *heldError
	if errors.As(err, &held) {
		lock, err = held.end()
	} else if err == nil {
		fmt.Println("none runs")
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.RemoveAll(dir)
}

// claim locks the pid file. Its number alone says nothing: after a crash or a reboot it may be a stranger's. The lock
// ends with the process that holds it, however that ends.
func claim() (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(pidFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		return f, f.Truncate(0)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	pid, _ := strconv.Atoi(string(text)) // nothing is written yet while one starts
	return nil, &heldError{pid}
}

// A heldError says that a process holds a cluster here; pid is 0 while that is just starting.
type heldError struct{ pid int }

// Error implements error.
func (e *heldError) Error() string {
	return fmt.Sprintf("one runs already (pid %d): make cluster-down ends it", e.pid)
}

// end ends the holder and takes its lock.
func (e *heldError) end() (lock *os.File, err error) {
	if e.pid == 0 {
		return nil, errors.New("one is just starting: try again in a moment")
	}
	if err := syscall.Kill(e.pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return nil, err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if lock, err := claim(); err == nil {
			return lock, nil
		}
	}
	return nil, fmt.Errorf("pid %d does not end", e.pid)
}

// removeRest removes what an earlier cluster left, but for the pid file.
func removeRest() error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); path != pidFile {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}
