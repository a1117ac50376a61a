package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/meshca/meshca/api"
	"github.com/meshca/meshca/api/socket"
	"github.com/meshca/meshca/ca"
	"github.com/meshca/meshca/config"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/store"
)

// lockTimeout is how long a start waits for the process that still holds the store to end.
const lockTimeout = 5 * time.Second

type serveOptions struct {
	config     string
	kubeconfig string
	log        string
	newRoot    bool
	accept     bool
	yes        bool
}

func serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Issue, keep and renew the certificates of every service in the catalogue",
		Long: `Run the certificate authority in the foreground until SIGINT or SIGTERM.

The first start makes the seal, the root and the issuing CA. Every service of the catalogue gets tls.crt,
tls.key and ca.crt in a folder or a Secret of its own; whatever anybody does to them is put right at once.
What is there already is taken over without making anything worse. The list of services is read again on
SIGHUP and when the file changes; a bad file changes nothing.

Exit code: 0 stopped by a signal, 1 refused (the line says why, the hints say how to go on).`,
		Example: `  meshca serve --config meshca.yaml
  meshca serve --config meshca.yaml --kubeconfig ~/.kube/config   # with target: {kubernetes: {}}
  meshca serve --config meshca.yaml --accept     # the store is lost or old for good: says first what breaks`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd, o) },
	}
	configFlag(cmd, &o.config)
	cmd.Flags().StringVar(&o.log, "log", "auto", "`FORM` of the log on stderr: text, json, or auto (text on a terminal)")
	kubeconfigFlag(cmd, &o.kubeconfig)
	cmd.Flags().BoolVar(&o.accept, "accept", false, "write over what another or a newer store wrote, and found a new CA if the store is lost; says what breaks and asks")
	cmd.Flags().BoolVar(&o.newRoot, "new-root", false, "found a new CA although an older store was lost; says what breaks and asks")
	cmd.Flags().BoolVar(&o.yes, "yes", false, "with --accept or --new-root: do not ask")
	return cmd
}

// serve loads, builds and runs.
func serve(cmd *cobra.Command, o serveOptions) error {
	log, text, err := logger(o.log, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	// Before it is loaded: a change in between is then seen as one. Loading says what is wrong with it.
	loaded, _ := config.Read(o.config)
	cfg, err := loadConfig(o.config)
	if err != nil {
		return err
	}
	for _, w := range cfg.Warnings() {
		log.Warn(w.Error(), "file", o.config, "line", w.Line)
	}
	if o.kubeconfig != "" && cfg.Target.Kubernetes == nil {
		return &failure{err: fmt.Errorf("--kubeconfig is of no use: %s has no target: {kubernetes: {}}", o.config), code: exitNo}
	}
	s := &server{cfg: cfg, path: o.config, loaded: loaded, log: log, hangup: make(chan os.Signal, 1)}
	signal.Notify(s.hangup, syscall.SIGHUP) // from here on: a signal during the start must not end the process
	defer signal.Stop(s.hangup)
	defer s.close()
	if err := s.build(cmd, o); err != nil {
		return refused(err)
	}
	// Until here a signal ends the process as it always does: everything written so far is whole. A second
	// one does so again.
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() {
		stop()
		time.AfterFunc(endAfter, s.abandon)
	})
	err = s.run(ctx, func() {
		if text {
			writeBanner(cmd.OutOrStdout(), s)
		} else {
			s.logStart()
		}
	})
	if err == nil && text {
		fmt.Fprintf(cmd.OutOrStdout(), "stopped; store %s, seal %s and %s stay\n",
			cfg.Store.Bolt.Path, cfg.Seal.KeyFile, s.target.describe())
	}
	return err
}

// endAfter is how long after a signal the process is ended whatever it waits for: a folder's file system can
// hang. Everything that was committed is durable.
const endAfter = 4 * time.Second

// abandon ends the process.
func (s *server) abandon() {
	s.log.Error("ended without waiting any longer: something hangs; all that was committed is on disk")
	os.Exit(exitNo)
}

// refused gives the errors of a start their hints, and the exit code of a refusal.
func refused(err error) error {
	f := &failure{err: err, code: exitNo}
	var known *failure
	var lost *rotation.LostError
	var places *rotation.RefusedError
	var schema *store.SchemaError
	var hinted interface{ Hint() string } // the target's
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &lost):
		f.hints = lost.Hints
	case errors.As(err, &places):
		for _, r := range places.Refusals {
			f.hints = append(f.hints, fmt.Sprintf("%s: %s", r.Place, r.Hint))
		}
	case errors.As(err, &schema):
		f.hints = []string{"run the version of meshca that wrote this store; nothing was changed"}
	case errors.Is(err, store.ErrLocked):
		f.hints = []string{"one process holds a store: stop the other one, or give this one a store of its own (store.bolt.path)"}
	case errors.As(err, &hinted) && hinted.Hint() != "":
		f.hints = []string{hinted.Hint()}
	}
	return f
}

// server is the wired program.
type server struct {
	cfg     *config.Config
	path    string
	loaded  []byte // the config file as it was read at the start
	hangup  chan os.Signal
	log     *slog.Logger
	store   store.Store
	target  *target
	looks   rotation.Looks // what the boot saw
	size    func() int64
	engine  *rotation.Engine
	metrics net.Listener
	api     net.Listener // nil where certificates are not asked for
	socket  net.Listener
	grants  *api.Grants
	v1      *api.V1
	cert    *api.ServerCertificate
}

func (s *server) build(cmd *cobra.Command, o serveOptions) error {
	var err error
	if s.target, err = newTarget(s.cfg, o.kubeconfig, s.log); err != nil {
		return &failure{err: err, code: exitNo, hints: []string{"meshca serve --kubeconfig FILE, as kubectl has it"}}
	}
	authority, err := s.boot(cmd, o, s.target)
	if err != nil {
		return err
	}
	if err := authority.CheckTime(time.Now()); err != nil {
		return &failure{err: err, code: exitNo, hints: []string{
			"if the clock is right: move the store and its seal away and start with --new-root, which says what will break"}}
	}
	s.warnOfLoosePlaces()
	if err := s.listen(); err != nil {
		return err
	}
	issue := issuer.New(s.store, authority)
	issue.SetCatalogue(policies(s.cfg))
	s.engine = rotation.New(rotation.Config{
		Store:    s.store,
		Issuer:   issue,
		Target:   s.target,
		Schedule: s.cfg.Schedule(),
		RenewAt:  s.cfg.Leaf.RenewAt,
		Sweep:    s.cfg.Sweep.Std(),
		Retain:   s.cfg.Store.Retain.Std(),
		HoldDown: s.cfg.Rotation.Restart.HoldDown.Std(),
		Now:      time.Now,
		Log:      s.log,
		Accept:   s.acceptance(cmd, o),
		Looks:    s.looks,
	})
	return s.buildAPI(issue)
}

// acceptance asks whether refused places are to be written over; nil where that was not asked for.
func (s *server) acceptance(cmd *cobra.Command, o serveOptions) func([]string) error {
	if !o.accept {
		return nil
	}
	return func(breaks []string) error { return confirm(cmd, breaks, "Write over them?", o.yes) }
}

// warnOfLoosePlaces names what others than the owner may change: who may write beside the seal can exchange
// it, and who may write beside the store can put an old copy back.
func (s *server) warnOfLoosePlaces() {
	store, seal := s.cfg.Store.Bolt.Path, s.cfg.Seal.KeyFile
	for _, path := range []string{filepath.Dir(store), store, filepath.Dir(seal)} {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o022 != 0 {
			s.log.Warn("others may write here: take that right away", "path", path, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
		}
	}
}

// boot opens the store and finds or founds the CA in it.
func (s *server) boot(cmd *cobra.Command, o serveOptions, target rotation.Target) (*ca.Authority, error) {
	path := s.cfg.Store.Bolt.Path
	exists, err := store.BoltExists(path)
	if err != nil {
		return nil, err
	}
	boot := &rotation.Boot{
		StorePath: path,
		SealPath:  s.cfg.Seal.KeyFile,
		Exists:    exists,
		Open: func() (store.Store, error) {
			bolt, err := store.OpenBolt(path, lockTimeout)
			if err != nil {
				return nil, err // not a nil *Bolt in an interface
			}
			s.size = bolt.Size
			return bolt, nil
		},
		Target: target,
		Params: ca.Params{
			Key:             s.cfg.CA.Key,
			RootLifetime:    s.cfg.CA.Root.Lifetime.Std(),
			IssuingLifetime: s.cfg.CA.Issuing.Lifetime.Std(),
			LeafBackdate:    s.cfg.Leaf.Backdate.Std(),
		},
		Now:     time.Now(),
		Log:     s.log,
		NewRoot: o.newRoot,
		Accept:  o.accept,
		Confirm: func(breaks []string) error { return confirm(cmd, breaks, "Found a new root?", o.yes) },
	}
	for _, service := range s.cfg.Services {
		boot.Services = append(boot.Services, service.Name)
	}
	var authority *ca.Authority
	s.store, authority, err = boot.Run(cmd.Context())
	s.looks = boot.Looks
	return authority, err
}

// policies is the catalogue as the issuer knows it.
func policies(cfg *config.Config) []issuer.Policy {
	list := make([]issuer.Policy, len(cfg.Services))
	for i, s := range cfg.Services {
		list[i] = issuer.Policy{
			Service: s.Name,
			Identity: profile.Identity{
				CommonName:  s.CommonName,
				DNSNames:    s.DNSNames,
				IPAddresses: s.IPAddresses,
				URI:         profile.SPIFFEID(cfg.TrustDomain, s.Namespace, s.Name),
			},
			Key:          s.Key,
			Lifetime:     cfg.Leaf.Lifetime.Std(),
			Backdate:     cfg.Leaf.Backdate.Std(),
			MinRemaining: cfg.Leaf.MinRemaining.Std(),
		}
	}
	return list
}

// confirm shows what breaks, and asks on a terminal; without one it wants --yes.
func confirm(cmd *cobra.Command, breaks []string, question string, yes bool) error {
	out := cmd.ErrOrStderr()
	fmt.Fprintln(out, strings.Join(breaks, "\n"))
	if yes {
		return nil
	}
	if in, ok := cmd.InOrStdin().(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return &failure{err: errors.New("this needs a yes, and there is no terminal to ask on"), code: exitNo,
			hints: []string{"run it on a terminal, or add --yes"}}
	}
	fmt.Fprint(out, question+" [y/N] ")
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return &failure{err: errors.New("nothing was changed"), code: exitNo}
	}
	return nil
}

// listen takes the addresses before anything is written to the target.
func (s *server) listen() (err error) {
	if s.metrics, err = s.listenTCP("listen.metrics", s.cfg.Listen.Metrics); err != nil {
		return err
	}
	if address := s.cfg.Listen.API; address != "" {
		if s.api, err = s.listenTCP("listen.api", address); err != nil {
			return err
		}
	}
	s.socket, err = socket.Listen(socketPath(s.cfg))
	return err
}

func (s *server) listenTCP(field, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l, nil
	}
	f := &failure{err: fmt.Errorf("%s: %w", field, err), code: exitNo, hints: []string{"change " + field + " in " + s.path}}
	if errors.Is(err, syscall.EADDRINUSE) {
		f.err = fmt.Errorf("%s: %s is taken by another process", field, address)
	}
	return nil, f // not a nil listener in an interface
}

// run serves until ctx ends; started is called when the first pass has ended. Who asks is answered from the beginning:
// a target that is away must not make the process look dead. Every goroutine of the program is started here, or below
// and waited for.
func (s *server) run(ctx context.Context, started func()) error {
	s.log.Info("starting", "metrics", s.metrics.Addr().String(), "socket", socketPath(s.cfg))
	registry := api.NewRegistry(s.engine, s.size, version)
	group, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, s.target.events.End) // answers that do not end by themselves must not hold up the end
	group.Go(func() error { return api.Serve(ctx, s.metrics, s.v1.Observability(registry), s.log) })
	group.Go(func() error { return api.Serve(ctx, s.socket, s.v1.Owner(), s.log) })
	group.Go(func() error { return s.target.run(ctx) })
	group.Go(func() error { return s.reloadOnChange(ctx) })
	group.Go(func() error {
		if err := s.engine.Start(ctx); err != nil && ctx.Err() == nil {
			return refused(err)
		}
		if ctx.Err() != nil {
			return nil
		}
		// Not before: a store that may not write, since it is another's or old, may not sign either.
		if err := s.runAPI(ctx, group); err != nil {
			return err
		}
		started()
		return s.engine.Run(ctx)
	})
	return group.Wait()
}

// close releases what build took; a store that cannot be closed has committed everything before.
func (s *server) close() {
	var errs []error
	for _, l := range []net.Listener{s.metrics, s.api, s.socket} {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Error("close", "error", err)
	}
}
