package kube

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	// So many attempts in a row are told of: one that fails is nothing, since each watch ends at times.
	rewatchTold = 3
	// An API server that asks for more time than this is asked again all the same.
	rewatchAsked = 10 * time.Minute
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
// out to fail, or no longer does, so that its status says so.
func (t *Target) follow(at object, services map[string]string, changed func(string)) *follower {
	f := &follower{client: t.client, at: at, changed: func(name string) { changed(services[name]) }}
	f.went = func(err error) {
		news := false
		for _, service := range services {
			if t.watches.note(service, at, err) {
				news = true
				changed(service)
			}
		}
		switch {
		case news && err != nil:
			t.log.Warn("a watch fails: "+t.watches.what, "watch", at.String(), "error", err)
		case news:
			t.log.Info("watches again", "watch", at.String())
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
	went    func(err error) // is told that it watches, or what has kept it from that for a while

	plain    bool              // the API server does not say where what was there ends: see absent
	failures int               // attempts in a row
	begun    time.Time         // when the current stream has told of something; zero: it has not
	seen     map[string]string // the names told of in the current stream's beginning; nil after it
}

// run watches until ctx ends. A watch begins with all that is there, so nothing is missed while there is none.
func (f *follower) run(ctx context.Context) error {
	wait := rewatchFirst
	for {
		err := f.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if is(err, NotOffered) && !f.plain {
			f.plain = true
			continue
		}
		if f.failures++; f.failures >= rewatchTold || lasting(err) {
			f.went(err)
		}
		if wait = min(2*wait, rewatchLast); !f.begun.IsZero() && time.Since(f.begun) > rewatchGood {
			wait = rewatchFirst
		}
		select {
		case <-time.After(max(asked(err), wait/2+rand.N(wait/2))): // jitter: an API server that comes back is not to meet all at once
		case <-ctx.Done():
			return nil
		}
	}
}

// asked is how long the API server asks a watch to stay away.
func asked(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return min(e.Wait(), rewatchAsked)
	}
	return 0
}

// once watches until the stream ends, and says what has ended it: the sweep and the next stream find what it missed.
func (f *follower) once(ctx context.Context) error {
	f.begun = time.Time{}
	query := url.Values{"watch": {"true"}, "allowWatchBookmarks": {"true"}}
	if !f.plain {
		query.Set("sendInitialEvents", "true")
		query.Set("resourceVersionMatch", "NotOlderThan")
	}
	stream, err := f.client.stream(ctx, f.at, query, metadataOnly)
	if err != nil {
		return err
	}
	defer stream.Close()
	f.seen = make(map[string]string)
	if f.plain {
		if err := f.absent(ctx); err != nil {
			return err
		}
		f.begin()
	}
	decoder := json.NewDecoder(stream)
	for {
		var e event
		if err := decoder.Decode(&e); err != nil {
			return newError("watch", f.at, err)
		}
		if e.Type == "ERROR" {
			return newError("watch", f.at, e.failure())
		}
		f.begin()
		f.take(e)
	}
}

// begin notes that the stream tells of what it should.
func (f *follower) begin() {
	if f.begun.IsZero() {
		f.begun, f.failures = time.Now(), 0
		f.went(nil)
	}
}

// absent tells of what is expected and not there. A plain stream begins with all that is there too, and does not say
// where that ends. It is open by now, and tells of what is made or deleted from here on.
func (f *follower) absent(ctx context.Context) error {
	f.seen = nil
	for _, name := range f.names {
		at := f.at
		at.name = name
		err := f.client.call(ctx, f.client.rest.Get().SetHeader("Accept", metadataOnly), "get", at, nil, nil, nil)
		if is(err, NotFound, NamespaceMissing) {
			f.tell(name, "")
		} else if err != nil {
			return err
		}
	}
	return nil
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
		// Of an ERROR, whose object is a Status.
		Code    int32                 `json:"code"`
		Reason  metav1.StatusReason   `json:"reason"`
		Message string                `json:"message"`
		Details *metav1.StatusDetails `json:"details"`
	} `json:"object"`
}

// failure is what an ERROR says.
func (e *event) failure() error {
	o := e.Object
	return &apierrors.StatusError{ErrStatus: metav1.Status{Code: o.Code, Reason: o.Reason, Message: o.Message, Details: o.Details}}
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
