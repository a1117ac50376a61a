package api

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/csr"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/store"
)

// An asked is a request for a certificate that was read and may be answered.
type asked struct {
	service string
	csr     string // "" where another key is certified
	key     crypto.PublicKey
	made    crypto.Signer // by the server, nil where the caller has the key
	ignored []string
	reason  string
	renewal bool
}

// IssueCertificate signs a certificate for the key of a CSR, or for one that the server makes.
func (v *V1) IssueCertificate(ctx context.Context, r contract.IssueCertificateRequestObject) (contract.IssueCertificateResponseObject, error) {
	as, err := wants(ctx, jsonType, pemChain)
	if err != nil {
		return nil, err
	}
	o, grant, err := v.read(ctx, r.Body)
	if err != nil {
		return nil, err
	}
	issued, err := v.once(ctx, r.Params.IdempotencyKey, o, func() error {
		if o.csr == "" {
			return v.makeKey(ctx, o, grant)
		}
		return v.readCSR(o)
	})
	if err != nil {
		return nil, err
	}
	if as == pemChain {
		body, length := issued.chain()
		return contract.IssueCertificate201ApplicationpemCertificateChainResponse{IssuedApplicationpemCertificateChainResponse: contract.IssuedApplicationpemCertificateChainResponse{
			Body: body, ContentLength: length, Headers: issued.headers()}}, nil
	}
	return contract.IssueCertificate201JSONResponse{IssuedJSONResponse: contract.IssuedJSONResponse{Body: issued.body, Headers: issued.headers()}}, nil
}

// read finds out what is asked for, and whether the caller may have it.
func (v *V1) read(ctx context.Context, body *contract.CertificateRequest) (*asked, Grant, error) {
	generate := body.GenerateKey != nil && *body.GenerateKey
	if profile.CheckLabel(body.Service) != nil {
		return nil, Grant{}, badRequest.because("a service's name is a DNS label", "/service")
	}
	grant, err := v.mayAsk(ctx, body.Service, VerbCreate)
	o := &asked{service: body.Service, reason: "asked for"}
	switch {
	case err != nil:
		return nil, grant, err
	case generate && body.Csr != nil:
		return nil, grant, badRequest.because("with generateKey there is no csr: the key is one or the other", "/csr", "/generateKey")
	case !generate && (body.Csr == nil || *body.Csr == ""):
		return nil, grant, badRequest.because("a csr is needed, or generateKey where the service's policy permits it", "/csr")
	case !generate:
		o.csr = *body.Csr
	}
	return o, grant, nil
}

// makeKey makes the order's key, where the policy permits it.
func (v *V1) makeKey(ctx context.Context, o *asked, grant Grant) (err error) {
	if !grant.GenerateKey {
		return forbidden.because("the service's policy does not let the server make keys: send a csr, or have an operator set generateKey: true", "/generateKey")
	}
	policy, ok := v.Issuer.Policy(o.service)
	if !ok {
		return notFound.because("the catalogue has no such service", "/service")
	}
	release, err := take(ctx, v.making, "too many keys are being made")
	if err != nil {
		return err
	}
	defer release()
	if o.made, err = policy.Key.Generate(); err != nil {
		return err
	}
	switch { // nobody would have the key
	case ctx.Err() != nil:
		return busy("the caller has gone", ctx.Err())
	case v.Now().Sub(fromContext(ctx).begun) > orderWait:
		return busy("the key took too long to make: try again, or send a csr", nil)
	}
	o.key = o.made.Public()
	return nil
}

// readCSR takes the key of the order's CSR, and nothing else.
func (v *V1) readCSR(o *asked) error {
	request, err := csr.Parse([]byte(o.csr))
	if err != nil {
		return csrProblem(err)
	}
	policy, ok := v.Issuer.Policy(o.service)
	if !ok {
		return notFound.because("the catalogue has no such service", "/service")
	}
	if beyond := request.NotGranted(policy.Identity); len(beyond) > 0 {
		return nameNotGranted.because("the CSR asks for "+beyond[0].String()+others(len(beyond)-1)+
			", which the catalogue does not grant; leave names out of it: the certificate gets the catalogue's", "/csr")
	}
	o.key, o.ignored = request.PublicKey, request.Ignored
	return nil
}

// others counts what is not named.
func others(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// csrProblem is what a caller is told of a CSR that gets no certificate.
func csrProblem(err error) error {
	bad, ok := errors.AsType[*csr.Error](err)
	if !ok {
		return err
	}
	k, ok := map[csr.Code]kind{csr.CodeTooLong: tooLarge, csr.CodeMalformed: csrMalformed, csr.CodeProof: csrProof,
		csr.CodeKey: keyRefused, csr.CodeName: nameMalformed}[bad.Code]
	if !ok {
		return err
	}
	return k.because(bad.Detail, "/csr")
}

// A handed is a certificate as its caller gets it.
type handed struct {
	body     contract.IssuedCertificate
	replayed bool
}

func (i *handed) headers() contract.IssuedResponseHeaders {
	location := "/v1/certificates/" + i.body.Serial
	h := contract.IssuedResponseHeaders{Location: &location}
	if i.replayed {
		yes := "true"
		h.IdempotencyReplayed = &yes
	}
	return h
}

func (i *handed) chain() (*strings.Reader, int64) {
	return strings.NewReader(i.body.Chain), int64(len(i.body.Chain))
}

// once issues what was ordered, or gives what the same request got before. prepare makes the order ready: it is not
// called where an earlier answer is given.
func (v *V1) once(ctx context.Context, key *string, o *asked, prepare func() error) (*handed, error) {
	release, err := v.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	caller := &fromContext(ctx).caller
	request := issuer.Request{Service: o.service, Reason: o.reason, Caller: caller.Name}
	if caller.Certificate != nil {
		request.Bearer = issuer.SerialString(caller.Certificate)
	}
	if o.csr != "" { // a key is made in a time that nobody should be held up for
		request.Expected = v.Issuer.Expect()
		defer request.Expected.Done()
	}
	if key != nil {
		if request.Once, err = onceOf(ctx, *key); err != nil {
			return nil, err
		}
		before, done, err := v.Issuer.Replay(request.Caller, request.Once, v.Now())
		defer done()
		switch {
		case err != nil:
			return nil, onceProblem(err)
		case before != nil && o.csr == "" && o.key == nil: // the key that was made then is nobody's but the caller's
			p := keyNotRetained.because("this request was answered, and its answer held the only copy of the key: ask under another Idempotency-Key", "Idempotency-Key")
			p.serial = before.Record().Serial
			return nil, p
		case before != nil:
			return v.answer(before, o, true)
		}
	}
	if err := prepare(); err != nil {
		return nil, err
	}
	request.PublicKey = o.key
	leaf, err := v.Issuer.Issue(request, v.Now())
	if err != nil {
		return nil, issueProblem(err)
	}
	v.tell(leaf.Record(), o.renewal)
	return v.answer(leaf, o, false)
}

// onceOf reads an Idempotency-Key; what was asked for is the operation, the path and the body.
func onceOf(ctx context.Context, key string) (*issuer.Once, error) {
	if len(key) == 0 || len(key) > 128 || strings.IndexFunc(key, func(c rune) bool { return c < '!' || c > '~' }) >= 0 {
		return nil, badRequest.because("an Idempotency-Key is 1 to 128 visible ASCII characters", "Idempotency-Key")
	}
	r := fromContext(ctx)
	return &issuer.Once{Key: key, Body: sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s", r.operation, r.path, r.body))}, nil
}

func onceProblem(err error) error {
	switch {
	case errors.Is(err, issuer.ErrUnderWay):
		p := requestUnderWay.because("wait for its answer, then send it again: it gives the same certificate", "Idempotency-Key")
		p.after = time.Second
		return p
	case errors.Is(err, issuer.ErrOtherBody):
		return idempotencyReused.because("each request has a key of its own", "Idempotency-Key")
	case errors.Is(err, issuer.ErrGoneForOnce):
		return idempotencyReused.because("the certificate that was given under it is no longer recorded: ask under another one", "Idempotency-Key")
	}
	return err
}

// issueProblem is what a caller is told where nothing was issued.
func issueProblem(err error) error {
	for _, refused := range []error{issuer.ErrKeyCompromised, issuer.ErrKeyOfCA, issuer.ErrKeyOfAnother} {
		if errors.Is(err, refused) {
			return keyRefused.because(refused.Error(), "/csr").caused(err)
		}
	}
	var other *issuer.KeyTypeError
	switch {
	case errors.As(err, &other):
		return keyRefused.because(other.Error()+": send a CSR of such a key", "/csr").caused(err)
	case errors.Is(err, issuer.ErrBearerRevoked):
		return unauthenticated.because("the client certificate is revoked").caused(err)
	case errors.Is(err, issuer.ErrUnknownService):
		return notFound.because("the catalogue has no such service", "/service")
	}
	if errors.Is(err, issuer.ErrIssuerEnds) {
		p := unavailable.because("the CA ends too soon, or its clock is wrong, so nothing is signed until an operator has put that right: /readyz on listen.metrics says what is the matter").caused(err)
		p.after = time.Minute
		return p
	}
	return busy("no certificate could be made and recorded now, so none was given: try again", err)
}

// busy is a problem that may be gone when the request is sent again.
func busy(detail string, cause error) *problem {
	if errors.Is(cause, store.ErrFull) {
		detail = "the store's disk is full, so this could not be recorded: make room, then send it again; what is recorded can be read"
	}
	p := unavailable.because(detail).caused(cause)
	p.after = time.Second + rand.N(2*time.Second)
	return p
}

// answer is a leaf as its caller gets it.
func (v *V1) answer(leaf *issuer.Leaf, o *asked, replayed bool) (*handed, error) {
	record, chain := leaf.Record(), string(leaf.Chain())
	i := &handed{replayed: replayed, body: contract.IssuedCertificate{Service: record.Service, Certificate: firstBlock(chain),
		Chain: chain, Ca: string(v.Issuer.Authority().BundleFor(record.Service).PEM()), Serial: record.Serial,
		NotBefore: record.NotBefore, NotAfter: record.NotAfter, RenewAfter: rotation.Due(record, v.RenewAt).UTC().Truncate(time.Second),
		Ignored: append([]string{}, o.ignored...)}}
	if o.made != nil {
		der, err := x509.MarshalPKCS8PrivateKey(o.made)
		if err != nil {
			return nil, errors.New("the key that was made cannot be encoded")
		}
		text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		i.body.PrivateKey = &text
	}
	return i, nil
}

// firstBlock is the PEM of the first certificate of a chain, which is the leaf.
func firstBlock(chain string) string {
	return chain[:strings.Index(chain, pemEnd)+len(pemEnd)]
}

const pemEnd = "-----END CERTIFICATE-----\n"

// RenewCertificate signs a certificate for the service of one that there is.
func (v *V1) RenewCertificate(ctx context.Context, r contract.RenewCertificateRequestObject) (contract.RenewCertificateResponseObject, error) {
	as, err := wants(ctx, jsonType, pemChain)
	if err != nil {
		return nil, err
	}
	o, err := v.readRenewal(ctx, r)
	if err != nil {
		return nil, err
	}
	issued, err := v.once(ctx, r.Params.IdempotencyKey, o, func() error {
		if o.csr == "" {
			return nil
		}
		return v.readCSR(o)
	})
	if err != nil {
		return nil, err
	}
	if as == pemChain {
		body, length := issued.chain()
		return contract.RenewCertificate201ApplicationpemCertificateChainResponse{IssuedApplicationpemCertificateChainResponse: contract.IssuedApplicationpemCertificateChainResponse{
			Body: body, ContentLength: length, Headers: issued.headers()}}, nil
	}
	return contract.RenewCertificate201JSONResponse{IssuedJSONResponse: contract.IssuedJSONResponse{Body: issued.body, Headers: issued.headers()}}, nil
}

// readRenewal finds out what is renewed, and whether the caller may: who presents the certificate itself, or who may
// ask for its service and proves to have a key.
func (v *V1) readRenewal(ctx context.Context, r contract.RenewCertificateRequestObject) (*asked, error) {
	caller := &fromContext(ctx).caller
	leaf, err := v.certificate(ctx, r.Serial, VerbCreate)
	if err != nil {
		return nil, err
	}
	record := leaf.Record()
	switch {
	case record.Service == OwnService: // who has one can pass for this server
		return nil, forbidden.because("the API's own certificate is nobody's to ask for: the server renews it itself", "serial")
	case record.Revoked != nil:
		return nil, conflict.because("the certificate is revoked, and is not renewed: ask for a new one with POST /v1/certificates", "serial")
	case v.Now().After(record.NotAfter):
		return nil, conflict.because("the certificate has expired, and is not renewed: ask for a new one with POST /v1/certificates", "serial")
	}
	o := &asked{service: record.Service, reason: "renewal of " + record.Serial, renewal: true}
	if r.Body != nil && r.Body.Csr != nil {
		o.csr = *r.Body.Csr
	}
	itself := caller.Certificate != nil && caller.Certificate.Equal(leaf.Certificate())
	if itself && caller.Service == "" { // what it was issued for is another's by now
		if _, err := v.mayAsk(ctx, record.Service, VerbCreate); err != nil {
			return nil, err
		}
	}
	switch {
	case !itself && o.csr == "":
		return nil, badRequest.because("a csr is needed, unless the certificate itself is presented", "/csr")
	case o.csr == "":
		o.key = leaf.Certificate().PublicKey
	}
	return o, nil
}

// admitted refuses to change anything before the engine was admitted, and when it was stopped since: a store that is
// another's, or old, must neither write nor sign.
func (v *V1) admitted() error {
	if v.Engine.Status().Passed.IsZero() {
		return busy("starting: the first look at all places has not ended", nil)
	}
	if why := v.Engine.Stopped(); why != "" {
		return busy("nothing is signed: the store is older than what it serves, and an operator has to put the newest one back", errors.New(why))
	}
	return nil
}

// enter bounds how many certificates are signed at once.
func (v *V1) enter(ctx context.Context) (release func(), err error) {
	if err := v.admitted(); err != nil {
		return nil, err
	}
	return take(ctx, v.signing, "too many certificates are being signed")
}

// take takes one of so many places, and waits for one a moment where there is none.
func take(ctx context.Context, places chan struct{}, full string) (release func(), err error) {
	release = func() { <-places }
	select {
	case places <- struct{}{}:
		return release, nil
	default:
	}
	wait := time.NewTimer(signingWait)
	defer wait.Stop()
	select {
	case places <- struct{}{}:
		return release, nil
	case <-wait.C:
		return nil, busy(full, nil)
	case <-ctx.Done():
		return nil, busy("the caller has gone", ctx.Err())
	}
}

const (
	signingAtOnce = 256             // beyond that, requests wait: they would only wait for the disk
	signingWait   = 2 * time.Second // longer than a disk that works takes
)
