package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/meshca/meshca/api/socket"
)

// maxFile bounds a file that is read: a bundle, a chain, a key, a token.
const maxFile = 1 << 20

// material is what connections are made of, as it was read.
type material struct{ trust, cert, key []byte }

func (m material) equal(o material) bool {
	return bytes.Equal(m.trust, o.trust) && bytes.Equal(m.cert, o.cert) && bytes.Equal(m.key, o.key)
}

// try sends a request once, with what the files hold now.
func (c *Client) try(request *http.Request) (*http.Response, error) {
	transport, err := c.connections(request.Context())
	if err != nil {
		return nil, err
	}
	if c.config.TokenFile != "" {
		token, err := readToken(c.config.TokenFile)
		if err != nil {
			return nil, &finalError{err}
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	// A round trip is one answer: the token is not carried on to where a redirection points.
	response, err := transport.RoundTrip(request)
	switch {
	case err == nil:
		return response, nil
	case c.config.Socket != "" && errors.Is(err, syscall.ECONNREFUSED): // a crash left it: nobody listens there
		err = &finalError{plain(err)}
	default:
		err = plain(err)
	}
	return nil, fmt.Errorf("%s: %w", c.host, err)
}

// plain leaves out of a network's error the address, which is said before, or is the short name of a socket.
func plain(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return op.Err
	}
	return err
}

// connections are those to the server for what the files hold now: where that has changed, others are made, and those
// before end when they are idle.
func (c *Client) connections(ctx context.Context) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config.Socket != "" {
		if c.transport == nil {
			c.transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return socket.Dial(ctx, c.config.Socket)
			}}
		}
		return c.transport, nil
	}
	m, conf, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	if c.transport != nil {
		if m.equal(c.made) {
			return c.transport, nil
		}
		defer c.transport.CloseIdleConnections()
	}
	c.made, c.transport = m, &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     conf,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: tryTimeout,
		IdleConnTimeout:     30 * time.Second, // the server's own is as long
	}
	return c.transport, nil
}

// read reads the files, and fetches the root where that is how the server is trusted.
func (c *Client) read(ctx context.Context) (m material, conf *tls.Config, err error) {
	conf = &tls.Config{MinVersion: tls.VersionTLS13}
	from := c.config.CAFile
	if from == "" {
		from = "the fetched root"
		if c.root == nil {
			if c.root, err = FetchRoot(ctx, c.config.Server, c.config.CAFingerprint); err != nil {
				return m, nil, err
			}
		}
		m.trust = c.root
	} else if m.trust, err = readFile(from); err != nil {
		return m, nil, err
	}
	if conf.RootCAs, err = pool(m.trust); err != nil {
		return m, nil, &finalError{fmt.Errorf("%s: %w", from, err)}
	}
	if c.config.CertFile == "" {
		return m, conf, nil
	}
	var pair tls.Certificate
	if m.cert, m.key, pair, err = readPair(c.config.CertFile, c.config.KeyFile); err != nil {
		return m, nil, err
	}
	// Whatever CAs the server names, this is whom we are: without a certificate its answer would not say why.
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return m, conf, nil
}

// pairTries is how often a certificate and a key that do not go together are read: they are two files, and may just be
// being replaced.
const pairTries = 3

func readPair(certFile, keyFile string) (cert, key []byte, pair tls.Certificate, err error) {
	for range pairTries {
		if cert, err = readFile(certFile); err != nil {
			return nil, nil, pair, err
		}
		if key, err = readFile(keyFile); err != nil {
			return nil, nil, pair, err
		}
		if pair, err = tls.X509KeyPair(cert, key); err == nil {
			return cert, key, pair, nil
		}
	}
	return nil, nil, pair, &finalError{fmt.Errorf("%s and %s: %w", certFile, keyFile, err)}
}

// readToken reads a bearer token. The error says nothing of it.
func readToken(path string) (string, error) {
	content, err := readFile(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(content))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s does not hold one token", path)
	}
	return token, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &finalError{err}
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	if err != nil {
		return nil, &finalError{err}
	}
	return content, nil
}
