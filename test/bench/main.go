// Command bench measures meshca beside the floor of each piece of work: the same system calls and
// signatures with nothing around them, in the same run, on the same disk. Passes are interleaved and
// medians are printed, as the tables of docs/performance.md.
//
//	go run ./test/bench [-passes 7] [-idle 60s]
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"github.com/meshca/meshca/test/bench/measure"
)

func main() {
	passes := flag.Int("passes", 7, "interleaved passes of each measurement")
	idle := flag.Duration("idle", time.Minute, "how long the idle process is watched")
	flag.Parse()
	if err := run(*passes, *idle); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(passes int, idle time.Duration) error {
	dir, err := os.MkdirTemp("", "meshca-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("%s, %d cores, %s, %d interleaved passes\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.Version(), passes)
	fmt.Println("| work | median | its floor | median | floor ÷ work |")
	fmt.Println("|---|---|---|---|---|")
	if err := issuing(dir, passes); err != nil {
		return err
	}
	binary := filepath.Join(dir, "meshca")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "./cmd/meshca")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return err
	}
	return process(dir, binary, passes, idle)
}

// row prints one line of the table.
func row(work string, is []time.Duration, floor string, least []time.Duration) {
	w, f := measure.Median(is), measure.Median(least)
	fmt.Printf("| %s | %s | %s | %s | %.0f %% |\n", work, short(w), floor, short(f), 100*float64(f)/float64(w))
}

func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.3f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
}

// resultLine is a line of `go test -bench`.
var resultLine = regexp.MustCompile(`(?m)^BenchmarkIssue/(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op`)

// issuing runs package issuer's benchmark once a pass, so that the four kinds are interleaved.
func issuing(dir string, passes int) error {
	binary := filepath.Join(dir, "issuer.test")
	if out, err := exec.Command("go", "test", "-c", "-o", binary, "./issuer").CombinedOutput(); err != nil {
		return fmt.Errorf("build the benchmark: %w\n%s", err, out)
	}
	times := make(map[string][]time.Duration)
	for range passes {
		out, err := exec.Command(binary, "-test.run", "xxx", "-test.bench", "Issue", "-test.benchtime", "0.5s").CombinedOutput()
		if err != nil {
			return fmt.Errorf("benchmark: %w\n%s", err, out)
		}
		for _, m := range resultLine.FindAllSubmatch(out, -1) {
			ns, err := strconv.ParseFloat(string(m[2]), 64)
			if err != nil {
				return err
			}
			times[string(m[1])] = append(times[string(m[1])], time.Duration(ns))
		}
	}
	for _, kind := range []string{"floor=sign", "without-store", "floor=sign+fdatasync", "with-store"} {
		if len(times[kind]) != passes {
			return fmt.Errorf("%d results of %s in %d passes", len(times[kind]), kind, passes)
		}
	}
	row("issue one leaf, without store", times["without-store"], "bare crypto/x509 signature", times["floor=sign"])
	row("issue one leaf, recorded", times["with-store"], "signature + fdatasync", times["floor=sign+fdatasync"])
	return nil
}
