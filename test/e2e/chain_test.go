package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshca/meshca/test/need"
)

// keyKinds are the config files whose chains other people's verifiers must accept.
var keyKinds = map[string]Settings{
	"defaults":          {},
	"leaf ECDSA-P384":   {Leaf: "key: ECDSA-P384"},
	"leaf Ed25519":      {Leaf: "key: Ed25519"},
	"leaf RSA-2048":     {Leaf: "key: RSA-2048"},
	"CA RSA-2048":       {CAKey: "RSA-2048"},
	"CA ECDSA-P384":     {CAKey: "ECDSA-P384"},
	"all of one length": {CAKey: "RSA-2048", Leaf: "key: RSA-2048"},
	"a kind each": {Services: []string{
		"{name: envoy, key: ECDSA-P256}", "{name: pgadmin, key: ECDSA-P384}", "{name: bookapi, key: Ed25519}",
		"{name: bookapi-mcp-server, key: RSA-2048}", "{name: timescaledb, ipAddresses: [192.0.2.7, 2001:db8::7], commonName: postgres}",
	}},
}

// TestChains verifies every folder's chain with OpenSSL and with GnuTLS, and uses it for real, for each key
// type of leaves and CAs.
func TestChains(t *testing.T) {
	t.Parallel()
	openssl, certtool := need.Program(t, "openssl"), need.Program(t, "certtool")
	for name, settings := range keyKinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := NewMesh(t, settings)
			m.Start()
			for _, service := range fiveServices {
				verifyByOpenSSL(t, openssl, m, service)
				verifyByGnuTLS(t, certtool, m, service)
			}
			if name != "a kind each" { // which has a common name that is not the service's
				CheckInvariants(t, m)
				checkAllPairs(t, m)
			}
		})
	}
}

func verifyByOpenSSL(t *testing.T, openssl string, m *Mesh, service string) {
	t.Helper()
	data := m.Path(service, dataLink)
	for _, purpose := range []string{"sslserver", "sslclient"} {
		a := runCommand(t, data, openssl, "verify", "-x509_strict", "-purpose", purpose, "-verify_hostname", service+".default.svc",
			"-no-CApath", "-no-CAstore", "-CAfile", caFile, "-untrusted", certFile, certFile)
		if a.Code != 0 || strings.TrimSpace(a.Stdout) != certFile+": OK" {
			t.Errorf("%s as %s: %s%s", service, purpose, a.Stdout, a.Stderr)
		}
	}
}

func verifyByGnuTLS(t *testing.T, certtool string, m *Mesh, service string) {
	t.Helper()
	for _, purpose := range []string{"1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"} {
		a := runCommand(t, m.Path(service, dataLink), certtool, "--verify", "--verify-purpose", purpose, "--verify-profile", "medium",
			"--verify-hostname", service+".default.svc", "--load-ca-certificate", caFile, "--infile", certFile)
		if a.Code != 0 || !strings.Contains(a.Stdout, "Chain verification output: Verified. The certificate is trusted.") {
			t.Errorf("%s for %s: exit code %d\n%s%s", service, purpose, a.Code, a.Stdout, a.Stderr)
		}
	}
}

// TestProfile reads the certificates as openssl prints them.
func TestProfile(t *testing.T) {
	t.Parallel()
	openssl := need.Program(t, "openssl")
	m := NewMesh(t, Settings{Services: []string{"{name: envoy, key: RSA-2048}", "{name: pgadmin, ipAddresses: [192.0.2.7]}"}})
	m.Services = []string{"envoy", "pgadmin"}
	m.Start()
	ca := printed(t, openssl, m.Path("pgadmin", caFile), 0)
	issuing := printed(t, openssl, m.Path("pgadmin", certFile), 1)
	pgadmin := printed(t, openssl, m.Path("pgadmin", certFile), 0)
	envoy := printed(t, openssl, m.Path("envoy", certFile), 0)

	const caUsage = `X509v3 Key Usage: critical\n +Certificate Sign, CRL Sign\n`
	checkPrinted(t, "root", ca, []string{caUsage, `X509v3 Basic Constraints: critical\n +CA:TRUE\n`, `Subject: CN ?= ?meshca root g1 [0-9a-f]{8}\n`},
		[]string{"pathlen", "Extended Key Usage", "Name Constraints", "Subject Alternative Name"})
	checkPrinted(t, "issuing CA", issuing, []string{caUsage, `X509v3 Basic Constraints: critical\n +CA:TRUE, pathlen:0\n`,
		`Issuer: CN ?= ?meshca root g1 [0-9a-f]{8}\n`}, []string{"Extended Key Usage", "Name Constraints", "Subject Alternative Name"})
	leaf := func(name, more string) []string {
		return []string{
			`X509v3 Basic Constraints: critical\n +CA:FALSE\n`,
			`X509v3 Extended Key Usage: *\n +TLS Web Server Authentication, TLS Web Client Authentication\n`,
			`X509v3 Subject Alternative Name: *\n +` + fmt.Sprintf("DNS:%[1]s, DNS:%[1]s.default.svc, DNS:%[1]s.default.svc.cluster.local%[2]s, URI:spiffe://mesh.local/ns/default/svc/%[1]s", name, more) + `\n`,
			`Subject: CN ?= ?` + name + `\n`,
			`Issuer: CN ?= ?meshca issuing CA 1 [0-9a-f]{8}\n`,
			`X509v3 Authority Key Identifier`, `X509v3 Subject Key Identifier`,
		}
	}
	absent := []string{"OCSP", "CRL Distribution", "Authority Information Access", "pathlen"}
	checkPrinted(t, "pgadmin", pgadmin, append(leaf("pgadmin", ", IP Address:192.0.2.7"), `X509v3 Key Usage: critical\n +Digital Signature\n`), absent)
	checkPrinted(t, "envoy", envoy, append(leaf("envoy", ""), `X509v3 Key Usage: critical\n +Digital Signature, Key Encipherment\n`), absent)
}

// printed is the text of the n-th certificate of a file.
func printed(t *testing.T, openssl, path string, n int) string {
	t.Helper()
	blocks := strings.SplitAfter(string(readFile(t, path)), "-----END CERTIFICATE-----\n")
	one := filepath.Join(t.TempDir(), "one.crt")
	writeFile(t, one, []byte(blocks[n]))
	a := runCommand(t, "", openssl, "x509", "-in", one, "-noout", "-text")
	if a.Code != 0 {
		t.Fatal(a.Stderr)
	}
	return a.Stdout
}

func checkPrinted(t *testing.T, what, text string, present, absent []string) {
	t.Helper()
	for _, pattern := range present {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("%s: no %q in\n%s", what, pattern, text)
		}
	}
	for _, words := range absent {
		if strings.Contains(text, words) {
			t.Errorf("%s: %q is in it\n%s", what, words, text)
		}
	}
}
