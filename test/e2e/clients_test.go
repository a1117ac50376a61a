package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshca/meshca/test/need"
)

// TestClients: whatever a caller is written in, it gets a certificate, renews it by presenting it, and uses it with a
// peer that is written in something else.
func TestClients(t *testing.T) {
	m := NewMesh(t, Settings{})
	admin := newAPIClient(t, m, m.Serve().AwaitServing())
	c := &clientTools{t: t, admin: admin, peer: "bookapi"}
	c.port = c.servePeer()
	t.Run("Curl", func(t *testing.T) { c.in(t).curl() })
	t.Run("OpenSSL", func(t *testing.T) { c.in(t).openssl() })
	t.Run("Java", func(t *testing.T) { c.in(t).java() })
}

// clientTools runs callers in folders with ca.crt, the admin's token, tls.key and tls.csr.
type clientTools struct {
	t     testing.TB
	admin *apiClient
	dir   string
	peer  string // the service that the peer in Node serves as, at port
	port  string
}

// in is the same with a folder of its own.
func (c clientTools) in(t testing.TB) *clientTools {
	c.t, c.dir = t, t.TempDir()
	csr, key := newCSR(t)
	for name, content := range map[string]string{"tls.csr": csr, "tls.key": key, "token": c.admin.token,
		"header": "Authorization: Bearer " + c.admin.token, caFile: string(readFile(t, c.admin.m.Path("envoy", caFile)))} {
		writeFile(t, filepath.Join(c.dir, name), []byte(content))
	}
	return &c
}

// run runs a program that must succeed, and returns what it prints.
func (c *clientTools) run(name string, args ...string) string {
	c.t.Helper()
	a := runCommand(c.t, c.dir, need.Program(c.t, name), args...)
	if a.Code != 0 {
		c.t.Fatalf("%s: code %d\n%s%s", name, a.Code, a.Stdout, a.Stderr)
	}
	return a.Stdout
}

// seenAs wants the peer to have seen the service's name.
func (c *clientTools) seenAs(service, answer string) {
	c.t.Helper()
	if got := strings.TrimSpace(answer); got != service && !strings.HasSuffix(got, "\n"+service) {
		c.t.Errorf("the peer saw %q, want %s", got, service)
	}
}

// request writes the body of a request into the folder, and returns it.
func (c *clientTools) request(service string) string {
	body := apiBody(c.t, map[string]any{"service": service, "csr": string(readFile(c.t, filepath.Join(c.dir, "tls.csr")))})
	writeFile(c.t, filepath.Join(c.dir, "body"), []byte(body))
	return body
}

// serial is that of the certificate in tls.crt, as OpenSSL prints it.
func (c *clientTools) serial() string {
	_, serial, _ := strings.Cut(strings.TrimSpace(c.run("openssl", "x509", "-in", "tls.crt", "-noout", "-serial")), "=")
	return serial
}

func (c *clientTools) curl() {
	c.request("pgadmin")
	common := []string{"-sS", "--fail-with-body", "--cacert", caFile, "-X", "POST", "-H", "Accept: application/pem-certificate-chain"}
	chain := c.run("curl", append(common, "-H", "@header", "-H", "Content-Type: application/json", "-d", "@body", c.admin.address+"/v1/certificates")...)
	writeFile(c.t, filepath.Join(c.dir, certFile), []byte(chain))
	renewed := c.run("curl", append(common, "--cert", certFile, "--key", keyFile, c.admin.address+"/v1/certificates/"+c.serial()+"/renew")...)
	writeFile(c.t, filepath.Join(c.dir, certFile), []byte(renewed))
	c.seenAs("pgadmin", c.run("curl", "-sS", "--cacert", caFile, "--cert", certFile, "--key", keyFile,
		"--resolve", c.peer+":"+c.port+":127.0.0.1", "https://"+c.peer+":"+c.port+"/"))
}

// openssl speaks HTTP by hand.
func (c *clientTools) openssl() {
	api := strings.TrimPrefix(c.admin.address, "https://")
	chain := c.speak(api, "localhost", nil, "POST /v1/certificates HTTP/1.1", "Authorization: Bearer "+c.admin.token,
		"Accept: application/pem-certificate-chain", "Content-Type: application/json", c.request("timescaledb"))
	writeFile(c.t, filepath.Join(c.dir, certFile), []byte(chain))
	mine := []string{"-cert", certFile, "-cert_chain", certFile, "-key", keyFile}
	c.speak(api, "localhost", mine, "POST /v1/certificates/"+c.serial()+"/renew HTTP/1.1", "Accept: application/pem-certificate-chain", "")
	c.seenAs("timescaledb", c.speak("127.0.0.1:"+c.port, c.peer, mine, "GET / HTTP/1.1", ""))
}

// speak sends one request through `openssl s_client`, which ends where it does not trust the name, and returns the body
// of the answer. The last of the lines is the request's body.
func (c *clientTools) speak(address, name string, more []string, lines ...string) string {
	c.t.Helper()
	lines, body := lines[:len(lines)-1], lines[len(lines)-1]
	text := strings.Join(append(lines, "Host: "+name, "Connection: close", fmt.Sprintf("Content-Length: %d", len(body)), "", body), "\r\n")
	cmd := exec.Command(need.Program(c.t, "openssl"), append([]string{"s_client", "-connect", address, "-servername", name, "-verify_hostname", name,
		"-CAfile", caFile, "-verify_return_error", "-quiet", "-ign_eof"}, more...)...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stderr = c.dir, strings.NewReader(text), &stderr
	answer, err := cmd.Output()
	head, content, found := strings.Cut(string(answer), "\r\n\r\n")
	if err != nil || !found || !strings.HasPrefix(head, "HTTP/1.1 20") {
		c.t.Fatalf("openssl s_client: %v\n%s%s", err, answer, stderr.String())
	}
	if strings.Contains(head, "Transfer-Encoding: chunked") { // one chunk, of Node
		_, content, _ = strings.Cut(content, "\r\n")
		content, _, _ = strings.Cut(content, "\r\n")
	}
	return content
}

// java has its key and CSR from keytool.
func (c *clientTools) java() {
	store := []string{"-alias", "key", "-keystore", "store.p12", "-storepass", "changeit"}
	c.run("keytool", append([]string{"-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-dname", "CN=anything"}, store...)...)
	c.run("keytool", append([]string{"-certreq", "-file", "tls.csr"}, store...)...)
	c.seenAs("bookapi-mcp-server", c.run("java", source(c.t, "Client.java"), c.admin.address, "bookapi-mcp-server", c.peer, c.port))
}

// servePeer starts the peer, a caller in Node, and returns its port.
func (c clientTools) servePeer() string {
	n := c.in(c.t)
	cmd := exec.Command(need.Program(c.t, "node"), source(c.t, "peer.mjs"), c.admin.address, c.peer)
	var out, problems output
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.dir, &out, &problems
	must(c.t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process, which the cleanup kills
	c.t.Cleanup(func() { _ = cmd.Process.Kill() })
	var port string
	await(c.t, "the peer listens", func() error {
		select {
		case err := <-ended:
			c.t.Fatalf("node: %v\n%s%s", err, out.String(), problems.String())
		default:
		}
		if port = strings.TrimSpace(out.String()); port == "" {
			return errors.New("it has printed no port")
		}
		connection, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return err
		}
		return connection.Close()
	})
	return port
}

// source is the path of a program in testdata.
func source(t testing.TB, name string) string {
	dir, err := os.Getwd()
	must(t, err)
	return filepath.Join(dir, "testdata", name)
}
