package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/meshca/meshca/test/bench/measure"
)

// A program is the real one, at work.
type program struct {
	*exec.Cmd
	log string // path
}

// program starts the real program for n services of a namespace and waits until it serves.
func (b *bench) program(ctx context.Context, binary, namespace, watch string, n int, env ...string) (*program, error) {
	home := filepath.Join(b.dir, "home-"+namespace)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("version: 1\nlisten: {api: 127.0.0.1:0, metrics: 127.0.0.1:0}\ntarget: {kubernetes: {watch: %s}}\nservices:\n", watch)
	for i := range n {
		config += fmt.Sprintf("- {name: %s, namespace: %s}\n", name(i), namespace)
	}
	path := filepath.Join(home, "meshca.yaml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return nil, err
	}
	p := &program{exec.CommandContext(ctx, binary, "serve", "--config", path, "--kubeconfig", b.cluster.Kubeconfig), filepath.Join(home, "log")}
	p.Env = append(os.Environ(), env...)
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.Stderr = log
	if err := p.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if text, err := os.ReadFile(log.Name()); err == nil && strings.Contains(string(text), `"msg":"serving"`) {
			return p, nil
		}
	}
	return p, errors.New("it does not serve: see " + log.Name())
}

func end(p *program) error { return errors.Join(p.Process.Signal(syscall.SIGTERM), p.Wait()) }

// heals measures from a foreign write to the answer of the write that puts it right, as a watch of our own sees
// it: by the program, and by a bare loop that watches and patches.
func (b *bench) heals(ctx context.Context, times int) error {
	binary, err := b.build()
	if err != nil {
		return err
	}
	if err := b.bare.namespace(ctx, "heal", "heal-bare"); err != nil {
		return err
	}
	p, err := b.program(ctx, binary, "heal", "names", 50)
	if err != nil {
		return err
	}
	if err := b.bare.applyAll(ctx, "heal-bare", 1); err != nil {
		return err
	}
	stop, err := b.bare.healer(ctx)
	if err != nil {
		return err
	}
	defer stop()
	var is, least []time.Duration
	for i := range times {
		// A service has 20 heals at once: they are spread over all.
		took, err := b.bare.heal(ctx, "heal", i%50)
		if err != nil {
			return err
		}
		is = append(is, took)
		if took, err = b.bare.heal(ctx, "heal-bare", 0); err != nil {
			return err
		}
		least = append(least, took)
	}
	fmt.Println()
	fmt.Println("| work | median | its floor | median | work ÷ floor |")
	fmt.Println("|---|---|---|---|---|")
	row("heal of one ca.crt", is, "a bare watch and patch", least)
	return end(p)
}

// heal breaks a Secret's ca.crt and waits until it is whole, by a watch.
func (b *bare) heal(ctx context.Context, namespace string, i int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	whole, err := b.caOf(ctx, namespace, i)
	if err != nil {
		return 0, err
	}
	stream, err := b.watch(ctx, namespace, i)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	decoder := json.NewDecoder(stream)
	begin := time.Now()
	patch := []byte(`{"data":{"ca.crt":"Zm9yZWlnbg=="}}`)
	if err := b.client.Patch(types.MergePatchType).AbsPath(path(namespace, i)).Body(patch).Do(ctx).Error(); err != nil {
		return 0, err
	}
	broken := false
	for {
		ca, err := next(decoder)
		if err != nil {
			return 0, err
		}
		if broken && ca == whole {
			return time.Since(begin), nil
		}
		broken = broken || ca != whole
	}
}

func (b *bare) caOf(ctx context.Context, namespace string, i int) (string, error) {
	answer, err := b.client.Get().AbsPath(path(namespace, i)).Do(ctx).Raw()
	if err != nil {
		return "", err
	}
	var secret struct{ Data map[string]string }
	err = json.Unmarshal(answer, &secret)
	return secret.Data["ca.crt"], err
}

func (b *bare) watch(ctx context.Context, namespace string, i int) (io.ReadCloser, error) {
	return b.client.Get().AbsPath("/api/v1/namespaces/"+namespace+"/secrets").Param("watch", "true").
		Param("fieldSelector", "metadata.name="+name(i)+"-mtls-cert").Param("sendInitialEvents", "true").
		Param("resourceVersionMatch", "NotOlderThan").Param("allowWatchBookmarks", "true").Stream(ctx)
}

// next reads the ca.crt of the next event that has one.
func next(d *json.Decoder) (string, error) {
	for {
		var e struct {
			Type   string
			Object struct{ Data map[string]string }
		}
		if err := d.Decode(&e); err != nil {
			return "", err
		}
		if ca, ok := e.Object.Data["ca.crt"]; ok {
			return ca, nil
		}
	}
}

// healer is the bare loop: whenever the watched ca.crt differs it is patched back.
func (b *bare) healer(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	whole, err := b.caOf(ctx, "heal-bare", 0)
	if err != nil {
		cancel()
		return nil, err
	}
	stream, err := b.watch(ctx, "heal-bare", 0)
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan struct{})
	go func() { // ends with ctx: stop waits for it
		defer close(done)
		defer stream.Close()
		decoder := json.NewDecoder(stream)
		for {
			ca, err := next(decoder)
			if err != nil {
				return
			}
			if ca == whole {
				continue
			}
			patch := []byte(fmt.Sprintf(`{"data":{"ca.crt":%q}}`, whole))
			if err := b.client.Patch(types.MergePatchType).AbsPath(path("heal-bare", 0)).Body(patch).Do(ctx).Error(); err != nil {
				fmt.Fprintln(os.Stderr, "bench: the bare loop:", err)
			}
		}
	}()
	return func() { cancel(); <-done }, nil
}

// memory measures what the program has resident, and what of its heap lives, some while after its start, alone and
// beside the Secrets of others.
func (b *bench) memory(ctx context.Context) error {
	binary, err := b.build()
	if err != nil {
		return err
	}
	fmt.Printf("\n| | resident, alone | beside %d foreign Secrets of 2 kB | heap that lives, alone | beside them | beside ÷ alone |\n|---|---|---|---|---|---|\n", b.foreign)
	cases := []struct {
		watch string
		n     int
	}{{"names", 5}, {"names", 200}, {"none", 1000}}
	alone := make([]footprint, len(cases))
	for i, c := range cases {
		if alone[i], err = b.footprint(ctx, binary, fmt.Sprintf("memory-%d", i), c.watch, c.n); err != nil {
			return err
		}
	}
	for i := range cases {
		if err := b.fill(ctx, fmt.Sprintf("memory-%d", i), b.foreign/len(cases)); err != nil {
			return err
		}
	}
	for i, c := range cases {
		beside, err := b.footprint(ctx, binary, fmt.Sprintf("memory-%d", i), c.watch, c.n)
		if err != nil {
			return err
		}
		fmt.Printf("| %d services, watch: %s | %s | %s | %s | %s | %.2f |\n", c.n, c.watch, alone[i].resident, beside.resident,
			alone[i].heap, beside.heap, float64(beside.heap)/float64(alone[i].heap))
	}
	return nil
}

// A footprint is the memory that a program needs.
type footprint struct{ resident, heap size }

// size is a number of bytes.
type size int64

// String tells of it in MiB.
func (s size) String() string { return fmt.Sprintf("%.1f MiB", float64(s)/(1<<20)) }

// footprint measures two runs of the program: what it has resident follows the garbage collector's leisure and that of
// the kernel, so what it really keeps is measured in a run that collects garbage at every percent that its heap grows.
func (b *bench) footprint(ctx context.Context, binary, namespace, watch string, n int) (f footprint, err error) {
	if err := b.bare.namespace(ctx, namespace); err != nil && !strings.Contains(err.Error(), "exists") {
		return f, err
	}
	p, err := b.program(ctx, binary, namespace, watch, n)
	if err != nil {
		return f, err
	}
	err = atRest(func() error {
		now, err := measure.Resident(p.Process.Pid)
		f.resident = max(f.resident, size(now))
		return err
	})
	if err = errors.Join(err, end(p)); err != nil {
		return f, err
	}
	if p, err = b.program(ctx, binary, namespace, watch, n, "GOGC=1"); err != nil {
		return f, err
	}
	err = atRest(func() error {
		now, err := p.heap()
		if f.heap == 0 || now < f.heap { // the least is what it has just after a collection
			f.heap = now
		}
		return err
	})
	return f, errors.Join(err, end(p))
}

// atRest looks each second for half a minute.
func atRest(look func() error) error {
	for range 30 {
		time.Sleep(time.Second)
		if err := look(); err != nil {
			return err
		}
	}
	return nil
}

// heap is what the program says of its heap: all objects that are not yet collected.
func (p *program) heap() (size, error) {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		var starting struct{ Msg, Metrics string }
		if json.Unmarshal(line, &starting) != nil || starting.Msg != "starting" {
			continue
		}
		response, err := http.Get("http://" + starting.Metrics + "/metrics")
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			if value, ok := strings.CutPrefix(lines.Text(), "go_memstats_heap_alloc_bytes "); ok {
				bytes, err := strconv.ParseFloat(value, 64)
				return size(bytes), err
			}
		}
	}
	return 0, errors.New("it does not tell of its heap: see " + p.log)
}

// fill makes Secrets of others in a namespace.
func (b *bench) fill(ctx context.Context, namespace string, n int) error {
	value := base64.StdEncoding.EncodeToString(make([]byte, 2000))
	return each(n, func(i int) error {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"foreign-%d"},"data":{"value":%q}}`, i, value)
		return b.bare.client.Post().AbsPath("/api/v1/namespaces/" + namespace + "/secrets").Body([]byte(body)).Do(ctx).Error()
	})
}
