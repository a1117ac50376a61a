// Package kube keeps services' certificates in Secrets of a Kubernetes cluster.
//
// # What it guarantees
//
// A Secret is written by one server-side apply with the uid and resourceVersion of the Secret that was read, so
// that whoever decided on something older loses. It is made by apply too, never by POST, so that the right to
// do so can be limited by name. Nothing is ever deleted. Foreign keys, labels and annotations stay.
//
// # Failure
//
// Every answer of the API server that is not yes is an [*Error], which says what was asked, what stands in the
// way, and how to go on.
//
// # Memory
//
// There is no cache: a watch keeps the version of what it saw and nothing else, so memory does not grow with
// the Secrets of others.
package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// FieldManager is the name under which meshca owns fields (Kubernetes: server-side apply).
const FieldManager = "meshca"

const (
	// The rate limit is a brake for our own mistakes, above what a small API server answers; client-go's default
	// of 5 a second would make a thousand services take minutes. Who is served first is the API server's to say.
	callsPerSecond = 500
	callsBurst     = 1000
	// callsAtOnce is how many calls are under way at the same time in one namespace, watches apart: enough to keep a
	// small API server busy. More services are worked on than that, so that signing and committing fill the waits; their
	// number bounds the calls in all namespaces.
	callsAtOnce = 8
	// callTimeout bounds one call: an API server that is there answers in milliseconds.
	callTimeout = 10 * time.Second
)

// Options say how the API server is reached.
type Options struct {
	// Kubeconfig is the path of a kubeconfig. Where it is empty, $KUBECONFIG, ~/.kube/config and the pod's own
	// service account are tried in this order, as kubectl does.
	Kubeconfig string
	// Context is the kubeconfig's context; empty is its current one.
	Context string
}

// A Client speaks to one API server. It is safe for concurrent use.
type Client struct {
	rest      *rest.RESTClient
	host      string
	namespace string
	manager   string // who owns the fields that it applies
	lanes     *lanes
	silence   *silence // of the API server as a whole
	probing   *sync.Mutex
}

// as is the client under the name of another field manager.
func (c *Client) as(manager string) *Client {
	other := *c
	other.manager = manager
	return &other
}

// apart is the client with calls of its own, one at a time in a namespace: they are never in the way of the others.
func (c *Client) apart() *Client {
	other := *c
	other.lanes = newLanes(1)
	return &other
}

// Connect prepares a client; it asks nothing of the API server yet.
func Connect(o Options) (*Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: o.Context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return newClient(config, namespace)
}

func newClient(config *rest.Config, namespace string) (*Client, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config = rest.CopyConfig(config)
	config.GroupVersion = &schema.GroupVersion{Version: "v1"}
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.QPS, config.Burst = callsPerSecond, callsBurst
	config.UserAgent = "meshca"
	config.WarningHandlerWithContext = rest.NoWarnings{} // about others' content, mostly; ours is checked before it is sent
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return &Client{rest: client, host: config.Host, namespace: cmp.Or(namespace, metav1.NamespaceDefault), manager: FieldManager,
		lanes: newLanes(callsAtOnce), silence: newSilence(), probing: &sync.Mutex{}}, nil
}

// Namespace is the namespace of the kubeconfig's context.
func (c *Client) Namespace() string { return c.namespace }

// An object is the address of something in the API.
type object struct {
	group     string // "" is core
	resource  string // plural
	namespace string // "" where it has none
	name      string // "" is all of them
}

// version is the version in which a group's objects are read and written.
const version = "v1"

func (o object) path() string {
	path := "/api/" + version
	if o.group != "" {
		path = "/apis/" + o.group + "/" + version
	}
	if o.namespace != "" {
		path += "/namespaces/" + o.namespace
	}
	path += "/" + o.resource
	if o.name != "" {
		path += "/" + o.name
	}
	return path
}

// String tells of the object as kubectl's users know it.
func (o object) String() string {
	switch {
	case o.name == "" && o.namespace == "":
		return o.resource
	case o.name == "":
		return o.resource + " in namespace " + o.namespace
	case o.namespace == "":
		return fmt.Sprintf("%s %q", o.resource, o.name)
	}
	return fmt.Sprintf("%s %q in namespace %s", o.resource, o.name, o.namespace)
}

// get reads an object into v.
func (c *Client) get(ctx context.Context, o object, v any, query url.Values) error {
	return c.call(ctx, c.rest.Get(), "get", o, query, nil, v)
}

// pageSize is how many objects one call lists: a call has its time, and each may have a megabyte.
const pageSize = 50

// list reads all objects of a kind, page by page, and hands each to fn. One at a time is held.
func list[T any](ctx context.Context, c *Client, o object, query url.Values, fn func(*T)) error {
	query = maps.Clone(query)
	if query == nil {
		query = url.Values{}
	}
	query.Set("limit", strconv.Itoa(pageSize))
	for {
		next := ""
		err := c.read(ctx, o, query, func(body io.Reader) (err error) {
			next, err = decodeList(body, fn)
			return err
		})
		if err != nil || next == "" {
			return err
		}
		query.Set("continue", next)
	}
}

// read asks for a list and hands the answer to decode while it comes in.
func (c *Client) read(ctx context.Context, o object, query url.Values, decode func(io.Reader) error) error {
	slots, _ := c.lanes.at(o.namespace, "list")
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return newError("list", o, ctx.Err())
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r := c.rest.Get().AbsPath(o.path()).MaxRetries(0)
	for key, values := range query {
		for _, value := range values {
			r = r.Param(key, value)
		}
	}
	body, err := r.Stream(ctx)
	if err != nil {
		return newError("list", o, err)
	}
	defer body.Close()
	switch err := decode(body); {
	case errors.Is(err, errForm):
		return &Error{Kind: Unclear, Verb: "list", object: o, detail: err.Error()}
	case err != nil:
		return newError("list", o, err)
	}
	return nil
}

// apply applies an object by server-side apply, taking fields over from whoever has them, and reads the answer
// into v.
func (c *Client) apply(ctx context.Context, o object, body, v any) error {
	return c.applyWith(ctx, c.rest.Patch(types.ApplyYAMLPatchType), o, body, v)
}

func (c *Client) applyWith(ctx context.Context, r *rest.Request, o object, body, v any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.call(ctx, r, "patch", o, url.Values{"fieldManager": {c.manager}, "force": {"true"}}, data, v)
}

// merge patches an object by JSON merge patch.
func (c *Client) merge(ctx context.Context, o object, body, v any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return c.call(ctx, c.rest.Patch(types.MergePatchType), "patch", o, url.Values{"fieldManager": {c.manager}}, data, v)
}

// call asks once: whoever calls decides when to ask again. The answer is read into v.
func (c *Client) call(ctx context.Context, r *rest.Request, verb string, o object, query url.Values, body []byte, v any) error {
	slots, quiet := c.lanes.at(o.namespace, verb)
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-c.silence.falls():
		return c.silence.error(verb, o)
	case <-quiet.falls():
		return quiet.error(verb, o)
	case <-ctx.Done():
		return newError(verb, o, ctx.Err())
	}
	for _, s := range []*silence{c.silence, quiet} {
		if s.holds() {
			return s.error(verb, o)
		}
	}
	r = r.AbsPath(o.path()).MaxRetries(0)
	for key, values := range query {
		for _, value := range values {
			r = r.Param(key, value)
		}
	}
	if body != nil {
		r = r.Body(body)
	}
	began := time.Now()
	answer, err := c.ask(ctx, r)
	if ctx.Err() == nil {
		if err != nil && time.Since(began) > slowCall {
			quiet.miss(o.name, err, cap(slots))
		} else {
			quiet.end()
		}
	}
	if err != nil {
		return newError(verb, o, err)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return &Error{Kind: Unclear, Verb: verb, object: o, detail: errForm.Error()}
	}
	return nil
}

// ask makes a call and waits for its answer, and where none comes finds out whether anybody is answered.
func (c *Client) ask(ctx context.Context, r *rest.Request) (answer []byte, err error) {
	timed, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	result := r.Do(timed)
	if err = result.Error(); err == nil { // that of Raw has not read what the API server says
		answer, err = result.Raw()
	}
	switch {
	case err == nil:
		c.silence.end()
	case timedOut(err) && ctx.Err() == nil:
		c.listen(ctx)
	}
	return answer, err
}

// stream opens a watch of an object, or of all of a kind. The caller closes it.
func (c *Client) stream(ctx context.Context, o object, query url.Values, accept string) (io.ReadCloser, error) {
	all := o
	all.name = ""
	r := c.rest.Get().AbsPath(all.path()).MaxRetries(0).SetHeader("Accept", accept)
	if o.name != "" {
		r = r.Param("fieldSelector", "metadata.name="+o.name)
	}
	for key, values := range query {
		for _, value := range values {
			r = r.Param(key, value)
		}
	}
	body, err := r.Stream(ctx)
	if err != nil {
		return nil, newError("watch", o, err)
	}
	c.silence.end()
	return body, nil
}

// Ready asks the API server whether it is ready. One that refuses to say so answers: not everybody may ask.
func (c *Client) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	o := object{resource: "readyz"}
	err := c.rest.Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error()
	if err != nil {
		if err := newError("get", o, err); err.Kind == Away || err.Kind == Failed || err.Kind == Unauthenticated {
			return err
		}
	}
	c.silence.end()
	return nil
}
