package api

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
)

// OwnService is the name under which the API's own certificate is recorded. It is no DNS label, so that no service has
// it.
const OwnService = "meshca.api"

// A ServerCertificate is the API's own certificate: of this CA, recorded as all others, with a key that is nowhere but
// in memory. It is renewed while connections live on.
type ServerCertificate struct {
	Issuer  *issuer.Issuer // with a policy for OwnService
	RenewAt float64        // fraction of its life
	Now     func() time.Time
	Log     *slog.Logger

	current atomic.Pointer[tls.Certificate]
	due     time.Time // owned by whoever calls Renew
}

// retryRenewal is how long Keep waits after a renewal that failed: the one before lives on meanwhile.
const retryRenewal = time.Minute

// Renew makes a new key and certificate.
func (c *ServerCertificate) Renew() error {
	policy, ok := c.Issuer.Policy(OwnService)
	if !ok {
		return errors.New("the issuer has no policy for the API's own certificate")
	}
	key, err := policy.Key.Generate()
	if err != nil {
		return err
	}
	leaf, err := c.Issuer.Issue(issuer.Request{Service: OwnService, PublicKey: key.Public(), Reason: "serves the API", Caller: "meshca"}, c.Now())
	if err != nil {
		return fmt.Errorf("the API's own certificate: %w", err)
	}
	next := &tls.Certificate{PrivateKey: key, Leaf: leaf.Certificate()}
	for block, rest := pem.Decode(leaf.Chain()); block != nil; block, rest = pem.Decode(rest) {
		next.Certificate = append(next.Certificate, block.Bytes)
	}
	c.current.Store(next)
	c.due = rotation.Due(leaf.Record(), c.RenewAt)
	return nil
}

// Keep renews the certificate in its time, and when it was revoked, until ctx ends. Where Renew has failed before, it is
// tried again.
func (c *ServerCertificate) Keep(ctx context.Context) error {
	for {
		// At least once a minute: the wall clock goes on while a machine is suspended, and a timer does not.
		timer := time.NewTimer(min(max(c.due.Sub(c.Now()), time.Second), retryRenewal))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if c.Now().Before(c.due) && !c.revoked() {
			continue
		}
		if err := c.Renew(); err != nil {
			c.Log.Error("the API's certificate is not renewed: the one before, if there is one, is used on", "error", err, "again in", retryRenewal.String())
			c.due = c.Now().Add(retryRenewal)
		}
	}
}

// revoked says whether an operator has revoked what is served.
func (c *ServerCertificate) revoked() bool {
	current := c.current.Load()
	if current == nil {
		return false
	}
	found, err := c.Issuer.BySerial(issuer.SerialString(current.Leaf))
	return err == nil && found != nil && found.Record().Revoked != nil
}

// TLS is how the API's connections are made. A client certificate is asked for and judged with each request, not in
// the handshake: a connection outlives it, and an alert would say nothing. No session is resumed, since what a session
// was begun with may be revoked.
func (c *ServerCertificate) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2", "http/1.1"},
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}
