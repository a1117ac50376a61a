package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/api/client"
	"github.com/meshca/meshca/verify"
)

func caCommand() *cobra.Command {
	var d door
	var bundle bool
	var output string
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Show the CA: its roots, its issuing CAs, and the bundle that everybody trusts",
		Long: `Show the roots that everybody trusts, the issuing CAs below them, their fingerprints, and the epoch of that trust. With
--bundle, print the trust bundle itself: the bytes of every ca.crt. That needs no credentials; with --ca-fingerprint it
is how a machine that knows nothing of the CA but a root's fingerprint gets its ca.crt.

` + doorHelp + `

Exit code: 0 printed, 1 refused, 2 the CA could not be asked.`,
		Example: `  meshca ca
  meshca ca --bundle > ca.crt
  meshca ca --bundle --server https://127.0.0.1:8443 --ca-fingerprint 60:02:AF:12:…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return showCA(cmd, &d, bundle, output)
		},
	}
	d.flags(cmd)
	cmd.Flags().BoolVar(&bundle, "bundle", false, "print the trust bundle in PEM, and nothing else")
	outputFlag(cmd, &output)
	return cmd
}

func showCA(cmd *cobra.Command, d *door, bundle bool, output string) error {
	if bundle && output != "table" {
		return &failure{err: errors.New("--bundle prints PEM: leave out -o"), code: exitUnknown}
	}
	c, err := d.open()
	if err != nil {
		return err
	}
	defer c.Close()
	if bundle {
		text, err := c.Bundle(cmd.Context())
		if err != nil {
			return d.refused(err)
		}
		_, err = cmd.OutOrStdout().Write(text)
		return err
	}
	ca, err := c.CA(cmd.Context())
	switch {
	case err != nil:
		return d.refused(err)
	case output == "json":
		return writeJSON(cmd.OutOrStdout(), ca)
	}
	return writeCA(cmd.OutOrStdout(), ca)
}

// writeCA prints the CA for people, in the form of status.
func writeCA(w io.Writer, ca *client.CA) error {
	for _, c := range slices.Concat(ca.Roots, ca.Issuing) {
		cert, err := parseCertificate(c.Certificate)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%-8s  %s  expires %s\n          SHA-256 %s\n", printable(string(c.Role)), printable(cert.Subject.CommonName), day(cert.NotAfter), verify.Fingerprint(cert))
	}
	_, err := fmt.Fprintf(w, "bundle    SHA-256 %s  epoch %d\n", printable(ca.BundleSha256), ca.Epoch)
	return err
}

// parseCertificate reads the first certificate of a text in PEM.
func parseCertificate(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("it holds no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
