package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// bare is client-go with nothing around it.
type bare struct{ client *rest.RESTClient }

func newBare(kubeconfig string) (*bare, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config.GroupVersion = &schema.GroupVersion{Version: "v1"}
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.QPS = -1
	config.WarningHandlerWithContext = rest.NoWarnings{}
	client, err := rest.UnversionedRESTClientFor(config)
	return &bare{client}, err
}

// each does something for all services, as many at once as the engine.
func each(n int, do func(i int) error) error {
	var group errgroup.Group
	group.SetLimit(parallel)
	for i := range n {
		group.Go(func() error { return do(i) })
	}
	return group.Wait()
}

func path(namespace string, i int) string {
	return "/api/v1/namespaces/" + namespace + "/secrets/" + name(i) + "-mtls-cert"
}

// sets are two ready-made sets of a service.
var sets = [2]set{newSet(), newSet()}

type set struct{ chain, key, ca []byte }

// newSet makes a leaf below an issuing CA below a root. They carry no more than names of a length by which they are as
// long as meshca's.
func newSet() set {
	root, _ := newPair(strings.Repeat("r", 81), nil)
	issuing, _ := newPair(strings.Repeat("i", 81), nil)
	leaf, key := newPair("ready-made", []string{"ready-made", "ready-made.default.svc", "ready-made.default.svc.cluster.local",
		strings.Repeat("n", 63) + "." + strings.Repeat("n", 63) + "." + strings.Repeat("n", 63) + "." + strings.Repeat("n", 32)})
	return set{slices.Concat(leaf, issuing), key, root}
}

func newPair(name string, dns []string) (cert, key []byte) {
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // crypto/rand aborts the program before
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: dns,
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		panic(err)
	}
	scalar, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: scalar})
}

// manifest is a Secret as meshca writes it, ready made: of the same size, with the same labels and annotations.
func manifest(i int, version string, n int) []byte {
	ready := sets[n]
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
		"metadata": map[string]any{"name": name(i) + "-mtls-cert", "resourceVersion": version,
			"labels": map[string]string{"app.kubernetes.io/managed-by": "meshca", "meshca.io/service": name(i)},
			"annotations": map[string]string{"meshca.io/stamp": strings.Repeat("a", 97), "meshca.io/epoch": "1", "meshca.io/bundle-sha256": strings.Repeat("b", 64),
				"meshca.io/serial": strings.Repeat("c", 32), "meshca.io/not-before": "2026-11-24T17:31:21Z", "meshca.io/not-after": "2026-12-24T17:31:21Z",
				"meshca.io/issuer": "meshca issuing CA 1 2f30871c"}},
		"data": map[string][]byte{"tls.crt": ready.chain, "tls.key": ready.key, "ca.crt": ready.ca},
	})
	if err != nil {
		panic("bench: a manifest of strings: " + err.Error())
	}
	return body
}

func (b *bare) apply(ctx context.Context, namespace string, i int, body []byte) error {
	return b.client.Patch(types.ApplyYAMLPatchType).AbsPath(path(namespace, i)).Param("fieldManager", "bare").Param("force", "true").Body(body).Do(ctx).Error()
}

func (b *bare) applyAll(ctx context.Context, namespace string, n int) error {
	ready := make([][]byte, n)
	for i := range ready {
		ready[i] = manifest(i, "1", 0)
	}
	return each(n, func(i int) error { return b.apply(ctx, namespace, i, ready[i]) })
}

func (b *bare) getAll(ctx context.Context, namespace string, n int) error {
	return each(n, func(i int) error { return b.client.Get().AbsPath(path(namespace, i)).Do(ctx).Error() })
}

func (b *bare) getAndApplyAll(ctx context.Context, namespace string, n int) error {
	return each(n, func(i int) error {
		answer, err := b.client.Get().AbsPath(path(namespace, i)).Do(ctx).Raw()
		if err != nil {
			return err
		}
		var live struct{ Metadata metav1.ObjectMeta }
		if err := json.Unmarshal(answer, &live); err != nil {
			return err
		}
		return b.apply(ctx, namespace, i, manifest(i, live.Metadata.ResourceVersion, 1))
	})
}

func (b *bare) namespace(ctx context.Context, names ...string) error {
	for _, name := range names {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, name)
		if err := b.client.Post().AbsPath("/api/v1/namespaces").Body([]byte(body)).Do(ctx).Error(); err != nil {
			return err
		}
	}
	return nil
}

// requests is a line of the API server's own count of what it was asked for Secrets.
var requests = regexp.MustCompile(`^apiserver_request_total\{.*resource="secrets".*\} (\S+)$`)

var verb = regexp.MustCompile(`verb="([A-Z]+)"`)

// calls reads how often the API server was asked for Secrets, by verb.
func (b *bare) calls(ctx context.Context) map[string]int {
	count := make(map[string]int)
	answer, err := b.client.Get().AbsPath("/metrics").Do(ctx).Raw()
	if err != nil {
		return count
	}
	lines := bufio.NewScanner(bytes.NewReader(answer))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m, v := requests.FindStringSubmatch(lines.Text()), verb.FindStringSubmatch(lines.Text())
		if m == nil || v == nil {
			continue
		}
		if n, err := strconv.ParseFloat(m[1], 64); err == nil {
			count[v[1]] += int(n)
		}
	}
	return count
}

// since tells what was asked since a count, in words.
func (b *bare) since(ctx context.Context, before map[string]int) string {
	now := b.calls(ctx)
	var words []string
	for _, v := range slices.Sorted(maps.Keys(now)) {
		if n := now[v] - before[v]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, v))
		}
	}
	return strings.Join(words, ", ")
}
