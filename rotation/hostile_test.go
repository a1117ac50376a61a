package rotation_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/store"
)

// entries are all keys and values of the store, with what JSON carries in base64 readable.
func (w *world) entries(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := w.Store.View(func(r store.Reader) error {
		for key, value := range r.Scan(store.Range{}) {
			var v any
			if json.Unmarshal(value, &v) == nil {
				all[key] = readable(v)
			} else {
				all[key] = string(value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func readable(v any) string {
	var b strings.Builder
	switch v := v.(type) {
	case string:
		b.WriteString(v)
		if decoded, err := base64.StdEncoding.DecodeString(v); err == nil {
			b.Write(decoded)
		}
	case []any:
		for _, e := range v {
			b.WriteString(readable(e))
		}
	case map[string]any:
		for key, e := range v {
			fmt.Fprintf(&b, "%s: %s\n", key, readable(e))
		}
	default:
		fmt.Fprint(&b, v)
	}
	return b.String()
}

// TestKeyInTheChain: a tls.crt that holds the key too, as HAProxy reads it, stays as it is while nobody writes there,
// and what the store has of it is its certificates.
func TestKeyInTheChain(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		m.target.Change("envoy", func(o *rotation.Observation) {
			o.Cert = append([]byte("# made by hand\n"), append(o.Cert, o.Key...)...)
		})
		m.target.Change("search", func(o *rotation.Observation) { o.Cert = append(o.Cert, o.Key...) }) // whose key is not its leaf's
		certificates := m.was["envoy"].Cert
		m.was = m.target.Copy()
		stop := m.run(t)
		defer stop()
		m.wantUnion(t)
		for what, change := range map[string]func(*rotation.Observation){
			"ca.crt removed": func(o *rotation.Observation) { o.CA = nil },
			"mark removed":   func(o *rotation.Observation) { o.Mark = nil },
		} {
			m.target.Change("envoy", change)
			synctest.Wait()
			m.wantUnion(t)
			if t.Failed() {
				t.Fatal(what)
			}
		}
		m.target.Change("envoy", func(o *rotation.Observation) { o.Cert = append(o.Cert, "# another line\n"...) })
		synctest.Wait()
		if o := m.holds(t, "envoy"); !bytes.Equal(o.Cert, certificates) {
			t.Errorf("somebody has written in tls.crt, and it is not put back to its certificates:\n%s", o.Cert)
		}
		writes := m.target.Writes("envoy")
		m.wait(10 * time.Minute)
		if n := m.target.Writes("envoy"); n != writes {
			t.Errorf("%d more writes though nobody has written", n-writes)
		}
		for key, value := range m.entries(t) {
			if strings.Contains(value, "PRIVATE KEY") {
				t.Errorf("the store holds a private key under %s", key)
			}
		}
		m.goOn(t, "")
		m.wantAllAnew(t)
	})
}

// TestSameLeafAgain: two leaves of the old CA in turns, each in a file of 128 KiB, cost as much as the two once.
func TestSameLeafAgain(t *testing.T) {
	atPeace(t, func(t *testing.T, m *mess) {
		padding := bytes.Repeat([]byte("# padding\n"), 12<<10)
		var sets []rotation.Observation
		for range 2 {
			m.fill(t, "envoy", m.two.Leaf(t, "envoy", time.Now()), m.two)
			o := m.holds(t, "envoy")
			o.Cert = append(o.Cert, padding...)
			sets = append(sets, o)
		}
		size := func() (bytes int) {
			for _, value := range m.entries(t) {
				bytes += len(value)
			}
			return bytes
		}
		before, first := size(), 0
		for range 10 {
			for _, o := range sets {
				m.target.Change("envoy", func(is *rotation.Observation) { is.Cert, is.Key = o.Cert, o.Key })
				synctest.Wait()
				m.wait(10 * time.Second)
				leaf, _, err := issuer.New(m.Store, m.Authority).Current("envoy", "envoy")
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.HasPrefix(o.Cert, leaf.Chain()) {
					t.Fatalf("the newest record is not of the leaf that is there:\n%s", leaf.Chain())
				}
			}
			if first == 0 {
				first = size()
			}
		}
		if now := size(); now > first+first/20 || first > before+len(padding) {
			t.Errorf("the store's values are %d bytes after each leaf has come ten times, %d after once, %d before", now, first, before)
		}
	})
}

// countingStore counts the commits.
type countingStore struct {
	store.Store
	updates atomic.Int32
}

func (c *countingStore) Update(fn func(store.Writer) error, came ...*store.Expected) error {
	c.updates.Add(1)
	return c.Store.Update(fn, came...)
}

// TestFormsAreMetered: labels that change all the time cost few commits, and the last of them are kept in the end.
func TestFormsAreMetered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		counted := &countingStore{Store: w.store}
		w.store = counted
		defer w.run(t)()
		before := counted.updates.Load()
		const changes = 300
		for i := range changes {
			w.target.Change("envoy", func(o *rotation.Observation) {
				o.Form.Labels = map[string]string{"nth": fmt.Sprintf("label-%d.", i)}
			})
			synctest.Wait()
		}
		if n := counted.updates.Load() - before; n > 30 {
			t.Errorf("%d commits for %d changes of a label", n, changes)
		}
		time.Sleep(2 * w.sweep)
		synctest.Wait()
		if form := w.entries(t)["form/envoy"]; !strings.Contains(form, fmt.Sprintf("label-%d.", changes-1)) {
			t.Errorf("the store has the form %s", form)
		}
	})
}

// TestForgotten: what the store has of places goes when their services are kept no longer. What a service was taken
// over with stays while a process may hold a leaf of that time: it may come back.
func TestForgotten(t *testing.T) {
	broken(t, func(t *testing.T, m *mess) {
		for _, name := range m.names {
			m.target.Change(name, func(o *rotation.Observation) { o.Form.Labels = map[string]string{"of": name} })
		}
		stop := m.run(t)
		has := func(want bool, keys ...string) {
			t.Helper()
			for _, key := range keys {
				if _, there := m.entries(t)[key]; there != want {
					t.Errorf("%s is in the store: %t", key, there)
				}
			}
		}
		has(true, "form/bookapi", "form/envoy", "takeover/bookapi/bookapi", "takeover/envoy/envoy")
		m.wait(time.Hour)
		m.names = []string{"bookapi", "pgadmin", "search", "timescaledb"}
		if err := m.engine.Reload(t.Context(), policies(m.names), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		has(false, "form/envoy")
		has(true, "form/bookapi", "takeover/bookapi/bookapi", "takeover/envoy/envoy")
		stop()
		m.skew.Store(int64(120 * 24 * time.Hour)) // its leaf has expired, and records are kept 90 days
		defer m.run(t)()
		has(false, "takeover/envoy/envoy")
		has(true, "form/bookapi", "takeover/bookapi/bookapi")
	})
}

// resigned is a chain with another signature of its leaf's that verifies, as anybody can make it who has seen the leaf:
// of ECDSA's (r, s) it is (r, n-s).
func resigned(t *testing.T, chain []byte) []byte {
	t.Helper()
	block, rest := pem.Decode(chain)
	var cert struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(block.Bytes, &cert); err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(cert.Signature.Bytes, &sig); err != nil {
		t.Fatal(err)
	}
	sig.S.Sub(elliptic.P256().Params().N, sig.S)
	other, err := asn1.Marshal(sig)
	if err != nil {
		t.Fatal(err)
	}
	cert.Signature = asn1.BitString{Bytes: other, BitLength: 8 * len(other)}
	der, err := asn1.Marshal(cert)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), rest...)
}

// TestResigned: a leaf of ours with another signature that verifies is no sign of an older store, by which one who may
// write to one place would stop the writing of all. It is content like any other, and put right.
func TestResigned(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		stop := w.run(t)
		before, _ := w.target.Observe(t.Context(), "pgadmin")
		w.target.Change("pgadmin", func(o *rotation.Observation) { o.Cert, o.CA = resigned(t, o.Cert), []byte("foreign") })
		synctest.Wait()
		if why := w.engine.Stopped(); why != "" {
			t.Errorf("nothing is written or signed any more: %s", why)
		}
		w.wantHealed(t, "envoy")
		stop()
		w.check(t)
		if after, _ := w.target.Observe(t.Context(), "pgadmin"); !bytes.Equal(after.Cert, before.Cert) || !bytes.Equal(after.CA, before.CA) {
			t.Error("what was there before is not there again")
		}
		w.run(t)()
	})
}
