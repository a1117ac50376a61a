package kube

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshca/meshca/rotation"
)

const (
	// maxNote is what events.k8s.io takes, in bytes; a longer one is refused.
	maxNote = 1024
	// eventsWaiting is how many Events may wait to be written; more are dropped, and counted in the log.
	eventsWaiting = 512
	// eventEvery is the least time between two: Events are for people, Secrets come first.
	eventEvery = 100 * time.Millisecond
	// eventsAgain is how often one of those that could not be written is tried again: a right that is given back shows.
	eventsAgain = 5 * time.Second
	// reporter is who reports, as Events say it.
	reporter = "meshca.io/meshca"
	// eventsGroup is the API group of Events.
	eventsGroup = "events.k8s.io"
)

// A notice is an Event that is not written yet.
type notice struct {
	rotation.Notice
	about reference
	at    time.Time
}

// events writes Events one by one, so that they are never in the way of a Secret.
type events struct {
	client   *Client
	service  func(name string) (Service, error)
	log      *slog.Logger
	waiting  chan notice
	dropped  atomic.Int64
	instance string
	refused  refusals
	again    map[string]notice // by service: the newest that could not be written; owned by run
}

func newEvents(c *Client, service func(string) (Service, error), log *slog.Logger) *events {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "meshca"
	}
	return &events{client: c.apart(1), service: service, log: log, waiting: make(chan notice, eventsWaiting), instance: host,
		again:   make(map[string]notice),
		refused: refusals{what: "not all that is done is told in Events"}}
}

// add does not wait.
func (e *events) add(n notice) {
	n.at = time.Now()
	select {
	case e.waiting <- n:
	default:
		e.dropped.Add(1)
	}
}

// run writes what waits until ctx ends.
func (e *events) run(ctx context.Context) error {
	tick := time.NewTicker(eventEvery)
	defer tick.Stop()
	again := time.NewTicker(eventsAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			for _, n := range e.again {
				e.write(ctx, n)
				break
			}
		case n := <-e.waiting:
			e.write(ctx, n)
			if dropped := e.dropped.Swap(0); dropped > 0 {
				e.log.Warn("Events dropped: more happened than are worth telling", "count", dropped)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reference names what an Event is about.
type reference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
	UID        string `json:"uid,omitempty"`
}

// write writes an Event on what it is about and one on each workload of the service. Of those that were refused, or not
// answered, the newest of each service is tried again. What of it is written has its name, and is not written twice.
func (e *events) write(ctx context.Context, n notice) {
	delete(e.again, n.Service)
	about := []reference{n.about}
	if n.Service != "" {
		s, err := e.service(n.Service)
		if err != nil {
			return // it has left the catalogue
		}
		about = append(about, e.workloads(ctx, n, s)...)
	}
	for _, regarding := range about {
		at := object{group: eventsGroup, resource: "events", namespace: n.about.Namespace}
		err := e.post(ctx, n, regarding)
		if err == nil || is(err, Changed) { // it is there already
			e.refused.clear(at)
			continue
		}
		e.failed(n, at, err)
	}
}

// workloads finds what of the service's workloads is there.
func (e *events) workloads(ctx context.Context, n notice, s Service) (found []reference) {
	for _, w := range s.Workloads {
		at := object{group: "apps", resource: strings.ToLower(w.Kind) + "s", namespace: s.Namespace, name: w.Name}
		var live struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
		}
		if err := e.client.get(ctx, at, &live, nil); err != nil {
			e.failed(n, at, err)
			continue
		}
		e.refused.note(n.Service, at, nil)
		found = append(found, reference{"apps/" + version, w.Kind, s.Namespace, w.Name, string(live.Metadata.UID)})
	}
	return found
}

// failed keeps what was refused, for the status, and what is to be tried again.
func (e *events) failed(n notice, at object, err error) {
	e.log.Debug("no Event", "error", err)
	switch {
	case lasting(err):
		e.refused.note(n.Service, at, err)
		e.again[n.Service] = n
	case is(err, Away, Throttled):
		e.again[n.Service] = n
	case is(err, NotFound): // it was allowed to look
		e.refused.note(n.Service, at, nil)
	}
}

// post makes one Event. It is made by apply, as all that meshca makes.
func (e *events) post(ctx context.Context, n notice, regarding reference) error {
	name, text := eventName(n, regarding), n.Text
	if n.Service != "" {
		text = "service " + n.Service + ": " + text
	}
	kind := "Normal"
	if n.Kind.Warning() {
		kind = "Warning"
	}
	body := map[string]any{
		"apiVersion": eventsGroup + "/" + version, "kind": "Event",
		"metadata":  map[string]any{"name": name, "namespace": regarding.Namespace, "resourceVersion": absent},
		"eventTime": n.at.UTC().Format("2006-01-02T15:04:05.000000Z07:00"),
		"type":      kind, "reason": string(n.Kind), "action": string(n.Kind), "note": cut(text),
		"reportingController": reporter, "reportingInstance": e.instance, "regarding": regarding,
	}
	if regarding != n.about {
		body["related"] = n.about
	}
	err := e.client.apply(ctx, object{group: eventsGroup, resource: "events", namespace: regarding.Namespace, name: name}, body, nil)
	if refused, ok := errors.AsType[*Error](err); ok {
		refused.object.name = "" // it was made up for this one
	}
	return err
}

// maxName is the longest name of an object, in bytes.
const maxName = 253

// eventName names an Event: by what it is about, as far as there is room, and by what makes it another one.
func eventName(n notice, regarding reference) string {
	h := fnv.New32a()
	fmt.Fprint(h, regarding.Kind, n.Kind, n.Text)
	end := fmt.Sprintf(".%x%08x", n.at.UnixNano(), h.Sum32())
	return strings.TrimRight(regarding.Name[:min(len(regarding.Name), maxName-len(end))], "-.") + end
}

// cut makes a text no longer than an Event takes.
func cut(text string) string {
	if len(text) <= maxNote {
		return text
	}
	const more = " …"
	return strings.ToValidUTF8(text[:maxNote-len(more)], "") + more
}
