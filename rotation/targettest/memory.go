package targettest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meshca/meshca/rotation"
)

// Memory is a target in memory. Its zero value is empty and ready.
type Memory struct {
	mu       sync.Mutex
	sets     map[string]rotation.Observation // by place, as all of these
	versions map[string]int
	writes   map[string]int
	places   map[string]string // of services that do not lie at the place of their name
	bundle   []byte
	bundles  int // how often it was published
	notices  []rotation.Notice
	watchers []func(string)

	// Fail, where set, is asked before each Write; its error fails the write, before or after the set is in
	// place.
	Fail func(service string) (err error, written bool)
	// Now, where set, is the target's clock.
	Now func() time.Time
	// Read, where set, tells who reads the services' sets.
	Read func(services []string) map[string]rotation.Readers
	// Unreachable, where set, is the error of Observe.
	Unreachable func(service string) error
	// Unwatched, where set, is the error of Watch.
	Unwatched error
}

var _ rotation.Target = (*Memory)(nil)

// Suite makes it the subject of the suite.
func (m *Memory) Suite() Subject { return Subject{Target: m, Tamper: m.tamper} }

// Observe implements [rotation.Target].
func (m *Memory) Observe(_ context.Context, service string) (rotation.Observation, error) {
	if m.Unreachable != nil {
		if err := m.Unreachable(service); err != nil {
			return rotation.Observation{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	place := m.at(service)
	o := m.sets[place]
	o.MarkIn = "mark"
	o.Version = m.versions[place]
	o.Cert, o.Key, o.CA = bytes.Clone(o.Cert), bytes.Clone(o.Key), bytes.Clone(o.CA)
	return o, nil
}

// Write implements [rotation.Target].
func (m *Memory) Write(_ context.Context, service string, set rotation.Material, over rotation.Version) error {
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
	m.init()
	place := m.at(service)
	if over != nil && over != m.versions[place] {
		m.mu.Unlock()
		return rotation.ErrChanged
	}
	before := m.sets[place]
	if set.Key == nil {
		set.Cert, set.Key = before.Cert, before.Key
	}
	mark := set.Mark
	m.sets[place] = rotation.Observation{Cert: set.Cert, Key: set.Key, CA: set.CA, Mark: &mark, Written: m.now(), Foreign: before.Foreign}
	m.versions[place]++
	m.writes[place]++
	m.mu.Unlock()
	m.tell(service)
	return err
}

// init makes the maps. The caller holds the lock.
func (m *Memory) init() {
	if m.sets == nil {
		m.sets, m.writes, m.versions = make(map[string]rotation.Observation), make(map[string]int), make(map[string]int)
	}
}

func (m *Memory) now() time.Time {
	if m.Now == nil {
		return time.Time{}
	}
	return m.Now()
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
	if m.Unwatched != nil {
		return m.Unwatched
	}
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

// Readers implements [rotation.Target].
func (m *Memory) Readers(_ context.Context, services []string) map[string]rotation.Readers {
	if m.Read == nil {
		return nil
	}
	return m.Read(services)
}

// Publish implements [rotation.Target].
func (m *Memory) Publish(_ context.Context, bundle []byte) (changed []string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bundle = bytes.Clone(bundle)
	m.bundles++
	return nil, nil
}

// Publications is how often the bundle was published.
func (m *Memory) Publications() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bundles
}

// Unpublish replaces the published bundle as a stranger would.
func (m *Memory) Unpublish() { m.UnpublishAs(rotation.Published) }

// UnpublishAs is Unpublish where Watch names the place so.
func (m *Memory) UnpublishAs(name string) {
	m.mu.Lock()
	m.bundle = nil
	m.mu.Unlock()
	m.tell(name)
}

// Published is what was published last.
func (m *Memory) Published() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.bundle)
}

// Tell implements [rotation.Target].
func (m *Memory) Tell(n rotation.Notice) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notices = append(m.notices, n)
}

// Notices are all that were told.
func (m *Memory) Notices() []rotation.Notice {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.notices)
}

// Move has a service lie at another place from now on. A service lies at the place of its name until it is moved.
func (m *Memory) Move(service, place string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.places == nil {
		m.places = make(map[string]string)
	}
	m.places[service] = place
}

// at is the place of the service. The caller holds the lock.
func (m *Memory) at(service string) string { return cmp.Or(m.places[service], service) }

// Subject implements [rotation.Target].
func (m *Memory) Subject(service string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at(service)
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
func (m *Memory) Place(service string) string { return "memory:" + m.Subject(service) }

// Writes is how often a place was written.
func (m *Memory) Writes(place string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes[place]
}

// Copy is a copy of all sets, to be put back by Restore.
func (m *Memory) Copy() map[string]rotation.Observation {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.sets)
}

// Change changes the set at a place as a stranger would.
func (m *Memory) Change(place string, change func(*rotation.Observation)) {
	m.mu.Lock()
	o := m.sets[place]
	change(&o)
	m.init()
	m.sets[place] = o
	m.versions[place]++
	service := place
	for moved, to := range m.places {
		if to == place {
			service = moved
		}
	}
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
