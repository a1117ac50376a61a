package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	before, err := commitsOf(s.store)
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
	after, err := commitsOf(s.store)
	if err != nil {
		return m, err
	}
	m.resident, err = measure.Resident(s.cmd.Process.Pid)
	m.perSecond, m.p50, m.p99 = got.PerSecond, got.P50, got.P99
	m.cpu = (usedAfter - used) * 1000 / time.Duration(got.All)
	m.syncs = syncsOfCommit * float64(after-before) / float64(got.All)
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

// syncsOfCommit is how often bbolt calls fdatasync in a commit: for the pages, and for the page that makes them current.
const syncsOfCommit = 2

// commitsOf is how many commits a bbolt file has seen: its two meta pages hold the ids of the last two. It can be read
// while another process writes.
func commitsOf(path string) (uint64, error) {
	if path == "" {
		return 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const (
		magic  = 0xED0CDAED
		header = 16 // of a page; then magic, version, page size, flags, root (16 bytes), freelist, high water mark
		id     = header + 4*4 + 16 + 8 + 8
	)
	var newest uint64
	for page := range int64(2) {
		meta := make([]byte, id+8)
		if _, err := f.ReadAt(meta, page*int64(os.Getpagesize())); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if binary.NativeEndian.Uint32(meta[header:]) != magic {
			return 0, fmt.Errorf("%s: page %d is not one of bbolt's meta pages", path, page)
		}
		newest = max(newest, binary.NativeEndian.Uint64(meta[id:]))
	}
	return newest, nil
}
