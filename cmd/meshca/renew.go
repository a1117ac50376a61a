package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/api/client"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
)

func renewCommand() *cobra.Command {
	var d door
	var csr, out, output string
	cmd := &cobra.Command{
		Use:   "renew DIR [--csr FILE] [--out NEWDIR]",
		Short: "Renew a certificate that meshca issue has written",
		Long: `Renew the certificate in DIR/tls.crt. DIR/tls.crt and DIR/ca.crt are replaced, the key stays. With --out a new key is
made, and all is written to NEWDIR: a key is never overwritten. With --csr the key is that of the CSR.

Over the network the certificate in DIR proves who asks, with DIR/tls.key, unless a token or another certificate is
named; that works until it has expired or was revoked.

` + doorHelp + `

Exit code: 0 the files are written, 1 refused, 2 the CA could not be asked.`,
		Example: `  meshca renew bookapi
  meshca renew bookapi --server https://127.0.0.1:8443 --ca bookapi/ca.crt
  meshca renew bookapi --out bookapi.new     # with a new key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return renew(cmd, &d, args[0], csr, out, output)
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&csr, "csr", "", "certify the key of the CSR in this `FILE`, - for stdin")
	cmd.Flags().StringVar(&out, "out", "", "make a new key, and write to `NEWDIR`")
	outputFlag(cmd, &output)
	return cmd
}

func renew(cmd *cobra.Command, d *door, dir, csr, out, output string) error {
	old := newSet(dir)
	leaf, err := readLeaf(old.cert())
	if err != nil {
		return err
	}
	serial := issuer.SerialString(leaf)
	if exists(old.key) {
		d.prove(old.cert(), old.key)
	}
	c, err := d.open()
	if err != nil {
		return err
	}
	defer c.Close()
	target := old
	if target.renewed = out == ""; !target.renewed {
		target = newSet(out)
	} else if err := old.notKept(); err != nil {
		return err
	}
	ask := &asking{door: d, client: c, set: target, send: func(ctx context.Context, csr string) (*client.IssuedCertificate, error) {
		return c.Renew(ctx, serial, csr)
	}}
	switch {
	case csr != "":
		err = ask.useCSR(csr, cmd.InOrStdin())
	case out != "":
		ask.kind = func(context.Context) (profile.KeyType, error) { return profile.TypeOf(leaf.PublicKey) }
	default:
		err = ask.useOwn(leaf)
	}
	if err != nil {
		return err
	}
	return ask.run(cmd, output)
}

// useOwn has the key that there is certified again. Who presents the certificate need not prove it twice.
func (a *asking) useOwn(leaf *x509.Certificate) error {
	key, err := a.set.own()
	switch {
	case err != nil:
		return err
	case key == nil:
		return &failure{err: fmt.Errorf("there is no %s to prove who asks", a.set.key), code: exitNo, hints: []string{"make a CSR with the key and use --csr"}}
	case !sameKey(key.Public(), leaf.PublicKey):
		return &failure{err: fmt.Errorf("%s is not the key of %s", a.set.key, a.set.cert()), code: exitNo}
	}
	a.public = key.Public()
	if a.door.itself(a.set.cert()) {
		return nil
	}
	a.csr, err = client.CSR(key)
	return err
}

// readLeaf reads the first certificate of a file.
func readLeaf(path string) (*x509.Certificate, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	leaf, err := parseCertificate(string(content))
	if err != nil {
		return nil, &failure{err: fmt.Errorf("%s: %w", path, err), code: exitNo}
	}
	return leaf, nil
}
