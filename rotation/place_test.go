package rotation_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/rotation"
)

// move has pgadmin lie at another place than its set: the catalogue is read again, or another process starts with it.
var move = map[string]func(t *testing.T, w *world, place string, stop func()) (stopped func()){
	"reload": func(t *testing.T, w *world, place string, stop func()) func() {
		err := w.engine.Reload(t.Context(), policies(w.names), func() { w.target.Move("pgadmin", place) })
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		return stop
	},
	"restart": func(t *testing.T, w *world, place string, stop func()) func() {
		stop()
		w.target.Move("pgadmin", place)
		return w.run(t)
	},
}

// moving is a mesh that is kept, in which pgadmin moves to a place that holds something.
func moving(t *testing.T, there func(*testing.T, *world) rotation.Observation, test func(*testing.T, *world, rotation.Observation)) {
	t.Helper()
	for how, move := range move {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.hold = hold
				stop := w.run(t)
				held := there(t, w)
				if !held.Empty() {
					w.target.Change("elsewhere", func(o *rotation.Observation) { *o = held })
				}
				stop = move(t, w, "elsewhere", stop)
				test(t, w, held)
				stop()
				if w.target.Writes("pgadmin") != 1 {
					t.Error("the place that it had was written again")
				}
			})
		})
	}
}

// TestMoved: at a place that holds nothing a set is written. A service that moves back finds what it had.
func TestMoved(t *testing.T) {
	nothing := func(*testing.T, *world) (o rotation.Observation) { return o }
	moving(t, nothing, func(t *testing.T, w *world, _ rotation.Observation) {
		w.check(t)
		if s := w.status(t, "pgadmin"); s.Place != "memory:elsewhere" || s.State != rotation.StateKept || s.Healed > 0 {
			t.Errorf("%+v", s)
		}
		serial := w.status(t, "pgadmin").Serial
		if err := w.engine.Reload(t.Context(), policies(w.names), func() { w.target.Move("pgadmin", "pgadmin") }); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.check(t)
		if s := w.status(t, "pgadmin"); s.Serial == serial || s.Healed > 0 || w.target.Writes("elsewhere") != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestMovedToAnothersSet: what the store knows of a service at one place is not known of another. A live set of
// another CA there is taken over as at a first start, when an operator has let that CA in: its leaf stays, and all trust
// the union first.
func TestMovedToAnothersSet(t *testing.T) {
	theirs := func(t *testing.T, _ *world) rotation.Observation {
		third := catest.NewForeign(t, "Third CA", time.Now())
		leaf := third.Leaf(t, "pgadmin", time.Now())
		return rotation.Observation{Cert: leaf.PEM(), Key: leaf.KeyPEM(t), CA: third.PEM()}
	}
	moving(t, theirs, func(t *testing.T, w *world, held rotation.Observation) {
		w.letIn(t, "pgadmin", "Third CA")
		for _, name := range mesh {
			if o, err := w.target.Observe(t.Context(), name); err != nil || !bytes.Contains(o.CA, held.CA) {
				t.Errorf("%s does not trust what pgadmin's leaf chains to (%v)", name, err)
			}
		}
		o, err := w.target.Observe(t.Context(), "pgadmin")
		if err != nil || !bytes.Equal(o.Cert, held.Cert) || !bytes.Contains(o.CA, catest.PEM(w.Authority.Root().Certificate)) {
			t.Errorf("pgadmin's leaf is another, or its ca.crt does not hold our root (%v)", err)
		}
		if s := w.status(t, "pgadmin"); s.State != rotation.StateTaking || s.Healed > 0 {
			t.Errorf("%+v", s)
		}
	})
}
