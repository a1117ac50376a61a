package kube_test

import (
	"sync/atomic"
	"testing"

	"github.com/meshca/meshca/kube"
	"github.com/meshca/meshca/rotation/targettest"
	"github.com/meshca/meshca/test/cluster"
)

// TestConformance: a Secret keeps the contract that a folder keeps.
func TestConformance(t *testing.T) {
	c := cluster.Need(t, cluster.Options{})
	var namespaces atomic.Int32
	for _, mode := range []kube.WatchMode{kube.WatchNames, kube.WatchNamespace} {
		t.Run(string(mode), func(t *testing.T) {
			targettest.Run(t, func(t testing.TB) targettest.Subject { return open(t, c, mode, int(namespaces.Add(1))) })
		})
	}
}
