// Package client asks a meshca for certificates. It is importable alone: it links no store and no Kubernetes.
//
//	c, err := client.New(client.Config{
//		Server:    "https://meshca.meshca.svc:8443",
//		CAFile:    "/var/run/secrets/meshca.io/ca.crt",
//		TokenFile: "/var/run/secrets/meshca.io/token",
//	})
//	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
//	csr, err := client.CSR(key)
//	issued, err := c.Issue(ctx, client.CertificateRequest{Service: "bookapi", Csr: &csr})
//	err = issued.Check(key.Public())
//
// # What it guarantees
//
// A token or certificate is sent only to who has proven to be the server that was meant. Files are read anew for each
// call, so that a trust bundle, a token or a certificate that is replaced needs no restart; connections that were made
// with what has changed are left. A call is one request to the CA, however often it has to be sent: an Idempotency-Key
// that is made once goes with it, so that no retry makes a second certificate. No error holds a token or a key.
//
// # Errors
//
// What the CA answers instead of what was asked for is a [*Problem]. All else is that it could not be asked.
//
// # The contract
//
// The types and [Raw] are generated from api/openapi.yaml. [Client] is all that most programs need.
package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// Config says which meshca is asked, whom to trust to be it, and who asks.
type Config struct {
	// Server is its address, https://HOST[:PORT]. Exactly one of Server and Socket is needed.
	Server string
	// Socket is the path of the Unix socket beside a store on this machine. Only the store's owner can open it, and is
	// an operator; it takes no trust and no credentials.
	Socket string

	// CAFile holds the trust bundle, PEM. With Server exactly one of CAFile and CAFingerprint is needed.
	CAFile string
	// CAFingerprint is the SHA-256 of a root's DER, hexadecimal, colons allowed: the root is fetched from the server
	// itself, once, and is all that is trusted. See [FetchRoot].
	CAFingerprint string

	// TokenFile holds a bearer token. With neither it nor CertFile the caller is nobody, which is enough for what is
	// public.
	TokenFile string
	// CertFile and KeyFile are a certificate of the CA, with its chain, and its key.
	CertFile, KeyFile string

	// Once has each call be sent once, whatever becomes of it: for who looks at the answer, also at "not now".
	Once bool
}

// Check says what of the config does not go together. It reads no file.
func (c *Config) Check() error {
	switch {
	case (c.Server == "") == (c.Socket == ""):
		return errors.New("either a server's address or a socket is needed")
	case c.Socket != "" && (c.CAFile != "" || c.CAFingerprint != "" || c.TokenFile != "" || c.CertFile != "" || c.KeyFile != ""):
		return errors.New("through a socket there is nobody to trust and nothing to prove: leave out trust and credentials")
	case c.Socket != "":
		return nil
	case (c.CAFile == "") == (c.CAFingerprint == ""):
		return errors.New("to trust the server, either its CA's bundle or a root's fingerprint is needed")
	case (c.CertFile == "") != (c.KeyFile == ""):
		return errors.New("a client certificate and its key go together")
	}
	if _, err := parseFingerprint(c.CAFingerprint); c.CAFingerprint != "" && err != nil {
		return err
	}
	_, err := parseServer(c.Server)
	return err
}

// parseServer wants https and a host alone: what is sent there is a credential.
func parseServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server %q is not of the form https://HOST[:PORT]", server)
	}
	return u, nil
}

// A Client asks one meshca. It is safe for concurrent use.
type Client struct {
	config Config
	host   string // of the server, for errors
	raw    *ClientWithResponses

	mu        sync.Mutex // guards what follows; held while files are read and the root is fetched
	transport *http.Transport
	made      material // what transport was made of
	root      []byte   // PEM, fetched by fingerprint
}

// New makes a client. It reads no file and sends nothing: the first call does.
func New(config Config) (*Client, error) {
	if err := config.Check(); err != nil {
		return nil, err
	}
	c := &Client{config: config, host: config.Socket}
	base := "http://meshca"
	if config.Server != "" {
		u, err := parseServer(config.Server)
		if err != nil {
			return nil, err
		}
		c.host, base = u.Host, "https://"+u.Host
	}
	raw, err := NewClientWithResponses(base, WithHTTPClient(&retrier{try: c.try, once: config.Once}))
	if err != nil {
		return nil, err
	}
	c.raw = raw
	return c, nil
}

// Close ends idle connections. The client may be used on.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

// Raw gives every operation of the contract, with the client's trust, credentials and retries. Its answers are read
// whole, so the stream of events is not for it. No request has an Idempotency-Key that it is not given: one that makes
// a certificate, and may have been carried out, is not sent again without.
func (c *Client) Raw() *ClientWithResponses { return c.raw }

// Issue asks for a certificate of a service, for the key of the request's CSR. A 201 is on disk when this returns.
func (c *Client) Issue(ctx context.Context, r CertificateRequest) (*IssuedCertificate, error) {
	key := rand.Text()
	return answer[IssuedCertificate](c.raw.ClientInterface.IssueCertificate(ctx, &IssueCertificateParams{IdempotencyKey: &key}, r))
}

// Renew asks for another certificate in the place of one: for the same key where csr is "" and the client presents the
// certificate itself, else for the key of the CSR (PEM).
func (c *Client) Renew(ctx context.Context, serial, csr string) (*IssuedCertificate, error) {
	key := rand.Text()
	params := &RenewCertificateParams{IdempotencyKey: &key}
	if csr == "" {
		return answer[IssuedCertificate](c.raw.RenewCertificateWithBody(ctx, serial, params, "application/json", strings.NewReader("")))
	}
	return answer[IssuedCertificate](c.raw.ClientInterface.RenewCertificate(ctx, serial, params, RenewalRequest{Csr: &csr}))
}

// Revoke revokes a certificate. To say it again changes nothing.
func (c *Client) Revoke(ctx context.Context, serial string, reason RevocationReason) (*Certificate, error) {
	return answer[Certificate](c.raw.ClientInterface.RevokeCertificate(ctx, serial, RevocationRequest{Reason: reason}))
}

// Certificate tells of one certificate.
func (c *Client) Certificate(ctx context.Context, serial string) (*Certificate, error) {
	return answer[Certificate](c.raw.ClientInterface.GetCertificate(ctx, serial))
}

// Certificates lists certificates from the oldest to the newest, page after page while the caller goes on. It ends with
// the first error. The filter's Limit is a page's.
func (c *Client) Certificates(ctx context.Context, filter ListCertificatesParams) iter.Seq2[*Certificate, error] {
	return func(yield func(*Certificate, error) bool) {
		for filter := filter; ; { // each iteration of the list begins anew
			page, err := answer[CertificateList](c.raw.ClientInterface.ListCertificates(ctx, &filter))
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range page.Certificates {
				if !yield(&page.Certificates[i], nil) {
					return
				}
			}
			if page.Next == nil {
				return
			}
			filter.Cursor = page.Next
		}
	}
}

// Service tells of one service of the catalogue.
func (c *Client) Service(ctx context.Context, name string) (*Service, error) {
	return answer[Service](c.raw.ClientInterface.GetService(ctx, name))
}

// CA tells of the CA: its roots, its issuing CAs and the epoch of its trust.
func (c *Client) CA(ctx context.Context) (*CA, error) {
	return answer[CA](c.raw.ClientInterface.GetCA(ctx, nil))
}

// Bundle is the trust bundle, PEM: the bytes of every service's ca.crt.
func (c *Client) Bundle(ctx context.Context) ([]byte, error) {
	return Read(c.raw.ClientInterface.GetBundle(ctx, nil))
}

// Read reads what a call of [Raw]'s ClientInterface returns: what was asked for, or the [*Problem] that came instead.
func Read(response *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return nil, problemOf(response)
	}
	return io.ReadAll(response.Body)
}

// answer decodes what Read reads.
func answer[T any](response *http.Response, err error) (*T, error) {
	body, err := Read(response, err)
	if err != nil {
		return nil, err
	}
	value := new(T)
	if err := json.Unmarshal(body, value); err != nil {
		return nil, fmt.Errorf("the answer %s cannot be read: %w", response.Status, err)
	}
	return value, nil
}
