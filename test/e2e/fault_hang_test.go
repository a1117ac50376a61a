package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

// testHangs: a namespace for which nothing is answered, or no write, as where a webhook hangs, costs the others
// nothing: they are healed while it hangs. Of it, few are asked for at a time, and
// all are told of when those are given up.
func testHangs(t *testing.T, k *kubernetes) {
	atOnce(t, map[string]func(*testing.T){
		"any call": func(t *testing.T) { hangs(t, k, anyCall) }, "writes": func(t *testing.T) { hangs(t, k, onlyWrites) },
	})
}

func hangs(t *testing.T, k *kubernetes, which func(*exchange) bool) {
	const most = 8 // calls for Secrets at a time in a namespace
	c, far := newCells(t, k, 30)
	p := c.start()
	far.awaitStanding(p)
	var waits atomic.Int32
	c.gate.Do(func(x *exchange) {
		if !strings.Contains(x.r.URL.Path, "/namespaces/"+far.namespace+"/") || x.Verb == "watch" || !which(x) {
			x.Pass()
			return
		}
		if x.Resource == "secrets" { // Events and the bundle have others
			waits.Add(1)
		}
		x.Gone()
	})
	newClusterVandal(t, far, nil, 1).strikeAll("ca.crt another")
	p.Await("it waits for as many as it does at a time", func() error {
		if n := waits.Load(); n < most {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if n := waits.Load(); n != most { // the next one comes when one is given up, after ten seconds
		t.Errorf("%d calls at a time, want %d", n, most)
	}
	newClusterVandal(t, c, nil, 1).strikeAll("tls.key another")
	c.awaitStanding(p)
	p.Await("each service of the namespace is named", far.allAway)
	c.gate.Do(nil)
	far.awaitStanding(p)
	c.awaitStanding(p)
}

// newCells is newCell with some more services in another namespace, which are the second one's.
func newCells(t *testing.T, k *kubernetes, more int) (here, there *cell) {
	t.Helper()
	far := fmt.Sprintf("far-%d", k.cells.Add(1))
	k.namespace(t, far)
	s := clusterSettings{Services: withFive(), Extra: make(map[string]string)}
	for i := range more {
		name := fmt.Sprintf("far-%d", i)
		s.Services, s.Extra[name] = append(s.Services, name), "namespace: "+far
	}
	s.Edit = func(rbac string) string { // the same rights in both
		parts := strings.SplitN(rbac, "---\n", 3)
		_, near, _ := strings.Cut(parts[2], "kind: Role\nmetadata: {name: meshca, namespace: ")
		near, _, _ = strings.Cut(near, "}")
		return rbac + "---\n" + strings.ReplaceAll(parts[2], "namespace: "+near+"}", "namespace: "+far+"}")
	}
	here = newCell(t, k, s)
	m := *here.clusterMesh
	m.Mesh = &Mesh{t: t, Dir: here.Dir, Services: s.Services[len(fiveServices):]}
	m.namespace = far
	here.Services = fiveServices
	await(t, "the account has its rights in both", func() error {
		var errs []error
		for _, path := range []string{secretPath(here.namespace, fiveServices[0]), secretPath(far, "far-0")} {
			if code, _ := k.ask(t, m.account.token, "GET", path, "", nil); code == 403 {
				errs = append(errs, errors.New("not yet"))
			}
		}
		return errors.Join(errs...)
	})
	return here, &cell{&m, here.gate}
}
