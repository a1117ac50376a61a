package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshca/meshca/test/bench/measure"
)

// table prints the medians.
func (r results) table(servers []string, clients []int) {
	fmt.Println("| clients | server | certificates/s | p50 | p99 | CPU s for 1,000 | resident | fdatasync for each | the disk's fdatasync |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, n := range clients {
		for _, s := range servers {
			of := func(figure func(measured) float64) float64 { return r.middle(s, n, figure) }
			fmt.Printf("| %d | %s | %.0f | %s | %s | %.2f | %.0f MiB | %s | %s |\n", n, s, of(func(m measured) float64 { return m.perSecond }),
				milliseconds(of(func(m measured) float64 { return float64(m.p50) })), milliseconds(of(func(m measured) float64 { return float64(m.p99) })),
				of(func(m measured) float64 { return m.cpu.Seconds() }), of(func(m measured) float64 { return float64(m.resident) })/(1<<20),
				orNone(of(func(m measured) float64 { return m.syncs })), milliseconds(of(func(m measured) float64 { return float64(m.disk) })))
		}
	}
}

func milliseconds(ns float64) string {
	return fmt.Sprintf("%.2f ms", ns/float64(time.Millisecond))
}

func orNone(n float64) string {
	if n == 0 {
		return "none"
	}
	return fmt.Sprintf("%.2f", n)
}

// An aim is a figure to reach.
type aim struct {
	what    string
	beside  string // another server, "" for a figure of meshca's own
	clients []int
	of      func(meshca, other measured) float64
	least   bool // it is at least the limit, else at most
	limit   float64
}

func faster(meshca, other measured) float64 { return meshca.perSecond / other.perSecond }

var allAims = []aim{
	{"certificates/s ÷", "step-ca, bbolt", []int{1}, faster, true, 2.5},
	{"certificates/s ÷", "step-ca, bbolt", []int{8, 32, 64}, faster, true, 4},
	{"certificates/s ÷", "step-ca, no database", []int{8, 32, 64}, faster, true, 1.3},
	{"certificates/s ÷", "floor", []int{32, 64}, faster, true, 0.45},
	{"p99 ÷", "floor", []int{32}, func(meshca, floor measured) float64 { return float64(meshca.p99) / float64(floor.p99) }, false, 3},
	{"fdatasync for each", "", []int{64}, func(meshca, _ measured) float64 { return meshca.syncs }, false, 0.2},
}

// aims prints what is to be reached, as far as it was measured: the median of what each pass gave, since the machine is
// another one from pass to pass.
func (r results) aims(clients []int) {
	fmt.Println("\n| meshca | clients | is | aim |")
	fmt.Println("|---|---|---|---|")
	for _, a := range allAims {
		for _, n := range a.clients {
			mine, other := r[key("meshca", n)], r[key(a.beside, n)]
			if !slices.Contains(clients, n) || a.beside != "" && other == nil {
				continue
			}
			var passes []float64
			for i := range mine {
				var o measured
				if other != nil {
					o = other[i]
				}
				passes = append(passes, a.of(mine[i], o))
			}
			fmt.Printf("| %s | %d | %.2f | %s |\n", strings.TrimSpace(a.what+" "+a.beside), n, measure.Median(passes), a.wants(measure.Median(passes)))
		}
	}
}

// wants is what is to be reached, and whether it was missed.
func (a aim) wants(is float64) string {
	switch {
	case a.least && is < a.limit:
		return fmt.Sprintf("≥ %g: missed", a.limit)
	case a.least:
		return fmt.Sprintf("≥ %g", a.limit)
	case is > a.limit:
		return fmt.Sprintf("≤ %g: missed", a.limit)
	}
	return fmt.Sprintf("≤ %g", a.limit)
}
