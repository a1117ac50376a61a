package api

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
)

// TestKeep: the API's certificate is made when it can be, renewed in its time, and replaced when it was revoked.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := catest.New(t, time.Now())
		issue := issuer.New(f.Store, f.Authority)
		policy := deskPolicy(OwnService, "meshca")
		policy.MinRemaining = 24 * 3650 * time.Hour
		issue.SetOwn(policy)
		cert := &ServerCertificate{Issuer: issue, RenewAt: 0.5, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
		if err := cert.Renew(); err == nil || cert.current.Load() != nil {
			t.Fatalf("%v, and there is a certificate", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go cert.Keep(ctx) // ends with ctx, waited for by the bubble
		time.Sleep(retryRenewal)
		policy.MinRemaining = time.Hour
		issue.SetOwn(policy)
		var before string
		another := func(when string) {
			t.Helper()
			synctest.Wait()
			current := cert.current.Load()
			if current == nil || issuer.SerialString(current.Leaf) == before {
				t.Fatalf("no new certificate %s", when)
			}
			before = issuer.SerialString(current.Leaf)
		}
		time.Sleep(2 * retryRenewal)
		another("when it can be made")
		time.Sleep(policy.Lifetime/2 + retryRenewal)
		another("after half its life")
		if _, err := issue.Revoke(before, profile.Superseded, "test", time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * retryRenewal)
		another("after it was revoked")
		served := before
		time.Sleep(2 * retryRenewal)
		if synctest.Wait(); issuer.SerialString(cert.current.Load().Leaf) != served {
			t.Error("a good one was replaced")
		}
	})
}
