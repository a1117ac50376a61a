package kube

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshca/meshca/verify"
)

// An Order is in which order services go from the files they had to those they get, so that no two that accept
// each other now refuse each other in between. It supposes that each holds what its Secret had.
type Order struct {
	// Services are those whose files change, in that order.
	Services []string
	// Any says that every order will do.
	Any bool
	// Apart are pairs that refuse each other until both have changed, whichever comes first: there is no order
	// without an interruption.
	Apart [][2]string
	// Unknown says that there are too many to look for one.
	Unknown bool
}

// compare sorts services by the order; what is not in it comes last.
func (o *Order) compare(a, b string) int {
	place := func(s string) int {
		if i := slices.Index(o.Services, s); i >= 0 {
			return i
		}
		return len(o.Services)
	}
	return cmp.Compare(place(a), place(b))
}

// maxOrdered is up to how many services an order is looked for: what is compared grows with the square.
const maxOrdered = 200

// restartOrder looks for an order. Services with their old files and with their new ones are compared as if all
// were there at once; then it is known of any two which of them may go first.
func restartOrder(steps []RepairStep, now time.Time) Order {
	const was, then = "was ", "then "
	var changing []string
	var both []verify.Service
	for _, s := range steps {
		if s.Action == Update {
			changing = append(changing, s.Service)
			both = append(both, files(was+s.Service, s.live), renamed(s.files, then+s.Service))
		}
	}
	slices.Sort(changing)
	if len(changing) > maxOrdered {
		return Order{Services: changing, Unknown: true}
	}
	accepts := acceptance(verify.Check(both, now))
	before := make(map[[2]string]bool) // the first must go before the second
	o := Order{}
	for i, a := range changing {
		for _, b := range changing[i+1:] {
			if !accepts(was+a, was+b) {
				continue // nothing to lose
			}
			aFirst, bFirst := accepts(then+a, was+b), accepts(was+a, then+b)
			switch {
			case !aFirst && !bFirst:
				o.Apart = append(o.Apart, [2]string{a, b})
			case !bFirst:
				before[[2]string{a, b}] = true
			case !aFirst:
				before[[2]string{b, a}] = true
			}
		}
	}
	o.Any = len(before) == 0 && len(o.Apart) == 0
	o.sort(changing, before)
	return o
}

// sort orders services by who must go before whom, by name where nothing is said. Where they wait for each other
// in a ring, the first of them by name goes apart from all that should have gone before it.
func (o *Order) sort(waiting []string, before map[[2]string]bool) {
	for len(waiting) > 0 {
		next := slices.IndexFunc(waiting, func(s string) bool {
			return !slices.ContainsFunc(waiting, func(other string) bool { return before[[2]string{other, s}] })
		})
		if next < 0 {
			next = 0
			for _, other := range waiting {
				if before[[2]string{other, waiting[0]}] {
					o.Apart = append(o.Apart, [2]string{waiting[0], other})
				}
			}
		}
		o.Services = append(o.Services, waiting[next])
		waiting = slices.Delete(slices.Clone(waiting), next, next+1)
	}
}

// link is one direction of a pair.
type link struct{ refuser, refused string }

// A stance is how a refuser stands to a refused one.
type stance struct {
	client, server bool // it refuses in that role
	others         bool // other TLS libraries than Go's would
}

// stances reads who refuses whom out of a report.
func stances(r *verify.Report) map[link]stance {
	all := make(map[link]stance)
	for _, f := range r.Refusals {
		at := link{f.Refuser, f.Refused}
		s := all[at]
		s.client, s.server = s.client || f.RefuserRole == verify.Client, s.server || f.RefuserRole == verify.Server
		all[at] = s
	}
	for _, f := range r.Findings {
		if f.Code != verify.VerifierDependent {
			continue
		}
		for _, peer := range f.Peers {
			s := all[link{f.Service, peer}]
			s.others = true
			all[link{f.Service, peer}] = s
		}
	}
	return all
}

// acceptance says of two whether each accepts the other, in both roles and by every library. Who could not be
// read accepts nobody.
func acceptance(r *verify.Report) func(a, b string) bool {
	refuses := stances(r)
	compared := make(map[string]bool)
	for _, row := range r.Services {
		compared[row.Name] = row.Compared
	}
	return func(a, b string) bool {
		return compared[a] && compared[b] && refuses[link{a, b}] == stance{} && refuses[link{b, a}] == stance{}
	}
}

// broken lists who would refuse whom afterwards and does not now.
func broken(was, then *verify.Report) []link {
	compared := make(map[string]bool)
	for _, row := range was.Services {
		compared[row.Name] = row.Compared
	}
	before := stances(was)
	var all []link
	for at, after := range stances(then) {
		b := before[at]
		worse := after.client && !b.client || after.server && !b.server || after.others && b == stance{}
		if worse && compared[at.refuser] && compared[at.refused] {
			all = append(all, at)
		}
	}
	slices.SortFunc(all, func(a, b link) int {
		return cmp.Or(cmp.Compare(a.refuser, b.refuser), cmp.Compare(a.refused, b.refused))
	})
	return all
}
