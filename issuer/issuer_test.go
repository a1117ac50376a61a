package issuer_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/store/storetest"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 500, time.UTC)

func policy(service string) issuer.Policy {
	return issuer.Policy{
		Service: service,
		Identity: profile.Identity{
			CommonName:  service,
			DNSNames:    []string{service, service + ".default.svc"},
			IPAddresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")},
			URI:         profile.SPIFFEID("mesh.local", "default", service),
		},
		Key:          profile.ECDSAP256,
		Lifetime:     720 * time.Hour,
		Backdate:     5 * time.Minute,
		MinRemaining: time.Hour,
	}
}

func newIssuer(t testing.TB, services ...string) (*issuer.Issuer, *catest.Fixture) {
	t.Helper()
	f := catest.New(t, now)
	i := issuer.New(f.Store, f.Authority)
	var policies []issuer.Policy
	for _, s := range services {
		policies = append(policies, policy(s))
	}
	i.SetCatalogue(policies)
	return i, f
}

func request(t testing.TB, service string, k profile.KeyType) issuer.Request {
	t.Helper()
	key, err := k.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return issuer.Request{Service: service, Place: "here", PublicKey: key.Public(), Reason: "test"}
}

func issue(t testing.TB, i *issuer.Issuer, service string, at time.Time) *issuer.Leaf {
	t.Helper()
	leaf, err := i.Issue(request(t, service, profile.ECDSAP256), at)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// checkRecords reads all records and indexes, and checks that they agree, that sequence numbers have no
// gap at their end, and that no serial stands twice. It returns how many records there are.
func checkRecords(t testing.TB, f *catest.Fixture) int {
	t.Helper()
	counts := map[string]int{}
	serials := map[string]bool{}
	revoked := 0
	err := f.Store.View(func(r store.Reader) error {
		for key, value := range r.Scan(store.Prefix("")) {
			prefix, _, _ := strings.Cut(key, "/")
			counts[prefix]++
			if prefix == "cert" && bytes.Contains(value, []byte(`"revoked":{`)) {
				revoked++
			}
			if serial, ok := strings.CutPrefix(key, "serial/"); ok {
				serials[serial] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []string{"serial", "service", "expiry", "key"} {
		if counts[index] != counts["cert"] {
			t.Errorf("%d records, but %d entries in the index by %s", counts["cert"], counts[index], index)
		}
	}
	if counts["revoked"] != revoked {
		t.Errorf("%d records of revoked certificates, but %d entries in their index", revoked, counts["revoked"])
	}
	if len(serials) != counts["cert"] {
		t.Errorf("%d serials for %d records", len(serials), counts["cert"])
	}
	return counts["cert"]
}

func TestIssue(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	leaf := issue(t, i, "pgadmin", now)
	cert, record := leaf.Certificate(), leaf.Record()
	if err := profile.Lint(profile.Leaf, cert, f.Authority.Issuing().Certificate); err != nil {
		t.Error(err)
	}
	if got, want := cert.NotAfter.Sub(now.Truncate(time.Second)), 720*time.Hour; got != want {
		t.Errorf("NotAfter is %s after the issue, want %s: backdating does not count", got, want)
	}
	if got := now.Truncate(time.Second).Sub(cert.NotBefore); got != 5*time.Minute {
		t.Errorf("backdated by %s", got)
	}
	if record.Seq != 1 || record.State != issuer.Issued || record.Serial != fmt.Sprintf("%x", cert.SerialNumber) || record.Epoch != 1 {
		t.Errorf("record %+v", record)
	}
	first, rest := pem.Decode(leaf.Chain())
	second, rest := pem.Decode(rest)
	if first == nil || second == nil || len(rest) > 0 || string(first.Bytes) != string(cert.Raw) ||
		string(second.Bytes) != string(f.Authority.Issuing().Certificate.Raw) {
		t.Errorf("the chain is not leaf and issuing CA:\n%s", leaf.Chain())
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(f.Authority.Bundle().PEM())
	intermediates.AddCert(f.Authority.Issuing().Certificate)
	for _, name := range []string{"pgadmin", "pgadmin.default.svc", "10.0.0.7"} {
		if _, err := cert.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: intermediates, CurrentTime: now}); err != nil {
			t.Errorf("for %s: %v", name, err)
		}
	}
	if n := checkRecords(t, f); n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestIssueRefuses(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	broken := policy("broken")
	broken.Identity.DNSNames = []string{"*.evil"}
	i.SetCatalogue([]issuer.Policy{policy("pgadmin"), broken})
	end := f.Authority.Issuing().Certificate.NotAfter
	for name, tc := range map[string]struct {
		request issuer.Request
		at      time.Time
		want    string
	}{
		"unknown service":         {request(t, "nobody", profile.ECDSAP256), now, "no such service"},
		"another key type":        {request(t, "pgadmin", profile.RSA2048), now, "RSA-2048"},
		"a weak key":              {issuer.Request{Service: "pgadmin", PublicKey: "none"}, now, "not ECDSA"},
		"names that lint refuses": {request(t, "broken", profile.ECDSAP256), now, "wildcard"},
		"too little remains":      {request(t, "pgadmin", profile.ECDSAP256), end.Add(-59 * time.Minute), "leaf.minRemaining"},
		"an expired CA":           {request(t, "pgadmin", profile.ECDSAP256), end.Add(time.Second), "expired"},
		"a clock before the CA":   {request(t, "pgadmin", profile.ECDSAP256), now.Add(-time.Hour), "valid from"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := i.Issue(tc.request, tc.at)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.request.Service) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	if n := checkRecords(t, f); n != 0 {
		t.Errorf("%d records of refused requests", n)
	}
}

// TestIssueIsClamped: nothing outlives its issuer.
func TestIssueIsClamped(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	end := f.Authority.Issuing().Certificate.NotAfter
	leaf := issue(t, i, "pgadmin", end.Add(-2*time.Hour))
	if !leaf.Certificate().NotAfter.Equal(end) {
		t.Errorf("the leaf ends at %s, its issuer at %s", leaf.Certificate().NotAfter, end)
	}
	if err := i.Ready(end.Add(-2 * time.Hour)); err != nil {
		t.Errorf("Ready two hours before the end: %v", err)
	}
	if err := i.Ready(end.Add(-30 * time.Minute)); err == nil {
		t.Error("Ready although a leaf would have half an hour left")
	}
}

func TestIssueInParallel(t *testing.T) {
	i, f := newIssuer(t, "pgadmin", "envoy")
	var group sync.WaitGroup
	for n := range 40 {
		r := request(t, []string{"pgadmin", "envoy"}[n%2], profile.ECDSAP256)
		group.Go(func() {
			if _, err := i.Issue(r, now); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := checkRecords(t, f); n != 40 {
		t.Errorf("%d records, want 40", n)
	}
}

// TestFaults breaks each write of an issuance in both ways. No certificate is released unless it is
// recorded, records and indexes agree, and issuing goes on.
func TestFaults(t *testing.T) {
	for _, fault := range storetest.Faults() {
		for n := 1; n <= 3; n++ {
			t.Run(fmt.Sprintf("%s, write %d", fault, n), func(t *testing.T) {
				f := catest.New(t, now)
				faulty := storetest.NewFaulty(f.Store, n, fault)
				i := issuer.New(faulty, f.Authority)
				i.SetCatalogue([]issuer.Policy{policy("pgadmin")})
				released, failed := 0, 0
				for range 3 {
					leaf, err := i.Issue(request(t, "pgadmin", profile.ECDSAP256), now)
					if err != nil {
						failed++
						continue
					}
					released++
					if recorded, err := i.Recorded(leaf.Certificate()); err != nil || !recorded {
						t.Errorf("a certificate without a record was released (%v)", err)
					}
				}
				want := released
				if fault == storetest.PersistedButError {
					want += failed // recorded, and never released
				}
				if got := checkRecords(t, f); got != want || failed != 1 {
					t.Errorf("%d records of %d released and %d failed", got, released, failed)
				}
			})
		}
	}
}

// TestFaultsOfOtherWrites breaks each write that is no issuance, in both ways. Done again it has its effect
// once, and records and indexes agree at every moment.
func TestFaultsOfOtherWrites(t *testing.T) {
	for name, write := range map[string]func(*issuer.Issuer, store.Store, *issuer.Leaf) error{
		"mark delivered":   func(i *issuer.Issuer, _ store.Store, l *issuer.Leaf) error { return i.MarkDelivered(l) },
		"mark undelivered": func(i *issuer.Issuer, _ store.Store, l *issuer.Leaf) error { return i.MarkUndelivered(l) },
		"claim": func(_ *issuer.Issuer, st store.Store, _ *issuer.Leaf) error {
			return st.Update(func(w store.Writer) error { return issuer.Claim(w, "envoy", "here", []string{"a"}) })
		},
		"prune": func(i *issuer.Issuer, _ store.Store, _ *issuer.Leaf) error {
			_, err := i.Prune(now.Add(10000*time.Hour), 100)
			return err
		},
	} {
		for _, fault := range storetest.Faults() {
			t.Run(name+", "+fault.String(), func(t *testing.T) {
				sound, f := newIssuer(t, "pgadmin")
				for range 2 {
					issue(t, sound, "pgadmin", now)
				}
				leaf := issue(t, sound, "pgadmin", now)
				want := dump(t, f.Store, sound, leaf, write)

				again, g := newIssuer(t, "pgadmin")
				for range 2 {
					issue(t, again, "pgadmin", now)
				}
				leaf = issue(t, again, "pgadmin", now)
				faulty := storetest.NewFaulty(g.Store, 1, fault)
				i := issuer.New(faulty, g.Authority)
				if err := write(i, faulty, leaf); !errors.Is(err, storetest.ErrInjected) {
					t.Fatalf("%v, want the fault", err)
				}
				checkRecords(t, g)
				if got := dump(t, g.Store, again, leaf, write); got != want {
					t.Errorf("done again it leaves %s, want %s", got, want)
				}
			})
		}
	}
}

// dump writes, and tells how many keys of each kind there are then, and the states of the records.
func dump(t *testing.T, st store.Store, i *issuer.Issuer, leaf *issuer.Leaf, write func(*issuer.Issuer, store.Store, *issuer.Leaf) error) string {
	t.Helper()
	if err := write(i, st, leaf); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	err := st.View(func(r store.Reader) error {
		for key, value := range r.Scan(store.Prefix("")) {
			kind, _, _ := strings.Cut(key, "/")
			if kind == "cert" {
				var record issuer.Record
				if err := json.Unmarshal(value, &record); err != nil {
					return err
				}
				kind += " " + string(record.State)
			}
			counts[kind]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(counts) // maps are printed in the order of their keys
}

func TestCurrentAndStates(t *testing.T) {
	i, _ := newIssuer(t, "pgadmin", "envoy")
	if leaf, known, err := i.Current("pgadmin", "here"); leaf != nil || known || err != nil {
		t.Errorf("before the first: %v, %t, %v", leaf, known, err)
	}
	first := issue(t, i, "pgadmin", now)
	issue(t, i, "envoy", now)
	second := issue(t, i, "pgadmin", now.Add(time.Hour))
	wantCurrent := func(want *issuer.Leaf, state issuer.State) {
		t.Helper()
		leaf, known, err := i.Current("pgadmin", "here")
		if err != nil || !known || leaf == nil || leaf.Record().Serial != want.Record().Serial || leaf.Record().State != state {
			t.Errorf("current is %+v, want serial %s in state %s (%v)", leaf, want.Record().Serial, state, err)
		}
	}
	wantCurrent(second, issuer.Issued)
	if before, err := i.Before(second); err != nil || before.Record().Serial != first.Record().Serial {
		t.Errorf("before the second: %v, %v", before, err)
	}
	for range 2 { // idempotent
		if err := i.MarkUndelivered(second); err != nil {
			t.Fatal(err)
		}
	}
	wantCurrent(first, issuer.Issued)
	if err := i.MarkDelivered(first); err != nil {
		t.Fatal(err)
	}
	wantCurrent(first, issuer.Delivered)
	if err := i.MarkUndelivered(first); err != nil {
		t.Fatal(err)
	}
	if leaf, known, err := i.Current("pgadmin", "here"); leaf != nil || !known || err != nil {
		t.Errorf("with none delivered: %v, known %t, %v; the service stays known", leaf, known, err)
	}
}

func TestRecorded(t *testing.T) {
	i, _ := newIssuer(t, "pgadmin")
	other, _ := newIssuer(t, "pgadmin")
	mine, foreign := issue(t, i, "pgadmin", now), issue(t, other, "pgadmin", now)
	for cert, want := range map[*x509.Certificate]bool{mine.Certificate(): true, foreign.Certificate(): false} {
		if got, err := i.Recorded(cert); err != nil || got != want {
			t.Errorf("Recorded = %t, %v; want %t", got, err, want)
		}
	}
	// The same serial in another certificate is no record of it.
	forged := *foreign.Certificate()
	forged.SerialNumber = mine.Certificate().SerialNumber
	if got, err := i.Recorded(&forged); err != nil || got {
		t.Errorf("a forged serial: %t, %v", got, err)
	}
}

func TestFits(t *testing.T) {
	i, _ := newIssuer(t, "pgadmin")
	leaf := issue(t, i, "pgadmin", now)
	for name, tc := range map[string]struct {
		change func(*issuer.Policy)
		want   bool
	}{
		"unchanged":      {func(*issuer.Policy) {}, true},
		"lifetime":       {func(p *issuer.Policy) { p.Lifetime /= 2 }, true},
		"a name more":    {func(p *issuer.Policy) { p.Identity.DNSNames = append(p.Identity.DNSNames, "db") }, false},
		"no address":     {func(p *issuer.Policy) { p.Identity.IPAddresses = nil }, false},
		"another domain": {func(p *issuer.Policy) { p.Identity.URI = profile.SPIFFEID("other", "default", "pgadmin") }, false},
		"common name":    {func(p *issuer.Policy) { p.Identity.CommonName = "postgres" }, false},
		"key type":       {func(p *issuer.Policy) { p.Key = profile.RSA2048 }, false},
		"removed":        {func(p *issuer.Policy) { p.Service = "other" }, false},
	} {
		p := policy("pgadmin")
		tc.change(&p)
		i.SetCatalogue([]issuer.Policy{p})
		if got := i.Fits(leaf); got != tc.want {
			t.Errorf("%s: Fits = %t, want %t", name, got, tc.want)
		}
	}
}

func TestPrune(t *testing.T) {
	i, f := newIssuer(t, "pgadmin", "envoy")
	short := policy("pgadmin")
	short.Lifetime = 2 * time.Hour
	i.SetCatalogue([]issuer.Policy{short, policy("envoy")})
	for n := range 5 {
		issue(t, i, "pgadmin", now.Add(time.Duration(n)*time.Hour))
	}
	issue(t, i, "envoy", now)
	prune := func(before time.Time, limit, want int) {
		t.Helper()
		if got, err := i.Prune(before, limit); err != nil || got != want {
			t.Errorf("Prune(%s) = %d, %v; want %d", before.Sub(now), got, err, want)
		}
	}
	prune(now.Add(2*time.Hour), 100, 0)     // the first expires at this instant, not before it
	prune(now.Add(4*time.Hour+1e9), 100, 3) // those of hours 0, 1 and 2
	if n := checkRecords(t, f); n != 3 {
		t.Errorf("%d records are left, want 3", n)
	}
	prune(now.Add(10000*time.Hour), 1, 1) // in batches
	prune(now.Add(10000*time.Hour), 100, 0)
	for _, service := range []string{"pgadmin", "envoy"} {
		if leaf, known, err := i.Current(service, "here"); err != nil || !known || leaf == nil {
			t.Errorf("the newest record of %s is gone (%v)", service, err)
		}
	}
	if leaf := issue(t, i, "pgadmin", now); leaf.Record().Seq != 7 {
		t.Errorf("sequence number %d after pruning, want 7", leaf.Record().Seq)
	}
}

func TestClaim(t *testing.T) {
	i, f := newIssuer(t, "pgadmin")
	if err := f.Store.Update(func(w store.Writer) error { return issuer.Claim(w, "pgadmin", "here", nil) }); err != nil {
		t.Fatal(err)
	}
	if leaf, known, err := i.Current("pgadmin", "here"); leaf != nil || !known || err != nil {
		t.Errorf("a claimed service: %v, known %t, %v", leaf, known, err)
	}
}

func TestUnknownServiceIsTyped(t *testing.T) {
	i, _ := newIssuer(t)
	if _, err := i.Issue(request(t, "nobody", profile.ECDSAP256), now); !errors.Is(err, issuer.ErrUnknownService) {
		t.Error(err)
	}
}

// TestHasSerial: a serial is the service's where its record is, for its place, not for a caller's.
func TestHasSerial(t *testing.T) {
	i, _ := newIssuer(t, "envoy", "pgadmin")
	envoy := issue(t, i, "envoy", now).Record().Serial
	ask := request(t, "envoy", profile.ECDSAP256)
	ask.Caller = "admin"
	asked, err := i.Issue(ask, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		service, serial string
		want            bool
	}{
		{"envoy", envoy, true}, {"pgadmin", envoy, false}, {"envoy", asked.Record().Serial, false}, {"envoy", "1", false}, {"envoy", "", false},
	} {
		if has, err := i.HasSerial(tc.service, tc.serial); has != tc.want || err != nil {
			t.Errorf("%s has %q: %t, %v", tc.service, tc.serial, has, err)
		}
	}
}
