package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/api/client"
	"github.com/meshca/meshca/rotation"
)

// Where a pod finds what it asks with: one projected volume holds a token (audience meshca) and the ConfigMap meshca-ca,
// whose file is ca.crt.
const (
	mounted   = "/var/run/secrets/meshca.io"
	tokenFile = "token"
)

// usualConfig is the config file of the process that is asked where the command line does not say.
const usualConfig = "meshca.yaml"

// A door is the way by which a command asks the CA: over the network, or through the socket of a process on this
// machine.
type door struct {
	config string
	over   client.Config // its Socket comes from the config file
}

func (d *door) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&d.config, "config", "c", "", "ask the process on this machine that runs for this config `FILE` (default ./"+usualConfig+")")
	f.StringVar(&d.over.Server, "server", "", "ask the API at this `URL`, https://HOST[:PORT]")
	f.StringVar(&d.over.CAFile, "ca", "", "trust bundle of the server, a `FILE` in PEM (default "+mounted+"/"+rotation.CAFile+" if it exists)")
	f.StringVar(&d.over.CAFingerprint, "ca-fingerprint", "", "instead of --ca: SHA-256 of a root in `HEX`; the root is fetched from the server")
	f.StringVar(&d.over.TokenFile, "token-file", "", "`FILE` with the caller's token (default "+mounted+"/"+tokenFile+" if it exists)")
	f.StringVar(&d.over.CertFile, "cert", "", "instead of a token: client certificate of this CA, a `FILE` in PEM")
	f.StringVar(&d.over.KeyFile, "key", "", "`FILE` with the client certificate's key")
}

// doorHelp is what the commands that ask say of how they do it.
const doorHelp = `With --server the API is asked over the network; the server is trusted by --ca or --ca-fingerprint, the caller is
known by a token or a client certificate. Without it, the process that runs for --config on this machine is asked
through the socket beside its store, which makes its owner an operator.`

// wrong is a command line that cannot be meant.
func (d *door) wrong(why string) error {
	return &failure{err: errors.New(why), code: exitUnknown, hints: []string{"meshca issue --help says how the CA is asked"}}
}

// remote says whether the network is asked.
func (d *door) remote() bool { return d.over.Server != "" }

// prove has the caller be known by a certificate, where the command line does not say otherwise.
func (d *door) prove(certFile, keyFile string) {
	if d.remote() && d.over.TokenFile == "" && d.over.CertFile == "" && d.over.KeyFile == "" {
		d.over.CertFile, d.over.KeyFile = certFile, keyFile
	}
}

// itself says whether the caller is known by that certificate, and by it alone.
func (d *door) itself(certFile string) bool { return d.remote() && d.over.CertFile == certFile }

// open makes the client. Nothing is asked yet.
func (d *door) open() (*client.Client, error) {
	over, err := d.way(mounted)
	if err != nil {
		return nil, err
	}
	c, err := client.New(over)
	if err != nil {
		return nil, d.wrong(err.Error())
	}
	return c, nil
}

// way is what the flags say of whom to ask and as whom, with what a pod finds in the volume that is mounted there.
func (d *door) way(volume string) (client.Config, error) {
	over := d.over
	switch {
	case over.TokenFile != "" && over.CertFile != "":
		return over, d.wrong("--token-file and --cert are two callers: leave one out")
	case over.Server != "" && d.config != "":
		return over, d.wrong("--server and --config are two ways to ask: leave one out")
	case over.Server == "" && over != client.Config{}:
		return over, d.wrong("--ca, --ca-fingerprint, --token-file, --cert and --key go with --server")
	case over.Server == "":
		return d.socket()
	}
	if bundle := filepath.Join(volume, rotation.CAFile); over.CAFile == "" && over.CAFingerprint == "" && exists(bundle) {
		over.CAFile = bundle
	}
	if token := filepath.Join(volume, tokenFile); over.TokenFile == "" && over.CertFile == "" && exists(token) {
		over.TokenFile = token
	}
	return over, nil
}

// socket is the way through the socket of the config's process.
func (d *door) socket() (over client.Config, err error) {
	if d.config == "" {
		if !exists(usualConfig) {
			return over, d.wrong("whom to ask? neither --server nor --config is given, and there is no " + usualConfig + " here")
		}
		d.config = usualConfig
	}
	cfg, err := loadConfig(d.config)
	if err != nil {
		return over, err
	}
	return client.Config{Socket: socketPath(cfg)}, nil
}

// refused is the failure for an error of the client's: the CA's no is 1, all else is that it could not be asked.
func (d *door) refused(err error) error {
	var problem *client.Problem
	var root *client.UntrustedError
	var cert *tls.CertificateVerificationError
	f := &failure{err: err, code: exitUnknown}
	switch {
	case err == nil:
		return nil
	case errors.As(err, &problem):
		if said(problem) {
			f.code = exitNo
		}
		if problem.Status == http.StatusUnauthorized {
			f.hints = d.whoAsks()
		}
	case !d.remote() && noProcess(err):
		f.err = fmt.Errorf("no process runs for %s: %w", d.config, err)
		f.hints = []string{"meshca serve --config " + d.config}
	case errors.As(err, &root):
		f.hints = []string{"this is not the CA that was meant, or its root has been rotated: openssl x509 -noout -fingerprint -sha256 -in ca.crt prints a root's"}
	case errors.As(err, &cert):
		f.hints = []string{"somebody else answers there, or the trust bundle is another CA's: no credentials were sent"}
	case errors.Is(err, context.Canceled):
		f.err = errors.New("interrupted")
	}
	return f
}

// said tells a no from a not now.
func said(p *client.Problem) bool {
	return p.Status >= 400 && p.Status < 500 && p.Status != http.StatusTooManyRequests && p.Kind() != "request-under-way"
}

// whoAsks says how the caller can be known who is not.
func (d *door) whoAsks() []string {
	switch {
	case d.over.CertFile != "":
		return []string{"a certificate that has expired or was revoked proves nothing any more: meshca issue gets another one"}
	case d.over.TokenFile == "" && !exists(filepath.Join(mounted, tokenFile)):
		return []string{"say who asks: --token-file FILE, or --cert FILE --key FILE"}
	}
	return nil
}

// noProcess says whether nobody listens at a socket.
func noProcess(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
