// Command api measures how many certificates meshca gives over REST, beside the floor, which is a server that only
// decodes, checks the CSR and signs, and beside step-ca where STEP_CA_BIN names one. Servers take turns in one run on
// one disk, each asked by the same load generator in a process of its own; medians are printed, as the tables of
// docs/performance.md.
//
//	go run ./test/bench/api [-passes 5] [-for 2s] [-clients 1,8,32,64] [-once]
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/meshca/meshca/test/bench/measure"
)

// options are what is measured.
type options struct {
	passes  int
	during  time.Duration // each measurement, after a quarter of it that is not counted
	clients []int
	once    bool // each request has an Idempotency-Key
}

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench-api:", err)
		os.Exit(1)
	}
}

// command runs the benchmark, or one of the processes that it starts.
func command(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "floor":
			return serveFloor(os.Stdout)
		case "load":
			return generate(os.Stdin, os.Stdout)
		}
	}
	var o options
	flags := flag.NewFlagSet("bench-api", flag.ExitOnError)
	flags.IntVar(&o.passes, "passes", 5, "interleaved passes")
	flags.DurationVar(&o.during, "for", 2*time.Second, "how long each measurement takes")
	clients := flags.String("clients", "1,8,32,64", "how many ask at once")
	flags.BoolVar(&o.once, "once", false, "ask meshca with an Idempotency-Key")
	if err := flags.Parse(args); err != nil {
		return err
	}
	for n := range strings.SplitSeq(*clients, ",") {
		c, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		o.clients = append(o.clients, c)
	}
	return run(o)
}

func run(o options) error {
	dir, err := os.MkdirTemp("", "meshca-bench-api-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	servers, err := start(dir)
	defer func() {
		for _, s := range servers {
			s.end()
		}
	}()
	if err != nil {
		return err
	}
	requests := filepath.Join(dir, "requests.pem")
	disk, err := openDisk(dir)
	if err != nil {
		return err
	}
	defer disk.Close()
	fmt.Printf("%s, %d cores, %s, %d interleaved passes of %s\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), o.passes, o.during)
	all := make(results)
	for pass := range o.passes {
		for _, clients := range o.clients {
			if err := writeRequests(requests); err != nil { // new ones, as callers make new keys
				return err
			}
			// Whoever comes first finds the machine as the others left it: that changes with each pass.
			for i := range servers {
				s := servers[(i+pass)%len(servers)]
				m, err := s.measure(disk, loadOf(s, requests, clients, o))
				if err != nil {
					return fmt.Errorf("%s, %d clients: %w", s.name, clients, err)
				}
				all.add(s.name, clients, m)
			}
		}
		fmt.Fprintf(os.Stderr, "pass %d of %d\n", pass+1, o.passes)
	}
	var names []string
	for _, s := range servers {
		names = append(names, s.name)
	}
	all.table(names, o.clients)
	all.aims(o.clients)
	return nil
}

// start starts all servers. Those that run are returned with the error, too.
func start(dir string) (servers []*server, err error) {
	starts := []func(dir string) (*server, error){startFloor, startMeshca}
	if path := os.Getenv("STEP_CA_BIN"); path != "" {
		starts = append(starts, startStepCA(path, "bbolt"), startStepCA(path, ""))
	} else {
		fmt.Fprintln(os.Stderr, "without step-ca: STEP_CA_BIN names none; `make step-ca` builds one")
	}
	for i, start := range starts {
		home := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(home, 0o700); err != nil {
			return servers, err
		}
		s, err := start(home)
		if s != nil {
			servers = append(servers, s)
		}
		if err != nil {
			return servers, err
		}
	}
	return servers, nil
}

// loadOf is what a server is asked.
func loadOf(s *server, requests string, clients int, o options) load {
	l := s.load
	l.Requests, l.Clients, l.For = requests, clients, o.during
	l.Once = o.once && s.name == "meshca"
	return l
}

// results are the measurements of each server and number of clients.
type results map[string][]measured

func key(server string, clients int) string { return server + "/" + strconv.Itoa(clients) }

func (r results) add(server string, clients int, m measured) {
	r[key(server, clients)] = append(r[key(server, clients)], m)
}

// middle is the median of one figure.
func (r results) middle(server string, clients int, of func(measured) float64) float64 {
	var all []float64
	for _, m := range r[key(server, clients)] {
		all = append(all, of(m))
	}
	return measure.Median(all)
}
