package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meshca/meshca/issuer"
)

// A Caller is who asks, as far as that was proven.
type Caller struct {
	Name        string            // for records and logs, such as serviceaccount:default/bookapi
	Account     string            // NAMESPACE/NAME of a service account, "" where it is none
	Certificate *x509.Certificate // of this CA, valid and not revoked; nil where none was presented
	Service     string            // whose that certificate is; "" where the catalogue has no service of its SPIFFE ID any more

	everything bool // an operator by the token or socket alone
	user       *User
}

// The verbs that an operator may have on certificates.meshca.io.
const (
	VerbCreate = "create"
	VerbList   = "list"
	VerbRevoke = "revoke"
	VerbRotate = "rotate" // have what services hold replaced, and say how a take-over or a heal goes on
)

// A User is whom a cluster knows a token to be of.
type User struct {
	Name, UID string
	Groups    []string
	Extra     map[string][]string
}

// Account is NAMESPACE/NAME where the user is a service account.
func (u *User) Account() string {
	rest, ok := strings.CutPrefix(u.Name, "system:serviceaccount:")
	namespace, name, whole := strings.Cut(rest, ":")
	if !ok || !whole {
		return ""
	}
	return namespace + "/" + name
}

// Accounts is a cluster that knows tokens.
type Accounts interface {
	// Review says whose the token is. ErrNoAccount is for one that is nobody's, or not meant for meshca.
	Review(ctx context.Context, token string) (*User, error)
	// May says whether the user has the verb on certificates.meshca.io.
	May(ctx context.Context, user *User, verb string) (bool, error)
}

// ErrNoAccount is what Review wraps for a token that stands for nobody.
var ErrNoAccount = errors.New("the token is nobody's")

// A Grant is what the catalogue says of one service's certificates beside their names.
type Grant struct {
	Accounts    []string // NAMESPACE/NAME of service accounts that may ask
	Services    []string // whose certificates let their bearers ask
	GenerateKey bool     // whether the server may make the key
}

// Grants are the grants of all services; they may be replaced while requests are answered.
type Grants struct {
	of atomic.Pointer[map[string]Grant]
}

// Set replaces all grants at once.
func (g *Grants) Set(of map[string]Grant) { g.of.Store(&of) }

func (g *Grants) get(service string) (Grant, bool) {
	all := g.of.Load()
	if all == nil {
		return Grant{}, false
	}
	grant, ok := (*all)[service]
	return grant, ok
}

// services lists the services that the caller may ask for.
func (g *Grants) services(c *Caller) (names []string) {
	all := g.of.Load()
	if all == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(*all)) {
		if (*all)[name].lists(c) {
			names = append(names, name)
		}
	}
	return names
}

// lists says whether the grant names the caller.
func (g Grant) lists(c *Caller) bool {
	return c.Account != "" && slices.Contains(g.Accounts, c.Account) || c.Service != "" && slices.Contains(g.Services, c.Service)
}

// An AdminToken is the secret of local mode: who has it may do everything.
type AdminToken [sha256.Size]byte

// NewAdminToken keeps the hash of a token.
func NewAdminToken(token string) *AdminToken {
	sum := AdminToken(sha256.Sum256([]byte(token)))
	return &sum
}

func (t *AdminToken) is(token string) bool {
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(t[:], sum[:]) == 1
}

// maxToken is longer than any token of a cluster.
const maxToken = 16 << 10

// identify finds out who asks. Where a token is sent it is judged, and a certificate that is no good is no reason to
// refuse then; the caller's Certificate is nil.
func (v *V1) identify(r *http.Request) (Caller, error) {
	caller, certErr := v.byCertificate(r)
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		switch {
		case certErr != nil:
			return Caller{}, certErr
		case caller.Certificate == nil:
			return Caller{}, unauthenticated.because("send a bearer token, or present a client certificate of this CA")
		}
		return caller, nil
	}
	scheme, token, ok := strings.Cut(headers[0], " ")
	if len(headers) > 1 || !ok || !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return Caller{}, unauthenticated.because("the Authorization header is not one bearer token")
	}
	who, err := v.byToken(r.Context(), token)
	if err != nil {
		return Caller{}, err
	}
	who.Certificate, who.Service = caller.Certificate, caller.Service
	return who, nil
}

// byToken finds out whose a token is.
func (v *V1) byToken(ctx context.Context, token string) (Caller, error) {
	if v.Admin != nil && v.Admin.is(token) {
		return Caller{Name: "admin", everything: true}, nil
	}
	if v.Accounts == nil {
		return Caller{}, unauthenticated.because("the token is not the admin token")
	}
	user, err := v.Accounts.Review(ctx, token)
	switch {
	case errors.Is(err, ErrNoAccount):
		return Caller{}, unauthenticated.because("the API server does not know the token, or it is not of audience meshca: " +
			"mount a projected token with that audience").caused(err)
	case err != nil:
		p := unavailable.because("the API server could not say whose the token is").caused(err)
		p.after = time.Second
		return Caller{}, p
	}
	caller := Caller{Name: "user:" + user.Name, Account: user.Account(), user: user}
	if caller.Account != "" {
		caller.Name = "serviceaccount:" + caller.Account
	}
	return caller, nil
}

// byCertificate finds out whose the presented client certificate is; a caller without a certificate where none is.
// The handshake has proven that the peer has its key, and nothing else: that is judged here at each request, since a
// connection outlives a certificate.
func (v *V1) byCertificate(r *http.Request) (Caller, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return Caller{}, nil
	}
	leaf := r.TLS.PeerCertificates[0]
	record, err := v.judgeClient(leaf, v.Now())
	if err != nil {
		return Caller{}, err
	}
	return Caller{Name: "certificate:" + record.Service, Certificate: leaf, Service: v.serviceOf(leaf, record)}, nil
}

// serviceOf is the service of the catalogue that a certificate speaks for by its SPIFFE ID: one that was issued for
// another of the same name, in another namespace or trust domain, speaks for none.
func (v *V1) serviceOf(leaf *x509.Certificate, record *issuer.Record) string {
	policy, ok := v.Issuer.Policy(record.Service)
	if !ok || len(leaf.URIs) != 1 || leaf.URIs[0].String() != policy.Identity.URI.String() {
		return ""
	}
	return record.Service
}

// judgeClient says why a client certificate stands for nobody, or whose it is.
func (v *V1) judgeClient(leaf *x509.Certificate, now time.Time) (*issuer.Record, error) {
	no := func(why string) error { return unauthenticated.because("the client certificate " + why) }
	switch {
	case !v.signed.is(v.Issuer.Authority(), leaf):
		return nil, no("is of another CA")
	case leaf.IsCA:
		return nil, no("is a CA's")
	case now.Before(leaf.NotBefore):
		return nil, no("is not valid yet, by this server's clock")
	case now.After(leaf.NotAfter):
		return nil, no("has expired")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return nil, no("is not for clients")
	}
	found, err := v.Issuer.BySerial(issuer.SerialString(leaf))
	if err != nil {
		return nil, err
	}
	if found == nil || !found.Certificate().Equal(leaf) {
		return nil, no("is not in this CA's store")
	}
	record := found.Record()
	if record.Revoked != nil {
		return nil, no("is revoked")
	}
	return &record, nil
}

// may says whether the caller is an operator with the verb.
func (v *V1) may(ctx context.Context, c *Caller, verb string) (bool, error) {
	switch {
	case c.everything:
		return true, nil
	case c.user == nil:
		return false, nil
	}
	ok, err := v.Accounts.May(ctx, c.user, verb)
	if err != nil {
		p := unavailable.because("the API server could not say whether the caller is an operator").caused(err)
		p.after = time.Second
		return false, p
	}
	return ok, nil
}

// mayAsk refuses whoever is neither an operator with the verb nor listed under the service's clients. Whether the
// service exists is an operator's to know.
func (v *V1) mayAsk(ctx context.Context, service, verb string) (Grant, error) {
	caller := &fromContext(ctx).caller
	grant, exists := v.Grants.get(service)
	if exists && grant.lists(caller) {
		return grant, nil
	}
	operator, err := v.may(ctx, caller, verb)
	switch {
	case err != nil:
		return Grant{}, err
	case !operator:
		return Grant{}, forbidden.because("the catalogue has no such service, or does not list the caller under its clients; "+
			howToList(caller), "/service")
	case !exists:
		return Grant{}, notFound.because("the catalogue has no such service", "/service")
	}
	return grant, nil
}

// howToList says what would let the caller ask.
func howToList(c *Caller) string {
	switch {
	case c.Account != "":
		return "an operator can add to it: clients: [{serviceAccount: " + c.Account + "}]"
	case c.Service != "":
		return "an operator can add to it: clients: [{service: " + c.Service + "}]"
	}
	return "only service accounts can be listed, and services that prove their SPIFFE ID by a certificate"
}

// authenticate lets those through whose name is known, and everybody to what is public, as long as they do not ask too
// often.
func (v *V1) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := v.admit(r)
		request := requestOf(r)
		request.caller, request.again = caller, func() (Caller, error) { return v.identify(r) }
		if err != nil {
			v.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// public are the operations that need no caller. A test compares them with the contract.
var public = []string{"GET /", "GET /healthz", "GET /readyz", "GET /openapi.yaml", "GET /v1/ca/bundle.pem", "GET /v1/crl", "GET /v1/crl/{ski}"}
