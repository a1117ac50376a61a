package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/config"
	"github.com/meshca/meshca/kube"
	"github.com/meshca/meshca/verify"
)

// clusterFlags say which cluster is meant, and which of its namespaces.
type clusterFlags struct {
	connect   kube.Options
	namespace string
	all       bool // only where the command has -A
}

func (f *clusterFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.connect.Kubeconfig, "kubeconfig", "", "the kubeconfig `FILE`; kubectl's default where it is left out")
	cmd.Flags().StringVar(&f.connect.Context, "context", "", "the `NAME` of the kubeconfig's context")
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "the `NAMESPACE`; the context's own where it is left out")
}

// given says whether a cluster was asked for.
func (f *clusterFlags) given(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"kubeconfig", "context", "namespace", "all-namespaces"}, cmd.Flags().Changed)
}

// client connects, and fills in the namespace.
func (f *clusterFlags) client(secrets ...string) (*kube.Client, error) {
	client, err := kube.Connect(f.connect)
	if err != nil {
		return nil, err
	}
	if f.namespace == "" {
		f.namespace = client.Namespace()
	}
	if f.all {
		f.namespace = ""
	}
	for _, name := range secrets {
		if err := kube.CheckName(name); err != nil {
			return nil, err
		}
	}
	if f.namespace != "" {
		err = kube.CheckNamespace(f.namespace)
	}
	return client, err
}

// verifyCluster verifies the Secrets of a namespace, of all, or those that are named.
func verifyCluster(cmd *cobra.Command, where clusterFlags, configPath string, secrets []string, output string) error {
	switch {
	case configPath != "":
		return verifyCatalogue(cmd, where, configPath, secrets, output)
	case where.all && (where.namespace != "" || len(secrets) > 0):
		return &failure{err: errors.New("-A is every namespace: leave out -n and the names of Secrets"), code: exitUnknown}
	}
	client, err := where.client(secrets...)
	if err != nil {
		return err
	}
	if len(secrets) == 0 {
		mesh, err := client.ReadNamespace(cmd.Context(), where.namespace)
		if err != nil {
			return clusterFailure(err)
		}
		if len(mesh.Services)+len(mesh.Unread) == 0 {
			return fmt.Errorf("%s no Secret with the keys tls.crt and ca.crt", namespaceHolds(where.namespace))
		}
		return printMesh(cmd, mesh, output)
	}
	var items []kube.Item
	for _, name := range secrets {
		items = append(items, kube.Item{Service: name, Namespace: where.namespace, Secret: name})
	}
	mesh, err := client.ReadSecrets(cmd.Context(), items)
	if err != nil {
		return clusterFailure(err)
	}
	return printMesh(cmd, mesh, output)
}

// verifyCatalogue verifies the Secrets of a catalogue's services.
func verifyCatalogue(cmd *cobra.Command, where clusterFlags, configPath string, secrets []string, output string) error {
	if where.all || where.namespace != "" || len(secrets) > 0 {
		return &failure{err: errors.New("--config says which services are meant: leave out namespaces and names of Secrets"), code: exitUnknown}
	}
	cfg, err := loadConfig(configPath)
	if err != nil {
		return err
	}
	if cfg.Target.Kubernetes == nil {
		return &failure{err: fmt.Errorf("%s keeps folders: leave out the flags of a cluster", configPath), code: exitUnknown}
	}
	return verifySecrets(cmd, where, cfg, output)
}

// verifySecrets verifies the Secrets of the services that a config names.
func verifySecrets(cmd *cobra.Command, where clusterFlags, cfg *config.Config, output string) error {
	client, err := where.client()
	if err != nil {
		return err
	}
	var items []kube.Item
	for _, s := range kubeServices(cfg) {
		items = append(items, kube.Item{Service: s.Name, Namespace: s.Namespace, Secret: s.Secret})
	}
	mesh, err := client.ReadSecrets(cmd.Context(), items)
	if err != nil {
		return clusterFailure(err)
	}
	return printMesh(cmd, mesh, output)
}

func namespaceHolds(namespace string) string {
	if namespace == "" {
		return "the cluster holds"
	}
	return fmt.Sprintf("namespace %s holds", namespace)
}

// clusterFailure gives what the API server did not answer its way on.
func clusterFailure(err error) error {
	f := &failure{err: err, code: exitUnknown}
	switch e, ok := errors.AsType[*kube.Error](err); {
	case !ok:
	case e.Kind == kube.Forbidden: // it is a person's account, not meshca's
		f.hints = []string{"to repair takes the rights to list, create and patch secrets, and to list pods"}
	case e.Hint() != "":
		f.hints = []string{e.Hint()}
	}
	return f
}

// A meshReport is the report of services in a cluster.
type meshReport struct {
	*verify.Report
	Older  []kube.Older `json:"mayHoldOlderFiles"`
	Unread []string     `json:"unread"`
}

// printMesh verifies what was read in a cluster, and prints it.
func printMesh(cmd *cobra.Command, mesh *kube.Mesh, output string) error {
	r := meshReport{Report: mesh.Report(time.Now()), Older: mesh.Older, Unread: []string{}}
	if r.Older == nil {
		r.Older = []kube.Older{}
	}
	for _, e := range mesh.Unread {
		r.Unread = append(r.Unread, e.Error())
	}
	out := cmd.OutOrStdout()
	var err error
	if output == "json" {
		err = printJSON(out, r)
	} else {
		err = errors.Join(r.WriteTable(out), writeOlder(out, r.Older))
		if n := len(r.Unread); n > 0 {
			fmt.Fprintf(out, "\nthis is not all: what could not be read is named in %d errors\n", n)
		}
	}
	switch {
	case err != nil:
		return err
	case len(mesh.Unread) > 0:
		return unread(mesh.Unread)
	case !r.OK():
		return errQuietNo
	}
	return nil
}

// unread is the failure of which each line is something that could not be read.
func unread(missing []*kube.Error) error {
	f := &failure{code: exitUnknown}
	var errs []error
	forbidden := false
	for _, e := range missing {
		errs = append(errs, e)
		forbidden = forbidden || e.Kind == kube.Forbidden
	}
	f.err = errors.Join(errs...)
	if forbidden {
		f.hints = []string{"to read a namespace takes the rights to list secrets, list pods and get configmaps; to read Secrets by name, get secrets in place of list"}
	}
	return f
}

// writeOlder lists the pods that may hold older files.
func writeOlder(w io.Writer, older []kube.Older) error {
	if len(older) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nmay hold older files, by creation time (whether they have read them again is not known here):")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, o := range older {
		how := ""
		if o.Fixed {
			how = "\tread once, by environment or subPath"
		}
		fmt.Fprintf(table, "  pod %s/%s\tmade %s\tof Secret %s\tchanged %s%s\n", o.Namespace, o.Pod, second(o.Created), o.Secret, second(o.Changed), how)
	}
	return table.Flush()
}

func second(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }
