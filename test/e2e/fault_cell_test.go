package e2e

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A cell is a mesh in a cluster with a gate between the program and the API server.
type cell struct {
	*clusterMesh
	gate *gate
}

// withFive is the five services and some more.
func withFive(more ...string) []string { return slices.Concat(fiveServices, more) }

// newCell makes a mesh in a namespace of its own, and its gate.
func newCell(t testing.TB, k *kubernetes, s clusterSettings) *cell {
	t.Helper()
	m := k.newMesh(t, fmt.Sprintf("cell-%d", k.cells.Add(1)), s)
	c := &cell{m, newGate(t, k, m.account.token)}
	c.account.kubeconfig = c.gate.Kubeconfig
	c.Configure(s)
	return c
}

// Configure replaces the config file. A cell is swept as the program does it by default.
func (c *cell) Configure(s clusterSettings) {
	c.t.Helper()
	s.Sweep = cmp.Or(s.Sweep, "1m")
	c.clusterMesh.Configure(s)
}

// twin is another folder for the same namespace, with a gate and a copy of data and seal of its own.
func (c *cell) twin(t testing.TB) *cell {
	t.Helper()
	m := *c.clusterMesh
	m.Mesh = &Mesh{t: t, Dir: t.TempDir(), Services: c.Services, root: c.root}
	d := &cell{&m, newGate(t, c.k, m.account.token)}
	d.account.kubeconfig = d.gate.Kubeconfig
	d.copyState(t, c)
	return d
}

// copyState makes data and seal what they are in another cell's folder.
func (c *cell) copyState(t testing.TB, from *cell) {
	t.Helper()
	for _, dir := range []string{"data", "seal"} {
		copyTree(t, filepath.Join(from.Dir, dir), filepath.Join(c.Dir, dir))
	}
}

// start starts the program, and waits until it serves and every Secret stands.
func (c *cell) start() *Process {
	c.t.Helper()
	p := c.Start()
	c.awaitStanding(p)
	return p
}

// awaitStanding waits until no invariant is broken.
func (c *cell) awaitStanding(p *Process) {
	c.t.Helper()
	p.Await("all Secrets stand", func() error { return errors.Join(c.inspect()...) })
}

// serials are the serial numbers in all Secrets, by service.
func (c *cell) serials() map[string]string {
	c.t.Helper()
	all := make(map[string]string)
	for _, service := range c.Services {
		s, err := c.secret(service)
		must(c.t, err)
		pair, err := tls.X509KeyPair(s.Data[certFile], s.Data[keyFile])
		must(c.t, err)
		all[service] = serialOf(pair.Leaf)
	}
	return all
}

// records counts the store's records by state.
func (c *cell) records() map[string]int {
	c.t.Helper()
	s, err := readStore(c.Store())
	must(c.t, err)
	n := make(map[string]int)
	for _, r := range s.records {
		n[r.State]++
	}
	return n
}

// since is how long ago something was, as tables show it.
func since(at time.Time) time.Duration { return time.Since(at).Round(10 * time.Millisecond) }
