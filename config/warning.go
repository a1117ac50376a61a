package config

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/meshca/meshca/profile"
)

const (
	watchKB     = 80  // some memory of one watch of one Secret, in kB
	manyWatches = 300 // so many watches of their own are warned of
)

// Warnings lists what is allowed but unwise, in the order of the struct. A Config that Load or Parse did
// not make has the lines 1.
func (c *Config) Warnings() []Problem {
	var all []Problem
	warn := func(path, hint, message string) {
		all = append(all, Problem{Line: lineOf(c.lines, path), Field: path, Message: message, Hint: hint})
	}
	if folder := filepath.Dir(c.Seal.KeyFile); folder == filepath.Dir(c.Store.Bolt.Path) {
		warn("seal.keyFile", "keep the seal on another volume",
			"shares the folder "+quote(folder)+" with store.bolt.path: whoever copies it has the private keys")
	}
	if least := c.Leaf.Lifetime / 10; c.Leaf.Backdate > least {
		warn("leaf.backdate", "", c.Leaf.Backdate.String()+" is cut to a tenth of leaf.lifetime, "+span(least.Std().Truncate(time.Second)))
	}
	const refused = "Ed25519: Envoy's defaults and libpq's channel binding refuse it"
	if c.Leaf.Key == profile.Ed25519 {
		warn("leaf.key", "write ECDSA-P256 unless every peer is known to take it", refused)
	}
	if t := c.Target.Kubernetes; t != nil {
		const path = "target.kubernetes.watch"
		switch n := len(c.Services); {
		case t.Watch == watchNamespace:
			warn(path, "write names, which needs the right to the services' own Secrets only",
				"namespace needs the right to read every Secret of the services' namespaces, those of others too")
		case t.Watch == watchNames && n > manyWatches:
			warn(path, "write watch: none, with which a change is noticed by the sweep",
				fmt.Sprintf("names takes some %d kB of memory for each of %d services, %d MB together", watchKB, n, n*watchKB/1000))
		}
	}
	if len(c.Services) == 0 {
		warn("services", "list the services to keep in certificates", "is empty: no certificate will be issued")
	}
	for i, s := range c.Services {
		if s.Key == profile.Ed25519 && c.Leaf.Key != profile.Ed25519 {
			warn(servicePath(i)+".key", "write ECDSA-P256 unless every peer is known to take it", refused)
		}
	}
	return all
}
