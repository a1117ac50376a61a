package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/kube/guard"
)

func guardCommand() *cobra.Command {
	var configPath string
	options := guard.Options{}
	cmd := &cobra.Command{
		Use:   "guard --config FILE",
		Short: "Print admission policies that keep others from changing meshca's Secrets",
		Long: `Print ValidatingAdmissionPolicies for kubectl apply, by which the API server keeps everybody but meshca's
account from changing, deleting or making the Secrets of the catalogue, and the trust bundle beside them. Print
and apply them again when the catalogue has changed: the names are in them.

Modes: warn lets a write pass and warns its author, deny refuses it, off prints how to remove the policies.

Exit code: 0 printed, 1 refused, 2 the file could not be read.`,
		Example: `  meshca guard --config meshca.yaml | kubectl apply -f -
  meshca guard --config meshca.yaml --mode deny | kubectl apply -f -
  meshca guard --config meshca.yaml --mode off`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(configPath)
			if err != nil {
				return err
			}
			if cfg.Target.Kubernetes == nil {
				return &failure{err: fmt.Errorf("%s keeps folders: only Secrets have a guard", configPath), code: exitNo}
			}
			for _, s := range kubeServices(cfg) {
				options.Secrets = append(options.Secrets, guard.Name{Namespace: s.Namespace, Name: s.Secret})
			}
			policies, err := guard.Render(options)
			if err != nil {
				return &failure{err: err, code: exitNo}
			}
			_, err = cmd.OutOrStdout().Write(policies)
			return err
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().StringVar((*string)(&options.Mode), "mode", string(guard.Warn), "`MODE` of the policies: warn, deny or off")
	cmd.Flags().StringVar(&options.User, "user", guard.DefaultUser, "`NAME` of meshca's account, the only one that is let through")
	return cmd
}
