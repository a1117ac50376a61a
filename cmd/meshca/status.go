package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/rotation"
)

func statusCommand() *cobra.Command {
	var configPath, output string
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "Ask the running process what it keeps",
		Long: `Ask the running process, through the socket beside its store, what it keeps: the CA, the trust bundle,
each service's certificate, when it is due, and what stands in the way.

Exit code: 0 every service is kept, 1 something stands in the way or a CRL is overdue, 2 no process runs.`,
		Example: `  meshca status --config meshca.yaml
  meshca status --config meshca.yaml -o json | jq .services`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			return showStatus(cmd, configPath, output)
		},
	}
	configFlag(cmd, &configPath)
	outputFlag(cmd, &output)
	return cmd
}

func showStatus(cmd *cobra.Command, configPath, output string) error {
	s, body, err := askStatus(cmd.Context(), configPath)
	if err != nil {
		return err
	}
	if output == "json" {
		_, err = cmd.OutOrStdout().Write(body)
	} else {
		err = writeStatus(cmd.OutOrStdout(), s)
	}
	if err != nil {
		return err
	}
	if !allWell(s) {
		return errQuietNo
	}
	return nil
}

// allWell says whether nothing needs anybody's attention.
func allWell(s *rotation.Status) bool {
	for _, service := range s.Services {
		if service.State != rotation.StateKept && service.State != rotation.StateTaking {
			return false
		}
	}
	return s.Sweep.Error == "" && !slices.ContainsFunc(s.CRLs, func(c rotation.CRLStatus) bool { return c.Overdue })
}

// writeStatus prints the status for people.
func writeStatus(w io.Writer, s *rotation.Status) error {
	now := time.Now()
	for _, root := range s.Roots {
		fmt.Fprintf(w, "root      %s  expires %s\n          SHA-256 %s\n", root.Name, day(root.NotAfter), root.Fingerprint)
	}
	fmt.Fprintf(w, "issuing   %s  expires %s\n", s.Issuing.Name, day(s.Issuing.NotAfter))
	fmt.Fprintf(w, "bundle    SHA-256 %s  epoch %d\n", s.Bundle, s.Epoch)
	for _, anchor := range s.Foreign {
		fmt.Fprintf(w, "foreign   %s\n", anchor.Why)
	}
	for _, c := range s.CRLs {
		fmt.Fprintf(w, "CRL       %s  number %d  until %s\n", c.Issuer, c.Number, day(c.NextUpdate))
	}
	for _, name := range s.NoCRL {
		fmt.Fprintf(w, "no CRL    %s\n", name)
	}
	fmt.Fprintf(w, "store     %s\n", s.Store)
	fmt.Fprintf(w, "sweep     last %s; schedule last %s, next %s\n\n", ago(s.Sweep.At, now), ago(s.LastRun, now), day(s.NextRun))

	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tSTATE\tSERIAL\tEXPIRES\tDUE\tHEALED\tLAST HEAL")
	for _, v := range s.Services {
		serial, expires, due := "-", "-", "-"
		if v.Serial != "" {
			serial, expires, due = v.Serial, day(v.NotAfter), day(v.Due)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", v.Name, v.State, serial, expires, due, v.Healed, ago(v.LastHeal, now))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return writeTroubles(w, s)
}

// writeTroubles prints what stands in the way, with the ways on.
func writeTroubles(w io.Writer, s *rotation.Status) error {
	for _, v := range s.Services {
		switch {
		case v.Error != "":
			fmt.Fprintf(w, "\n%s %s: %s %s\n", v.State, v.Name, v.Place, v.Error)
		case v.State == rotation.StateAlarm:
			fmt.Fprintf(w, "\n%s %s: %d foreign writes within ten minutes\n", v.State, v.Name, v.ForeignWrites)
		case v.WaitsFor != "":
			fmt.Fprintf(w, "\n%s %s: waits for %s\n", v.State, v.Name, v.WaitsFor)
		}
		if v.Hint != "" {
			fmt.Fprintf(w, "  hint: %s\n", v.Hint)
		}
		if v.WaitsFor != "" && (v.Error != "" || v.State == rotation.StateAlarm) {
			fmt.Fprintf(w, "  others wait for it: %s\n", v.WaitsFor)
		}
		for _, r := range v.Remarks {
			fmt.Fprintf(w, "\nremark %s: %s %s\n", v.Name, v.Place, r.Text)
			if r.Hint != "" {
				fmt.Fprintf(w, "  hint: %s\n", r.Hint)
			}
		}
	}
	for _, c := range s.CRLs {
		if c.Overdue {
			fmt.Fprintf(w, "\noverdue: the CRL of %s\n  hint: it ends at %s, and verifiers that check CRLs refuse everything below it then\n", c.Issuer, day(c.NextUpdate))
		}
	}
	if s.Sweep.Error != "" {
		fmt.Fprintf(w, "\nlast sweep: %s\n", s.Sweep.Error)
	}
	return nil
}

func day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return now.Sub(t).Round(time.Second).String() + " ago"
}
