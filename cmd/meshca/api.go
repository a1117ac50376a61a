package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshca/meshca/api"
	"github.com/meshca/meshca/config"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
)

// tokenPath is the admin token's file: it lies beside the store, as the socket does.
func tokenPath(cfg *config.Config) string {
	return filepath.Join(filepath.Dir(cfg.Store.Bolt.Path), "admin.token")
}

// minToken is how long an admin token is at least, in bytes; one that is made here has 43.
const minToken = 32

// adminToken reads the admin token, or makes it where there is none.
func adminToken(path string) (string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeToken(path)
	}
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	switch token := string(bytes.TrimSpace(content)); {
	case err != nil:
		return "", err
	case info.Mode().Perm()&0o077 != 0:
		return "", &failure{err: fmt.Errorf("others than its owner may read %s, mode %04o", path, info.Mode().Perm()), code: exitNo,
			hints: []string{"delete it: the next start makes another one"}}
	case len(token) < minToken:
		return "", &failure{err: fmt.Errorf("%s holds fewer than %d characters", path, minToken), code: exitNo,
			hints: []string{"delete it: the next start makes another one"}}
	default:
		return token, nil
	}
}

// makeToken makes 256 random bits. The file has its name only when it is whole: a crash leaves none, or another name.
func makeToken(path string) (string, error) {
	random := make([]byte, 32)
	rand.Read(random)
	token := base64.RawURLEncoding.EncodeToString(random)
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(token + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return "", err
	}
	return token, os.Rename(next, path)
}

// buildAPI makes what answers for certificates: with folders alone, and where an address is named.
func (s *server) buildAPI(issue *issuer.Issuer) (err error) {
	s.grants = &api.Grants{}
	s.grants.Set(grants(s.cfg))
	s.v1 = &api.V1{Issuer: issue, Engine: s.engine, Operator: s.engine, Events: s.target.events, Grants: s.grants,
		RenewAt: s.cfg.Leaf.RenewAt, Revoked: s.engine.Nudge, Now: time.Now, Log: s.log}
	s.v1.Read = func(ctx context.Context) (*api.Reading, error) { return s.target.read(ctx, issue.Services()) }
	if s.api == nil {
		return nil
	}
	token, err := adminToken(tokenPath(s.cfg))
	if err != nil {
		return err
	}
	s.v1.Admin = api.NewAdminToken(token)
	issue.SetOwn(ownPolicy(s.cfg))
	s.cert = &api.ServerCertificate{Issuer: issue, RenewAt: s.cfg.Leaf.RenewAt, Now: time.Now, Log: s.log}
	return nil
}

// ownPolicy is for the API's own certificate.
func ownPolicy(cfg *config.Config) issuer.Policy {
	return issuer.Policy{
		Service: api.OwnService,
		Identity: profile.Identity{
			CommonName:  "meshca",
			DNSNames:    append([]string{"localhost"}, cfg.Listen.Names...),
			IPAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()},
			URI:         profile.SPIFFEID(cfg.TrustDomain, "meshca", api.OwnService),
		},
		Key: profile.ECDSAP256, Lifetime: cfg.Leaf.Lifetime.Std(), Backdate: cfg.Leaf.Backdate.Std(), MinRemaining: cfg.Leaf.MinRemaining.Std(),
	}
}

// grants is what the catalogue says of who may ask.
func grants(cfg *config.Config) map[string]api.Grant {
	all := make(map[string]api.Grant, len(cfg.Services))
	for _, s := range cfg.Services {
		grant := api.Grant{GenerateKey: s.GenerateKey}
		for _, client := range s.Clients {
			grant.Services = append(grant.Services, client.Service)
		}
		all[s.Name] = grant
	}
	return all
}

// runAPI serves certificates in the group until ctx ends.
func (s *server) runAPI(ctx context.Context, group *errgroup.Group) error {
	if s.api == nil {
		return nil
	}
	if err := s.cert.Renew(); err != nil { // a full disk, or an issuing CA that ends too soon: the services are kept all the same
		s.log.Error("the API has no certificate: no connection to it succeeds until it has one", "error", err)
	}
	group.Go(func() error { return api.ServeTLS(ctx, s.api, s.v1.Handler(), s.cert.TLS(), s.log) })
	group.Go(func() error { return s.cert.Keep(ctx) })
	return nil
}
