package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/config"
	"github.com/meshca/meshca/localdir"
	"github.com/meshca/meshca/verify"
)

func verifyCommand() *cobra.Command {
	var configPath, output string
	var where clusterFlags
	cmd := &cobra.Command{
		Use:   "verify {--config FILE | DIR… | -n NAMESPACE [SECRET…] | -A}",
		Short: "Say who would refuse whom, and why",
		Long: `Read what each service presents and trusts, and print who would refuse whom.

It needs no running process, and reads folders that meshca has never seen. A DIR is the folder of one
service (tls.crt, tls.key, ca.crt), a folder of such folders, or a flat folder of NAME.crt, NAME.key and
one ca.crt. Nothing is written.

With -n, -A, --kubeconfig or --context it reads a cluster: every Secret of the namespace that has the keys
tls.crt and ca.crt, or the Secrets that are named; the ConfigMap meshca-ca beside them; and which pods may
hold older files. What may not be read is named, and the rest is verified.

Exit code: 0 all go together, 1 there are findings, 2 something could not be read.`,
		Example: `  meshca verify --config meshca.yaml
  meshca verify /etc/mesh/certs
  meshca verify mesh/envoy mesh/pgadmin -o json
  meshca verify -n demo
  meshca verify -n demo envoy-mtls-cert pgadmin-mtls-cert`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if where.given(cmd) {
				return verifyCluster(cmd, where, configPath, args, output)
			}
			return verifyHere(cmd, where, configPath, args, output)
		},
	}
	configFlag(cmd, &configPath)
	outputFlag(cmd, &output)
	where.add(cmd)
	cmd.Flags().BoolVarP(&where.all, "all-namespaces", "A", false, "all namespaces")
	return cmd
}
func outputFlag(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "table", "`FORM` of the answer: table or json")
}

// checkOutput refuses an unknown form of the answer.
func checkOutput(output string) error {
	if output != "table" && output != "json" {
		return &failure{err: fmt.Errorf("-o %q is not table or json", output), code: exitUnknown}
	}
	return nil
}

// verifyHere verifies what a config or folders name.
func verifyHere(cmd *cobra.Command, where clusterFlags, configPath string, dirs []string, output string) error {
	if (configPath == "") == (len(dirs) == 0) {
		return &failure{err: errors.New("verify takes either --config FILE, folders, or a namespace"), code: exitUnknown,
			hints: []string{"meshca verify --help"}}
	}
	var services []verify.Service
	var err error
	if configPath == "" {
		services, err = readDirs(dirs)
	} else {
		var cfg *config.Config
		if cfg, err = loadConfig(configPath); err != nil {
			return err
		}
		if cfg.Target.Kubernetes != nil {
			return verifySecrets(cmd, where, cfg, output)
		}
		services, err = readFolders(cfg)
	}
	if err != nil {
		return err
	}
	return printReport(cmd, verify.Check(services, time.Now()), output)
}

// readFolders reads the folders of a catalogue's services.
func readFolders(cfg *config.Config) ([]verify.Service, error) {
	target := localdir.New(cfg.Target.Directory.Path, time.Now)
	var services []verify.Service
	for _, s := range cfg.Services {
		service, err := localdir.ReadService(s.Name, target.Place(s.Name))
		if err != nil {
			return nil, err
		}
		services = append(services, service)
	}
	return services, nil
}

// readDirs reads several folders; services of one name are told apart by their folders.
func readDirs(dirs []string) ([]verify.Service, error) {
	var all []verify.Service
	count := make(map[string]int)
	from := make([]string, 0)
	for _, dir := range dirs {
		services, err := localdir.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, s := range services {
			s.Name, s.CertName, s.KeyName = printable(s.Name), printable(s.CertName), printable(s.KeyName)
			count[s.Name]++
			from = append(from, dir)
			all = append(all, s)
		}
	}
	for i := range all {
		if count[all[i].Name] > 1 {
			all[i].Name = filepath.Join(from[i], all[i].Name)
		}
	}
	return all, nil
}

func printReport(cmd *cobra.Command, report *verify.Report, output string) error {
	if output == "json" {
		if err := printJSON(cmd.OutOrStdout(), report); err != nil {
			return err
		}
	} else if err := report.WriteTable(cmd.OutOrStdout()); err != nil {
		return err
	}
	if !report.OK() {
		return errQuietNo
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
