package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/rotation"
)

func adoptCommand() *cobra.Command {
	var configPath string
	var proceed bool
	cmd := &cobra.Command{
		Use:   "adopt [SERVICE] --config FILE [--continue]",
		Short: "Show how services of another CA are taken over, and go on where it waits",
		Long: `Ask the running process how it takes over services that another CA has made certificates for. First every
ca.crt gets the union of trust; leaves are signed anew when every process that reads one is known to have
loaded the union. Without --continue the plan is printed and nothing is changed. With it, processes that are
waited for are waited for no longer: first it is printed who might refuse whom.
Exit code: 0 done, 1 there is nothing to do, 2 no process runs, or it is busy.`,
		Example: `  meshca adopt --config meshca.yaml
  meshca adopt pgadmin --config meshca.yaml --continue`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			only := ""
			if len(args) > 0 {
				only = args[0]
			}
			return adopt(cmd, configPath, only, proceed)
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().BoolVar(&proceed, "continue", false, "wait no longer for those that may not have loaded the union of trust")
	return cmd
}

func adopt(cmd *cobra.Command, configPath, only string, proceed bool) error {
	s, _, err := askStatus(cmd.Context(), configPath)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if err := writeAdoption(out, s, only); err != nil || !proceed {
		return err
	}
	for _, v := range s.Services {
		if v.State == rotation.StateTaking && v.WaitsFor != "" && (only == "" || v.Name == only) {
			fmt.Fprintf(out, "readers of %s that hold its old ca.crt will refuse every service that is signed anew, with CERTIFICATE_VERIFY_FAILED, until they read it again\n", v.Name)
		}
	}
	if err := order(cmd.Context(), configPath, "/v1/adopt", only); err != nil {
		return err
	}
	fmt.Fprintln(out, "continued: the rest is done in the next pass, see meshca status")
	return nil
}

// some lists the first of many names.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// writeAdoption prints what is being taken over, and what each service waits for.
func writeAdoption(w io.Writer, s *rotation.Status, only string) error {
	for _, anchor := range s.Foreign {
		fmt.Fprintf(w, "in the bundle: %s\n", anchor.Why)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tPLACE\tSTATE\tNEXT")
	for _, v := range s.Services {
		if only != "" && v.Name != only {
			continue
		}
		next := "nothing: it is ours"
		switch {
		case v.State == rotation.StateTaking && v.WaitsFor == "":
			next = "its leaf is signed anew when these are ready: " + some(s.Awaited)
		case v.State == rotation.StateTaking:
			next = "its leaf is signed anew after: " + v.WaitsFor
		case v.Error != "":
			next = v.Error
			if v.WaitsFor != "" {
				next += "; others wait for it: " + v.WaitsFor
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", v.Name, v.Place, v.State, next)
	}
	return table.Flush()
}
