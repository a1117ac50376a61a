package rotation_test

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/rotation"
)

// wantStranger checks that the service's place is left alone since it would bring another CA, whose name is said.
func (w *world) wantStranger(t *testing.T, name, stranger string) {
	t.Helper()
	s := w.status(t, name)
	if s.State != rotation.StateRefused || !strings.Contains(s.Error, stranger) || !strings.Contains(s.Hint, "adopt "+name+" --continue") {
		t.Errorf("%+v: it would bring %s", s, stranger)
	}
}

// letIn is an operator's word on what the service's place brings.
func (w *world) letIn(t *testing.T, name, stranger string) {
	t.Helper()
	synctest.Wait()
	w.wantStranger(t, name, stranger)
	if err := w.engine.Continue(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// trusts says which of the services' ca.crt hold the CA.
func (m *mess) trusts(t *testing.T, c *catest.Foreign) (names []string) {
	t.Helper()
	for _, name := range m.names {
		if o := m.holds(t, name); bytes.Contains(o.CA, c.PEM()) {
			names = append(names, name)
		}
	}
	return names
}

// over is a mesh that was taken over, with a place among its own that is left to another program.
func over(t *testing.T, test func(t *testing.T, m *mess, third *catest.Foreign, stop func())) {
	t.Helper()
	broken(t, func(t *testing.T, m *mess) {
		m.names = append(m.names[:len(m.names):len(m.names)], "website")
		m.fill(t, "website", m.one.Leaf(t, "website", time.Now()), m.one)
		m.target.Change("website", func(o *rotation.Observation) { o.Foreign = theirs })
		m.declare(rotation.ReadersNone, m.names...)
		stop := m.run(t)
		m.wait(2 * time.Minute)
		test(t, m, catest.NewForeign(t, "Third CA", time.Now()), stop)
	})
}

// usurp fills website's place with a set of the CA, as whoever may write there can. marked leaves the marks of the
// program that it is left to.
func (m *mess) usurp(t *testing.T, c *catest.Foreign, marked bool) {
	t.Helper()
	leaf := c.Leaf(t, "website", time.Now())
	m.target.Change("website", func(o *rotation.Observation) {
		*o = rotation.Observation{Cert: leaf.PEM(), Key: leaf.KeyPEM(t), CA: c.PEM()}
		if marked {
			o.Foreign = theirs
		}
	})
	synctest.Wait()
}

// TestStranger: a place that was left to another program and that somebody fills with a set of his own CA is not taken
// over, by no process, until an operator names it: everybody would trust that CA. What others say of all, and what was
// said of another ca.crt, is no such word.
func TestStranger(t *testing.T) {
	for _, key := range []bool{true, false} {
		t.Run(fmt.Sprintf("key=%t", key), func(t *testing.T) {
			over(t, func(t *testing.T, m *mess, third *catest.Foreign, stop func()) {
				epoch := m.engine.Status().Epoch
				m.usurp(t, third, false)
				if !key {
					m.target.Change("website", func(o *rotation.Observation) { o.Key = nil })
				}
				for range 2 {
					m.wait(10 * time.Minute)
					m.wantStranger(t, "website", "Third CA")
					_ = m.engine.Continue(t.Context(), "") // there may be nothing to do
					m.wait(10 * time.Minute)
					if got := m.trusts(t, third); len(got) != 1 || m.target.Writes("website") > 0 || m.engine.Status().Epoch != epoch {
						t.Fatalf("%v trust the stranger", got)
					}
					stop()
					stop = m.run(t)
				}
				defer func() { stop() }()

				m.letIn(t, "website", "Third CA")
				m.wait(10 * time.Minute)
				if got := m.trusts(t, third); len(got) != len(m.names) {
					t.Errorf("%v alone trust who was let in", got)
				}
				if s := m.status(t, "website"); s.State != rotation.StateTaking && s.State != rotation.StateKept {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// TestStrangerAfterStranger: an operator's word holds for the ca.crt that lay there when it was said.
func TestStrangerAfterStranger(t *testing.T) {
	over(t, func(t *testing.T, m *mess, third *catest.Foreign, stop func()) {
		defer stop()
		m.usurp(t, third, false)
		m.letIn(t, "website", "Third CA")
		fourth := catest.NewForeign(t, "Fourth CA", time.Now())
		m.fill(t, "elsewhere", fourth.Leaf(t, "website", time.Now()), fourth)
		if err := m.engine.Reload(t.Context(), policies(m.names), func() { m.target.Move("website", "elsewhere") }); err != nil {
			t.Fatal(err)
		}
		m.wait(5 * time.Minute)
		m.wantStranger(t, "website", "Fourth CA")
		if got := m.trusts(t, fourth); len(got) != 1 {
			t.Errorf("%v trust the stranger", got)
		}
	})
}

// TestStrangerAmongTheAwaited: to wait for nobody any more is not to let anybody in.
func TestStrangerAmongTheAwaited(t *testing.T) {
	over(t, func(t *testing.T, m *mess, third *catest.Foreign, stop func()) {
		defer stop()
		m.fill(t, "website", third.Leaf(t, "website", time.Now()), third, m.two)
		m.fill(t, "grafana", m.two.Leaf(t, "grafana", time.Now()), m.two)
		m.names = append(m.names, "grafana")
		if err := m.engine.Reload(t.Context(), policies(m.names), nil); err != nil {
			t.Fatal(err)
		}
		m.wait(5 * time.Minute)
		m.wantAwaited(t, "grafana", "website")
		m.goOn(t, "")
		m.wait(5 * time.Minute)
		m.wantStranger(t, "website", "Third CA")
		if s := m.status(t, "grafana"); s.State != rotation.StateKept || len(m.trusts(t, third)) != 1 {
			t.Errorf("%+v, and %v trust the stranger", s, m.trusts(t, third))
		}
	})
}

// TestStrangerAtPlaceOfOthers: what lies at a place that is left alone brings nothing to others when another service is
// taken over.
func TestStrangerAtPlaceOfOthers(t *testing.T) {
	over(t, func(t *testing.T, m *mess, third *catest.Foreign, stop func()) {
		defer stop()
		m.usurp(t, third, true)
		m.fill(t, "grafana", m.two.Leaf(t, "grafana", time.Now()), m.two)
		m.names = append(m.names, "grafana")
		if err := m.engine.Reload(t.Context(), policies(m.names), nil); err != nil {
			t.Fatal(err)
		}
		m.wait(5 * time.Minute)
		if s := m.status(t, "grafana"); s.State != rotation.StateTaking && s.State != rotation.StateKept {
			t.Errorf("what brings no stranger is taken over at once: %+v", s)
		}
		if got := m.trusts(t, third); len(got) != 1 {
			t.Errorf("%v trust the stranger", got)
		}
	})
}

// TestStrangerExpires: a set whose leaf nobody could use any more is written over, and its CA stays out.
func TestStrangerExpires(t *testing.T) {
	over(t, func(t *testing.T, m *mess, third *catest.Foreign, stop func()) {
		defer stop()
		leaf := third.Leaf(t, "website", time.Now(), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })
		m.fill(t, "website", leaf, third)
		synctest.Wait()
		m.wantStranger(t, "website", "Third CA")
		m.wait(65 * time.Minute)
		if s := m.status(t, "website"); s.State != rotation.StateKept || len(m.trusts(t, third)) != 0 {
			t.Errorf("%+v, and %v trust the stranger", s, m.trusts(t, third))
		}
	})
}

// TestStrangersAreMetered: each set that is brought costs an audit, so who brings others without end waits.
func TestStrangersAreMetered(t *testing.T) {
	over(t, func(t *testing.T, m *mess, _ *catest.Foreign, stop func()) {
		defer stop()
		m.log.take("")
		for n := range 30 {
			m.usurp(t, catest.NewForeign(t, fmt.Sprintf("CA %d", n), time.Now()), false)
		}
		if said := len(m.log.take("does not trust")); said > 20 {
			t.Errorf("%d sets were judged at once", said)
		}
		m.wait(time.Minute)
		m.wantStranger(t, "website", "CA 29")
	})
}

// TestCatalogueComesLater: who starts without services and adds them then has the mesh taken over as it is found.
func TestCatalogueComesLater(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.names = nil
		stop := m.run(t)
		defer stop()
		m.wait(5 * time.Minute)
		m.names = incident
		if err := m.engine.Reload(t.Context(), policies(m.names), nil); err != nil {
			t.Fatal(err)
		}
		m.wait(time.Minute)
		m.wantUnion(t)
	})
}
