package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/api/client"
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
waited for are waited for no longer: first it is printed who might refuse whom. That holds for places that are
left alone too. A place that would have every service trust a CA which none of them does is taken over when it is
named with --continue, and not before.
Exit code: 0 done, 1 there is nothing to do, or what was named is waited for still, 2 no process runs, or it is busy.`,
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
	writeRefusals(out, s, only)
	brings := stranger(s, only)
	if brings != "" {
		fmt.Fprintf(out, "from then on every service accepts whoever is certified by %s\n", brings)
	}
	var whom client.AdoptRequest // all
	if only != "" {
		whom.Service = &only
	}
	_, err = ask(configPath, func(raw client.ClientInterface) (*http.Response, error) { return raw.Adopt(cmd.Context(), whom) })
	if err != nil {
		return err
	}
	if brings != "" {
		fmt.Fprintf(out, "let in: %s is taken over in the next pass, see meshca adopt\n", only)
		return nil
	}
	if s, _, err = askStatus(cmd.Context(), configPath); err != nil {
		return err
	}
	return continued(out, s, only)
}

// stranger is what the named service's place brings and has to be let in, "" where it is nothing.
func stranger(s *rotation.Status, only string) string {
	for _, v := range s.Services {
		if v.Name == only {
			return v.Brings
		}
	}
	return ""
}

// awaited are those that the process waits for, of all or of one.
func awaited(s *rotation.Status, only string) (all []rotation.ServiceStatus) {
	for _, v := range s.Services {
		if v.WaitsFor != "" && (only == "" || v.Name == only) {
			all = append(all, v)
		}
	}
	return all
}

// writeRefusals prints who might refuse whom when those that are waited for are waited for no longer.
func writeRefusals(w io.Writer, s *rotation.Status, only string) {
	if len(s.Waiting) > most {
		fmt.Fprintf(w, "signed anew: %s\n", strings.Join(s.Waiting, ", "))
	}
	for _, v := range awaited(s, only) {
		fmt.Fprintf(w, "readers of %s that do not trust our root yet will refuse the new leaves of %s, with CERTIFICATE_VERIFY_FAILED, until they have read a ca.crt that holds it: %s\n",
			v.Name, some(s.Waiting), v.WaitsFor)
	}
}

// continued says what becomes of an operator's word.
func continued(w io.Writer, s *rotation.Status, only string) error {
	if still := awaited(s, only); len(still) > 0 {
		var lines []string
		for _, v := range still {
			lines = append(lines, fmt.Sprintf("%s is waited for still: %s", v.Name, v.WaitsFor))
		}
		return &failure{err: errors.New(strings.Join(lines, "\n")), code: exitNo}
	}
	if len(s.Awaited) > 0 {
		fmt.Fprintf(w, "continued: leaves are signed anew when these are ready too: %s\n", some(s.Awaited))
		return nil
	}
	fmt.Fprintln(w, "continued: the rest is done in the next pass, see meshca status")
	return nil
}

// most is how many names are told in a row.
const most = 5

// some lists the first of many names.
func some(names []string) string {
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
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", v.Name, v.Place, v.State, next(s, v))
	}
	return table.Flush()
}

// next says what happens to a service, and to others because of it.
func next(s *rotation.Status, v rotation.ServiceStatus) string {
	var steps []string
	if v.Error != "" {
		steps = append(steps, v.Error)
	}
	if v.Brings != "" {
		steps = append(steps, v.Hint)
	}
	switch waits := slices.Contains(s.Waiting, v.Name); {
	case waits && v.WaitsFor != "":
		steps = append(steps, "its leaf is signed anew after: "+v.WaitsFor)
	case waits && len(s.Awaited) > 0:
		steps = append(steps, "its leaf is signed anew when these are ready: "+some(s.Awaited))
	case waits:
		steps = append(steps, "its leaf is signed anew in the next pass")
	case v.WaitsFor != "":
		steps = append(steps, "others wait for it: "+v.WaitsFor)
	case v.Error == "":
		return "nothing: it is ours"
	}
	return strings.Join(steps, "; ")
}
