package api

import (
	"bufio"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/store"
)

// TestRevokedWhileSending: who is let in with its head, and revoked before its body has come, gets nothing.
func TestRevokedWhileSending(t *testing.T) {
	d := newDesk(t)
	for name, tt := range map[string]struct {
		path, body string
		want       kind
	}{
		"renew": {"/v1/certificates/%s/renew", `{"csr": ` + newQuotedCSR(t) + `}`, conflict},
		"ask":   {"/v1/certificates", newAsk(t, "bookapi"), unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			held := d.hold(t, "envoy")
			path := strings.ReplaceAll(tt.path, "%s", issuer.SerialString(held.Leaf))
			c := d.dial(t, held)
			fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", path, len(tt.body))
			in := bufio.NewReader(c)
			if line, err := in.ReadString('\n'); err != nil || !strings.Contains(line, "100") { // the caller is known, its body is waited for
				t.Fatal(line, err)
			}
			if _, err := in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Issuer.Revoke(issuer.SerialString(held.Leaf), profile.KeyCompromise, "test", d.Now()); err != nil {
				t.Fatal(err)
			}
			before := d.records(t)
			if _, err := io.WriteString(c, tt.body); err != nil {
				t.Fatal(err)
			}
			response, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			readAnswer(t, response).refused(t, tt.want)
			if n := d.records(t); n != before {
				t.Errorf("%d records, want %d", n, before)
			}
		})
	}
}

// TestOwnIsNobodys: not even an operator gets a certificate with which it could pass for this server.
func TestOwnIsNobodys(t *testing.T) {
	d := newDesk(t)
	own := issuer.SerialString(d.cert.current.Load().Leaf)
	before := d.records(t)
	d.ask(t, nil, deskToken, "POST", "/v1/certificates/"+own+"/renew", `{"csr": `+newQuotedCSR(t)+`}`).refused(t, forbidden)
	if n := d.records(t); n != before {
		t.Errorf("%d records, want %d", n, before)
	}
}

// TestEndedIsNotRenewed: a certificate renews until it is revoked or expired, whoever asks.
func TestEndedIsNotRenewed(t *testing.T) {
	d := newDesk(t)
	renew := func(held *tls.Certificate) deskAnswer {
		return d.ask(t, nil, deskToken, "POST", "/v1/certificates/"+issuer.SerialString(held.Leaf)+"/renew", `{"csr": `+newQuotedCSR(t)+`}`)
	}
	revoked, expired := d.hold(t, "envoy"), d.hold(t, "envoy")
	renew(revoked).issued(t)
	if _, err := d.Issuer.Revoke(issuer.SerialString(revoked.Leaf), profile.Superseded, "test", d.Now()); err != nil {
		t.Fatal(err)
	}
	renew(revoked).refused(t, conflict)
	d.turn(200 * time.Hour)
	if err := d.cert.Renew(); err != nil {
		t.Fatal(err)
	}
	renew(expired).issued(t)
	d.turn(41 * time.Hour)
	renew(expired).refused(t, conflict)
}

// TestAnotherOfThatName: a service's name that another has taken gives the holders of its certificates nothing of that
// one. What they hold they can still revoke.
func TestAnotherOfThatName(t *testing.T) {
	d := newDesk(t)
	held, ask := d.hold(t, "envoy"), newAsk(t, "bookapi")
	path := "/v1/certificates/" + issuer.SerialString(held.Leaf)
	d.ask(t, held, "", "POST", "/v1/certificates", ask).issued(t)
	d.ask(t, held, "", "POST", path+"/renew", "").issued(t)
	d.Issuer.SetCatalogue([]issuer.Policy{deskPolicy("envoy", "another"), deskPolicy("bookapi", "default")})
	d.ask(t, held, "", "POST", "/v1/certificates", ask).refused(t, forbidden)
	d.ask(t, held, "", "POST", path+"/renew", "").refused(t, forbidden)
	if a := d.ask(t, held, "", "POST", path+"/revoke", `{"reason": "cessationOfOperation"}`); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestQueryCannotBeRead: what is no query is refused, instead of answered as if it were not there.
func TestQueryCannotBeRead(t *testing.T) {
	d := newDesk(t)
	for _, query := range []string{"service%zz=envoy", "service=%zz", "limit=2;limit=3", "limit=2&%"} {
		d.ask(t, nil, deskToken, "GET", "/v1/certificates?"+query, "").refused(t, badRequest)
	}
}

// TestLogTellsNothing: what a caller sends in the wrong place is not in the log. From where it was sent is.
func TestLogTellsNothing(t *testing.T) {
	d := newDesk(t)
	d.ask(t, nil, deskToken, "GET", "/v1/certificates?expiresBefore=hunter2", "").refused(t, badRequest)
	d.ask(t, nil, deskToken, "GET", "/v1/certificates?limit=hunter2", "").refused(t, badRequest)
	d.ask(t, nil, "hunter2", "GET", "/v1/certificates/hunter2?hunter2=1", "").refused(t, unauthenticated)
	d.ask(t, nil, deskToken, "GET", "/v1/certificates/hunter2?hunter2=1", "").refused(t, badRequest)
	d.ask(t, nil, deskToken, "POST", "/v1/certificates", `{"service": "envoy", "csr": "hunter2"}`, "Idempotency-Key", "hunter2").refused(t, csrMalformed)
	d.ask(t, nil, deskToken, "HUNTER2", "/v1/ca", "").refused(t, methodNotAllowed)
	log := d.log.String()
	if n := strings.Count(log, "from=127.0.0.1:"); n != 6 || strings.Contains(strings.ToLower(log), "hunter2") {
		t.Errorf("%d of 6 refusals tell from where in the log\n%s", n, log)
	}
}

// TestReadinessTellsNobody: who is nobody learns no path and no error; the owner does.
func TestReadinessTellsNobody(t *testing.T) {
	d := newDesk(t)
	d.ready.engine = unready{}
	if a := d.ask(t, nil, "", "GET", "/readyz", ""); a.status != http.StatusServiceUnavailable || strings.Contains(a.body, "secret") {
		t.Errorf("%d %s", a.status, a.body)
	}
	answer := httptest.NewRecorder()
	d.Owner().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/readyz", http.NoBody))
	if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), "/secret") {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
}

// unready is an engine that cannot work.
type unready struct{ still }

func (unready) Ready(context.Context) error { return errors.New("open /secret: permission denied") }

// TestUnwantedBody: of a body that is not wanted nothing is kept, however much of it there is.
func TestUnwantedBody(t *testing.T) {
	d := newDesk(t)
	body := strings.NewReader(strings.Repeat("x", maxBody))
	answer := httptest.NewRecorder()
	d.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/v1/ca/bundle.pem", body))
	if read := maxBody - body.Len(); answer.Code != http.StatusBadRequest || read > 1 {
		t.Errorf("%d after %d bytes", answer.Code, read)
	}
}

// TestIssuerEnds: a CA that is at its end is told as that, and not as a disk that is full.
func TestIssuerEnds(t *testing.T) {
	d := newDesk(t)
	d.turn(d.f.Authority.Issuing().Certificate.NotAfter.Sub(d.Now()) - time.Minute)
	answer := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/v1/certificates", strings.NewReader(newAsk(t, "envoy")))
	r.Header.Set("Content-Type", "application/json")
	d.Owner().ServeHTTP(answer, r)
	if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), "the CA ends too soon") || answer.Header().Get("Retry-After") != "60" {
		t.Errorf("%d %v %s", answer.Code, answer.Header(), answer.Body)
	}
}

// TestMakingKeys: keys are made a few at a time, so that all else goes on, and none for a caller who has gone.
func TestMakingKeys(t *testing.T) {
	d := newDesk(t)
	before := d.records(t)
	door := d.Owner()
	ask := func(ctx context.Context) int {
		answer := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/certificates", strings.NewReader(`{"service": "pgadmin", "generateKey": true}`))
		r.Header.Set("Content-Type", "application/json")
		door.ServeHTTP(answer, r)
		return answer.Code
	}
	for range cap(d.making) {
		d.making <- struct{}{}
	}
	if code := ask(t.Context()); code != http.StatusServiceUnavailable {
		t.Errorf("%d while all places are taken", code)
	}
	for range cap(d.making) {
		<-d.making
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if code := ask(gone); code != http.StatusServiceUnavailable || d.records(t) != before {
		t.Errorf("%d for a caller who has gone, %d records", code, d.records(t)-before)
	}
	if code := ask(t.Context()); code != http.StatusCreated {
		t.Errorf("%d for one who waits", code)
	}
}

// TestAdoptedIsFound: what is listed is found by its serial number too, and says who alone can revoke it.
func TestAdoptedIsFound(t *testing.T) {
	d := newDesk(t)
	foreign := catest.NewForeign(t, "other", d.Now()).Leaf(t, "envoy", d.Now()).Certificate
	err := d.f.Store.Update(func(w store.Writer) error {
		return issuer.Adopt(w, "envoy", "here", []*x509.Certificate{foreign}, nil, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	path := "/v1/certificates/" + issuer.SerialString(foreign)
	if a := d.ask(t, nil, deskToken, "GET", path, ""); a.status != http.StatusOK || !strings.Contains(a.body, `"service":"envoy"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := d.ask(t, nil, deskToken, "POST", path+"/revoke", `{"reason": "superseded"}`); !strings.Contains(a.body, issuer.ErrAdopted.Error()) {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestListsAreWrittenOnce: whoever asks for revocation lists is sent the same bytes, until one is revoked.
func TestListsAreWrittenOnce(t *testing.T) {
	d := newDesk(t)
	get := func() (*byte, string) {
		lists, err := d.Issuer.CRLs(d.Now())
		if err != nil {
			t.Fatal(err)
		}
		content, tag := d.written.of("", lists, func() []byte { return issuer.PEM(lists) })
		return &content[0], tag
	}
	first, tag := get()
	if again, same := get(); again != first || same != tag {
		t.Error("written again")
	}
	if a := d.ask(t, nil, "", "GET", "/v1/crl", "", "If-None-Match", tag); a.status != http.StatusNotModified || a.header.Get("Vary") != "Accept" {
		t.Errorf("%d %v", a.status, a.header)
	}
	if _, err := d.Issuer.Revoke(issuer.SerialString(d.hold(t, "envoy").Leaf), profile.Superseded, "test", d.Now()); err != nil {
		t.Fatal(err)
	}
	if _, other := get(); other == tag {
		t.Error("not written anew")
	}
}

// TestOtherSignature: of an ECDSA signature anybody can compute a second one that is as good. A certificate with that is
// of this CA by every verifier's word, and still nobody's here.
func TestOtherSignature(t *testing.T) {
	d := newDesk(t)
	held := d.hold(t, "envoy")
	var cert struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	var signature struct{ R, S *big.Int }
	_, err := asn1.Unmarshal(held.Leaf.Raw, &cert)
	if err == nil {
		_, err = asn1.Unmarshal(cert.Signature.Bytes, &signature)
	}
	if err != nil {
		t.Fatal(err)
	}
	signature.S.Sub(elliptic.P256().Params().N, signature.S)
	if cert.Signature.Bytes, err = asn1.Marshal(signature); err == nil {
		cert.Signature.BitLength = 8 * len(cert.Signature.Bytes)
		held.Certificate[0], err = asn1.Marshal(cert)
	}
	if err != nil {
		t.Fatal(err)
	}
	if held.Leaf, err = x509.ParseCertificate(held.Certificate[0]); err != nil || !d.f.Authority.Signed(held.Leaf) {
		t.Fatalf("the other signature is not good: %v", err)
	}
	d.ask(t, held, "", "GET", "/v1/ca", "").refused(t, unauthenticated)
}
