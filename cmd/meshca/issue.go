package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/api/client"
	"github.com/meshca/meshca/profile"
)

type issueOptions struct {
	service, csr, keyOut, out string
	output                    string
}

func issueCommand() *cobra.Command {
	var d door
	var o issueOptions
	cmd := &cobra.Command{
		Use:   "issue SERVICE [--csr FILE | --key-out FILE] [--out DIR]",
		Short: "Ask for a certificate of a service",
		Long: `Ask for a certificate of a service, and write DIR with tls.crt (leaf and issuing CA), tls.key and ca.crt, as the
service's Secret or folder has them. Names, key type and lifetime are the catalogue's.

The key is made here and written, mode 0600, before the CA is asked; it never leaves this machine. No file is ever
overwritten. Where it does not succeed, all that was written is removed again. With --csr there is no key to write.

` + doorHelp + `

Exit code: 0 the files are written, 1 refused, 2 the CA could not be asked.`,
		Example: `  meshca issue bookapi
  meshca issue bookapi --server https://127.0.0.1:8443 --ca mesh/envoy/ca.crt --token-file data/admin.token
  openssl req -new -key my.key -subj / | meshca issue bookapi --csr - --out bookapi`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.service = args[0]
			if err := checkOutput(o.output); err != nil {
				return err
			}
			return issue(cmd, &d, o)
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&o.csr, "csr", "", "certify the key of the CSR in this `FILE`, - for stdin, instead of a new one")
	cmd.Flags().StringVar(&o.keyOut, "key-out", "", "write the private key to this `FILE` instead of DIR/tls.key")
	cmd.Flags().StringVar(&o.out, "out", "", "`DIR` to write to (default ./SERVICE)")
	outputFlag(cmd, &o.output)
	return cmd
}

func issue(cmd *cobra.Command, d *door, o issueOptions) error {
	if o.csr != "" && o.keyOut != "" {
		return &failure{err: errors.New("with --csr there is no key to write: leave out --key-out"), code: exitUnknown}
	}
	if profile.CheckLabel(o.service) != nil {
		return &failure{err: fmt.Errorf("%q cannot be the name of a service", o.service), code: exitNo}
	}
	if o.out == "" {
		o.out = o.service
	}
	s := newSet(o.out)
	if o.keyOut != "" {
		s.key = o.keyOut
	}
	c, err := d.open()
	if err != nil {
		return err
	}
	defer c.Close()
	ask := &asking{door: d, client: c, set: s, send: func(ctx context.Context, csr string) (*client.IssuedCertificate, error) {
		return c.Issue(ctx, client.CertificateRequest{Service: o.service, Csr: &csr})
	}}
	if o.csr != "" {
		if err := ask.useCSR(o.csr, cmd.InOrStdin()); err != nil {
			return err
		}
	} else {
		ask.kind = func(ctx context.Context) (profile.KeyType, error) { return keyType(ctx, c, o.service) }
	}
	return ask.run(cmd, o.output)
}

// keyType is the type of key that the catalogue wants. Who may ask for a certificate and not for the service gets the
// usual one, and the CA has the last word.
func keyType(ctx context.Context, c *client.Client, service string) (profile.KeyType, error) {
	known, err := c.Service(ctx, service)
	var problem *client.Problem
	switch {
	case errors.As(err, &problem) && problem.Status == http.StatusForbidden:
		return profile.ECDSAP256, nil
	case err != nil:
		return "", err
	}
	return profile.ParseKeyType(string(known.KeyType), profile.LeafKeyTypes())
}

// An asking is one request for a certificate, and where it is to be kept.
type asking struct {
	door   *door
	client *client.Client
	set    *set
	send   func(ctx context.Context, csr string) (*client.IssuedCertificate, error)

	kind   func(context.Context) (profile.KeyType, error) // of the key that is made; nil where none is
	public crypto.PublicKey                               // of the key that there is
	csr    string                                         // of the key that there is, "" where none is needed
}

// useCSR has the key of a CSR certified.
func (a *asking) useCSR(path string, stdin io.Reader) (err error) {
	if a.csr, a.public, err = readCSR(path, stdin); err != nil {
		return err
	}
	return a.set.fits(a.public)
}

// run asks and writes. A signal ends it as a failure does: what was written is removed.
func (a *asking) run(cmd *cobra.Command, output string) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	issued, err := a.ask(ctx)
	if err != nil {
		if left := a.set.discard(); left != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", printable(left.Error()))
		}
		return err
	}
	if len(issued.Ignored) > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "ignored in the CSR: %s\n", printable(strings.Join(issued.Ignored, ", ")))
	}
	return writeIssued(cmd.OutOrStdout(), issued, a.set, output)
}

func (a *asking) ask(ctx context.Context) (*client.IssuedCertificate, error) {
	if err := a.prepare(ctx); err != nil {
		return nil, err
	}
	issued, err := a.send(ctx, a.csr)
	if err != nil {
		return nil, a.door.refused(err)
	}
	if err := issued.Check(a.public); err != nil {
		return nil, err
	}
	return issued, a.set.write(issued)
}

// prepare makes everything ready before the CA is asked, the key's file first of all.
func (a *asking) prepare(ctx context.Context) error {
	if !a.set.renewed {
		files := []string{a.set.cert(), a.set.bundle()}
		if a.kind != nil {
			files = append([]string{a.set.key}, files...)
		}
		if err := a.set.free(files...); err != nil {
			return err
		}
	}
	if a.kind == nil {
		return a.set.makeFolder()
	}
	kind, err := a.kind(ctx)
	if err != nil {
		return a.door.refused(err)
	}
	if err := a.set.makeFolder(); err != nil {
		return err
	}
	key, err := a.set.makeKey(kind)
	if err != nil {
		return err
	}
	a.public = key.Public()
	a.csr, err = client.CSR(key)
	return err
}

// An issuedView is what machines are told of a certificate that was written.
type issuedView struct {
	Service    string    `json:"service"`
	Serial     string    `json:"serial"`
	NotBefore  time.Time `json:"notBefore"`
	NotAfter   time.Time `json:"notAfter"`
	RenewAfter time.Time `json:"renewAfter"`
	Ignored    []string  `json:"ignored"`
	CertFile   string    `json:"certFile"`
	KeyFile    string    `json:"keyFile,omitempty"`
	CAFile     string    `json:"caFile"`
}

// writeIssued says what was written, and when it has to be renewed.
func writeIssued(w io.Writer, i *client.IssuedCertificate, s *set, output string) error {
	v := issuedView{Service: i.Service, Serial: i.Serial, NotBefore: i.NotBefore, NotAfter: i.NotAfter, RenewAfter: i.RenewAfter, Ignored: i.Ignored,
		CertFile: s.cert(), CAFile: s.bundle()}
	if exists(s.key) {
		v.KeyFile = s.key
	}
	if output == "json" {
		return writeJSON(w, v)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tSERIAL\tEXPIRES\tRENEW AFTER")
	fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", printable(v.Service), printable(v.Serial), day(v.NotAfter), day(v.RenewAfter))
	if err := table.Flush(); err != nil {
		return err
	}
	written := []string{v.CertFile, v.CAFile}
	if len(s.made) > 0 && v.KeyFile != "" {
		written = append(written, v.KeyFile)
	}
	_, err := fmt.Fprintf(w, "written: %s\n", printable(strings.Join(written, ", ")))
	return err
}

// writeJSON prints for machines.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
