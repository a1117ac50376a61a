package client_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/meshca/meshca/api/client"
	"github.com/meshca/meshca/test/mesh"
	"github.com/meshca/meshca/verify"
)

// loopback lets a leaf serve on this machine.
func loopback(template *x509.Certificate) {
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
}

// A seen is what a server was sent in one request.
type seen struct{ method, path, authorization, peer string }

// A listener answers as a meshca would, with any CA's certificate, and remembers all that it was sent.
type listener struct {
	*httptest.Server
	mu     sync.Mutex
	bundle []byte
	got    []seen
}

func listen(t *testing.T, of verify.Service, bundle []byte) *listener {
	t.Helper()
	pair, err := tls.X509KeyPair(of.Cert, of.Key)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{bundle: bundle}
	l.Server = httptest.NewUnstartedServer(http.HandlerFunc(l.answer))
	l.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
	l.Config.ErrorLog = log.New(io.Discard, "", 0) // clients end connections on purpose
	l.StartTLS()
	t.Cleanup(l.Close)
	return l
}

func (l *listener) answer(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	peer := ""
	if len(r.TLS.PeerCertificates) > 0 {
		peer = r.TLS.PeerCertificates[0].Subject.CommonName
	}
	l.got = append(l.got, seen{r.Method, r.URL.Path, r.Header.Get("Authorization"), peer})
	switch r.URL.Path {
	case "/v1/ca/bundle.pem":
		_, _ = w.Write(l.bundle)
	case "/v1/ca":
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"epoch": 7}`))
	default:
		http.Redirect(w, r, "https://localhost:1/elsewhere", http.StatusTemporaryRedirect)
	}
}

// all is what was sent so far.
func (l *listener) all() []seen {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]seen(nil), l.got...)
}

// files writes files into a new folder and returns their paths.
func files(t *testing.T, contents ...[]byte) (paths []string) {
	t.Helper()
	dir := t.TempDir()
	for i, content := range contents {
		paths = append(paths, filepath.Join(dir, fmt.Sprint(i)))
		write(t, paths[i], content)
	}
	return paths
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, c client.Config) *client.Client {
	t.Helper()
	opened, err := client.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(opened.Close)
	return opened
}

// TestTrust: a token is sent to the CA that was meant, and to nobody else.
func TestTrust(t *testing.T) {
	ours, theirs := mesh.NewCA(t, "ours"), mesh.NewCA(t, "theirs")
	token := files(t, []byte("s3cret-token\n"))[0]
	sum := func(c *mesh.CA) string { return fmt.Sprintf("%x", sha256.Sum256(c.Cert.Raw)) }
	real := listen(t, ours.Service(t, "meshca", loopback), append(theirs.PEM(), ours.PEM()...))
	// One in the middle who has the public bundle of ours, and a certificate of theirs; one who has nothing of ours.
	middle := listen(t, theirs.Service(t, "meshca", loopback), ours.PEM())
	stranger := listen(t, theirs.Service(t, "meshca", loopback), theirs.PEM())

	for name, tt := range map[string]struct {
		server *listener
		trust  client.Config
		good   bool
	}{
		"bundle":                  {real, client.Config{CAFile: files(t, ours.PEM())[0]}, true},
		"fingerprint":             {real, client.Config{CAFingerprint: sum(ours)}, true},
		"fingerprint with colons": {real, client.Config{CAFingerprint: verify.Fingerprint(ours.Cert)}, true},
		// Of the bundle, the root that was named is trusted, and no other.
		"fingerprint of another of its roots": {real, client.Config{CAFingerprint: sum(theirs)}, false},
		"wrong fingerprint":                   {real, client.Config{CAFingerprint: strings.Repeat("ab", 32)}, false},
		"middle by bundle":                    {middle, client.Config{CAFile: files(t, ours.PEM())[0]}, false},
		"middle by fingerprint":               {middle, client.Config{CAFingerprint: sum(ours)}, false},
		"stranger by bundle":                  {stranger, client.Config{CAFile: files(t, ours.PEM())[0]}, false},
		"stranger by fingerprint":             {stranger, client.Config{CAFingerprint: sum(ours)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(tt.server.all())
			tt.trust.Server, tt.trust.TokenFile = tt.server.URL, token
			ca, err := open(t, tt.trust).CA(t.Context())
			if tt.good != (err == nil) || tt.good && ca.Epoch != 7 {
				t.Fatalf("%+v, %v", ca, err)
			}
			carried := false
			for _, s := range tt.server.all()[before:] {
				carried = carried || s.authorization != ""
				if s.path == "/v1/ca/bundle.pem" && s != (seen{method: "GET", path: s.path}) {
					t.Errorf("the bundle was fetched with %+v", s)
				}
			}
			if carried != tt.good {
				t.Errorf("the token was sent: %v, want %v", carried, tt.good)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v gives the token away", err)
			}
		})
	}
	t.Run("NamesWhatWasSeen", func(t *testing.T) {
		_, err := client.FetchRoot(t.Context(), stranger.URL, sum(ours))
		var untrusted *client.UntrustedError
		if !errors.As(err, &untrusted) || !strings.Contains(err.Error(), verify.Fingerprint(theirs.Cert)) || !strings.Contains(err.Error(), verify.Fingerprint(ours.Cert)) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("Bounded", func(t *testing.T) {
		long := listen(t, theirs.Service(t, "meshca", loopback), bytes.Repeat(ours.PEM(), 4000))
		if _, err := client.FetchRoot(t.Context(), long.URL, strings.Repeat("ab", 32)); err == nil || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("error %v", err)
		}
	})
}

// TestNobodyIsFollowed: a redirection is an answer, and the token stays.
func TestNobodyIsFollowed(t *testing.T) {
	ca := mesh.NewCA(t, "ca")
	paths := files(t, ca.PEM(), []byte("token"))
	server := listen(t, ca.Service(t, "meshca", loopback), nil)
	_, err := open(t, client.Config{Server: server.URL, CAFile: paths[0], TokenFile: paths[1]}).Revoke(t.Context(), "abc", client.RevocationReasonSuperseded)
	var p *client.Problem
	if !errors.As(err, &p) || p.Status != http.StatusTemporaryRedirect {
		t.Errorf("error %v", err)
	}
	if got := server.all(); len(got) != 1 {
		t.Errorf("%d requests", len(got))
	}
}

// TestFilesAreReadAnew: what is replaced on disk is used by the next call, without a restart.
func TestFilesAreReadAnew(t *testing.T) {
	old, next := mesh.NewCA(t, "old"), mesh.NewCA(t, "next")
	one, two := old.Service(t, "one"), old.Service(t, "two")
	before, after := listen(t, old.Service(t, "meshca", loopback), nil), listen(t, next.Service(t, "meshca", loopback), nil)

	t.Run("Token", func(t *testing.T) {
		paths := files(t, old.PEM(), []byte("first"))
		c := open(t, client.Config{Server: before.URL, CAFile: paths[0], TokenFile: paths[1]})
		for _, token := range []string{"first", "second"} {
			write(t, paths[1], []byte(token+"\n"))
			if _, err := c.CA(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := before.all(); got[len(got)-1].authorization != "Bearer "+token {
				t.Errorf("sent %+v, want %s", got[len(got)-1], token)
			}
		}
		for _, bad := range []string{"", " \n", "two\nlines", "tab\there"} {
			write(t, paths[1], []byte(bad))
			if _, err := c.CA(t.Context()); err == nil || strings.Contains(err.Error(), "lines") {
				t.Errorf("token %q: %v", bad, err)
			}
		}
	})
	t.Run("Certificate", func(t *testing.T) {
		paths := files(t, old.PEM(), one.Cert, one.Key)
		c := open(t, client.Config{Server: before.URL, CAFile: paths[0], CertFile: paths[1], KeyFile: paths[2]})
		for _, s := range []verify.Service{one, two} {
			write(t, paths[1], s.Cert)
			write(t, paths[2], s.Key)
			if _, err := c.CA(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := before.all(); got[len(got)-1].peer != s.Name {
				t.Errorf("sent %+v, want %s", got[len(got)-1], s.Name)
			}
		}
		write(t, paths[2], one.Key)
		if _, err := c.CA(t.Context()); err == nil || !strings.Contains(err.Error(), paths[1]) {
			t.Errorf("a key of another certificate: %v", err)
		}
	})
	t.Run("Trust", func(t *testing.T) {
		paths := files(t, old.PEM())
		c := open(t, client.Config{Server: after.URL, CAFile: paths[0]})
		if _, err := c.CA(t.Context()); err == nil {
			t.Fatal("a server of another CA is trusted")
		}
		write(t, paths[0], append(old.PEM(), next.PEM()...))
		if _, err := c.CA(t.Context()); err != nil {
			t.Error(err)
		}
		write(t, paths[0], old.PEM())
		if _, err := c.CA(t.Context()); err == nil {
			t.Error("a connection outlives the trust that it was made with")
		}
	})
}

// TestConfig: what does not go together is refused before anything is sent.
func TestConfig(t *testing.T) {
	const at = "https://127.0.0.1:1"
	sum := strings.Repeat("0a", 32)
	for name, tt := range map[string]struct {
		config client.Config
		err    string
	}{
		"nothing":             {client.Config{}, "either a server's address or a socket"},
		"both":                {client.Config{Server: at, Socket: "s"}, "either a server's address or a socket"},
		"socket with token":   {client.Config{Socket: "s", TokenFile: "t"}, "leave out trust and credentials"},
		"no trust":            {client.Config{Server: at}, "either its CA's bundle or a root's fingerprint"},
		"trust twice":         {client.Config{Server: at, CAFile: "f", CAFingerprint: sum}, "either its CA's bundle or a root's fingerprint"},
		"certificate alone":   {client.Config{Server: at, CAFile: "f", CertFile: "c"}, "go together"},
		"key alone":           {client.Config{Server: at, CAFile: "f", KeyFile: "c"}, "go together"},
		"SHA-1":               {client.Config{Server: at, CAFingerprint: strings.Repeat("ab:", 19) + "ab"}, "64 hexadecimal digits"},
		"no fingerprint":      {client.Config{Server: at, CAFingerprint: "meshca root g1"}, "64 hexadecimal digits"},
		"http":                {client.Config{Server: "http://127.0.0.1", CAFile: "f"}, "https://HOST"},
		"no scheme":           {client.Config{Server: "127.0.0.1:8443", CAFile: "f"}, "https://HOST"},
		"user":                {client.Config{Server: "https://a:b@c", CAFile: "f"}, "https://HOST"},
		"path":                {client.Config{Server: at + "/v1", CAFile: "f"}, "https://HOST"},
		"query":               {client.Config{Server: at + "?a=b", CAFile: "f"}, "https://HOST"},
		"good by bundle":      {client.Config{Server: at + "/", CAFile: "f"}, ""},
		"good by fingerprint": {client.Config{Server: at, CAFingerprint: strings.ToUpper(sum), TokenFile: "t"}, ""},
		"good by socket":      {client.Config{Socket: "s"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.New(tt.config)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// TestCheck: a certificate that does not go with the key, or with the bundle beside it, is not used.
func TestCheck(t *testing.T) {
	ours, theirs := mesh.NewCA(t, "ours"), mesh.NewCA(t, "theirs")
	below := ours.Below(t, "issuing")
	one, two := below.Service(t, "one"), below.Service(t, "two")
	serverOnly := below.Service(t, "one", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })
	issued := func(s verify.Service, above, bundle []byte) *client.IssuedCertificate {
		pair, err := tls.X509KeyPair(s.Cert, s.Key)
		if err != nil {
			t.Fatal(err)
		}
		return &client.IssuedCertificate{Chain: string(s.Cert) + string(above), Ca: string(bundle), NotBefore: pair.Leaf.NotBefore, NotAfter: pair.Leaf.NotAfter}
	}
	key := func(s verify.Service) crypto.PublicKey {
		pair, err := tls.X509KeyPair(s.Cert, s.Key)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf.PublicKey
	}
	for name, tt := range map[string]struct {
		issued *client.IssuedCertificate
		key    crypto.PublicKey
		err    string
	}{
		"good":             {issued(one, below.PEM(), ours.PEM()), key(one), ""},
		"another key":      {issued(one, below.PEM(), ours.PEM()), key(two), "another key"},
		"another root":     {issued(one, below.PEM(), theirs.PEM()), key(one), "does not hold"},
		"no issuing CA":    {issued(one, nil, ours.PEM()), key(one), "does not hold"},
		"no bundle":        {issued(one, below.PEM(), nil), key(one), "trust bundle"},
		"for servers only": {issued(serverOnly, below.PEM(), ours.PEM()), key(serverOnly), "does not hold"},
		"nothing":          {&client.IssuedCertificate{}, key(one), "no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.issued.Check(tt.key); (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}
