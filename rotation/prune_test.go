package rotation_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/store"
)

// TestPruneKeepsUp: one sweep forgets all that may be forgotten, however much callers have asked for since the last.
func TestPruneKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		err := w.Store.Update(func(tx store.Writer) error {
			for n := range 2500 { // answers as issuer keeps them, of a day ago
				id := fmt.Sprintf("%064x", n)
				tx.Put("once/"+id, []byte(`{}`))
				tx.Put(fmt.Sprintf("once-end/%016x/%s", time.Now().Unix()-1, id), nil)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.run(t)()
		left := 0
		err = w.Store.View(func(r store.Reader) error {
			for range r.Scan(store.Prefix("once")) {
				left++
			}
			return nil
		})
		if err != nil || left != 0 {
			t.Errorf("%d keys are left (%v)", left, err)
		}
	})
}
