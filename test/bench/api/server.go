package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/meshca/meshca/test/bench/measure"
)

// patience is how long a server may take to start.
const patience = 30 * time.Second

// A server is a running one.
type server struct {
	name  string
	cmd   *exec.Cmd
	store string // its bbolt file, "" where there is none
	load  load   // how it is asked
}

// A measured is what one measurement gave.
type measured struct {
	perSecond float64
	p50, p99  time.Duration
	cpu       time.Duration // of the server, for a thousand certificates
	resident  int64         // bytes, of the server, at the end
	syncs     float64       // of the server's store, for a certificate
	disk      time.Duration // a write and fdatasync of the same disk, right before
}

// launch starts a server whose log goes to a file in its folder.
func launch(dir string, cmd *exec.Cmd) error {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	return cmd.Start()
}

// await looks at a condition until it holds.
func await(what string, holds func() bool) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return nil
		}
	}
	return fmt.Errorf("%s: not within %s", what, patience)
}

// end stops the server. What it says about that is of no interest.
func (s *server) end() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// measure asks the server as l says.
func (s *server) measure(d *disk, l load) (m measured, err error) {
	if m.disk, err = d.sync(); err != nil {
		return m, err
	}
	before, err := measure.Commits(s.store)
	if err != nil {
		return m, err
	}
	used, err := measure.CPU(s.cmd.Process.Pid)
	if err != nil {
		return m, err
	}
	got, err := l.run()
	if err != nil {
		return m, err
	}
	usedAfter, err := measure.CPU(s.cmd.Process.Pid)
	if err != nil {
		return m, err
	}
	after, err := measure.Commits(s.store)
	if err != nil {
		return m, err
	}
	m.resident, err = measure.Resident(s.cmd.Process.Pid)
	m.perSecond, m.p50, m.p99 = got.PerSecond, got.P50, got.P99
	m.cpu = (usedAfter - used) * 1000 / time.Duration(got.All)
	m.syncs = measure.SyncsOfCommit * float64(after-before) / float64(got.All)
	return m, err
}

// run runs the load generator in a process of its own. What it is to do holds a token: it goes through a pipe.
func (l load) run() (got loaded, err error) {
	self, err := os.Executable()
	if err != nil {
		return got, err
	}
	task, err := json.Marshal(l)
	if err != nil {
		return got, err
	}
	cmd := exec.Command(self, "load")
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(task)), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return got, fmt.Errorf("load: %w", err)
	}
	return got, json.Unmarshal(out, &got)
}
