package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/meshca/meshca/rotation"
)

// A Service is what the catalogue says of where a service's set lies and who reads it.
type Service struct {
	Name, Namespace, Secret string
	Readers                 rotation.DeclaredReaders
	Workloads               []Workload
}

// A Workload is what runs a service.
type Workload struct{ Kind, Name string }

// A Target keeps Secrets. It implements [rotation.Target].
type Target struct {
	client *Client
	mode   WatchMode
	log    *slog.Logger
	events *events

	watches refusals

	mu       sync.Mutex
	services map[string]Service
	former   map[string]Service // those of the catalogue before, to name the place of one that has left
	versions map[string]string  // by service, or by the bundle's path: the resourceVersion of what was read or written last, "" of none
	uids     map[string]string  // of the Secrets, for Events
	bundles  map[string]string  // by namespace: the bundle that was seen in its ConfigMap last as it should be
	stuck    map[string]string  // by namespace: the version of an immutable ConfigMap that was told of
	made     map[string]string  // uids of those that were made and, maybe, not observed since
}

// New makes a target without services.
func New(c *Client, mode WatchMode, log *slog.Logger) *Target {
	t := &Target{client: c, mode: mode, log: log,
		watches:  refusals{what: "changes are noticed in the sweep alone"},
		services: make(map[string]Service), versions: make(map[string]string), uids: make(map[string]string), bundles: make(map[string]string), stuck: make(map[string]string), made: make(map[string]string)}
	t.events = newEvents(c, t.service, log)
	return t
}

// SetCatalogue replaces the services. It is called where the engine replaces its own, between two passes.
func (t *Target) SetCatalogue(services []Service) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.services
	t.former = before
	t.services = make(map[string]Service, len(services))
	for _, s := range services {
		t.services[s.Name] = s
		if old := before[s.Name]; old.Namespace != s.Namespace || old.Secret != s.Secret {
			delete(t.versions, s.Name)
			delete(t.uids, s.Name)
			delete(t.made, s.Name)
		}
	}
	for name, old := range before {
		if !slices.Equal(old.Workloads, t.services[name].Workloads) {
			t.events.refused.leave(name) // it may not be asked for any more
		}
	}
}

// service finds a service of the catalogue. Of any other it is not known where its Secret lies, and a path without a
// name would be that of all Secrets.
func (t *Target) service(name string) (Service, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, known := t.services[name]
	if !known {
		return s, fmt.Errorf("service %q is not in the catalogue: nothing is asked of the API server", name)
	}
	return s, nil
}

// remember keeps which version of a service's Secret was seen last, so that a watch which tells of it tells
// nothing new.
func (t *Target) remember(service, version, uid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.versions[service], t.uids[service] = version, uid
}

// known says whether that version of the service's Secret was seen already.
func (t *Target) known(service, version string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen, looked := t.versions[service]
	return looked && seen == version
}

// Place implements [rotation.Target]: namespace and name of the Secret, as people write it.
func (t *Target) Place(service string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, kept := t.services[service]
	if !kept {
		s = t.former[service]
	}
	return s.Namespace + "/" + s.Secret
}

// Subject implements [rotation.Target]: a mark that is copied to another Secret does not verify there.
func (t *Target) Subject(service string) string { return "secret/" + t.Place(service) }

// Ready implements [rotation.Target].
func (t *Target) Ready(ctx context.Context) error { return t.client.Ready(ctx) }

// Tidy implements [rotation.Target]. The API server keeps nothing of what was replaced.
func (t *Target) Tidy(context.Context, string) error { return nil }

// Observe implements [rotation.Target]: one GET of the Secret.
func (t *Target) Observe(ctx context.Context, name string) (rotation.Observation, error) {
	s, err := t.service(name)
	if err != nil {
		return rotation.Observation{}, err
	}
	secret, err := t.client.getSecret(ctx, s.Namespace, s.Secret)
	if err != nil {
		return rotation.Observation{}, err
	}
	o := rotation.Observation{MarkIn: markPlace, Version: secretVersion{}, By: removed}
	if secret == nil {
		t.remember(name, "", "")
	} else {
		t.remember(name, secret.ResourceVersion, string(secret.UID))
		o = observe(secret, name)
		t.mu.Lock()
		if t.made[name] == o.Instance { // also where somebody was quicker than the first look
			o.Form.Made = o.Instance
		}
		t.mu.Unlock()
	}
	o.Remarks = slices.Concat(o.Remarks, t.watches.of(name), t.events.refused.of(name))
	return o, nil
}

// removed is what is known of who has removed something.
const removed = "nobody knows: Kubernetes records nobody for a removal, its audit log may"

// Write implements [rotation.Target]: one server-side apply, over the observed Secret and no other.
func (t *Target) Write(ctx context.Context, name string, m rotation.Material, over rotation.Version) error {
	s, err := t.service(name)
	if err != nil {
		return err
	}
	v, ok := over.(secretVersion)
	if !ok {
		return errors.New("a Secret is written only over what was observed")
	}
	if v.rests {
		version, err := t.mendGlass(ctx, s, v)
		if err != nil {
			return changed(err)
		}
		v.resourceVersion = version
	}
	wanted := manifestOf(s, m, v)
	written, err := t.client.writeSecret(ctx, wanted)
	if err != nil {
		return changed(err)
	}
	t.remember(name, written.ResourceVersion, string(written.UID))
	if made := wanted.Metadata.Labels[labelManagedBy] == managedBy; made {
		t.mu.Lock()
		t.made[name] = string(written.UID)
		t.mu.Unlock()
	}
	return nil
}

// changed marks the errors by which a writer learns that it has decided on something older.
func changed(err error) error {
	if is(err, Changed, Replaced) {
		return errors.Join(rotation.ErrChanged, err)
	}
	return err
}

// mendGlass takes the annotation away by which healing rests. It is not ours by server-side apply, so it goes by a
// patch of its own, under the same conditions.
func (t *Target) mendGlass(ctx context.Context, s Service, v secretVersion) (version string, err error) {
	patch := map[string]any{"metadata": map[string]any{
		"uid": v.uid, "resourceVersion": v.resourceVersion, "annotations": map[string]any{annotationGlass: nil},
	}}
	var mended manifest
	err = t.client.merge(ctx, secretAt(s.Namespace, s.Secret), patch, &mended)
	return mended.Metadata.ResourceVersion, err
}

// readersTimeout bounds the question who reads the Secrets of one namespace: whoever may make pods there may make many.
const readersTimeout = 2 * callTimeout

// Readers implements [rotation.Target]: the pods that read the Secrets, one list for each namespace. One that does not
// answer keeps nothing from the others.
func (t *Target) Readers(ctx context.Context, services []string) map[string]rotation.Readers {
	all := make(map[string]rotation.Readers, len(services))
	in := make(map[string][]Service) // by namespace
	for _, name := range services {
		s, err := t.service(name)
		if err != nil {
			all[name] = rotation.Readers{Err: err}
			continue
		}
		in[s.Namespace] = append(in[s.Namespace], s)
	}
	var mu sync.Mutex // guards all
	var group errgroup.Group
	group.SetLimit(atOnce)
	for namespace, services := range in {
		group.Go(func() error { // ends with Readers
			ctx, cancel := context.WithTimeout(ctx, readersTimeout)
			defer cancel()
			read := t.readersIn(ctx, namespace, services)
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(all, read)
			return nil
		})
	}
	_ = group.Wait() // no error is returned above
	return all
}

// readersIn is Readers for the services of one namespace.
func (t *Target) readersIn(ctx context.Context, namespace string, services []Service) map[string]rotation.Readers {
	secrets := make(map[string]bool)
	for _, s := range services {
		secrets[s.Secret] = true
	}
	pods, err := t.client.readers(ctx, namespace, secrets)
	if err != nil {
		err = hinted(err)
	}
	all := make(map[string]rotation.Readers, len(services))
	for _, s := range services {
		r := rotation.Readers{Declared: s.Readers, Err: err}
		for _, pod := range pods[s.Secret] {
			r.Known = append(r.Known, rotation.Reader{Name: pod.Namespace + "/" + pod.Name, Created: pod.Created})
		}
		all[s.Name] = r
	}
	return all
}

// Tell implements [rotation.Target]: an Event on the Secret and on the service's workloads, later.
func (t *Target) Tell(n rotation.Notice) {
	s, err := t.service(n.Service)
	if err != nil {
		return // it has left the catalogue: there is no place to tell of
	}
	t.mu.Lock()
	uid := t.uids[n.Service]
	t.mu.Unlock()
	t.events.add(notice{Notice: n, about: reference{version, "Secret", s.Namespace, s.Secret, uid}})
}

// Events writes the Events until ctx ends.
func (t *Target) Events(ctx context.Context) error { return t.events.run(ctx) }
