// Command cmd starts and stops a real API server for people: `make cluster-up` and `make cluster-down`.
//
//	go run ./test/cluster/cmd up      builds the programs at first use, starts, prints the kubeconfig's path
//	go run ./test/cluster/cmd down    stops it, and removes all of it
//	go run ./test/cluster/cmd build   builds the programs alone
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := strings.Join(os.Args[1:], " ")
	run, known := map[string]func(context.Context) error{"build": build, "up": up, "run": serve, "down": down}[command]
	if !known {
		fmt.Fprintln(os.Stderr, "usage: cmd up | down | build")
		os.Exit(2)
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func build(ctx context.Context) error { return cluster.Build(ctx, os.Stderr) }

// up starts a process of its own that holds the servers, and waits until they are ready.
func up(ctx context.Context) error {
	if pid, err := runningPID(); err != nil || pid != 0 {
		return errors.Join(err, fmt.Errorf("one runs already (pid %d): make cluster-down ends it", pid))
	}
	if err := build(ctx); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "run.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	holder := exec.Command(self, "run")
	holder.Stdout, holder.Stderr = log, log
	holder.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this command and its terminal
	if err := holder.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- holder.Wait() }() // ends with the holder, or with this command
	for {
		if _, err := os.Stat(kubeconfig); err == nil {
			return printPaths()
		}
		select {
		case <-ended:
			return fmt.Errorf("it has ended: see %s and the other logs there", log.Name())
		case <-ctx.Done():
			return errors.Join(ctx.Err(), holder.Process.Signal(syscall.SIGTERM))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func printPaths() error {
	bin, err := cluster.Binaries()
	if err != nil {
		return err
	}
	fmt.Printf("kubeconfig  %s\nkubectl     %s\n\ntry:  %s --kubeconfig %s get namespaces\n", kubeconfig,
		filepath.Join(bin, "kubectl"), filepath.Join(bin, "kubectl"), kubeconfig)
	return nil
}

// serve holds the servers until a signal.
func serve(ctx context.Context) error {
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Options{Dir: abs, ControllerManager: true})
	if err != nil {
		return errors.Join(err, os.Remove(pidFile))
	}
	// The name that stays appears when all is ready.
	if err := os.Rename(c.Kubeconfig, kubeconfig); err != nil {
		return errors.Join(err, c.Stop())
	}
	<-ctx.Done()
	return errors.Join(c.Stop(), os.Remove(pidFile))
}

// down ends the holder, waits until it has stopped the servers, and removes what they left.
func down(context.Context) error {
	pid, err := runningPID()
	if err != nil {
		return err
	}
	if pid == 0 {
		fmt.Println("none runs")
		return os.RemoveAll(dir)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if pid, err := runningPID(); err != nil || pid == 0 {
			return errors.Join(err, os.RemoveAll(dir))
		}
	}
	return fmt.Errorf("pid %d does not end", pid)
}

// runningPID is the pid of the holder, 0 where none runs.
func runningPID() (int, error) {
	content, err := os.ReadFile(pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(string(content))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", pidFile, err)
	}
	if syscall.Kill(pid, 0) != nil {
		return 0, nil // a crash left the file
	}
	return pid, nil
}
