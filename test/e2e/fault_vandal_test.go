package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"
)

// A clusterVandal damages Secrets past the gate, and tells a witness which versions are its own. It is no error where
// it finds nothing to damage: the program may just be writing.
type clusterVandal struct {
	c       *cell
	w       *witness // nil: nobody looks
	rng     *rand.Rand
	foreign []byte // another CA's ca.crt
	key     []byte // a private key that fits nothing
	old     map[string]map[string][]byte
}

func newClusterVandal(t testing.TB, c *cell, w *witness, seed uint64) *clusterVandal {
	t.Helper()
	key, cert := makeCertificate(t, gateTemplate, gateTemplate, nil)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	return &clusterVandal{c: c, w: w, rng: rand.New(rand.NewPCG(seed, 1)), old: make(map[string]map[string][]byte),
		foreign: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		key:     pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
}

// secretHarms are the ways to damage a service's Secret. Only those in breaksKey lose the key, so that a new leaf is needed.
var secretHarms = map[string]func(v *clusterVandal, service string){
	"ca.crt another":  func(v *clusterVandal, s string) { v.data(s, map[string][]byte{caFile: v.foreign}) },
	"ca.crt empty":    func(v *clusterVandal, s string) { v.data(s, map[string][]byte{caFile: {}}) },
	"tls.crt another": func(v *clusterVandal, s string) { v.data(s, map[string][]byte{certFile: v.foreign}) },
	"annotations": func(v *clusterVandal, s string) {
		v.patch(s, object{"metadata": object{"annotations": object{"meshca.io/stamp": nil, "meshca.io/serial": "1"}}})
	},
	"label": func(v *clusterVandal, s string) {
		v.patch(s, object{"metadata": object{"labels": object{"meshca.io/service": "another"}}})
	},
	"tls.key another": func(v *clusterVandal, s string) { v.data(s, map[string][]byte{keyFile: v.key}) },
	"deleted":         func(v *clusterVandal, s string) { v.remove(s) },
	"half and Opaque": func(v *clusterVandal, s string) { v.makeHalf(s) },
	"neighbour's":     func(v *clusterVandal, s string) { v.copyFrom(v.service(), s) },
	"old set":         func(v *clusterVandal, s string) { v.putBack(s) },
}

// breaksKey are the harms after which nobody has the leaf's key any more.
var breaksKey = map[string]bool{"tls.key another": true, "deleted": true, "half and Opaque": true, "neighbour's": true, "old set": true}

// harmNames are in an order, so that a seed repeats them; the last two may find that all is as they want it.
var harmNames = []string{"ca.crt another", "ca.crt empty", "tls.crt another", "annotations", "label", "tls.key another",
	"deleted", "half and Opaque", "neighbour's", "old set"}

func (v *clusterVandal) service() string { return v.c.Services[v.rng.IntN(len(v.c.Services))] }

// Strike does one random harm to one service, or to the published bundle.
func (v *clusterVandal) Strike() {
	if v.rng.IntN(10) == 0 {
		v.harmBundle()
		return
	}
	secretHarms[harmNames[v.rng.IntN(len(harmNames))]](v, v.service())
}

// Rampage strikes every pause until ctx ends.
func (v *clusterVandal) Rampage(ctx context.Context, pause time.Duration) (strikes int) {
	for tick := time.NewTicker(pause); ; strikes++ {
		select {
		case <-ctx.Done():
			tick.Stop()
			return strikes
		case <-tick.C:
			v.Strike()
		}
	}
}

// write sends one write, and keeps its version for the witness.
func (v *clusterVandal) write(method, path, contentType string, body any) {
	code, answer, err := v.c.k.call("", method, path+"?fieldManager=somebody", contentType, body)
	if err != nil || code/100 != 2 {
		return
	}
	var live struct {
		Metadata metadata `json:"metadata"`
	}
	if json.Unmarshal(answer, &live) == nil && v.w != nil {
		v.w.Foreign(live.Metadata.ResourceVersion)
	}
}

func (v *clusterVandal) patch(service string, patch object) {
	v.write(http.MethodPatch, secretPath(v.c.namespace, service), mergePatch, patch)
}

// data changes keys of a Secret.
func (v *clusterVandal) data(service string, files map[string][]byte) {
	v.keep(service)
	v.patch(service, object{"data": files})
}

// keep keeps the first set that a service had.
func (v *clusterVandal) keep(service string) {
	if live, err := v.c.secret(service); err == nil && v.old[service] == nil {
		v.old[service] = live.Data
	}
}

func (v *clusterVandal) remove(service string) {
	_, _, _ = v.c.k.call("", http.MethodDelete, secretPath(v.c.namespace, service), "", nil) // it may be gone
}

// makeHalf makes the Secret anew, as scripts do, with one of its three parts.
func (v *clusterVandal) makeHalf(service string) {
	v.remove(service)
	v.write(http.MethodPost, "/api/v1/namespaces/"+v.c.namespace+"/secrets", "application/json", object{
		"metadata": object{"name": secretName(service)}, "type": "Opaque", "data": map[string][]byte{caFile: v.foreign}})
}

// copyFrom puts another service's whole set in a service's place.
func (v *clusterVandal) copyFrom(from, to string) {
	if live, err := v.c.secret(from); err == nil && from != to {
		v.data(to, live.Data)
	}
}

// putBack puts an old set of the service back.
func (v *clusterVandal) putBack(service string) {
	v.keep(service)
	if v.old[service] != nil {
		v.data(service, v.old[service])
	}
}

// harmBundle damages the published bundle.
func (v *clusterVandal) harmBundle() {
	if v.rng.IntN(2) == 0 {
		v.removeBundle()
		return
	}
	_, _, _ = v.c.k.call("", http.MethodPatch, bundlePath(v.c.namespace)+"?fieldManager=somebody", mergePatch,
		object{"data": map[string]string{caFile: string(v.foreign)}})
}

func (v *clusterVandal) removeBundle() {
	_, _, _ = v.c.k.call("", http.MethodDelete, bundlePath(v.c.namespace), "", nil) // it may be gone
}

// strikeAll does one harm to every service.
func (v *clusterVandal) strikeAll(harm string) {
	for _, service := range v.c.Services {
		secretHarms[harm](v, service)
	}
}

// blockOf is the content of a PEM file's first block.
func blockOf(data []byte) []byte {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil
	}
	return block.Bytes
}
