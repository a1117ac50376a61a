package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/api/client"
)

func healCommand() *cobra.Command {
	var configPath, service string
	cmd := &cobra.Command{
		Use:   "heal --resume SERVICE --config FILE",
		Short: "Heal a service again after somebody has broken the glass",
		Long: `Tell the running process that what was done behind the broken glass is done: it puts the service's Secret right
and takes the annotation away that made it rest.
Exit code: 0 done, 1 the service does not rest, 2 no process runs, or it is busy.`,
		Example: `  meshca heal --resume pgadmin --config meshca.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := ask(configPath, func(raw client.ClientInterface) (*http.Response, error) {
				return raw.Heal(cmd.Context(), client.HealRequest{Service: service})
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is healed from now on\n", service)
			return err
		},
	}
	configFlag(cmd, &configPath)
	cmd.Flags().StringVar(&service, "resume", "", "the `SERVICE` that rests")
	// The flag was declared on the line above.
	_ = cmd.MarkFlagRequired("resume")
	return cmd
}
