package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshca/meshca/config"
)

// loadConfig reads the file at path; a file that is refused is exit 1, one that cannot be read exit 2.
func loadConfig(path string) (*config.Config, error) {
	if path == "" {
		return nil, &failure{err: errors.New("--config is missing"), code: exitUnknown,
			hints: []string{"meshca config example > meshca.yaml writes a file to begin with"}}
	}
	cfg, err := config.Load(path)
	var refused *config.Error
	if !errors.As(err, &refused) {
		return cfg, err
	}
	f := &failure{err: err, code: exitNo}
	for _, p := range refused.Problems {
		if p.Hint != "" {
			f.hints = append(f.hints, p.Hint)
		}
	}
	return nil, f
}

func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "the config `FILE`")
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check a config file, or print an example"}
	cmd.AddCommand(&cobra.Command{
		Use:     "example",
		Short:   "Print a commented config file with every field",
		Example: "  meshca config example > meshca.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Example())
			return err
		},
	}, &cobra.Command{
		Use:   "check FILE",
		Short: "Check a config file; print what is in effect and the next three runs of the schedule",
		Long: `Check a config file. Prints the effective configuration, every default filled in, and the next three
runs of the rotation job. Every problem is named with its line.

Exit code: 0 good, 1 refused, 2 the file could not be read.`,
		Example: "  meshca config check meshca.yaml",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return checkConfig(cmd, args[0]) },
	})
	return cmd
}

func checkConfig(cmd *cobra.Command, path string) error {
	cfg, err := loadConfig(path)
	if err != nil {
		return err
	}
	effective, err := cfg.YAML()
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s\n", effective)
	fmt.Fprintf(out, "# next runs of %q in %s; longest gap %s\n", cfg.Rotation.Schedule, cfg.Rotation.Timezone, cfg.Schedule().LongestGap())
	at := time.Now()
	for range 3 {
		at = cfg.Schedule().Next(at)
		fmt.Fprintf(out, "#   %s\n", at.Format("Mon 2006-01-02 15:04 MST"))
	}
	for _, w := range cfg.Warnings() {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s:%d: %s\n", path, w.Line, w.Error())
		if w.Hint != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "hint: %s\n", w.Hint)
		}
	}
	return nil
}
