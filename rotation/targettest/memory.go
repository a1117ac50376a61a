package targettest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/meshca/meshca/rotation"
)

// Memory is a target in memory. Its zero value is empty and ready.
type Memory struct {
	mu       sync.Mutex
	sets     map[string]rotation.Observation
	writes   map[string]int
	watchers []func(string)

	// Fail, where set, is asked before each Write; its error fails the write, before or after the set is in
	// place.
	Fail func(service string) (err error, written bool)
	// Unreachable, where set, is the error of Observe.
	Unreachable func(service string) error
}

var _ rotation.Target = (*Memory)(nil)

// Subject makes it the subject of the suite.
func (m *Memory) Subject() Subject { return Subject{Target: m, Tamper: m.tamper} }

// Observe implements [rotation.Target].
func (m *Memory) Observe(_ context.Context, service string) (rotation.Observation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Unreachable != nil {
		if err := m.Unreachable(service); err != nil {
			return rotation.Observation{}, err
		}
	}
	o := m.sets[service]
	o.MarkIn = "mark"
	o.Cert, o.Key, o.CA = bytes.Clone(o.Cert), bytes.Clone(o.Key), bytes.Clone(o.CA)
	return o, nil
}

// Write implements [rotation.Target].
func (m *Memory) Write(_ context.Context, service string, set rotation.Material) error {
	var err error
	written := true
	if m.Fail != nil {
		if err, written = m.Fail(service); err == nil {
			written = true
		}
	}
	if !written {
		return err
	}
	m.mu.Lock()
	if m.sets == nil {
		m.sets, m.writes = make(map[string]rotation.Observation), make(map[string]int)
	}
	mark := set.Mark
	m.sets[service] = rotation.Observation{Cert: set.Cert, Key: set.Key, CA: set.CA, Mark: &mark}
	m.writes[service]++
	m.mu.Unlock()
	m.tell(service)
	return err
}

func (m *Memory) tell(service string) {
	m.mu.Lock()
	watchers := slices.Clone(m.watchers)
	m.mu.Unlock()
	for _, told := range watchers {
		told(service)
	}
}

// Watch implements [rotation.Target].
func (m *Memory) Watch(ctx context.Context, _ []string, changed func(string)) error {
	m.mu.Lock()
	m.watchers = append(m.watchers, func(service string) {
		if ctx.Err() == nil {
			go changed(service) // as a real watch: not in the writer's own goroutine
		}
	})
	m.mu.Unlock()
	changed("")
	<-ctx.Done()
	return nil
}

// Tidy implements [rotation.Target].
func (m *Memory) Tidy(context.Context, string) error { return nil }

// Ready implements [rotation.Target].
func (m *Memory) Ready(context.Context) error {
	if m.Unreachable != nil {
		return m.Unreachable("")
	}
	return nil
}

// Place implements [rotation.Target].
func (m *Memory) Place(service string) string { return "memory:" + service }

// Writes is how often a service was written.
func (m *Memory) Writes(service string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes[service]
}

// Copy is a copy of all sets, to be put back by Restore.
func (m *Memory) Copy() map[string]rotation.Observation {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.sets)
}

// Change changes a service's set as a stranger would.
func (m *Memory) Change(service string, change func(*rotation.Observation)) {
	m.mu.Lock()
	o := m.sets[service]
	change(&o)
	if m.sets == nil {
		m.sets, m.writes = make(map[string]rotation.Observation), make(map[string]int)
	}
	m.sets[service] = o
	m.mu.Unlock()
	m.tell(service)
}

func (m *Memory) tamper(t testing.TB, service, file string, content []byte) {
	t.Helper()
	m.Change(service, func(o *rotation.Observation) {
		switch file {
		case rotation.CertFile:
			o.Cert = content
		case rotation.KeyFile:
			o.Key = content
		case rotation.CAFile:
			o.CA = content
		default:
			t.Fatalf("no file %q in a set", file)
		}
	})
}

// ErrDown is an error for Unreachable and Fail.
var ErrDown = errors.New("the target is down")
