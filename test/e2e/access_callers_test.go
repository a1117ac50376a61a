package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/localdir"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/store"
)

// TestAccess is the table with folders: who is known by the admin token, the socket, or a certificate of this CA.
func TestAccess(t *testing.T) {
	t.Parallel()
	m := NewMesh(t, Settings{Services: []string{"envoy", "{name: bookapi, clients: [{service: envoy}]}", "pgadmin"}})
	expired := foundLongAgo(t, m)
	p := m.Serve()
	admin := newAPIClient(t, m, p.AwaitServing())
	a := newAccess(t, p, admin)
	held := func(service string) *tls.Certificate {
		return pairOf(t, string(readFile(t, m.Path(service, certFile))), string(readFile(t, m.Path(service, keyFile))))
	}
	a.callers = a.certified(held("envoy"), held("pgadmin"), expired)
	revoked := a.callers["revoked"](nil).cert
	a.callers["admin"] = func(*apiClient) *apiClient { return admin.as(admin.token, nil) }
	a.callers["admin-revoked"] = func(*apiClient) *apiClient { return admin.as(admin.token, revoked) }
	a.callers["admin-itself"] = func(target *apiClient) *apiClient { return admin.as(admin.token, target.cert) }
	a.callers["owner-of-the-socket"] = func(*apiClient) *apiClient {
		owner := admin.as("", nil)
		owner.socket = m.Socket()
		return owner
	}
	a.secrets = append(a.secrets, admin.token)
	a.check("local")
}

// certified are the callers that there are in both modes: those who present a certificate, and those of whom nobody
// knows anything.
func (a *access) certified(client, other, expired *tls.Certificate) map[string]caller {
	a.t.Helper()
	by := func(token string, cert *tls.Certificate) caller {
		return func(*apiClient) *apiClient { return a.operator.as(token, cert) }
	}
	headed := func(values ...string) caller {
		return func(*apiClient) *apiClient {
			c := a.operator.as("", nil)
			c.authorization = values
			return c
		}
	}
	_, same := a.issue(a.t)
	serial, revoked := a.issue(a.t)
	a.operator.do("POST", "/v1/certificates/"+serial+"/revoke", `{"reason": "superseded"}`).certificate(a.t)
	dir := a.t.TempDir()
	newForeignCA(a.t).WriteSet(a.t, dir, "envoy")
	foreign := pairOf(a.t, string(readFile(a.t, filepath.Join(dir, certFile))), string(readFile(a.t, filepath.Join(dir, keyFile))))
	madeUp := strings.Repeat("x", 43)
	a.secrets = append(a.secrets, madeUp)
	return map[string]caller{
		"nobody": by("", nil), "no-bearer": headed("Basic " + madeUp), "two-tokens": headed("Bearer "+madeUp, "Bearer "+madeUp), "made-up-token": by(madeUp, nil),
		"itself":       func(target *apiClient) *apiClient { return target },
		"same-service": by("", same.cert), "client": by("", client), "other-service": by("", other), "revoked": by("", revoked.cert), "expired": by("", expired),
		"foreign": by("", foreign), "forged-chain": by("", forgeChain(a.t, client)),
		"made-up-token-itself": func(target *apiClient) *apiClient { return a.operator.as(madeUp, target.cert) },
	}
}

// forgeChain is a certificate that says of itself all that a real one says, issuer and serial number too, for another
// key, with the real one's issuer behind it.
func forgeChain(t testing.TB, real *tls.Certificate) *tls.Certificate {
	t.Helper()
	issuing, err := x509.ParseCertificate(real.Certificate[1])
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	poser := *issuing
	poser.PublicKey = key.Public()
	template := *real.Leaf
	template.PublicKey, template.SignatureAlgorithm = nil, x509.ECDSAWithSHA256
	der, err := x509.CreateCertificate(rand.Reader, &template, &poser, key.Public(), key)
	must(t, err)
	return &tls.Certificate{Certificate: [][]byte{der, real.Certificate[1]}, PrivateKey: key}
}

// foundLongAgo founds the mesh's CA 40 days ago, in the store that the program will find, and has it sign a certificate of
// bookapi then, which has expired since. The program's own packages do it: there is no other way to such a store but to
// wait.
func foundLongAgo(t testing.TB, m *Mesh) *tls.Certificate {
	t.Helper()
	const day = 24 * time.Hour
	then := time.Now().Add(-40 * day)
	boot := &rotation.Boot{
		StorePath: m.Store(), SealPath: m.Seal(), Now: then, Log: slog.New(slog.DiscardHandler),
		Open:   func() (store.Store, error) { return store.OpenBolt(m.Store(), patience) },
		Target: localdir.New(filepath.Join(t.TempDir(), "mesh"), time.Now),
		Params: ca.Params{Key: profile.ECDSAP256, RootLifetime: 3650 * day, IssuingLifetime: 90 * day, LeafBackdate: 5 * time.Minute},
	}
	s, authority, err := boot.Run(t.Context())
	must(t, err)
	issue := issuer.New(s, authority)
	issue.SetCatalogue([]issuer.Policy{{Service: "bookapi", Key: profile.ECDSAP256, Lifetime: 30 * day, Backdate: 5 * time.Minute, MinRemaining: time.Hour,
		Identity: profile.Identity{CommonName: "bookapi", DNSNames: []string{"bookapi"}, URI: profile.SPIFFEID("mesh.local", "default", "bookapi")}}})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	leaf, err := issue.Issue(issuer.Request{Service: "bookapi", PublicKey: key.Public(), Reason: "asked for", Caller: "certificate:envoy"}, then)
	must(t, err)
	must(t, s.Close())
	pair := &tls.Certificate{PrivateKey: key, Leaf: leaf.Certificate()}
	for block, rest := pem.Decode(leaf.Chain()); block != nil; block, rest = pem.Decode(rest) {
		pair.Certificate = append(pair.Certificate, block.Bytes)
	}
	return pair
}
