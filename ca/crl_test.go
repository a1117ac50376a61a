package ca_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// TestRootCRL: the root's CRL is made with the root, for as long as the issuing CA lives, and is there at every start.
func TestRootCRL(t *testing.T) {
	for _, k := range []profile.KeyType{profile.ECDSAP256, profile.ECDSAP384, profile.RSA2048} {
		t.Run(string(k), func(t *testing.T) {
			f := catest.NewWithKey(t, now, k)
			founded := f.Authority
			opened, err := ca.Open(f.Store, f.Seal)
			if err != nil {
				t.Fatal(err)
			}
			lists := opened.CRLs()
			if len(lists) != 1 || string(lists[0].Raw) != string(founded.CRLs()[0].Raw) || len(opened.WithoutCRL()) > 0 {
				t.Fatalf("there are %d CRLs of roots, %d have none", len(lists), len(opened.WithoutCRL()))
			}
			if err := profile.LintCRL(lists[0], opened.Root().Certificate); err != nil {
				t.Error(err)
			}
			if end := opened.Issuing().Certificate.NotAfter; !lists[0].NextUpdate.Equal(end) {
				t.Errorf("it ends at %s, the issuing CA at %s", lists[0].NextUpdate, end)
			}
			if got := now.Sub(lists[0].ThisUpdate); got != catest.Params.LeafBackdate {
				t.Errorf("it is backdated by %s", got)
			}
		})
	}
}

// TestRootWithoutCRL: a store that was founded before there were CRLs opens, and says what is missing.
func TestRootWithoutCRL(t *testing.T) {
	f := catest.New(t, now)
	catest.ForgetRootCRL(t, f)
	a := f.Authority
	if without := a.WithoutCRL(); len(a.CRLs()) != 0 || len(without) != 1 || !without[0].Equal(a.Root().Certificate) {
		t.Errorf("%d CRLs, without one are %v", len(a.CRLs()), without)
	}
}

// TestAnchorsHaveNoCRL: another CA's key is not here.
func TestAnchorsHaveNoCRL(t *testing.T) {
	f := catest.New(t, now)
	foreign := catest.NewForeign(t, "other", now).Certificate
	err := f.Store.Update(func(w store.Writer) error {
		_, err := f.Authority.Trust(w, []ca.Anchor{{Certificate: foreign, Since: now}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := f.Authority.Reread(f.Store)
	if err != nil {
		t.Fatal(err)
	}
	if without := a.WithoutCRL(); len(without) != 1 || !without[0].Equal(foreign) || len(a.CRLs()) != 1 {
		t.Errorf("without a CRL are %v", without)
	}
}

func TestOpenChecksTheCRL(t *testing.T) {
	other := catest.New(t, now)
	for name, tc := range map[string]struct {
		crl  []byte
		want string
	}{
		"another root's":   {other.Authority.CRLs()[0].Raw, "5.1.2.2"},
		"an issuing CA's":  {signed(t, other.Authority, now).Raw, "5.1.2.3"},
		"no CRL":           {[]byte{1, 2}, "malformed"},
		"the root instead": {other.Authority.Root().Certificate.Raw, "ca/root/00000001"},
	} {
		t.Run(name, func(t *testing.T) {
			f := catest.New(t, now)
			rewrite(t, f.Store, "ca/root/00000001", func(r map[string]any) { r["crl"] = tc.crl })
			if _, err := ca.Open(f.Store, f.Seal); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

// signed is an empty CRL of the issuing CA.
func signed(t *testing.T, a *ca.Authority, at time.Time) *x509.RevocationList {
	t.Helper()
	issuing := a.Issuing()
	list, err := issuing.SignCRL(profile.CRLTemplate(7, profile.CRLWindow(at, time.Minute, issuing.Certificate), nil, issuing.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestSignCRL(t *testing.T) {
	a := catest.New(t, now).Authority
	issuing := a.Issuing()
	if list := signed(t, a, now); profile.LintCRL(list, issuing.Certificate) != nil || list.Number.Uint64() != 7 {
		t.Errorf("signed %+v", list)
	}
	hold := profile.CRLTemplate(7, profile.CRLWindow(now, 0, issuing.Certificate), nil, issuing.Certificate)
	hold.Number = nil
	if _, err := issuing.SignCRL(hold); err == nil || !strings.Contains(err.Error(), "template: RFC 5280 5.2.3") {
		t.Errorf("a template that lint refuses: %v", err)
	}
	if all := a.IssuingCAs(); len(all) != 1 || all[0] != issuing {
		t.Errorf("issuing CAs %v", all)
	}
}
