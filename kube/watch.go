package kube

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshca/meshca/rotation"
)

// WatchMode says how changes of Secrets are noticed.
type WatchMode string

// The modes.
const (
	// WatchNames watches each Secret by name: the least rights, and some memory for each.
	WatchNames WatchMode = "names"
	// WatchNone watches nothing: changes are noticed in the sweep.
	WatchNone WatchMode = "none"
	// WatchNamespace watches all Secrets of each namespace, which needs the right to read them all.
	WatchNamespace WatchMode = "namespace"
)

const (
	// metadataOnly has the API server leave out what is in the Secrets.
	metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	// A watch that ends is begun anew after a wait between these, longer each time that it ends at once.
	rewatchFirst = 500 * time.Millisecond
	rewatchLast  = 30 * time.Second
	// A watch that has lasted so long had begun well.
	rewatchGood = 10 * time.Second
)

// Watch implements [rotation.Target]. Each watch runs in a goroutine that ends with ctx.
func (t *Target) Watch(ctx context.Context, services []string, changed func(service string)) error {
	if t.mode == WatchNone {
		<-ctx.Done()
		return nil
	}
	t.watches.forget()
	namespaces := make(map[string]map[string]string) // to the service of each Secret
	for _, name := range services {
		s, err := t.service(name)
		if err != nil {
			return err
		}
		if namespaces[s.Namespace] == nil {
			namespaces[s.Namespace] = make(map[string]string)
		}
		namespaces[s.Namespace][s.Secret] = name
	}
	group, ctx := errgroup.WithContext(ctx)
	for namespace, secrets := range namespaces {
		bundle := t.follow(bundleAt(namespace), secrets, changed)
		bundle.names, bundle.changed = []string{BundleMap}, func(string) { changed(rotation.PublishedIn(namespace)) }
		bundle.known = func(_, version string) bool { return t.known(bundleAt(namespace).path(), version) }
		group.Go(func() error { return bundle.run(ctx) })
		if t.mode == WatchNamespace {
			group.Go(func() error {
				return t.follow(object{resource: "secrets", namespace: namespace}, secrets, changed).run(ctx)
			})
			continue
		}
		for secret, service := range secrets {
			group.Go(func() error {
				return t.follow(secretAt(namespace, secret), map[string]string{secret: service}, changed).run(ctx)
			})
		}
	}
	return group.Wait()
}

// follow watches something of services that have these Secrets. A service is looked at anew where its watch turns
// out to be refused, or no longer is, so that its status says so.
func (t *Target) follow(at object, services map[string]string, changed func(string)) *follower {
	f := &follower{client: t.client, at: at, changed: func(name string) { changed(services[name]) }, seen: make(map[string]string)}
	f.refused = func(err error) {
		for _, service := range services {
			if t.watches.note(service, at, err) {
				changed(service)
			}
		}
	}
	f.known = func(name, version string) bool {
		service, ours := services[name]
		return !ours || t.known(service, version)
	}
	for name := range services {
		f.names = append(f.names, name)
	}
	return f
}

// A follower watches one object, or all of a kind in a namespace, without end.
type follower struct {
	client  *Client
	at      object
	names   []string // that are expected to be there
	known   func(name, version string) bool
	changed func(name string)
	refused func(err error)   // is told how each attempt to watch goes
	seen    map[string]string // the names told of in the current stream's beginning; nil after it
}

// run watches until ctx ends. A watch begins with all that is there, so nothing is missed while there is none.
func (f *follower) run(ctx context.Context) error {
	wait := rewatchFirst
	for {
		began := time.Now()
		f.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if wait = min(2*wait, rewatchLast); time.Since(began) > rewatchGood {
			wait = rewatchFirst
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2)): // jitter: an API server that comes back is not to meet all at once
		case <-ctx.Done():
			return nil
		}
	}
}

// once watches until the stream ends, for whatever reason: the sweep and the next stream find what it missed.
func (f *follower) once(ctx context.Context) {
	query := url.Values{
		"watch": {"true"}, "sendInitialEvents": {"true"}, "resourceVersionMatch": {"NotOlderThan"}, "allowWatchBookmarks": {"true"},
	}
	stream, err := f.client.stream(ctx, f.at, query, metadataOnly)
	if ctx.Err() == nil {
		f.refused(err)
	}
	if err != nil {
		return
	}
	defer stream.Close()
	f.seen = make(map[string]string)
	decoder := json.NewDecoder(stream)
	for {
		var e event
		if err := decoder.Decode(&e); err != nil || e.Type == "ERROR" {
			return
		}
		f.take(e)
	}
}

// event is what is read of one event of a watch.
type event struct {
	Type   string `json:"type"`
	Object struct {
		Metadata struct {
			Name            string            `json:"name"`
			ResourceVersion string            `json:"resourceVersion"`
			Annotations     map[string]string `json:"annotations"`
		} `json:"metadata"`
	} `json:"object"`
}

// initialEventsEnd marks the bookmark that follows all that was there when the watch began.
const initialEventsEnd = "k8s.io/initial-events-end"

func (f *follower) take(e event) {
	name, version := e.Object.Metadata.Name, e.Object.Metadata.ResourceVersion
	switch e.Type {
	case "BOOKMARK":
		if e.Object.Metadata.Annotations[initialEventsEnd] == "true" && f.seen != nil {
			for _, name := range f.names {
				if _, there := f.seen[name]; !there {
					f.tell(name, "")
				}
			}
			f.seen = nil
		}
	case "DELETED":
		f.tell(name, "")
	default:
		if f.seen != nil {
			f.seen[name] = version
		}
		f.tell(name, version)
	}
}

// tell tells of a version that was not seen yet.
func (f *follower) tell(name, version string) {
	if f.known == nil || !f.known(name, version) {
		f.changed(name)
	}
}
