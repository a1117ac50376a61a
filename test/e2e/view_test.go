package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A View is what one service has read from its folder: a whole set, through one reading of ..data.
type View struct {
	Name string
	Data string            // the data folder that it was read from
	File map[string][]byte // by name
}

// readView reads a service's set as a careful reader does.
func readView(dir string) (View, error) {
	v := View{Name: filepath.Base(dir), File: make(map[string][]byte)}
	to, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil {
		return v, err
	}
	v.Data = filepath.Join(dir, to)
	for _, name := range setFiles {
		if v.File[name], err = os.ReadFile(filepath.Join(v.Data, name)); err != nil {
			return v, err
		}
	}
	return v, nil
}

// View reads a service's set.
func (m *Mesh) View(service string) View {
	m.t.Helper()
	v, err := readView(m.Path(service))
	must(m.t, err)
	return v
}

// Views reads the sets of all services.
func (m *Mesh) Views() map[string]View {
	m.t.Helper()
	views := make(map[string]View)
	for _, service := range m.Services {
		views[service] = m.View(service)
	}
	return views
}

// Trusting is the view with another ca.crt: what a process has read between a foreign write and its healing.
func (v View) Trusting(bundle []byte) View {
	broken := View{Name: v.Name, File: make(map[string][]byte)}
	for name, content := range v.File {
		broken.File[name] = content
	}
	broken.File[caFile] = bundle
	return broken
}

// pair is the view's certificate and key.
func (v View) pair() (tls.Certificate, error) {
	pair, err := tls.X509KeyPair(v.File[certFile], v.File[keyFile])
	if err != nil {
		return pair, fmt.Errorf("%s: %w", v.Name, err)
	}
	return pair, nil
}

// Leaf is the view's own certificate.
func (v View) Leaf(t testing.TB) *x509.Certificate {
	t.Helper()
	pair, err := v.pair()
	must(t, err)
	return pair.Leaf
}

// config is how the service uses its view in either role.
func (v View) config() (*tls.Config, error) {
	pair, err := v.pair()
	if err != nil {
		return nil, err
	}
	trust := x509.NewCertPool()
	if !trust.AppendCertsFromPEM(v.File[caFile]) {
		return nil, fmt.Errorf("%s: ca.crt holds no certificate", v.Name)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		// Without this Go's client keeps its certificate back where the server names other authorities; OpenSSL
		// and Envoy present what they have.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },

		RootCAs:    trust,
		ClientCAs:  trust,
		ClientAuth: tls.RequireAndVerifyClientCert,
	}, nil
}

// handshake connects a client to a server by mutual TLS over TCP, and says what each end thought of it.
// The server is dialled by its cluster name, and tells the client who it takes it for.
func handshake(client, server View) (clientErr, serverErr error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err, err
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { served <- serveOnce(l, server) }() // ends with the one connection
	clientErr = dialOnce(l.Addr().String(), client, server.Name)
	if clientErr != nil {
		l.Close() // the client may not have come as far as to connect
	}
	return clientErr, <-served
}

// serveOnce takes one connection and answers with the common name of the client's certificate.
func serveOnce(l net.Listener, v View) error {
	config, err := v.config()
	if err != nil {
		return err
	}
	raw, err := l.Accept()
	if err != nil {
		return err
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	conn := tls.Server(raw, config)
	if err := conn.Handshake(); err != nil {
		return err
	}
	name := conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	if _, err := io.WriteString(conn, name); err != nil {
		return err
	}
	return conn.Close()
}

// dialOnce connects to a service, and checks both identities: the server's by name, its own by the answer.
func dialOnce(address string, v View, server string) error {
	config, err := v.config()
	if err != nil {
		return err
	}
	config.ServerName = server + ".default.svc"
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	uri := "spiffe://mesh.local/ns/default/svc/" + server
	if uris := conn.ConnectionState().PeerCertificates[0].URIs; len(uris) != 1 || uris[0].String() != uri {
		return fmt.Errorf("the server is %v, want %s", uris, uri)
	}
	// With TLS 1.3 a client learns only here that it was refused.
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if string(answer) != v.Name {
		return fmt.Errorf("the server took %s for %q", v.Name, answer)
	}
	return nil
}

// checkAllPairs connects every service to every other.
func checkAllPairs(t testing.TB, m *Mesh) {
	t.Helper()
	views, pairs := m.Views(), 0
	for _, client := range views {
		for _, server := range views {
			if client.Name == server.Name {
				continue
			}
			pairs++
			if clientErr, serverErr := handshake(client, server); clientErr != nil || serverErr != nil {
				t.Errorf("%s → %s: client: %v, server: %v", client.Name, server.Name, clientErr, serverErr)
			}
		}
	}
	if want := len(m.Services) * (len(m.Services) - 1); pairs != want {
		t.Errorf("%d pairs, want %d", pairs, want)
	}
}

// unknownAuthority says whether an end refused the other's certificate because it knows no root of it.
func unknownAuthority(err error) bool {
	var unknown x509.UnknownAuthorityError
	return errors.As(err, &unknown)
}
