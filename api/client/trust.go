package client

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxBundle bounds a trust bundle, in bytes, and maxSeen how many certificates of one an error names.
const (
	maxBundle = 1 << 20
	maxSeen   = 5
)

// FetchRoot fetches the trust bundle of the server and returns the one certificate of it, PEM, whose DER has the given
// SHA-256 (hexadecimal, colons allowed). It asks without any credentials, since it cannot know yet whom; nothing but
// the certificate that was named is taken from the answer. Where that is not in it, the error names what is.
func FetchRoot(ctx context.Context, server, fingerprint string) ([]byte, error) {
	u, err := parseServer(server)
	if err != nil {
		return nil, err
	}
	wanted, err := parseFingerprint(fingerprint)
	if err != nil {
		return nil, err
	}
	bundle, err := fetchUnverified(ctx, "https://"+u.Host+"/v1/ca/bundle.pem")
	if err != nil {
		return nil, fmt.Errorf("fetch the trust bundle of %s: %w", u.Host, err)
	}
	var seen []string
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		sum := sha256.Sum256(block.Bytes)
		if block.Type == "CERTIFICATE" && sum == wanted {
			return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}), nil
		}
		seen = append(seen, sha256Of(block.Bytes))
	}
	return nil, &finalError{&UntrustedError{Server: u.Host, Wanted: colons(wanted[:]), Seen: seen}}
}

// An UntrustedError says that a server's bundle does not hold the root that was named.
type UntrustedError struct {
	Server string   // its host and port
	Wanted string   // SHA-256, as openssl x509 -fingerprint -sha256 prints it
	Seen   []string // those of its bundle
}

func (e *UntrustedError) Error() string {
	seen := "nothing"
	switch n := len(e.Seen); {
	case n > maxSeen:
		seen = fmt.Sprintf("%s and %d more", strings.Join(e.Seen[:maxSeen], ", "), n-maxSeen)
	case n > 0:
		seen = strings.Join(e.Seen, ", ")
	}
	return fmt.Sprintf("the trust bundle of %s holds no root with SHA-256 %s: it holds %s", e.Server, e.Wanted, seen)
}

// fetchUnverified fetches from whoever answers there. Nothing secret may be sent so, and nothing that comes may be
// believed.
func fetchUnverified(ctx context.Context, address string) ([]byte, error) {
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true},
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request) // which follows nobody elsewhere
	if err != nil {
		return nil, plain(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", oneLine(response.Status))
	}
	bundle, err := io.ReadAll(io.LimitReader(response.Body, maxBundle+1))
	switch {
	case err != nil:
		return nil, err
	case len(bundle) > maxBundle:
		return nil, &finalError{fmt.Errorf("it is longer than %d bytes", maxBundle)}
	}
	return bundle, nil
}

// parseFingerprint reads a SHA-256 in hexadecimal, with or without colons.
func parseFingerprint(s string) (sum [sha256.Size]byte, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(s), ":", ""))
	if err != nil || len(raw) != sha256.Size {
		return sum, fmt.Errorf("fingerprint %q is not a SHA-256: 64 hexadecimal digits, colons allowed", oneLine(s))
	}
	return [sha256.Size]byte(raw), nil
}

// sha256Of is the SHA-256 of a certificate's DER as openssl x509 -fingerprint -sha256 prints it.
func sha256Of(der []byte) string {
	sum := sha256.Sum256(der)
	return colons(sum[:])
}

func colons(b []byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% X", b), " ", ":")
}

// pool makes a pool of the certificates of a bundle.
func pool(bundle []byte) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return roots, nil
}
