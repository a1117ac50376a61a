package rotation_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/rotation"
)

// hang is how long a target lets somebody wait that hangs.
const hang = 10 * time.Second

// hanging has a part of the target hang for services of such a name.
type hanging struct {
	of        func(service string) bool
	on        atomic.Bool
	now, ever atomic.Int32 // that wait, and that have waited
}

var errHangs = errors.New("no answer in time")

func (h *hanging) wait(service string) error {
	if !h.on.Load() || !h.of(service) {
		return nil
	}
	h.now.Add(1)
	defer h.now.Add(-1)
	h.ever.Add(1)
	time.Sleep(hang)
	return errHangs
}

// wantHealed damages a service and sees that it is healed, recorded and told of in no time.
func (w *world) wantHealed(t *testing.T, service string) {
	t.Helper()
	before := w.status(t, service).Healed
	w.target.Suite().Tamper(t, service, rotation.CAFile, []byte("theirs"))
	synctest.Wait()
	if s := w.status(t, service); s.Healed != before+1 || s.Error != "" {
		t.Errorf("%s was healed %d times, want %d: %s", service, s.Healed, before+1, s.Error)
	}
}

// TestHangs: while writes hang for more services than are worked on at once, the others are healed at once, and what
// hangs is healed when it does not.
func TestHangs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var sick []string
		for i := range 40 {
			sick = append(sick, fmt.Sprintf("a-sick-%d", i)) // before all others
		}
		w.names = append(sick, mesh...)
		h := &hanging{of: func(service string) bool { return service[:2] == "a-" }}
		w.target.Fail = func(service string) (error, bool) { return h.wait(service), false }
		stop := w.run(t)
		h.on.Store(true)
		for _, service := range sick {
			w.target.Suite().Tamper(t, service, rotation.CAFile, []byte("theirs"))
		}
		time.Sleep(time.Second)
		if n := h.now.Load(); int(n) != len(sick) {
			t.Errorf("%d of %d are waited for", n, len(sick))
		}
		for _, service := range mesh {
			w.wantHealed(t, service)
			w.wantHealed(t, service)
		}
		if n := h.ever.Load(); int(n) != len(sick) {
			t.Errorf("asked %d times before one was answered", n)
		}
		h.on.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		stop()
		w.check(t)
	})
}

// TestFewHang: nor do the others wait long while fewer hang than are worked on at once, before these are known to hang.
func TestFewHang(t *testing.T) {
	for _, n := range []int{1, 17, 20, 23} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.names = nil
				for i := range n {
					w.names = append(w.names, fmt.Sprintf("a-sick-%d", i)) // before all others
				}
				var sound []string
				for i := range 30 {
					sound = append(sound, fmt.Sprintf("sound-%d", i))
				}
				w.names = append(w.names, sound...)
				h := &hanging{of: func(service string) bool { return service[:2] == "a-" }}
				h.on.Store(true)
				w.target.Fail = func(service string) (error, bool) { return h.wait(service), false }
				started := make(chan error, 1)
				go func() { started <- w.start(t) }()
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				for _, service := range sound {
					if w.target.Writes(service) != 1 {
						t.Errorf("%s has nothing yet", service)
					}
				}
				if waiting := int(h.now.Load()); waiting != n {
					t.Errorf("%d hang, want %d", waiting, n)
				}
				if err := <-started; err != nil {
					t.Fatal(err)
				}
				h.on.Store(false)
				w.run(t)()
				w.check(t)
			})
		})
	}
}

// TestUnseenHangs: a place that was never seen does not keep the others waiting whenever it is tried again.
func TestUnseenHangs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		h := &hanging{of: func(service string) bool { return service == mesh[0] }}
		h.on.Store(true)
		w.target.Unreachable = h.wait
		stop := w.run(t)
		time.Sleep(3 * hang) // until it was found out
		tries := h.ever.Load()
		for i := range 30 {
			time.Sleep(time.Second)
			w.wantHealed(t, mesh[1+i%2])
		}
		if n := h.ever.Load(); n <= tries {
			t.Error("it was not tried again meanwhile")
		}
		h.on.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		stop()
		w.check(t)
	})
}

// TestLooksHang: while a mesh is taken over, neither a place that cannot be looked at nor a target that does not say who
// reads keeps the others from being healed.
func TestLooksHang(t *testing.T) {
	for what, hangs := range map[string]func(m *mess, h *hanging){
		"observe": func(m *mess, h *hanging) { m.target.Unreachable = h.wait },
		"readers": func(m *mess, h *hanging) {
			read := m.target.Read
			m.target.Read = func(services []string) map[string]rotation.Readers {
				_ = h.wait("search")
				return read(services)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			broken(t, func(t *testing.T, m *mess) {
				h := &hanging{of: func(service string) bool { return service == "search" }}
				hangs(m, h)
				m.read(time.Now().Add(-time.Hour), incident...)
				stop := m.run(t)
				h.on.Store(true)
				for h.now.Load() == 0 { // the next sweep
					time.Sleep(time.Second)
				}
				time.Sleep(time.Second)
				for range 3 {
					m.wantHealed(t, "envoy")
				}
				if h.now.Load() == 0 {
					t.Error("nothing hangs any more")
				}
				h.on.Store(false)
				m.wait(5 * time.Minute)
				m.wantUnion(t)
				m.read(time.Now().Add(hold), incident...)
				m.wait(5 * time.Minute)
				m.wantAllAnew(t)
				stop()
			})
		})
	}
}

// TestLookIsOlder: what was seen of a place before its turn in between is not acted on after it.
func TestLookIsOlder(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		h := &hanging{of: func(service string) bool { return service == "search" }}
		var damage atomic.Bool
		m.target.Unreachable = func(service string) error {
			if service == "pgadmin" && damage.CompareAndSwap(true, false) {
				m.target.Change("pgadmin", func(o *rotation.Observation) { o.Key = nil })
			}
			return h.wait(service)
		}
		m.read(time.Now().Add(-time.Hour), incident...)
		stop := m.run(t)
		h.on.Store(true)
		damage.Store(true)
		m.wait(2 * time.Minute)
		stop()
		if n := m.issued(t, "pgadmin"); n != 2 || damage.Load() {
			t.Errorf("%d leaves were issued for pgadmin, want the first and another for the lost key", n)
		}
	})
}
