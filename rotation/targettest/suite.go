// Package targettest holds what every target must do, and a target in memory for tests of the engine.
package targettest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshca/meshca/rotation"
)

// A Subject is a target under test.
type Subject struct {
	rotation.Target
	// Tamper writes content into a file of a service as a stranger would, or removes it where nil.
	Tamper func(t testing.TB, service, file string, content []byte)
}

// Run runs the suite; open makes an empty target that may hold the services "a" and "b".
func Run(t *testing.T, open func(t testing.TB) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"EmptyAtFirst":       emptyAtFirst,
		"HoldsWhatIsWritten": holdsWhatIsWritten,
		"ServicesAreApart":   servicesAreApart,
		"ShowsForeignWrites": showsForeignWrites,
		"WriteRepairs":       writeRepairs,
		"WriteIsOneStep":     writeIsOneStep,
		"LeafAndKeyCanStay":  leafAndKeyCanStay,
		"PublishTwice":       publishTwice,
		"WatchTells":         watchTells,
		"TidyKeepsTheSet":    tidyKeepsTheSet,
		"Ready":              ready,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// set is a set of material that differs from any other n's in every part. The bytes need not be PEM: a
// target does not look into them.
func set(service string, n int) rotation.Material {
	return rotation.Material{
		Cert: fmt.Appendf(nil, "chain %d\n", n),
		Key:  fmt.Appendf(nil, "key %d\n", n),
		CA:   fmt.Appendf(nil, "bundle %d\n", n),
		Mark: rotation.Mark{Store: "00112233", Service: service, Epoch: uint64(n), Bundle: "aa", Serial: fmt.Sprint(n), MAC: "bb",
			NotAfter: time.Date(2026, 12, 24, 18, 28, n, 0, time.UTC)},
	}
}

func observe(t testing.TB, s Subject, service string) rotation.Observation {
	t.Helper()
	o, err := s.Observe(t.Context(), service)
	if err != nil {
		t.Fatalf("observe %s: %v", service, err)
	}
	return o
}

func write(t testing.TB, s Subject, service string, n int) {
	t.Helper()
	if err := s.Write(t.Context(), service, set(service, n), observe(t, s, service).Version); err != nil {
		t.Fatalf("write %s: %v", service, err)
	}
}

// wantSet checks that exactly set n is there, without a deviation.
func wantSet(t testing.TB, s Subject, service string, n int) {
	t.Helper()
	m := set(service, n)
	want := rotation.Observation{Cert: m.Cert, Key: m.Key, CA: m.CA, Mark: &m.Mark}
	if diff := cmp.Diff(want, observe(t, s, service), cmpopts.IgnoreFields(rotation.Observation{}, "MarkIn", "Version", "Written", "By", "Form", "Instance")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", service, diff)
	}
}

func emptyAtFirst(t *testing.T, s Subject) {
	if o := observe(t, s, "a"); !o.Empty() || len(o.Deviations) > 0 {
		t.Errorf("a new target holds %+v", o)
	}
}

func holdsWhatIsWritten(t *testing.T, s Subject) {
	for n := range 3 {
		write(t, s, "a", n)
		wantSet(t, s, "a", n)
	}
}

func servicesAreApart(t *testing.T, s Subject) {
	write(t, s, "a", 1)
	write(t, s, "b", 2)
	wantSet(t, s, "a", 1)
	if s.Place("a") == s.Place("b") {
		t.Errorf("both lie at %s", s.Place("a"))
	}
}

func showsForeignWrites(t *testing.T, s Subject) {
	write(t, s, "a", 1)
	s.Tamper(t, "a", rotation.CAFile, []byte("foreign"))
	if o := observe(t, s, "a"); string(o.CA) != "foreign" || string(o.Key) != "key 1\n" {
		t.Errorf("after a foreign ca.crt: %+v", o)
	}
	s.Tamper(t, "a", rotation.KeyFile, nil)
	if o := observe(t, s, "a"); o.Key != nil {
		t.Errorf("after the key was removed: %+v", o)
	}
	s.Tamper(t, "a", rotation.CertFile, []byte{})
	if o := observe(t, s, "a"); o.Cert == nil || len(o.Cert) > 0 {
		t.Errorf("an empty file is %v, want empty and there", o.Cert)
	}
}

func writeRepairs(t *testing.T, s Subject) {
	write(t, s, "a", 1)
	for _, file := range []string{rotation.CertFile, rotation.KeyFile, rotation.CAFile} {
		s.Tamper(t, "a", file, []byte("foreign"))
		write(t, s, "a", 2)
		wantSet(t, s, "a", 2)
		s.Tamper(t, "a", file, nil)
		write(t, s, "a", 3)
		wantSet(t, s, "a", 3)
	}
}

// leafAndKeyCanStay writes trust and mark beside a leaf and key that stay as they are, also where one is missing.
func leafAndKeyCanStay(t *testing.T, s Subject) {
	write(t, s, "a", 1)
	for _, key := range [][]byte{[]byte("foreign key"), nil} {
		s.Tamper(t, "a", rotation.CertFile, []byte("foreign chain"))
		s.Tamper(t, "a", rotation.KeyFile, key)
		m := set("a", 2)
		m.Cert, m.Key = nil, nil
		if err := s.Write(t.Context(), "a", m, observe(t, s, "a").Version); err != nil {
			t.Fatal(err)
		}
		o := observe(t, s, "a")
		if string(o.Cert) != "foreign chain" || string(o.Key) != string(key) || string(o.CA) != "bundle 2\n" || o.Mark == nil || o.Mark.Epoch != 2 {
			t.Errorf("with key %q: %+v", key, o)
		}
	}
}

func publishTwice(t *testing.T, s Subject) {
	write(t, s, "a", 1)
	for range 2 {
		if changed, err := s.Publish(t.Context(), []byte("bundle 1\n")); err != nil || len(changed) > 0 {
			t.Errorf("changed %q (%v)", changed, err)
		}
	}
	s.Tell(rotation.Notice{Service: "a", Kind: rotation.NoticeIssued, Text: "said"})
}

// writeIsOneStep observes while sets are written: it must see sets whole.
func writeIsOneStep(t *testing.T, s Subject) {
	write(t, s, "a", 0)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		defer cancel()
		for n := range 50 {
			write(t, s, "a", n)
		}
	})
	for ctx.Err() == nil {
		o := observe(t, s, "a")
		if o.Mark == nil {
			t.Fatalf("half a set: %+v", o)
		}
		want := set("a", int(o.Mark.Epoch))
		if string(o.Cert) != string(want.Cert) || string(o.Key) != string(want.Key) || string(o.CA) != string(want.CA) {
			t.Fatalf("a mixed set: %q, %q, %q, %+v", o.Cert, o.Key, o.CA, o.Mark)
		}
	}
	group.Wait()
}

// patience is how long a test waits for what usually takes milliseconds.
const patience = 10 * time.Second

func watchTells(t *testing.T, s Subject) {
	write(t, s, "a", 1)
	s.Tamper(t, "a", rotation.CAFile, []byte("foreign before"))
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan string, 1000)
	done := make(chan error)
	go func() { done <- s.Watch(ctx, []string{"a", "b"}, func(service string) { told <- service }) }()
	wantTold := func(what, service string) {
		t.Helper()
		deadline := time.After(patience)
		for {
			select {
			case got := <-told:
				if got == service || got == "" {
					return
				}
			case <-deadline:
				t.Fatalf("nothing was told of %q after %s", service, what)
			}
		}
	}
	wantTold("a foreign write before the watch", "a")
	write(t, s, "a", 2)
	s.Tamper(t, "a", rotation.CAFile, []byte("foreign"))
	wantTold("a foreign write", "a")
	write(t, s, "a", 3)
	s.Tamper(t, "a", rotation.KeyFile, nil)
	wantTold("a removal", "a")
	write(t, s, "b", 1)
	s.Tamper(t, "b", rotation.CertFile, []byte("foreign"))
	wantTold("a foreign write to what was just made", "b")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("watch ended with %v", err)
	}
}

func tidyKeepsTheSet(t *testing.T, s Subject) {
	if err := s.Tidy(t.Context(), "a"); err != nil {
		t.Errorf("tidy of nothing: %v", err)
	}
	write(t, s, "a", 1)
	write(t, s, "a", 2)
	if err := s.Tidy(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	wantSet(t, s, "a", 2)
}

func ready(t *testing.T, s Subject) {
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}
