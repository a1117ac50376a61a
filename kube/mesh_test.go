package kube

import (
	"testing"
	"time"

	"github.com/meshca/meshca/test/cluster"
)

// A meshCluster is a real API server with its administrator's client.
type meshCluster struct {
	*cluster.Cluster
	client *Client
}

// TestMesh has one API server for all that reads and repairs: each test has namespaces of its own.
func TestMesh(t *testing.T) {
	m := &meshCluster{Cluster: cluster.Need(t, cluster.Options{})}
	m.client = connectBy(t, m.Kubeconfig)
	for name, test := range map[string]func(*testing.T, *meshCluster){
		"readers":              testReaders,
		"reading a namespace":  testReadNamespace,
		"reading all":          testReadAll,
		"older pods":           testOlder,
		"reading some by name": testReadSome,
		"nobody answers":       testNobodyAnswers,
		"a binary bundle":      testBinaryBundle, "publish in some": testPublishInSome,
		"an immutable bundle":  testImmutableBundle,
		"repair, the incident": testRepairIncident, "repair, races": testRepairRaces, "repair, guard": testRepairGuard, "repair, pods": testRepairPods,
	} {
		t.Run(name, func(t *testing.T) { test(t, m) })
	}
}

func connectBy(t *testing.T, kubeconfig string) *Client {
	t.Helper()
	client, err := Connect(Options{Kubeconfig: kubeconfig})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !yes(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
