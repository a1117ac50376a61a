// Command kube measures meshca with a cluster as its target, beside bare client-go loops that do the same calls,
// in the same run against the same API server. It prints the tables of docs/performance.md.
//
//	go run ./test/bench/kube [-services 1000] [-passes 5] [-foreign 20000]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/kube"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/test/bench/measure"
	"github.com/meshca/meshca/test/cluster"
)

// parallel is how many calls the engine has under way at once, and so do the bare loops.
const parallel = 8

func main() {
	services := flag.Int("services", 1000, "services of a first full write")
	passes := flag.Int("passes", 5, "interleaved passes of each measurement")
	foreign := flag.Int("foreign", 20000, "Secrets of others, of 2 kB; 0: no memory is measured")
	flag.Parse()
	if err := run(*services, *passes, *foreign); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(services, passes, foreign int) error {
	ctx := context.Background()
	if err := cluster.Build(ctx, os.Stderr); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "meshca-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := cluster.Start(ctx, cluster.Options{Dir: dir})
	if err != nil {
		return err
	}
	defer c.Stop()
	b := &bench{dir: dir, cluster: c, services: services, foreign: foreign}
	if b.bare, err = newBare(c.Kubeconfig); err != nil {
		return err
	}
	fmt.Printf("%s, %d cores, %s, Kubernetes 1.37.2, %d interleaved passes\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), passes)
	fmt.Println("| work | median | its floor | median | work ÷ floor |")
	fmt.Println("|---|---|---|---|---|")
	if err := b.writes(ctx, passes); err != nil {
		return err
	}
	if err := b.heals(ctx, passes*10); err != nil {
		return err
	}
	if foreign == 0 {
		return nil
	}
	return b.memory(ctx)
}

// bench is one run.
type bench struct {
	dir               string
	cluster           *cluster.Cluster
	bare              *bare
	services, foreign int
}

func row(work string, is []time.Duration, floor string, least []time.Duration) {
	w, f := measure.Median(is), measure.Median(least)
	fmt.Printf("| %s | %s | %s | %s | %.2f |\n", work, w.Round(100*time.Microsecond), floor, f.Round(100*time.Microsecond), float64(w)/float64(f))
}

// writes measures the first full write of all services, a sweep that finds nothing to do, and a renewal, each
// beside its floor; which of the two comes first alternates, since an API server is slower the more it holds.
func (b *bench) writes(ctx context.Context, passes int) error {
	times := make(map[string][]time.Duration)
	var counts []string
	// An API server that has just started is slow for a while.
	if err := errors.Join(b.bare.namespace(ctx, "warm"), b.bare.applyAll(ctx, "warm", b.services), b.bare.getAndApplyAll(ctx, "warm", b.services)); err != nil {
		return err
	}
	for pass := range passes {
		w := &writing{bench: b, namespace: fmt.Sprintf("bench-%d", pass), times: times}
		if err := b.bare.namespace(ctx, w.namespace+"-bare", w.namespace); err != nil {
			return err
		}
		for _, step := range w.steps(ctx, pass%2 == 1) {
			if err := step(); err != nil {
				return err
			}
		}
		if counts = w.counts; pass == passes-1 {
			row(fmt.Sprintf("first full write of %d services", b.services), times["first"], "bare applies of ready-made Secrets", times["bare first"])
			row("the look before it, and founding the CA", times["look"], "bare GETs", times["bare sweep"])
			row("sweep that finds nothing to do", times["sweep"], "bare GETs", times["bare sweep"])
			row("renewal of all", times["renewal"], "bare GETs and applies", times["bare renewal"])
		}
		if err := w.engine.close(); err != nil {
			return err
		}
	}
	fmt.Println("\nCalls in the last pass, Secrets alone:")
	for _, line := range counts {
		fmt.Println("-", line)
	}
	return nil
}

// writing is one pass of writes.
type writing struct {
	*bench
	namespace string
	engine    *engine
	times     map[string][]time.Duration
	counts    []string
}

// steps are the measurements of a pass, each pair in one order or the other.
func (w *writing) steps(ctx context.Context, floorsFirst bool) (all []func() error) {
	pair := func(floor, work func() error) {
		if floorsFirst {
			all = append(all, floor, work)
		} else {
			all = append(all, work, floor)
		}
	}
	start := func() error { return w.engine.Start(ctx) }
	bare := w.namespace + "-bare"
	all = append(all, func() error {
		return w.measure("look", func() (err error) { w.engine, err = w.bench.engine(ctx, w.namespace); return err })
	})
	pair(func() error {
		return w.measure("bare first", func() error { return w.bare.applyAll(ctx, bare, w.services) })
	},
		func() error { return w.count(ctx, "first", start) })
	pair(func() error {
		return w.measure("bare sweep", func() error { return w.bare.getAll(ctx, bare, w.services) })
	},
		func() error { return w.count(ctx, "sweep", start) })
	pair(func() error {
		return w.measure("bare renewal", func() error { return w.bare.getAndApplyAll(ctx, bare, w.services) })
	},
		func() error { w.engine.renew(w.services); return w.count(ctx, "renewal", start) })
	return all
}

func (w *writing) measure(what string, do func() error) error {
	took, err := timed(do)
	w.times[what] = append(w.times[what], took)
	return err
}

// count measures, and counts what the API server was asked meanwhile.
func (w *writing) count(ctx context.Context, what string, do func() error) error {
	before := w.bare.calls(ctx)
	err := w.measure(what, do)
	w.counts = append(w.counts, what+": "+w.bare.since(ctx, before))
	return err
}

func timed(do func() error) (time.Duration, error) {
	begin := time.Now()
	err := do()
	return time.Since(begin), err
}

// engine is the engine of the program, in this process.
type engine struct {
	*rotation.Engine
	store  *store.Bolt
	issuer *issuer.Issuer
}

// engine founds a CA as the program's first start does, which looks at all places, and makes the engine.
func (b *bench) engine(ctx context.Context, namespace string) (*engine, error) {
	home := filepath.Join(b.dir, namespace)
	client, err := kube.Connect(kube.Options{Kubeconfig: b.cluster.Kubeconfig})
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	target := kube.New(client, kube.WatchNone, log)
	var services []kube.Service
	var names []string
	for i := range b.services {
		services = append(services, kube.Service{Name: name(i), Namespace: namespace, Secret: name(i) + "-mtls-cert"})
		names = append(names, name(i))
	}
	target.SetCatalogue(services)
	e := &engine{}
	boot := &rotation.Boot{StorePath: filepath.Join(home, "meshca.db"), SealPath: filepath.Join(home, "seal", "seal.key"), Target: target, Services: names,
		Open: func() (store.Store, error) {
			e.store, err = store.OpenBolt(filepath.Join(home, "meshca.db"), time.Second)
			return e.store, err
		},
		Params: ca.Params{Key: profile.ECDSAP256, RootLifetime: 87600 * time.Hour, IssuingLifetime: 2160 * time.Hour, LeafBackdate: 5 * time.Minute},
		Now:    time.Now(), Log: log}
	_, authority, err := boot.Run(ctx)
	if err != nil {
		return nil, err
	}
	e.issuer = issuer.New(e.store, authority)
	e.renewable(b.services, "")
	e.Engine = rotation.New(rotation.Config{Store: e.store, Issuer: e.issuer, Target: target, Schedule: never{}, RenewAt: 0.667,
		Sweep: time.Hour, Retain: time.Hour, HoldDown: 90 * time.Second, Now: time.Now, Log: log, Looks: boot.Looks})
	return e, nil
}

// renew makes every leaf due, as a change of the catalogue does.
func (e *engine) renew(services int) { e.renewable(services, "renewed.") }

func (e *engine) renewable(services int, prefix string) {
	var policies []issuer.Policy
	for i := range services {
		policies = append(policies, issuer.Policy{Service: name(i), Key: profile.ECDSAP256, Lifetime: 720 * time.Hour, Backdate: 5 * time.Minute, MinRemaining: time.Hour,
			Identity: profile.Identity{CommonName: name(i), DNSNames: []string{prefix + name(i), name(i) + ".default.svc", name(i) + ".default.svc.cluster.local"},
				URI: profile.SPIFFEID("mesh.local", "default", name(i))}})
	}
	e.issuer.SetCatalogue(policies)
}

func (e *engine) close() error { return e.store.Close() }

func name(i int) string { return fmt.Sprintf("service-%04d", i) }

// never is a schedule without runs: every leaf cannot wait, and none is due.
type never struct{}

func (never) Next(after time.Time) time.Time { return after.Add(time.Hour) }

// build builds the program.
func (b *bench) build() (string, error) {
	binary := filepath.Join(b.dir, "meshca")
	out, err := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./cmd/meshca").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return binary, nil
}
