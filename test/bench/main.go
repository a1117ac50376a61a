// Command bench measures meshca beside the floor of each piece of work: the same system calls and
// signatures with nothing around them, in the same run, on the same disk. Passes are interleaved and
// medians are printed, as the tables of docs/performance.md.
//
//	go run ./test/bench [-passes 7] [-idle 60s] [-records 1000000]
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
	records := flag.Int("records", 1_000_000, "how many certificates are in the store that is opened")
	flag.Parse()
	if err := run(*passes, *records, *idle); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(passes, records int, idle time.Duration) error {
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
	if err := million(dir, binary, records, passes); err != nil {
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
var resultLine = regexp.MustCompile(`(?m)^BenchmarkIssue/(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op(?:\s+([\d.]+) fdatasync/op)?`)

// issuing runs package issuer's benchmark once a pass, so that the kinds are interleaved.
func issuing(dir string, passes int) error {
	binary := filepath.Join(dir, "issuer.test")
	if out, err := exec.Command("go", "test", "-c", "-o", binary, "./issuer").CombinedOutput(); err != nil {
		return fmt.Errorf("build the benchmark: %w\n%s", err, out)
	}
	times := make(map[string][]time.Duration)
	syncs := make(map[string][]float64)
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
			shared, _ := strconv.ParseFloat(string(m[3]), 64) // empty where nothing is recorded
			kind := string(m[1])
			times[kind], syncs[kind] = append(times[kind], time.Duration(ns)), append(syncs[kind], shared)
		}
	}
	row("issue one leaf, without store", times["without-store"], "bare crypto/x509 signature", times["floor=sign"])
	for _, writers := range []string{"1", "8", "64"} {
		work, floor := "with-store/writers="+writers, "floor=sign+fdatasync/writers="+writers
		if len(times[work]) != passes || len(times[floor]) != passes {
			return fmt.Errorf("%d and %d results of %s writers in %d passes", len(times[work]), len(times[floor]), writers, passes)
		}
		row(fmt.Sprintf("issue one leaf, recorded, %s at once, %.2f fdatasync each", writers, measure.Median(syncs[work])), times[work],
			fmt.Sprintf("signature + shared fdatasync, %.2f each", measure.Median(syncs[floor])), times[floor])
	}
	return nil
}
