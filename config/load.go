package config

import (
	"bytes"
	_ "embed" // for example.yaml
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meshca/meshca/profile"
)

// maxSize bounds a file, as a ConfigMap is bounded: a larger one is a mistake.
const maxSize = 1 << 20

//go:embed example.yaml
var example []byte

// Example returns a commented file that lists every field with its default, its unit and what a wrong
// value breaks, and the five services of the mesh that meshca was written for. Parse accepts it.
func Example() []byte { return bytes.Clone(example) }

// Load reads, parses and validates the file at path, and joins the relative paths in it to the file's
// folder. The error is an *Error unless the file cannot be read.
func Load(path string) (*Config, error) {
	data, err := Read(path)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	if len(data) > maxSize {
		return nil, &Error{File: path, Problems: []Problem{{Message: "is larger than 1 MiB"}}}
	}
	c, err := parse(data, filepath.Dir(path))
	if e, ok := errors.AsType[*Error](err); ok {
		e.File = path
	}
	return c, err
}

// Read returns the content of the file at path as Load reads it: at most one byte more than is allowed.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	return io.ReadAll(io.LimitReader(f, maxSize+1))
}

// Parse is Load without a file: relative paths are left as they are. The error is always an *Error.
// Nothing but the time zone database is read.
func Parse(data []byte) (*Config, error) { return parse(data, "") }

// parse decodes and validates data. A folder that is not empty is put before relative paths.
func parse(data []byte, folder string) (*Config, error) {
	r := newReport()
	c := defaults()
	if root := document(data, r); root != nil {
		d := decoder{report: r}
		d.into(root, c)
		if d.otherVersion(c.Version) {
			return nil, r.err()
		}
		c.lines = r.lines
		for i := range c.Services {
			c.Services[i].fill(servicePath(i), c.Leaf, r)
		}
		if folder != "" {
			c.resolve(folder)
		}
		validate(c, r)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// defaults returns what a file says that says nothing; those of list entries are in setDefaults.
func defaults() *Config {
	const hour = Duration(time.Hour)
	return &Config{
		TrustDomain: "mesh.local",
		Store:       Store{Bolt: Bolt{Path: "data/meshca.db"}, Retain: 2160 * hour},
		Seal:        Seal{KeyFile: "seal/seal.key"},
		Listen:      Listen{API: "127.0.0.1:8443", Metrics: "127.0.0.1:8444"},
		CA: CA{
			Key:     profile.ECDSAP256,
			Root:    Life{Lifetime: 87600 * hour},
			Issuing: Life{Lifetime: 2160 * hour},
		},
		Leaf: Leaf{
			Lifetime:     720 * hour,
			RenewAt:      0.667,
			Backdate:     Duration(5 * time.Minute),
			Key:          profile.ECDSAP256,
			MinRemaining: hour,
		},
		Rotation: Rotation{Schedule: "0 3 * * *", Timezone: "UTC", Restart: Restart{HoldDown: Duration(90 * time.Second)}},
		Sweep:    Duration(time.Minute),
	}
}

func (s *Service) setDefaults()    { s.Namespace = "default" }
func (d *Directory) setDefaults()  { d.Path = "mesh" }
func (k *Kubernetes) setDefaults() { k.Watch = watchNames }

// resolve joins relative paths to folder. An empty path stays empty, for validate to refuse.
func (c *Config) resolve(folder string) {
	paths := []*string{&c.Store.Bolt.Path, &c.Seal.KeyFile}
	if c.Target.Directory != nil {
		paths = append(paths, &c.Target.Directory.Path)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(folder, *p)
		}
	}
}

// YAML writes the effective configuration, defaults included. Parse reads it back to the same. The Secrets'
// names are left out where the target has no Secrets, since Parse would refuse them.
func (c *Config) YAML() ([]byte, error) {
	effective := *c
	if c.Target.Kubernetes == nil {
		effective.Services = slices.Clone(c.Services)
		for i := range effective.Services {
			effective.Services[i].Secret = ""
		}
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&effective); err != nil {
		return nil, fmt.Errorf("write config: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write config: %w", err)
	}
	return b.Bytes(), nil
}
