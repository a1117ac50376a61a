package main

import (
	"fmt"
	"io"
	"iter"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/api/client"
	"github.com/meshca/meshca/profile"
)

type listOptions struct {
	service, state, expiresBefore, issuer string
	limit                                 int
	output                                string
}

// maxPage is the most that the API gives at once.
const maxPage = 500

func listCommand() *cobra.Command {
	var d door
	var o listOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the certificates that were issued",
		Long: `List certificates, from the oldest to the newest: an operator sees all, others those of the services that they may
ask for.

` + doorHelp + `

Exit code: 0 listed, also where there are none, 1 refused, 2 the CA could not be asked.`,
		Example: `  meshca list --service bookapi --state valid
  meshca list --expires-before 72h     # within three days
  meshca list --limit 0 -o json | jq -r '.certificates[].serial'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(o.output); err != nil {
				return err
			}
			return list(cmd, &d, o)
		},
	}
	d.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.service, "service", "", "those of this `SERVICE`")
	f.StringVar(&o.state, "state", "", "those in this `STATE`: valid, revoked, expired or undelivered")
	f.StringVar(&o.expiresBefore, "expires-before", "", "those that expire before this `TIME`: 2026-12-24T18:00:00Z, or 72h from now")
	f.StringVar(&o.issuer, "issuer", "", "those of the issuing CA with this subject key identifier, in `HEX`")
	f.IntVar(&o.limit, "limit", 100, "how many at most; 0 for all")
	outputFlag(cmd, &o.output)
	return cmd
}

// filter reads the options.
func (o *listOptions) filter(now time.Time) (f client.ListCertificatesParams, err error) {
	wrong := func(format string, a ...any) error { return &failure{err: fmt.Errorf(format, a...), code: exitUnknown} }
	if o.limit < 0 {
		return f, wrong("--limit %d is negative", o.limit)
	}
	size := int32(maxPage)
	if o.limit > 0 && o.limit < maxPage {
		size = int32(o.limit + 1) // one more says whether there are more
	}
	f.Limit = &size
	if o.service != "" {
		if profile.CheckLabel(o.service) != nil {
			return f, wrong("%q cannot be the name of a service", o.service)
		}
		f.Service = &o.service
	}
	if o.state != "" {
		state := client.CertificateState(o.state)
		if !state.Valid() {
			return f, wrong("--state %q is not valid, revoked, expired or undelivered", o.state)
		}
		f.State = &state
	}
	if o.issuer != "" {
		f.Issuer = &o.issuer
	}
	if o.expiresBefore != "" {
		at, err := parseInstant(o.expiresBefore, now)
		if err != nil {
			return f, err
		}
		f.ExpiresBefore = &at
	}
	return f, nil
}

// parseInstant reads a time, or how long it is until then.
func parseInstant(s string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, s); err == nil {
		return at, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(d).UTC().Truncate(time.Second), nil
	}
	return time.Time{}, &failure{err: fmt.Errorf("--expires-before %q is no time", s), code: exitUnknown, hints: []string{"2026-12-24T18:00:00Z, or 72h from now"}}
}

func list(cmd *cobra.Command, d *door, o listOptions) error {
	filter, err := o.filter(time.Now())
	if err != nil {
		return err
	}
	c, err := d.open()
	if err != nil {
		return err
	}
	defer c.Close()
	found, more, err := collect(c.Certificates(cmd.Context(), filter), o.limit)
	if err != nil {
		return d.refused(err)
	}
	if o.output == "json" {
		err = writeJSON(cmd.OutOrStdout(), found)
	} else {
		err = writeCertificates(cmd.OutOrStdout(), found)
	}
	if err == nil && more {
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "there are more than %d: --limit 0 lists all\n", o.limit)
	}
	return err
}

// collect takes at most limit certificates, all where it is 0, and says whether there are more.
func collect(all iter.Seq2[*client.Certificate, error], limit int) (found *client.CertificateList, more bool, err error) {
	found = &client.CertificateList{Certificates: []client.Certificate{}}
	for certificate, err := range all {
		switch {
		case err != nil:
			return nil, false, err
		case limit > 0 && len(found.Certificates) == limit:
			return found, true, nil
		}
		found.Certificates = append(found.Certificates, *certificate)
	}
	return found, false, nil
}

func writeCertificates(w io.Writer, l *client.CertificateList) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERIAL\tSERVICE\tSTATE\tISSUED\tEXPIRES\tASKED BY")
	for _, c := range l.Certificates {
		caller := "-"
		if c.Caller != nil {
			caller = *c.Caller
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(c.Serial), printable(c.Service), printable(string(c.State)), day(c.IssuedAt), day(c.NotAfter), printable(caller))
	}
	return table.Flush()
}
