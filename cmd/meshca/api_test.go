package main

import (
	"context"
	"log/slog"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshca/meshca/api"
	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
)

// TestAPIWithoutCertificate: where the API's certificate cannot be made, all else goes on.
func TestAPIWithoutCertificate(t *testing.T) {
	f := catest.New(t, time.Now())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	issue := issuer.New(f.Store, f.Authority) // with no policy for it
	s := &server{api: l, log: log, v1: &api.V1{Issuer: issue, Grants: &api.Grants{}, Now: time.Now, Log: log},
		cert: &api.ServerCertificate{Issuer: issue, Now: time.Now, Log: log}}
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	if err := s.runAPI(ctx, group); err != nil {
		t.Error(err)
	}
	cancel()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}
