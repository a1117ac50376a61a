package issuer_test

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/store/storetest"
)

// revoke revokes a leaf, or fails the test.
func revoke(t testing.TB, i *issuer.Issuer, leaf *issuer.Leaf, reason profile.Reason, at time.Time) *issuer.Record {
	t.Helper()
	record, err := i.Revoke(leaf.Record().Serial, reason, "tester", at)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// current is the record of the service's newest leaf, as the store has it.
func current(t testing.TB, i *issuer.Issuer, service string) issuer.Record {
	t.Helper()
	leaf, _, err := i.Current(service, "here")
	if err != nil || leaf == nil {
		t.Fatalf("%s has no leaf (%v)", service, err)
	}
	return leaf.Record()
}

func TestRevoke(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	leaf := issue(t, i, "pgadmin", now)
	record := revoke(t, i, leaf, profile.Superseded, now.Add(time.Hour))
	want := issuer.Revocation{At: now.Add(time.Hour).Truncate(time.Second), Reason: profile.Superseded, By: "tester"}
	if record.Revoked == nil || *record.Revoked != want {
		t.Errorf("revoked %+v, want %+v", record.Revoked, want)
	}
	if got := current(t, i, "pgadmin"); got.Revoked == nil || *got.Revoked != want || got.State != issuer.Issued {
		t.Errorf("the store says %+v in state %s", got.Revoked, got.State)
	}
	if err := i.MarkDelivered(leaf); err != nil {
		t.Fatal(err)
	}
	if got := current(t, i, "pgadmin"); got.Revoked == nil || got.State != issuer.Delivered {
		t.Errorf("delivered, it is revoked %v in state %s", got.Revoked, got.State)
	}
	checkRecords(t, f)
}

// TestRevokeAgain: the same reason changes nothing, not even the disk; only keyCompromise replaces another one.
func TestRevokeAgain(t *testing.T) {
	sound, f := newIssuer(t, "pgadmin")
	leaf := issue(t, sound, "pgadmin", now)
	revoke(t, sound, leaf, profile.Superseded, now)

	counted := storetest.NewFaulty(f.Store, 0, storetest.NotPersisted)
	i := issuer.New(counted, f.Authority)
	later := now.Add(2000 * time.Hour) // when it has expired
	if record := revoke(t, i, leaf, profile.Superseded, later); !record.Revoked.At.Equal(now.Truncate(time.Second)) || counted.Updates() != 0 {
		t.Errorf("revoked %+v with %d writes, want the first revocation and none", record.Revoked, counted.Updates())
	}
	_, err := i.Revoke(leaf.Record().Serial, profile.PrivilegeWithdrawn, "other", now)
	var before *issuer.RevokedError
	if !errors.As(err, &before) || before.Revocation.Reason != profile.Superseded || !strings.Contains(err.Error(), "keyCompromise") {
		t.Errorf("another reason: %v", err)
	}
	record, err := i.Revoke(leaf.Record().Serial, profile.KeyCompromise, "other", now.Add(time.Hour))
	if err != nil || record.Revoked.Reason != profile.KeyCompromise || record.Revoked.By != "other" || !record.Revoked.At.Equal(now.Truncate(time.Second)) {
		t.Errorf("keyCompromise after it: %+v (%v), want the date of the first", record, err)
	}
	if _, err := i.Revoke(leaf.Record().Serial, profile.Superseded, "other", now); !errors.As(err, &before) {
		t.Errorf("another reason after keyCompromise: %v", err)
	}
}

func TestRevokeRefuses(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	leaf := issue(t, i, "pgadmin", now)
	foreign := catest.NewForeign(t, "other", now).Leaf(t, "pgadmin", now).Certificate
	err := f.Store.Update(func(w store.Writer) error {
		return issuer.Adopt(w, "pgadmin", "here", []*x509.Certificate{foreign}, nil, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	end, last := leaf.Record().NotAfter, issue(t, i, "pgadmin", now)
	for name, tc := range map[string]struct {
		serial string
		at     time.Time
		want   error
	}{
		"unknown":               {"abc", now, issuer.ErrUnknownSerial},
		"no serial":             {"", now, issuer.ErrUnknownSerial},
		"half a serial":         {leaf.Record().Serial[:8], now, issuer.ErrUnknownSerial},
		"another CA's":          {issuer.SerialString(foreign), now, issuer.ErrAdopted},
		"half of another CA's":  {issuer.SerialString(foreign)[:8], now, issuer.ErrUnknownSerial},
		"expired":               {leaf.Record().Serial, end.Add(time.Second), issuer.ErrExpired},
		"in its last second":    {last.Record().Serial, end, nil},
		"a path into the store": {"../cert/1", now, issuer.ErrUnknownSerial},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := i.Revoke(tc.serial, profile.Superseded, "tester", tc.at); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
		})
	}
}

// requestFor asks for another certificate of a key.
func requestFor(service string, key crypto.PublicKey) issuer.Request {
	return issuer.Request{Service: service, Place: "here", PublicKey: key, Reason: "test"}
}

// TestKeyCompromise: all that is certified with the key is revoked, and the key is never certified again.
func TestKeyCompromise(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	again := request(t, "pgadmin", profile.ECDSAP256)
	var leaves []*issuer.Leaf
	for n := range 4 {
		leaf, err := i.Issue(again, now.Add(time.Duration(n)*200*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leaf)
	}
	other := issue(t, i, "pgadmin", now)
	revoke(t, i, leaves[2], profile.Superseded, now.Add(610*time.Hour))
	revoke(t, i, leaves[3], profile.KeyCompromise, now.Add(730*time.Hour)) // the first has expired
	err := f.Store.View(func(r store.Reader) error {
		n := 0
		for range r.Scan(store.Prefix("revoked/00000001/")) {
			n++
		}
		if n != 3 {
			t.Errorf("%d are revoked, want three of the key, and not the one that has expired", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := current(t, i, "pgadmin"); got.Serial != other.Record().Serial || got.Revoked != nil {
		t.Errorf("the leaf of another key: %+v", got.Revoked)
	}
	if record := revoke(t, i, leaves[2], profile.KeyCompromise, now); !record.Revoked.At.Equal(now.Add(610 * time.Hour).Truncate(time.Second)) {
		t.Errorf("the one that was revoked before: %+v", record.Revoked)
	}
	for _, at := range []time.Duration{0, 1400 * time.Hour} {
		if _, err := i.Issue(again, now.Add(at)); !errors.Is(err, issuer.ErrKeyCompromised) {
			t.Errorf("after %s: %v", at, err)
		}
	}
	if _, err := i.CRLs(now.Add(2000 * time.Hour)); err != nil { // after which they need not be listed
		t.Fatal(err)
	}
	if n, err := i.Prune(now.Add(10000*time.Hour), 100); err != nil || n != 4 {
		t.Fatalf("pruned %d (%v), want all of the key", n, err)
	}
	if _, err := i.Issue(again, now); !errors.Is(err, issuer.ErrKeyCompromised) {
		t.Errorf("when its records are pruned: %v", err)
	}
	checkRecords(t, f)
}

// TestAdmitKey: what is refused is refused before anything is signed or written.
func TestAdmitKey(t *testing.T) {
	f := catest.New(t, now)
	counted := storetest.NewFaulty(f.Store, 0, storetest.NotPersisted)
	i := issuer.New(counted, f.Authority)
	i.SetCatalogue([]issuer.Policy{policy("pgadmin"), policy("envoy")})
	foreign := catest.NewForeign(t, "other", now)
	shared := foreign.Leaf(t, "envoy", now)
	found := []*x509.Certificate{shared.Certificate}
	err := f.Store.Update(func(w store.Writer) error {
		return errors.Join(issuer.Adopt(w, "envoy", "here", found, nil, 1), issuer.Adopt(w, "pgadmin", "here", found, nil, 1))
	})
	if err != nil {
		t.Fatal(err)
	}
	envoys := request(t, "envoy", profile.ECDSAP256)
	first, err := i.Issue(envoys, now)
	if err != nil {
		t.Fatal(err)
	}
	end := first.Record().NotAfter
	for name, tc := range map[string]struct {
		service string
		key     crypto.PublicKey
		at      time.Time
		want    error
	}{
		"the root's":                     {"pgadmin", f.Authority.Root().Certificate.PublicKey, now, issuer.ErrKeyOfCA},
		"the issuing CA's":               {"pgadmin", f.Authority.Issuing().Certificate.PublicKey, now, issuer.ErrKeyOfCA},
		"another service's":              {"pgadmin", envoys.PublicKey, now.Add(time.Hour), issuer.ErrKeyOfAnother},
		"another's in its last second":   {"pgadmin", envoys.PublicKey, end, issuer.ErrKeyOfAnother},
		"another's that another CA gave": {"pgadmin", shared.Key.Public(), now, issuer.ErrKeyOfAnother},
	} {
		t.Run(name, func(t *testing.T) {
			before := counted.Updates()
			if _, err := i.Issue(requestFor(tc.service, tc.key), tc.at); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if after := counted.Updates(); after != before {
				t.Errorf("%d writes", after-before)
			}
		})
	}
	if _, err := i.Issue(envoys, now.Add(time.Hour)); err != nil {
		t.Errorf("its own again: %v", err)
	}
	if _, err := i.Issue(requestFor("pgadmin", envoys.PublicKey), end.Add(2*time.Hour)); err != nil {
		t.Errorf("when what it was certified for has expired: %v", err)
	}
}

// interposed does something of another goroutine before the next Update.
type interposed struct {
	store.Store
	before func()
}

func (s *interposed) Update(fn func(store.Writer) error, came ...*store.Expected) error {
	if before := s.before; before != nil {
		s.before = nil
		before()
	}
	return s.Store.Update(fn, came...)
}

// TestAdmitInTheTransaction: what happens between the signature and the commit counts.
func TestAdmitInTheTransaction(t *testing.T) {
	for name, tc := range map[string]struct {
		meanwhile func(*testing.T, *issuer.Issuer, *issuer.Leaf, issuer.Request)
		want      error
	}{
		"revoked meanwhile": {func(t *testing.T, i *issuer.Issuer, l *issuer.Leaf, _ issuer.Request) {
			revoke(t, i, l, profile.KeyCompromise, now)
		}, issuer.ErrKeyCompromised},
		"certified for another service meanwhile": {func(t *testing.T, i *issuer.Issuer, l *issuer.Leaf, r issuer.Request) {
			if _, err := i.Issue(requestFor("envoy", r.PublicKey), now.Add(800*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}, issuer.ErrKeyOfAnother},
	} {
		t.Run(name, func(t *testing.T) {
			sound, f := newIssuer(t, "pgadmin", "envoy")
			r := request(t, "pgadmin", profile.ECDSAP256)
			leaf, err := sound.Issue(r, now)
			if err != nil {
				t.Fatal(err)
			}
			i := issuer.New(&interposed{f.Store, func() { tc.meanwhile(t, sound, leaf, r) }}, f.Authority)
			i.SetCatalogue([]issuer.Policy{policy("pgadmin")})
			if _, err := i.Issue(r, now.Add(801*time.Hour)); !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			checkRecords(t, f)
		})
	}
}

// TestRevokeFaults breaks the write of a revocation in both ways. Done again it has its effect once, and a CRL
// lists exactly what the store says is revoked.
func TestRevokeFaults(t *testing.T) {
	for _, fault := range storetest.Faults() {
		t.Run(fmt.Sprint(fault), func(t *testing.T) {
			sound, f := newIssuer(t, "pgadmin")
			leaf := issue(t, sound, "pgadmin", now)
			faulty := storetest.NewFaulty(f.Store, 2, fault)
			i := issuer.New(faulty, f.Authority)
			i.SetCatalogue([]issuer.Policy{policy("pgadmin")})
			if listed := listedBy(t, i, now); len(listed) != 0 { // the first write
				t.Fatalf("before the revocation %v are listed", listed)
			}
			if _, err := i.Revoke(leaf.Record().Serial, profile.Superseded, "tester", now); !errors.Is(err, storetest.ErrInjected) {
				t.Fatalf("%v, want the fault", err)
			}
			want := 0
			if fault == storetest.PersistedButError {
				want = 1
			}
			if listed := listedBy(t, i, now); len(listed) != want {
				t.Errorf("%v are listed, want %d", listed, want)
			}
			revoke(t, i, leaf, profile.Superseded, now)
			if listed := listedBy(t, i, now); len(listed) != 1 || listed[0] != leaf.Record().Serial {
				t.Errorf("done again, %v are listed", listed)
			}
			checkRecords(t, f)
		})
	}
}
