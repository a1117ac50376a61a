package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/kube"
	"github.com/meshca/meshca/localdir"
	"github.com/meshca/meshca/verify"
)

// repairFlags are what the command is given.
type repairFlags struct {
	where        clusterFlags
	from, suffix string
	dryRun, yes  bool
	partial      bool
}

func repairCommand() *cobra.Command {
	var f repairFlags
	cmd := &cobra.Command{
		Use:   "repair --from DIR [-n NAMESPACE] {--dry-run | --yes}",
		Short: "Make a namespace's Secrets those of a folder of certificates",
		Long: `Make the Secrets of a namespace those of a folder of certificates, for a mesh that no meshca keeps.

DIR is read as verify reads it. The service NAME has the Secret NAME-mtls-cert. First the plan is printed:
what each Secret has and would have. With --yes it is carried out: each Secret is written whole, over just
what was looked at. What is equal is not written, and nothing is deleted.

It is refused as a whole where a service's files would not work, where services that accept each other now
would refuse each other afterwards, where a Secret is kept by other software, and where a meshca is live:
Secrets bear its stamp, or its guard is in the cluster. Without the right to list policies the guard is not
seen; a warning says so, and the Secrets decide.
Pods are not restarted: those that hold older files are named, in the order in which to restart them.

Exit code: 0 nothing is left to write, 1 there is (without --yes) or it is refused, 2 it could not be
found out or not be written.`,
		Example: `  meshca repair --from certs/ -n demo          # the plan
  meshca repair --from certs/ -n demo --yes    # carry it out`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return repair(cmd, f) },
	}
	f.where.add(cmd)
	cmd.Flags().StringVar(&f.from, "from", "", "the `DIR` of the certificates")
	cmd.Flags().StringVar(&f.suffix, "suffix", "-mtls-cert", "what follows a service's name in its Secret's")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the plan and write nothing, as without --yes")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "carry the plan out")
	cmd.Flags().BoolVar(&f.partial, "partial", false, "leave services that are refused as they are, and repair the others")
	return cmd
}

func repair(cmd *cobra.Command, f repairFlags) error {
	usage := func(text string) error {
		return &failure{err: errors.New(text), code: exitUnknown, hints: []string{"meshca repair --help"}}
	}
	switch {
	case f.from == "":
		return usage("--from is missing")
	case f.dryRun && f.yes:
		return usage("--dry-run and --yes are opposites")
	}
	services, err := localdir.ReadDir(f.from)
	if err != nil {
		return err
	}
	for i := range services {
		s := &services[i]
		s.Name, s.CertName, s.KeyName = printable(s.Name), printable(s.CertName), printable(s.KeyName)
	}
	client, err := f.where.client()
	if err != nil {
		return err
	}
	plan, notLooked, err := client.PlanRepair(cmd.Context(), kube.RepairOptions{
		Namespace: f.where.namespace, Suffix: f.suffix, From: services, Partial: f.partial, Now: time.Now(),
	})
	if err != nil {
		return clusterFailure(err)
	}
	if notLooked != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: whether a meshca guards this cluster could not be looked at: %s\n", notLooked)
	}
	if err := writePlan(cmd.OutOrStdout(), plan); err != nil {
		return err
	}
	return f.carryOut(cmd, client, plan)
}

// carryOut does what the plan says, if it was asked to and nothing is against it.
func (f *repairFlags) carryOut(cmd *cobra.Command, client *kube.Client, plan *kube.Repair) error {
	out := cmd.OutOrStdout()
	switch {
	case len(plan.Objections) > 0:
		return &failure{err: fmt.Errorf("the repair of namespace %s is refused: nothing was written", plan.Namespace), code: exitNo}
	case plan.Changes() && f.dryRun:
		return errQuietNo
	case plan.Changes() && !f.yes:
		return &failure{err: errors.New("nothing was written"), code: exitNo, hints: []string{"the same with --yes carries it out"}}
	case plan.Changes():
		fmt.Fprintln(out)
	}
	written := 0
	err := client.Repair(cmd.Context(), plan, func(s *kube.RepairStep) {
		written++
		fmt.Fprintf(out, "written: %s\n", s.Secret)
	})
	if err != nil {
		failed := clusterFailure(fmt.Errorf("%w; %d Secrets were written before it", err, written)).(*failure)
		failed.hints = append(failed.hints, "run it again: a new plan goes on from what is there")
		return failed
	}
	older, err := client.OlderPods(cmd.Context(), plan)
	if err != nil {
		return fmt.Errorf("all is written, but which pods must be restarted could not be found out: %w", err)
	}
	return writeRestarts(out, plan, older)
}

// writePlan prints what would be done, and what is against it.
func writePlan(out io.Writer, plan *kube.Repair) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tSECRET\tACTION\tCA (SHA-256)\tLEAF SERIAL\tREASON")
	count := make(map[kube.Action]int)
	for _, s := range plan.Steps {
		count[s.Action]++
		reason := s.Reason
		if reason == "" {
			reason = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Service, s.Secret, s.Action,
			change(s.Action, strings.Join(s.Now.CA, " "), strings.Join(s.Then.CA, " ")),
			change(s.Action, short(s.Now.Serial), short(s.Then.Serial)), reason)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	findings := slices.Concat(plan.Findings, plan.Objections)
	if len(plan.Objections) == 0 {
		fmt.Fprintf(out, "\nafterwards: %s\n", plan.After.Summary())
		findings = append(findings, plan.After.Findings...)
	}
	writeFindings(out, findings)
	_, err := fmt.Fprintf(out, "\nnamespace %s: %d to create, %d to update, %d equal, %d refused\n", plan.Namespace,
		count[kube.Create], count[kube.Update], count[kube.Equal], count[kube.Refuse])
	return err
}

func writeFindings(out io.Writer, findings []verify.Finding) {
	if len(findings) > 0 {
		fmt.Fprintln(out)
	}
	for _, f := range findings {
		fmt.Fprintln(out, printable(f.String()))
		if f.Hint != "" {
			fmt.Fprintf(out, "  hint: %s\n", f.Hint)
		}
	}
}

// change shows what is and what would be, once where it stays.
func change(action kube.Action, now, then string) string {
	if now == "" {
		now = "-"
	}
	if then == "" {
		then = "-"
	}
	switch {
	case action == kube.Refuse:
		return now + " stays"
	case now == then:
		return now
	}
	return now + " → " + then
}

// short cuts a serial number: it is for the eye.
func short(serial string) string {
	const digits = 8
	if len(serial) > digits {
		return serial[:digits] + "…"
	}
	return serial
}

// writeRestarts says which pods hold older files, and how to go about restarting them.
func writeRestarts(out io.Writer, plan *kube.Repair, older []kube.Older) error {
	if len(older) == 0 {
		return nil
	}
	fmt.Fprintf(out, "\nthese pods are older than their Secrets: restart those that do not read their files again by themselves%s\n", inOrder(plan.Order))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, o := range older {
		how := fmt.Sprintf("kubectl delete pod %s -n %s, and make it again: nothing else does", o.Pod, o.Namespace)
		if o.Workload != "" {
			how = fmt.Sprintf("kubectl rollout restart %s -n %s", o.Workload, o.Namespace)
		}
		fmt.Fprintf(table, "  %s\tpod %s\t%s\n", o.Service, o.Pod, how)
	}
	return table.Flush()
}

// inOrder says what the order of the list is worth.
func inOrder(o kube.Order) string {
	switch {
	case len(o.Services) == 0:
		return ""
	case o.Unknown:
		return "; in which order was not looked for: there are too many"
	case o.Any:
		return ", in any order"
	case len(o.Apart) == 0:
		return ", in this order: then no two that accept each other now refuse each other in between"
	}
	var pairs []string
	for _, p := range o.Apart {
		pairs = append(pairs, p[0]+" and "+p[1])
	}
	const shown = 5
	if n := len(pairs); n > shown {
		pairs = append(pairs[:shown], fmt.Sprintf("%d more pairs", n-shown))
	}
	return ", all soon one after the other: until both have restarted, these refuse each other: " + strings.Join(pairs, "; ")
}
