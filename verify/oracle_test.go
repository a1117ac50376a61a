package verify_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meshca/meshca/test/need"
	"github.com/meshca/meshca/verify"
)

// A mesh is a random one: each service's leaf may be from any CA, with or without an intermediate, and each
// trusts any set of them.
type mesh struct{ services []verify.Service }

func drawMesh(t *rapid.T) mesh {
	var roots, inters []*issued
	for i := range rapid.IntRange(1, 3).Draw(t, "CAs") {
		cn := "root " + strconv.Itoa(i)
		if rapid.IntRange(0, 5).Draw(t, "same name") == 0 {
			cn = "root"
		}
		root := sign(t, change(caTemplate(cn), drawDates(t)), newKey(t), nil)
		inter := sign(t, change(caTemplate("inter of "+cn), drawDates(t)), newKey(t), &root)
		roots, inters = append(roots, &root), append(inters, &inter)
	}
	var m mesh
	for i := range rapid.IntRange(2, 4).Draw(t, "services") {
		n := rapid.IntRange(0, len(roots)-1).Draw(t, "CA")
		var leaf issued
		var rest []byte
		usage := rapid.IntRange(0, 9).Draw(t, "usage")
		usages := func(c *x509.Certificate) {
			if usage < 2 {
				c.ExtKeyUsage = c.ExtKeyUsage[usage : usage+1]
			}
		}
		if rapid.Bool().Draw(t, "intermediate") {
			leaf = inters[n].leaf(t, "svc", drawDates(t), usages)
			if rapid.IntRange(0, 4).Draw(t, "presents") > 0 {
				rest = inters[n].pem()
			}
		} else {
			leaf = roots[n].leaf(t, "svc", drawDates(t), usages)
		}
		if rapid.IntRange(0, 4).Draw(t, "presents root") == 0 {
			rest = join(rest, roots[n].pem())
		}
		var trusts []*issued
		for j := range roots {
			if rapid.IntRange(0, 2).Draw(t, "trusts") > 0 {
				trusts = append(trusts, roots[j])
			}
			if rapid.IntRange(0, 7).Draw(t, "trusts intermediate") == 0 {
				trusts = append(trusts, inters[j])
			}
		}
		s := service(t, fmt.Sprintf("svc-%d", i), leaf, trusts...)
		s.Cert = join(s.Cert, rest)
		m.services = append(m.services, s)
	}
	return m
}

// drawDates makes one certificate in six an expired one and one in six one of the future.
func drawDates(t *rapid.T) func(*x509.Certificate) {
	n := rapid.IntRange(0, 11).Draw(t, "dates")
	return func(c *x509.Certificate) {
		switch n {
		case 11:
			c.NotBefore, c.NotAfter = now.Add(-50*day), now.Add(-day)
		case 10:
			c.NotBefore = now.Add(day)
		}
	}
}

// TestMatrixIsThatOfHandshakes compares the matrix with real handshakes of crypto/tls.
func TestMatrixIsThatOfHandshakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMesh(t)
		refused := map[string]bool{}
		for _, f := range verify.Check(m.services, now).Refusals {
			refused[f.Refuser+" "+string(f.RefuserRole)+" "+f.Refused] = true
		}
		for _, p := range m.services {
			for _, q := range m.services {
				if p.Name == q.Name {
					continue
				}
				client := refused[p.Name+" client "+q.Name]
				server := refused[q.Name+" server "+p.Name]
				if got := !shakeHands(t, p, q, true, false); got != client {
					t.Fatalf("client %s refuses server %s: handshake %t, report %t", p.Name, q.Name, got, client)
				}
				if got := !shakeHands(t, p, q, false, true); got != server {
					t.Fatalf("server %s refuses client %s: handshake %t, report %t", q.Name, p.Name, got, server)
				}
				if got := !shakeHands(t, p, q, true, true); got != (client || server) {
					t.Fatalf("mutual %s → %s: refused %t, report %t and %t", p.Name, q.Name, got, client, server)
				}
			}
		}
	})
}

// shakeHands says whether client and server come together when the one, the other or both verify.
func shakeHands(t fataler, client, server verify.Service, clientVerifies, serverVerifies bool) bool {
	own := keyPair(t, client)
	cc := &tls.Config{
		RootCAs: pool(client.CA), ServerName: name, Time: func() time.Time { return now },
		InsecureSkipVerify: !clientVerifies,
		// With Certificates, Go keeps a certificate back that the server's list of CAs does not name.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
	}
	sc := &tls.Config{
		ClientCAs: pool(server.CA), Certificates: []tls.Certificate{keyPair(t, server)}, Time: cc.Time,
		ClientAuth: tls.RequireAnyClientCert,
	}
	if serverVerifies {
		sc.ClientAuth = tls.RequireAndVerifyClientCert
	}
	a, b := newQueued(net.Pipe())
	defer a.close()
	defer b.close()
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(b, sc)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte{1})
		}
		done <- err
	}()
	// In TLS 1.3 the client is done before the server has looked at its certificate: read to hear of it.
	_, errClient := tls.Client(a, cc).Read(make([]byte, 1))
	errServer := <-done
	var verification *tls.CertificateVerificationError
	refused := errors.As(errClient, &verification) || errors.As(errServer, &verification)
	if !refused && (errClient != nil || errServer != nil) {
		t.Fatalf("handshake ended for another reason: client %v, server %v", errClient, errServer)
	}
	return !refused
}

// A queued is an end of a pipe whose writes do not wait for the reader: over a bare net.Pipe, a client that
// sends an alert and a server that is still sending its flight would wait for each other.
type queued struct {
	net.Conn
	out chan []byte
}

func newQueued(a, b net.Conn) (x, y queued) {
	ends := [2]queued{{a, make(chan []byte, 64)}, {b, make(chan []byte, 64)}}
	for _, q := range ends {
		q.Conn.SetDeadline(time.Now().Add(20 * time.Second)) // a hang is a failure, not a hang
		go func() {
			for b := range q.out {
				q.Conn.Write(b)
			}
		}()
	}
	return ends[0], ends[1]
}

func (q queued) Write(b []byte) (int, error) {
	q.out <- bytes.Clone(b)
	return len(b), nil
}

func (q queued) close() {
	close(q.out)
	q.Conn.Close()
}

func keyPair(t fataler, s verify.Service) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(s.Cert, s.Key)
	if err != nil {
		t.Fatalf("key pair: %v", err)
	}
	return pair
}

func pool(ca []byte) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(ca)
	return p
}

// TestAgreesWithOpenSSL compares with openssl verify: what the report says of Go's matrix and, where that is
// an acceptance, of OpenSSL's own search.
func TestAgreesWithOpenSSL(t *testing.T) {
	openssl := need.Program(t, "openssl")
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		m := drawMesh(rt)
		r := verify.Check(m.services, now)
		for _, p := range m.services {
			for _, q := range m.services {
				if p.Name == q.Name || len(p.CA) == 0 {
					continue
				}
				for role, purpose := range map[verify.Role]string{verify.Client: "sslserver", verify.Server: "sslclient"} {
					want, cause := expectation(r, p.Name, q.Name, role)
					out, ok := opensslVerify(rt, openssl, dir, p.CA, q.Cert, purpose)
					if ok != want {
						rt.Fatalf("%s as %s verifies %s: openssl %t, report %t (%s)\n%s", p.Name, role, q.Name, ok, want, cause, out)
					}
				}
			}
		}
	})
}

// expectation says what OpenSSL should answer by the report.
func expectation(r *verify.Report, refuser, refused string, role verify.Role) (bool, verify.Cause) {
	for _, f := range r.Refusals {
		if f.Refuser == refuser && f.Refused == refused && f.RefuserRole == role {
			return false, f.Cause
		}
	}
	for _, f := range r.Findings {
		if f.Code != verify.VerifierDependent || f.Service != refuser || !bytes.Contains([]byte(f.Sentence), []byte("OpenSSL would")) {
			continue
		}
		for _, peer := range f.Peers {
			if peer == refused {
				return false, "verifier-dependent"
			}
		}
	}
	return true, ""
}

func opensslVerify(t fataler, openssl, dir string, ca, chain []byte, purpose string) (string, bool) {
	t.Helper()
	leaf, rest := pem.Decode(chain)
	files := map[string][]byte{"ca.pem": ca, "leaf.pem": pem.EncodeToMemory(leaf), "rest.pem": rest}
	for n, b := range files {
		if err := os.WriteFile(filepath.Join(dir, n), b, 0o600); err != nil {
			t.Fatalf("write: %v", err)
		}
	}
	args := []string{"verify", "-no-CApath", "-no-CAstore", "-CAfile", filepath.Join(dir, "ca.pem"),
		"-purpose", purpose, "-attime", strconv.FormatInt(now.Unix(), 10)}
	if len(rest) > 0 {
		args = append(args, "-untrusted", filepath.Join(dir, "rest.pem"))
	}
	out, err := exec.Command(openssl, append(args, filepath.Join(dir, "leaf.pem"))...).CombinedOutput()
	return string(out), err == nil
}
