package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/meshca/meshca/kube"
)

// bannerRows is the most services that the table at the start lists.
const bannerRows = 20

// logger makes the program's log: text for people on a terminal, JSON for machines.
func logger(form string, stderr io.Writer) (log *slog.Logger, text bool, err error) {
	switch form {
	case "text":
		text = true
	case "json":
	case "auto":
		f, ok := stderr.(*os.File)
		text = ok && term.IsTerminal(int(f.Fd()))
	default:
		return nil, false, &failure{err: fmt.Errorf("--log %q is not text, json or auto", form), code: exitUnknown}
	}
	if !text {
		return slog.New(slog.NewJSONHandler(stderr, nil)), false, nil
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.String(a.Key, a.Value.Time().Format(time.TimeOnly))
			}
			return a
		},
	})), true, nil
}

// writeBanner tells people what is kept, and where more is to be had.
func writeBanner(w io.Writer, s *server) {
	status := s.engine.Status()
	for _, root := range status.Roots {
		fmt.Fprintf(w, "%s  SHA-256 %s\n", root.Name, root.Fingerprint)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tPLACE\tSERIAL\tEXPIRES")
	for i, v := range status.Services {
		if i == bannerRows {
			fmt.Fprintf(table, "… and %d more\n", len(status.Services)-i)
			break
		}
		serial, expires := "-", v.State
		if v.Serial != "" {
			serial, expires = v.Serial, day(v.NotAfter)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", v.Name, v.Place, serial, expires)
	}
	// What cannot be printed for a person is of no concern to the work.
	_ = table.Flush()
	if s.api != nil {
		callers := "admin token: " + tokenPath(s.cfg)
		if s.target.client != nil {
			callers = "service account tokens of audience " + kube.Audience
		}
		fmt.Fprintf(w, "api      https://%s/ (%s)\n", s.api.Addr(), callers)
	}
	fmt.Fprintf(w, "status   %s status --config %s\nmetrics  http://%s/metrics (also /healthz, /readyz)\n", os.Args[0], s.path, s.metrics.Addr())
}

// logStart tells machines the same.
func (s *server) logStart() {
	status := s.engine.Status()
	for _, root := range status.Roots {
		s.log.Info("serving", "root", root.Name, "sha256", root.Fingerprint, "epoch", status.Epoch, "store", status.Store,
			"services", len(status.Services), "metrics", s.metrics.Addr().String(), "api", s.apiAddress(), "socket", socketPath(s.cfg))
	}
}

// apiAddress is where certificates are asked for, "" where they are not.
func (s *server) apiAddress() string {
	if s.api == nil {
		return ""
	}
	return s.api.Addr().String()
}
