package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/api/client"
	"github.com/meshca/meshca/profile"
)

func revokeCommand() *cobra.Command {
	var d door
	var reason, output string
	cmd := &cobra.Command{
		Use:   "revoke SERIAL --reason REASON",
		Short: "Revoke a certificate",
		Long: `Revoke a certificate: the next CRL carries it at once, and it stands for nobody any more at the API. It cannot be taken
back. SERIAL is hexadecimal, as meshca list and openssl print it. To say it again changes nothing.

Who may ask for the service may revoke its certificates; over the network the certificate itself may, too: --cert and
--key are then its own. A key that is revoked for keyCompromise never gets a certificate again.

Reasons (RFC 5280): ` + strings.Join(reasonNames(), ", ") + `.

` + doorHelp + `

Exit code: 0 it is revoked, 1 refused, 2 the CA could not be asked.`,
		Example: `  meshca revoke 4025f2fc5955023bef4d168ddc9df7e7 --reason superseded
  meshca revoke 4025f2fc5955023bef4d168ddc9df7e7 --reason keyCompromise --server https://127.0.0.1:8443 \
    --ca bookapi/ca.crt --cert bookapi/tls.crt --key bookapi/tls.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return revoke(cmd, &d, args[0], reason, output)
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why: "+strings.Join(reasonNames(), ", "))
	outputFlag(cmd, &output)
	return cmd
}

func reasonNames() (names []string) {
	for _, r := range profile.Reasons() {
		names = append(names, string(r))
	}
	return names
}

func revoke(cmd *cobra.Command, d *door, serial, reason, output string) error {
	if reason == "" {
		return &failure{err: errors.New("--reason is missing"), code: exitUnknown, hints: []string{"one of " + strings.Join(reasonNames(), ", ")}}
	}
	if _, err := profile.ParseReason(reason); err != nil {
		return &failure{err: err, code: exitUnknown}
	}
	if strings.Trim(serial, "0123456789abcdefABCDEF:") != "" {
		return &failure{err: errors.New("a serial number is hexadecimal"), code: exitUnknown, hints: []string{"meshca list prints them"}}
	}
	c, err := d.open()
	if err != nil {
		return err
	}
	defer c.Close()
	revoked, err := c.Revoke(cmd.Context(), serial, client.RevocationReason(reason))
	if err != nil {
		return d.refused(err)
	}
	if output == "json" {
		return writeJSON(cmd.OutOrStdout(), revoked)
	}
	return writeRevoked(cmd.OutOrStdout(), revoked)
}

func writeRevoked(w io.Writer, c *client.Certificate) error {
	at, why := "", ""
	if c.RevokedAt != nil {
		at = " at " + day(*c.RevokedAt)
	}
	if c.RevocationReason != nil {
		why = ": " + string(*c.RevocationReason)
	}
	_, err := fmt.Fprintln(w, printable(fmt.Sprintf("%s of %s is revoked%s%s", c.Serial, c.Service, at, why)))
	return err
}
