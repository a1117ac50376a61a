package issuer_test

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/store/storetest"
)

// issuingCRL is the CRL of the issuing CA, checked: it keeps the profile, and the fields say what is in it.
func issuingCRL(t testing.TB, i *issuer.Issuer, at time.Time) (issuer.CRL, *x509.RevocationList) {
	t.Helper()
	crls, err := i.CRLs(at)
	if err != nil {
		t.Fatal(err)
	}
	if len(crls) != 2 || !crls[0].Root || crls[1].Root {
		t.Fatalf("%d CRLs, want those of root and issuing CA", len(crls))
	}
	c := crls[1]
	list, err := x509.ParseRevocationList(c.DER)
	if err != nil {
		t.Fatal(err)
	}
	by := i.Authority().Issuing().Certificate
	if err := profile.LintCRL(list, by); err != nil {
		t.Error(err)
	}
	if c.Issuer != by.Subject.CommonName || c.SKI != hex.EncodeToString(by.SubjectKeyId) || c.Number != list.Number.Uint64() ||
		!c.ThisUpdate.Equal(list.ThisUpdate) || !c.NextUpdate.Equal(list.NextUpdate) {
		t.Errorf("%+v is not what the CRL says", c)
	}
	return c, list
}

// listedBy are the serials in the CRL of the issuing CA, sorted.
func listedBy(t testing.TB, i *issuer.Issuer, at time.Time) (serials []string) {
	t.Helper()
	_, list := issuingCRL(t, i, at)
	for _, e := range list.RevokedCertificateEntries {
		serials = append(serials, fmt.Sprintf("%x", e.SerialNumber))
	}
	slices.Sort(serials)
	return serials
}

func TestCRLs(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	crls, err := i.CRLs(now)
	if err != nil || len(crls) != 2 {
		t.Fatalf("%d CRLs (%v)", len(crls), err)
	}
	root := crls[0]
	if !bytes.Equal(root.DER, f.Authority.CRLs()[0].Raw) || root.SKI != hex.EncodeToString(f.Authority.Root().Certificate.SubjectKeyId) {
		t.Errorf("the root's is %+v", root)
	}
	first, rest := pem.Decode(issuer.PEM(crls))
	second, rest := pem.Decode(rest)
	if first == nil || second == nil || len(rest) > 0 || first.Type != "X509 CRL" || !bytes.Equal(first.Bytes, crls[0].DER) || !bytes.Equal(second.Bytes, crls[1].DER) {
		t.Errorf("as PEM:\n%s", issuer.PEM(crls))
	}
	c, list := issuingCRL(t, i, now)
	if got := now.Truncate(time.Second).Sub(c.ThisUpdate); got != 5*time.Minute || len(list.RevokedCertificateEntries) != 0 {
		t.Errorf("backdated by %s, %d entries", got, len(list.RevokedCertificateEntries))
	}
	if got := c.NextUpdate.Sub(now.Truncate(time.Second)); got != 7*24*time.Hour {
		t.Errorf("nextUpdate is %s ahead", got)
	}
	if half := c.ThisUpdate.Add(c.NextUpdate.Sub(c.ThisUpdate) / 2); !c.Overdue.Equal(half) {
		t.Errorf("overdue at %s, want %s", c.Overdue, half)
	}
	if want := root.NextUpdate.Add(-720 * time.Hour); !root.Overdue.Equal(want) {
		t.Errorf("the root's is overdue at %s, want %s: a leaf issued then would outlive it", root.Overdue, want)
	}
}

// TestCRLIsMadeAnew: after a revocation, when it is a day old, at each start, when the clock has gone back; and not
// otherwise. Numbers grow.
func TestCRLIsMadeAnew(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	leaf := issue(t, i, "pgadmin", now)
	var last issuer.CRL
	anew := func(what string, at time.Time, want bool) {
		t.Helper()
		c, _ := issuingCRL(t, i, at)
		if made := !bytes.Equal(c.DER, last.DER); made != want || made && c.Number <= last.Number {
			t.Errorf("%s: made anew %t, want %t; number %d after %d", what, made, want, c.Number, last.Number)
		}
		last = c
	}
	anew("the first", now, true)
	anew("at once again", now, false)
	anew("by a caller whose clock was read earlier", now.Add(-time.Minute), false)
	anew("almost a day later", now.Add(24*time.Hour-time.Second), false)
	anew("a day later", now.Add(24*time.Hour), true)
	revoke(t, i, leaf, profile.Superseded, now.Add(25*time.Hour))
	anew("after a revocation", now.Add(25*time.Hour), true)
	revoke(t, i, leaf, profile.Superseded, now.Add(25*time.Hour))
	anew("after a second one that changes nothing", now.Add(25*time.Hour), false)
	revoke(t, i, leaf, profile.KeyCompromise, now.Add(25*time.Hour))
	anew("with another reason", now.Add(25*time.Hour), true)
	anew("when the clock has gone back", now, true)
	i = issuer.New(f.Store, f.Authority)
	i.SetCatalogue([]issuer.Policy{policy("pgadmin")})
	anew("by another process", now, true)
}

// TestRevokedIsListed with its reason, and a date that verifiers whose clocks are behind have passed.
func TestRevokedIsListed(t *testing.T) {
	i, _ := newIssuer(t, "pgadmin")
	leaf := issue(t, i, "pgadmin", now)
	issue(t, i, "pgadmin", now)
	revoke(t, i, leaf, profile.PrivilegeWithdrawn, now.Add(time.Hour))
	c, list := issuingCRL(t, i, now.Add(time.Hour))
	if len(list.RevokedCertificateEntries) != 1 {
		t.Fatalf("%d entries", len(list.RevokedCertificateEntries))
	}
	e := list.RevokedCertificateEntries[0]
	if e.SerialNumber.Cmp(leaf.Certificate().SerialNumber) != 0 || e.ReasonCode != 9 {
		t.Errorf("serial %x with reason %d", e.SerialNumber, e.ReasonCode)
	}
	if got := now.Add(time.Hour).Truncate(time.Second).Sub(e.RevocationTime); got != 5*time.Minute || e.RevocationTime.After(c.ThisUpdate) {
		t.Errorf("its date is backdated by %s", got)
	}
	_, next := issuingCRL(t, i, now.Add(26*time.Hour))
	if again := next.RevokedCertificateEntries[0].RevocationTime; !again.Equal(e.RevocationTime) {
		t.Errorf("its date is %s in the next CRL, and was %s", again, e.RevocationTime)
	}
	// A CRL of before the revocation, by a clock that went back: no entry is later than it.
	if _, list := issuingCRL(t, i, now.Add(-time.Hour/10)); len(list.RevokedCertificateEntries) != 1 {
		t.Errorf("%d entries when the clock has gone back", len(list.RevokedCertificateEntries))
	}
}

// TestExpiredIsListedOnceMore: a revoked certificate stays in the CRLs until one says that it was made after the
// expiry, and for a day; its record is pruned no earlier.
func TestExpiredIsListedOnceMore(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	leaf := issue(t, i, "pgadmin", now)
	issue(t, i, "pgadmin", now)
	revoke(t, i, leaf, profile.Superseded, now)
	end := leaf.Record().NotAfter
	for _, step := range []struct {
		after        time.Duration // the expiry
		listed, kept bool
	}{
		{-time.Hour, true, true},
		{2 * time.Minute, true, true}, // by its thisUpdate it is not expired yet
		{100 * time.Hour, true, true}, // nobody was here for days, and no CRL that lists it is of after the expiry
		{101 * time.Hour, true, true}, // not made anew
		{124 * time.Hour, false, false},
	} {
		at := end.Add(step.after)
		if listed := listedBy(t, i, at); (len(listed) == 1) != step.listed {
			t.Errorf("%s after the expiry: listed %v, want %t", step.after, listed, step.listed)
		}
		before := checkRecords(t, f)
		if _, err := i.Prune(at, 100); err != nil {
			t.Fatal(err)
		}
		if kept := checkRecords(t, f) == before; kept != step.kept {
			t.Errorf("%s after the expiry: kept %t, want %t", step.after, kept, step.kept)
		}
	}
}

// TestExpiredIsListedForADay: CRLs that are made out of turn take nothing away from those who read them daily.
func TestExpiredIsListedForADay(t *testing.T) {
	i, _ := newIssuer(t, "pgadmin")
	leaf := issue(t, i, "pgadmin", now)
	revoke(t, i, leaf, profile.Superseded, now)
	end := leaf.Record().NotAfter
	for n := range 3 {
		at := end.Add(time.Duration(n+1) * 7 * time.Hour)
		revoke(t, i, issue(t, i, "pgadmin", at), profile.Superseded, at)
		if listed := listedBy(t, i, at); len(listed) != n+2 {
			t.Errorf("%s after the expiry %d are listed, want %d", at.Sub(end), len(listed), n+2)
		}
	}
}

// TestPruneBeyondTheCA: nobody lists what an expired CA has signed.
func TestPruneBeyondTheCA(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	leaf := issue(t, i, "pgadmin", now)
	issue(t, i, "pgadmin", now)
	revoke(t, i, leaf, profile.Superseded, now)
	after := f.Authority.Issuing().Certificate.NotAfter.Add(time.Second)
	if crls, err := i.CRLs(after); err != nil || len(crls) != 1 {
		t.Errorf("%d CRLs when the issuing CA has expired (%v)", len(crls), err)
	}
	if n, err := i.Prune(after.Add(time.Second), 100); err != nil || n != 1 {
		t.Errorf("pruned %d (%v)", n, err)
	}
}

// TestCRLsAfterARestore: a store that was put back to an older copy goes on with greater numbers, at any moment and
// although the copy holds a CRL that is not a day old.
func TestCRLsAfterARestore(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	issuingCRL(t, i, now)
	var copied bytes.Buffer
	if _, err := f.Store.Snapshot(&copied); err != nil {
		t.Fatal(err)
	}
	var last issuer.CRL
	for n := range 50 { // a burst
		revoke(t, i, issue(t, i, "pgadmin", now), profile.Superseded, now)
		last, _ = issuingCRL(t, i, now.Add(time.Duration(n)*time.Millisecond))
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, copied.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	restored, err := store.OpenBolt(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer restored.Close()
	authority, err := ca.Open(restored, f.Seal)
	if err != nil {
		t.Fatal(err)
	}
	again := issuer.New(restored, authority)
	again.SetCatalogue([]issuer.Policy{policy("pgadmin")})
	if c, _ := issuingCRL(t, again, now.Add(time.Second)); c.Number <= last.Number {
		t.Errorf("number %d, the store before it was at %d", c.Number, last.Number)
	}
}

// TestOldStoreHasNoRootCRL: it says which CA has none, and gives the others.
func TestOldStoreHasNoRootCRL(t *testing.T) {
	f := catest.New(t, now)
	catest.ForgetRootCRL(t, f)
	i := issuer.New(f.Store, f.Authority)
	crls, err := i.CRLs(now)
	if err != nil || len(crls) != 1 || crls[0].Root {
		t.Errorf("%+v (%v)", crls, err)
	}
	if without := i.Authority().WithoutCRL(); len(without) != 1 {
		t.Errorf("%d certificates are said to have none", len(without))
	}
}

// stuck takes no writes while it is.
type stuck struct {
	store.Store
	full bool
}

var errFull = errors.New("no space left on device")

func (s *stuck) Update(fn func(store.Writer) error, came ...*store.Expected) error {
	if s.full {
		return errFull
	}
	return s.Store.Update(fn, came...)
}

// TestCRLsOnAFullDisk: what is in force is given out, and that nothing newer could be made is said to whoever keeps
// them; what lacks a revocation is not.
func TestCRLsOnAFullDisk(t *testing.T) {
	f := catest.New(t, now)
	s := &stuck{Store: f.Store}
	i := issuer.New(s, f.Authority)
	i.SetCatalogue([]issuer.Policy{policy("pgadmin")})
	leaf := issue(t, i, "pgadmin", now)
	s.full = true
	if crls, err := i.CRLs(now); !errors.Is(err, errFull) || crls != nil {
		t.Errorf("before there is one: %v (%v)", crls, err)
	}
	s.full = false
	first, _ := issuingCRL(t, i, now)
	s.full = true
	if c, _ := issuingCRL(t, i, now.Add(100*time.Hour)); c.Number != first.Number {
		t.Errorf("number %d, want %d", c.Number, first.Number)
	}
	if crls, err := i.RefreshCRLs(now.Add(100 * time.Hour)); !errors.Is(err, errFull) || len(crls) != 2 {
		t.Errorf("whoever keeps them gets %d (%v)", len(crls), err)
	}
	if _, err := i.CRLs(first.NextUpdate.Add(time.Second)); !errors.Is(err, errFull) {
		t.Errorf("after its nextUpdate: %v", err)
	}
	s.full = false
	revoke(t, i, leaf, profile.Superseded, now)
	s.full = true
	if _, err := i.CRLs(now); !errors.Is(err, errFull) {
		t.Errorf("after a revocation: %v", err)
	}
	s.full = false
	if c, _ := issuingCRL(t, i, now); c.Number <= first.Number {
		t.Errorf("number %d after %d", c.Number, first.Number)
	}
}

// TestRevokeAndCRLsInParallel: whoever has revoked finds it listed, whoever asks sees numbers grow, and a list is never
// shorter than the one before.
func TestRevokeAndCRLsInParallel(t *testing.T) {
	i, _ := newIssuer(t, "pgadmin")
	var leaves []*issuer.Leaf
	for range 16 {
		leaves = append(leaves, issue(t, i, "pgadmin", now))
	}
	stop := make(chan bool)
	var revoking, asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			number, entries := uint64(0), 0
			for {
				c, list := issuingCRL(t, i, now)
				if n := len(list.RevokedCertificateEntries); c.Number < number || n < entries {
					t.Errorf("number %d with %d entries after %d with %d", c.Number, n, number, entries)
				}
				number, entries = c.Number, len(list.RevokedCertificateEntries)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for _, leaf := range leaves {
		revoking.Go(func() {
			if _, err := i.Revoke(leaf.Record().Serial, profile.Superseded, "tester", now); err != nil {
				t.Error(err)
			}
			if listed := listedBy(t, i, now); !slices.Contains(listed, leaf.Record().Serial) {
				t.Errorf("%s is revoked, and not in the CRL after it", leaf.Record().Serial)
			}
		})
	}
	revoking.Wait()
	close(stop)
	asking.Wait()
	if listed := listedBy(t, i, now); len(listed) != len(leaves) {
		t.Errorf("%d of %d are listed at the end", len(listed), len(leaves))
	}
}

// TestCRLFaults breaks each write of a life with two revocations in both ways, as a crash: the process ends there. The
// next one lists what the store says is revoked, under a number that nobody has seen.
func TestCRLFaults(t *testing.T) {
	for _, fault := range storetest.Faults() {
		for n := 1; ; n++ {
			reached := true
			t.Run(fmt.Sprintf("%s, write %d", fault, n), func(t *testing.T) {
				sound, f := newIssuer(t, "pgadmin")
				leaves := []*issuer.Leaf{issue(t, sound, "pgadmin", now), issue(t, sound, "pgadmin", now)}
				faulty := storetest.NewFaulty(f.Store, n, fault)
				i := issuer.New(faulty, f.Authority)
				i.SetCatalogue([]issuer.Policy{policy("pgadmin")})
				seen, revoked := revokeAndRead(t, i, leaves)
				reached = faulty.Updates() >= n

				next := issuer.New(f.Store, f.Authority)
				next.SetCatalogue([]issuer.Policy{policy("pgadmin")})
				c, _ := issuingCRL(t, next, now)
				if c.Number <= seen {
					t.Errorf("number %d, one with %d was seen", c.Number, seen)
				}
				listed := listedBy(t, next, now)
				if persisted := fault == storetest.PersistedButError; len(listed) < revoked || len(listed) > revoked && !persisted {
					t.Errorf("%d are listed, %d revocations were confirmed", len(listed), revoked)
				}
			})
			if !reached {
				break
			}
		}
	}
}

// revokeAndRead asks for the CRLs, revokes, and asks again, until something fails. It returns the greatest number that it
// was given, and how many revocations were confirmed.
func revokeAndRead(t *testing.T, i *issuer.Issuer, leaves []*issuer.Leaf) (number uint64, revoked int) {
	t.Helper()
	for _, leaf := range leaves {
		crls, err := i.CRLs(now)
		if err != nil {
			return number, revoked
		}
		number = crls[1].Number
		if _, err := i.Revoke(leaf.Record().Serial, profile.Superseded, "tester", now); err != nil {
			return number, revoked
		}
		revoked++
	}
	if crls, err := i.CRLs(now); err == nil {
		number = crls[1].Number
	}
	return number, revoked
}
