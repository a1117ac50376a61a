package kube

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshca/meshca/kube/guard"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/verify"
)

// BundleMap is the ConfigMap that has the trust bundle, in its key ca.crt, in each namespace of a service: for
// whoever only verifies.
const BundleMap = guard.TrustBundle

// An Item says which Secret a service reads.
type Item struct{ Service, Namespace, Secret string }

// A Mesh is what was read of services in a cluster. Reading goes on where something may not be read.
type Mesh struct {
	// Services are what was found, for [verify.Check]. A Secret that does not exist is a service without files;
	// one that could not be read is in Unread only.
	Services []verify.Service
	// Findings are about the Secrets and ConfigMaps themselves.
	Findings []verify.Finding
	// Older are the pods that may hold older files than their Secrets have.
	Older []Older
	// Unread is what could not be read, and why.
	Unread []*Error
}

// An Older is a pod that may hold older files of a Secret than the Secret has: it is older than the last change
// of the Secret's keys, both by the API server's clock. Whether its processes have read the files again since
// cannot be known.
type Older struct {
	Service   string    `json:"service"`
	Namespace string    `json:"namespace"`
	Secret    string    `json:"secret"`
	Pod       string    `json:"pod"`
	Workload  string    `json:"workload,omitempty"` // see [Pod]
	Fixed     bool      `json:"fixed"`              // see [Pod]: it does hold them
	Created   time.Time `json:"created"`
	Changed   time.Time `json:"changed"`
}

// found is a Secret as it was read; nil is none.
type found struct {
	Item
	secret *corev1.Secret
}

// atOnce is how many Secrets are asked for at a time.
const atOnce = 16

// ReadSecrets reads the Secrets of the items, and what concerns them: the ConfigMaps with the bundle and the
// pods. The error is one after which nothing more can be asked.
func (c *Client) ReadSecrets(ctx context.Context, items []Item) (*Mesh, error) {
	m := &Mesh{}
	secrets, errs := make([]*corev1.Secret, len(items)), make([]error, len(items))
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, item := range items {
		group.Go(func() error {
			secrets[i], errs[i] = c.getSecret(asking, item.Namespace, item.Secret)
			return hopeless(errs[i])
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all []found
	namespaces := make(map[string]bool)
	for i, item := range items {
		namespaces[item.Namespace] = true
		if m.readable(errs[i]) {
			all = append(all, found{item, secrets[i]})
		}
	}
	return m, c.about(ctx, m, all, slices.Sorted(maps.Keys(namespaces)))
}

// ReadNamespace reads every Secret of a namespace, or of all where it is "", that looks like a service's
// certificate: it has the keys tls.crt and ca.crt. A service has the name of its Secret.
func (c *Client) ReadNamespace(ctx context.Context, namespace string) (*Mesh, error) {
	m := &Mesh{}
	var all []found
	err := c.listSecrets(ctx, namespace, func(s *corev1.Secret) {
		if !isSet(s) {
			return
		}
		item := Item{Service: s.Name, Namespace: s.Namespace, Secret: s.Name}
		if namespace == "" {
			item.Service = s.Namespace + "/" + s.Name
		}
		all = append(all, found{item, s})
	})
	if err := hopeless(err); err != nil {
		return nil, err
	}
	m.readable(err)
	return m, c.about(ctx, m, all, []string{namespace})
}

// hopeless gives an error after which no other question would be answered either.
func hopeless(err error) error {
	if _, ok := errors.AsType[*Error](err); err == nil || ok && !is(err, Away, Unauthenticated) {
		return nil
	}
	return err
}

// readable notes what could not be read.
func (m *Mesh) readable(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		m.Unread = append(m.Unread, e)
	}
	return err == nil
}

// notCertificates leaves out the Secrets that are many and large and hold no certificates of services.
const notCertificates = "type!=helm.sh/release.v1,type!=" + string(corev1.SecretTypeServiceAccountToken) + ",type!=" + string(corev1.SecretTypeDockerConfigJson)

// listSecrets hands each Secret of a namespace, or of all where it is "", to fn, which may keep it. Values that
// are not of a set are taken out first: nobody here needs them.
func (c *Client) listSecrets(ctx context.Context, namespace string, fn func(*corev1.Secret)) error {
	return list(ctx, c, object{resource: "secrets", namespace: namespace}, url.Values{"fieldSelector": {notCertificates}}, func(s *corev1.Secret) {
		kept := *s // a page goes when nothing points into it
		kept.Data = maps.Clone(s.Data)
		maps.DeleteFunc(kept.Data, func(key string, _ []byte) bool { return !slices.Contains(keys, key) })
		fn(&kept)
	})
}

// isSet says whether a Secret looks like a service's certificate.
func isSet(s *corev1.Secret) bool {
	_, cert := s.Data[rotation.CertFile]
	_, ca := s.Data[rotation.CAFile]
	return cert && ca
}

// files are a Secret's keys, as verify reads files: nil is absent.
func files(service string, s *corev1.Secret) verify.Service {
	v := verify.Service{Name: service}
	if s == nil {
		return v
	}
	for key, into := range map[string]*[]byte{rotation.CertFile: &v.Cert, rotation.KeyFile: &v.Key, rotation.CAFile: &v.CA} {
		if value, ok := s.Data[key]; ok {
			*into = append([]byte{}, value...)
		}
	}
	return v
}

// about adds what is to be said of the Secrets: "" among the namespaces is all.
func (c *Client) about(ctx context.Context, m *Mesh, all []found, namespaces []string) error {
	for _, f := range all {
		m.Services = append(m.Services, files(f.Service, f.secret))
		m.Findings = append(m.Findings, f.findings()...)
	}
	for _, namespace := range namespaces {
		if err := c.addBundleMaps(ctx, m, all, namespace); err != nil {
			return err
		}
		pods, err := c.uses(ctx, namespace, among(all))
		if err := hopeless(err); err != nil {
			return err
		}
		if m.readable(err) {
			m.Older = append(m.Older, older(all, pods)...)
		}
	}
	return nil
}

// addBundleMaps compares the bundle's ConfigMaps with the Secrets beside them.
func (c *Client) addBundleMaps(ctx context.Context, m *Mesh, all []found, namespace string) error {
	type configMap struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Data     map[string]string `json:"data"`
	}
	var bundles []configMap
	add := func(m *configMap) { bundles = append(bundles, *m) }
	o := object{resource: "configmaps", namespace: namespace}
	var err error
	if namespace == "" {
		err = list(ctx, c, o, url.Values{"fieldSelector": {"metadata.name=" + BundleMap}}, add)
	} else {
		o.name = BundleMap
		var one configMap
		if err = c.get(ctx, o, &one, nil); err == nil {
			add(&one)
		}
	}
	if is(err, NotFound, NamespaceMissing) {
		return nil
	}
	if err := hopeless(err); err != nil {
		return err
	}
	m.readable(err)
	for _, b := range bundles {
		bundle, present := b.Data[rotation.CAFile]
		m.Findings = append(m.Findings, bundleMapFindings(b.Metadata.Namespace, bundle, present, all)...)
	}
	return nil
}

// among says which Secrets those are.
func among(all []found) func(place) bool {
	secrets := make(map[place]bool, len(all))
	for _, f := range all {
		secrets[place{f.Namespace, f.Secret}] = true
	}
	return func(at place) bool { return secrets[at] }
}

// older lists the pods that are older than what they read. The clock of both is that of the API server, which
// counts in seconds: in the second of a change a pod may be older too. In that of a Secret's making it is not,
// since it waits for the Secret; otherwise whatever was made at once with its Secret would be listed for ever.
func older(all []found, pods *uses) []Older {
	var list []Older
	for _, f := range all {
		if f.secret == nil {
			continue
		}
		changed := lastChange(f.secret)
		for _, p := range pods.secrets[place{f.Namespace, f.Secret}] {
			if p.Created.Before(changed) || p.Created.Equal(changed) && changed.After(f.secret.CreationTimestamp.Time) {
				list = append(list, Older{
					Service: f.Service, Namespace: f.Namespace, Secret: f.Secret, Pod: p.Name, Workload: p.Workload,
					Fixed: p.Fixed, Created: p.Created.UTC(), Changed: changed.UTC(),
				})
			}
		}
	}
	slices.SortFunc(list, func(a, b Older) int {
		return strings.Compare(a.Service+" "+a.Pod, b.Service+" "+b.Pod)
	})
	return list
}

// lastChange is when one of the keys was last written: the newest entry among the field managers that hold one.
// A manager's entry is newer too when it has written something else, so the keys may be older, never newer.
func lastChange(s *corev1.Secret) time.Time {
	last := s.CreationTimestamp.Time
	for _, f := range s.ManagedFields {
		if f.Time != nil && f.Time.After(last) && holdsKeys(f) {
			last = f.Time.Time
		}
	}
	return last
}
