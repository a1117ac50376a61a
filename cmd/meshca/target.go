package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/meshca/meshca/api"
	"github.com/meshca/meshca/config"
	"github.com/meshca/meshca/kube"
	"github.com/meshca/meshca/localdir"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/verify"
)

func kubeconfigFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "kubeconfig", "", "`FILE` that says how the cluster is reached; without it, as kubectl finds one, or the pod's own account")
}

// target is the one that the config names.
type target struct {
	rotation.Target
	kube   *kube.Target // nil with folders
	what   string
	events *api.Events
}

// Tell implements [rotation.Target]: also whoever follows the events of the API is told.
func (t *target) Tell(n rotation.Notice) {
	t.Target.Tell(n)
	t.events.Tell(n)
}

// read reads what the services present and trust, beside the engine, and compares it.
func (t *target) read(ctx context.Context, services []string) (*api.Reading, error) {
	if t.kube != nil {
		mesh, err := t.kube.Read(ctx, services)
		if err != nil {
			return nil, err
		}
		r := &api.Reading{Report: mesh.Report(time.Now())}
		for _, o := range mesh.Older {
			r.Older = append(r.Older, api.OlderPod(o))
		}
		for _, e := range mesh.Unread {
			r.Unread = append(r.Unread, e.Error())
		}
		return r, nil
	}
	r := &api.Reading{}
	var read []verify.Service
	for _, name := range services {
		service, err := localdir.ReadService(name, t.Place(name))
		if err != nil {
			r.Unread = append(r.Unread, err.Error())
			continue
		}
		read = append(read, service)
	}
	r.Report = verify.Check(read, time.Now())
	return r, nil
}

func newTarget(cfg *config.Config, kubeconfig string, log *slog.Logger) (*target, error) {
	if d := cfg.Target.Directory; d != nil {
		return &target{Target: localdir.New(d.Path, time.Now), what: "folders " + d.Path, events: api.NewEvents(time.Now)}, nil
	}
	klog.SetSlogLogger(log) // client-go's own words join ours
	client, err := kube.Connect(kube.Options{Kubeconfig: kubeconfig})
	if err != nil {
		return nil, err
	}
	secrets := kube.New(client, kube.WatchMode(cfg.Target.Kubernetes.Watch), log)
	t := &target{Target: secrets, kube: secrets, what: "Secrets", events: api.NewEvents(time.Now)}
	t.setCatalogue(cfg)
	return t, nil
}

// describe names what is kept, for people.
func (t *target) describe() string { return t.what }

// setCatalogue tells the target where the services' sets lie.
func (t *target) setCatalogue(cfg *config.Config) {
	if t.kube != nil {
		t.kube.SetCatalogue(kubeServices(cfg))
	}
}

// kubeServices is the catalogue as the target in a cluster knows it.
func kubeServices(cfg *config.Config) []kube.Service {
	var services []kube.Service
	for _, s := range cfg.Services {
		service := kube.Service{Name: s.Name, Namespace: s.Namespace, Secret: s.Secret, Readers: rotation.DeclaredReaders(s.Consumers)}
		for _, w := range s.Workloads {
			service.Workloads = append(service.Workloads, kube.Workload(w))
		}
		services = append(services, service)
	}
	return services
}

// run does what the target has to do besides, until ctx ends.
func (t *target) run(ctx context.Context) error {
	if t.kube == nil {
		return nil
	}
	return t.kube.Events(ctx)
}
