package api

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
)

// TestSigned: a signature is remembered for the authority that made it, and for no other; what is remembered is bounded.
func TestSigned(t *testing.T) {
	d := newDesk(t)
	leaf := d.hold(t, "envoy").Leaf
	ours, other := d.f.Authority, catest.New(t, time.Now()).Authority
	var s signed
	for range 2 {
		if !s.is(ours, leaf) {
			t.Error("not ours")
		}
		if s.is(other, leaf) {
			t.Error("another's")
		}
	}
	if len(s.leaves) != 1 {
		t.Errorf("%d are remembered, want the one that is good", len(s.leaves))
	}
	for n := range uint64(maxSigned) {
		s.leaves[[32]byte(binary.BigEndian.AppendUint64(make([]byte, 24), n))] = struct{}{}
	}
	changed := *leaf
	changed.Raw = append([]byte{}, leaf.Raw...)
	changed.Raw[len(changed.Raw)-1] ^= 1
	if !s.is(ours, &changed) || len(s.leaves) > maxSigned { // its parsed parts are still good
		t.Errorf("%d are remembered, at most %d", len(s.leaves), maxSigned)
	}
}

// TestTrustIsOfNow: who was known is judged anew each time.
func TestTrustIsOfNow(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, d *desk, serial string){
		"expired": func(t *testing.T, d *desk, _ string) { d.turn(1000 * time.Hour) },
		"revoked": func(t *testing.T, d *desk, serial string) {
			if _, err := d.Issuer.Revoke(serial, profile.Superseded, "test", d.Now()); err != nil {
				t.Fatal(err)
			}
		},
		"of another CA": func(t *testing.T, d *desk, _ string) { d.Issuer.SetAuthority(catest.New(t, d.Now()).Authority) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			leaf := d.hold(t, "envoy").Leaf
			for range 2 {
				if _, err := d.judgeClient(leaf, d.Now()); err != nil {
					t.Fatal(err)
				}
			}
			change(t, d, issuer.SerialString(leaf))
			if _, err := d.judgeClient(leaf, d.Now()); err == nil {
				t.Error("it is still known")
			}
		})
	}
}

// BenchmarkJudgeClient is what a client certificate costs with each request.
func BenchmarkJudgeClient(b *testing.B) {
	d := newDesk(b)
	leaf := d.hold(b, "envoy").Leaf
	for b.Loop() {
		if _, err := d.judgeClient(leaf, d.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
