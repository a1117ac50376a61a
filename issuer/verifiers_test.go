package issuer_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/ca/catest"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/test/need"
)

// files are what a verifier reads: ca.crt, issuing.crt, chains and CRLs.
type files string

func (f files) write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(string(f), name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f files) run(t *testing.T, program string, args ...string) (output string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = string(f)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// newFiles issues a good leaf and one that is revoked, and writes them with the CRLs of root and issuing CA.
func newFiles(t *testing.T, k profile.KeyType, at time.Time) (files, *issuer.Issuer) {
	t.Helper()
	f := catest.NewWithKey(t, at, k)
	i := issuer.New(f.Store, f.Authority)
	i.SetCatalogue([]issuer.Policy{policy("pgadmin")})
	good, bad := issue(t, i, "pgadmin", at), issue(t, i, "pgadmin", at)
	revoke(t, i, bad, profile.KeyCompromise, at)
	dir := files(t.TempDir())
	dir.write(t, "ca.crt", f.Authority.Bundle().PEM())
	dir.write(t, "issuing.crt", f.Authority.Issuing().PEM())
	dir.write(t, "good.crt", good.Chain())
	dir.write(t, "revoked.crt", bad.Chain())
	crls, err := i.CRLs(at)
	if err != nil || len(crls) != 2 {
		t.Fatalf("%d CRLs (%v)", len(crls), err)
	}
	dir.write(t, "all.crl", issuer.PEM(crls))
	dir.write(t, "root.crl", issuer.PEM(crls[:1]))
	dir.write(t, "leaves.crl", issuer.PEM(crls[1:]))
	return dir, i
}

// TestCRLsByOpenSSL: with the CRLs of the whole chain OpenSSL accepts a good leaf and refuses a revoked one by error
// 23; where one of them is missing it refuses even the good one, by 3, and where one is old, by 12.
func TestCRLsByOpenSSL(t *testing.T) {
	openssl := need.Program(t, "openssl")
	for _, k := range []profile.KeyType{profile.ECDSAP256, profile.ECDSAP384, profile.RSA2048} {
		t.Run(string(k), func(t *testing.T) {
			dir, _ := newFiles(t, k, now)
			for crl, by := range map[string]string{"root.crl": "ca.crt", "leaves.crl": "issuing.crt"} {
				if out, _ := dir.run(t, openssl, "crl", "-verify", "-CAfile", by, "-noout", "-in", crl); !strings.Contains(out, "verify OK") {
					t.Errorf("%s: %s", crl, out)
				}
			}
			for name, tc := range map[string]struct {
				leaf, crls string
				later      time.Duration
				want       string // OK, or error and depth
			}{
				"good":                        {"good.crt", "all.crl", 0, "OK"},
				"good, clock behind":          {"good.crt", "all.crl", -4 * time.Minute, "OK"},
				"revoked":                     {"revoked.crt", "all.crl", 0, "error 23 at 0 depth"},
				"revoked, clock behind":       {"revoked.crt", "all.crl", -4 * time.Minute, "error 23 at 0 depth"},
				"without the root's":          {"good.crt", "leaves.crl", 0, "error 3 at 1 depth"},
				"without the issuing CA's":    {"good.crt", "root.crl", 0, "error 3 at 0 depth"},
				"on the last day":             {"good.crt", "all.crl", 6*24*time.Hour + 23*time.Hour, "OK"},
				"older than their nextUpdate": {"good.crt", "all.crl", 8 * 24 * time.Hour, "error 12 at 0 depth"},
			} {
				out, ok := dir.run(t, openssl, "verify", "-x509_strict", "-crl_check_all", "-attime", fmt.Sprint(now.Add(tc.later).Unix()),
					"-no-CApath", "-no-CAstore", "-CAfile", "ca.crt", "-CRLfile", tc.crls, "-untrusted", tc.leaf, tc.leaf)
				if ok != (tc.want == "OK") || !strings.Contains(out, tc.want) {
					t.Errorf("%s: want %s, OpenSSL says\n%s", name, tc.want, out)
				}
			}
		})
	}
}

// TestCRLAsPrinted reads the CRL as openssl prints it.
func TestCRLAsPrinted(t *testing.T) {
	openssl := need.Program(t, "openssl")
	dir, i := newFiles(t, profile.ECDSAP256, now)
	text, _ := dir.run(t, openssl, "crl", "-noout", "-text", "-in", "leaves.crl")
	crl, _ := issuingCRL(t, i, now)
	for _, pattern := range []string{
		`Version 2 \(0x1\)`, `Issuer: CN = meshca issuing CA 1 [0-9a-f]{8}\n`, `Last Update: Nov 24 11:55:00 2026 GMT`,
		`Next Update: Dec  1 12:00:00 2026 GMT`, `X509v3 Authority Key Identifier: \n`, fmt.Sprintf(`X509v3 CRL Number: \n +(0x)?(%d|%X)\n`, crl.Number, crl.Number),
		`Revocation Date: Nov 24 11:55:00 2026 GMT\n +CRL entry extensions:\n +X509v3 CRL Reason Code: \n +Key Compromise\n`,
	} {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("no %s in\n%s", pattern, text)
		}
	}
	if strings.Contains(text, "critical") {
		t.Errorf("an extension is critical:\n%s", text)
	}
}

// TestCRLsByGnuTLS: it reads the clock, so the test does too.
func TestCRLsByGnuTLS(t *testing.T) {
	certtool := need.Program(t, "certtool")
	dir, _ := newFiles(t, profile.ECDSAP256, time.Now())
	for leaf, want := range map[string]string{"good.crt": "Verified. The certificate is trusted.", "revoked.crt": "The certificate chain is revoked."} {
		out, _ := dir.run(t, certtool, "--verify", "--load-ca-certificate", "ca.crt",
			"--load-crl", "all.crl", "--infile", leaf)
		if !strings.Contains(out, want) {
			t.Errorf("%s: want %q, GnuTLS says\n%s", leaf, want, out)
		}
	}
	for crl, by := range map[string]string{"root.crl": "ca.crt", "leaves.crl": "issuing.crt"} {
		out, _ := dir.run(t, certtool, "--verify-crl", "--load-ca-certificate", by, "--infile", crl)
		if !strings.Contains(out, "Verified.") {
			t.Errorf("%s: %s", crl, out)
		}
	}
}
