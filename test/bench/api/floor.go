package main

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/meshca/meshca/profile"
)

// The floor is the least that a server for certificates does: it decodes a request, checks the CSR and signs, with
// crypto/x509 alone, the same names and the same settings of TLS. It knows no caller, checks nothing of what it signs,
// and keeps no record.
type floor struct {
	*authority
	template *x509.Certificate
}

// serveFloor is the floor's process. It writes on out where it listens, and its root; it ends with a signal.
func serveFloor(out io.Writer) error {
	a, err := newAuthority()
	if err != nil {
		return err
	}
	now := time.Now()
	window := profile.LeafWindow(now, 720*time.Hour, 5*time.Minute, a.issuing)
	leaf := func(id profile.Identity, key any) (*x509.Certificate, error) {
		return profile.LeafTemplate(id, key, window, a.issuing)
	}
	f := &floor{authority: a}
	names := []string{service, service + ".default.svc", service + ".default.svc.cluster.local"}
	if f.template, err = leaf(profile.Identity{CommonName: service, DNSNames: names, URI: profile.SPIFFEID("mesh.local", "default", service)}, a.key.Public()); err != nil {
		return err
	}
	key, err := profile.ECDSAP256.Generate()
	if err != nil {
		return err
	}
	own, err := leaf(profile.Identity{CommonName: "floor", IPAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		URI: profile.SPIFFEID("mesh.local", "default", "floor")}, key.Public())
	if err != nil {
		return err
	}
	cert, err := sign(own, a.issuing, a.key)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(load{URL: "https://" + l.Addr().String() + "/", CA: pemOf(a.root.Raw)}); err != nil {
		return err
	}
	server := &http.Server{Handler: f, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw, a.issuing.Raw}, PrivateKey: key}}}}
	return server.ServeTLS(l, "", "")
}

// ServeHTTP answers one request.
func (f *floor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	der, err := f.sign(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	leaf, issuing := pemOf(der), pemOf(f.issuing.Raw)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	// The caller may have gone: nobody is left to tell.
	_ = json.NewEncoder(w).Encode(map[string]string{"certificate": leaf, "chain": leaf + issuing, "ca": pemOf(f.root.Raw)})
}

func (f *floor) sign(body io.Reader) ([]byte, error) {
	var asked struct{ Service, CSR string }
	if err := json.NewDecoder(body).Decode(&asked); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(asked.CSR))
	if block == nil {
		return nil, fmt.Errorf("no PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	serial := make([]byte, 16)
	rand.Read(serial)
	template := *f.template
	template.SerialNumber = new(big.Int).SetBytes(serial)
	template.SerialNumber.SetBit(template.SerialNumber, 127, 0)
	return x509.CreateCertificate(rand.Reader, &template, f.issuing, csr.PublicKey, f.key)
}

// startFloor starts the floor's process.
func startFloor(dir string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{name: "floor", cmd: exec.Command(self, "floor")}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := launch(dir, s.cmd); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(line, &s.load)
}
