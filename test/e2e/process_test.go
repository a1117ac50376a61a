package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// patience is how long a condition may take that usually holds within a second or two.
	patience = 30 * time.Second
	// glance is the pause between two looks at a condition.
	glance = 10 * time.Millisecond
)

// await looks at a condition until it holds: look returns nil then, and otherwise what is missing.
func await(t testing.TB, what string, look func() error) {
	t.Helper()
	awaitFor(t, patience, what, look)
}

// awaitFor is await for what usually takes longer.
func awaitFor(t testing.TB, patience time.Duration, what string, look func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := look()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
		time.Sleep(glance)
	}
}

// A Process is one running `meshca serve`. It is killed when its test ends.
type Process struct {
	t    testing.TB
	cmd  *exec.Cmd
	out  output // what it wrote, to both streams
	done chan struct{}
}

// startProcess starts the program with args in dir, as the given user or, with nil, as the test's own.
func startProcess(t testing.TB, dir string, as *syscall.Credential, args ...string) *Process {
	t.Helper()
	return startCommand(t, dir, as, append([]string{program}, args...)...)
}

// startCommand is startProcess for a command that becomes the program.
func startCommand(t testing.TB, dir string, as *syscall.Credential, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if as != nil {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the process, which the cleanup kills at the latest
		_ = p.cmd.Wait() // the exit code is read from the state
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", strings.Join(args, " "), p.out.String())
		}
	})
	return p
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

// Kill ends the process as a power cut of its own would, and waits until it is gone.
func (p *Process) Kill() {
	p.t.Helper()
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Paused does something while the process stands still, so that it sees the whole of it or nothing.
func (p *Process) Paused(do func()) {
	p.t.Helper()
	p.Signal(syscall.SIGSTOP)
	await(p.t, "the process stands still", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
		if errors.Is(err, os.ErrNotExist) {
			return nil // a system without /proc: the signal takes effect soon enough
		}
		if _, state, _ := bytes.Cut(stat, []byte(") ")); !bytes.HasPrefix(state, []byte("T")) {
			return fmt.Errorf("state %.1s", state)
		}
		return err
	})
	do()
	p.Signal(syscall.SIGCONT)
}

// Stop asks the process to end and returns its exit code.
func (p *Process) Stop() (code int) {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// Wait waits for the process's end and returns its exit code.
func (p *Process) Wait() (code int) {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("the process does not end within %s", patience)
		return -1
	}
}

// Ended says whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Await waits until a condition holds while the process lives.
func (p *Process) Await(what string, look func() error) {
	p.t.Helper()
	await(p.t, what, func() error {
		ended := p.Ended()
		err := look()
		if err != nil && ended {
			p.t.Fatalf("%s: the process ended with %d before: %v\n%s", what, p.cmd.ProcessState.ExitCode(), err, p.out.String())
		}
		return err
	})
}

// AwaitLine waits for a line of the log and returns the first one that fits.
func (p *Process) AwaitLine(msg string, fields ...string) (found Line) {
	p.t.Helper()
	p.Await("log line "+strings.Join(append([]string{msg}, fields...), " "), func() error {
		lines := p.Lines(msg, fields...)
		if len(lines) == 0 {
			return errors.New("no such line")
		}
		found = lines[0]
		return nil
	})
	return found
}

// AwaitServing waits until the process says that it serves.
func (p *Process) AwaitServing() Line {
	p.t.Helper()
	return p.AwaitLine("serving")
}

// AwaitDecision waits until the process serves, or has ended instead.
func (p *Process) AwaitDecision() (serves bool) {
	p.t.Helper()
	await(p.t, "it serves or ends", func() error {
		ended := p.Ended()
		if serves = p.Lines("serving") != nil; serves || ended {
			return nil
		}
		return errors.New("it does neither")
	})
	return serves
}

// A Line is one line of the log.
type Line map[string]any

// Get is a field of the line as text, "" where there is none.
func (l Line) Get(field string) string {
	s, _ := l[field].(string)
	return s
}

// Lines lists the lines of the log with the message msg and the given fields: name, value, name, value.
func (p *Process) Lines(msg string, fields ...string) (found []Line) {
	for text := range strings.Lines(p.out.String()) {
		var l Line
		if json.Unmarshal([]byte(text), &l) != nil || l.Get("msg") != msg {
			continue
		}
		fits := true
		for i := 0; i+1 < len(fields); i += 2 {
			fits = fits && l.Get(fields[i]) == fields[i+1]
		}
		if fits {
			found = append(found, l)
		}
	}
	return found
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// secretIn says which secret text gives away: a private key, or the seal in any of its spellings.
func secretIn(text string, seal []byte) error {
	if strings.Contains(text, "PRIVATE KEY") {
		return errors.New("a private key")
	}
	if len(seal) == 0 {
		return nil
	}
	for _, spelling := range []string{string(seal), hex.EncodeToString(seal), base64.StdEncoding.EncodeToString(seal)} {
		if strings.Contains(text, spelling) {
			return errors.New("the seal")
		}
	}
	return nil
}

// An Answer is what a command that ended wrote.
type Answer struct {
	Code           int
	Stdout, Stderr string
}

// runCommand runs a command to its end, without a terminal.
func runCommand(t testing.TB, dir, name string, args ...string) Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %s does not end within %s\n%s%s", name, strings.Join(args, " "), patience, stdout.String(), stderr.String())
	}
	return Answer{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}
