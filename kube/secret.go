package kube

import (
	"context"
	"fmt"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

func secretAt(namespace, name string) object {
	return object{resource: "secrets", namespace: namespace, name: name}
}

// absent is the resourceVersion of an apply that makes an object and fails where there is one: no object has
// had it. (An apply without it would take over what somebody made in between; "0" is no condition.)
const absent = "1"

// A manifest is what one server-side apply says of a Secret or ConfigMap: fields that it leaves out and that we
// own are removed, those of others stay.
type manifest struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   manifestMeta      `json:"metadata"`
	Type       corev1.SecretType `json:"type,omitempty"` // of a Secret: the live one, always: a type left out later is an error
	Data       any               `json:"data,omitempty"` // map[string][]byte for a Secret, map[string]string for a ConfigMap
}

type manifestMeta struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace"`
	UID             types.UID         `json:"uid,omitempty"`
	ResourceVersion string            `json:"resourceVersion"` // never empty: an apply without it overwrites what it has not seen
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
}

// getSecret reads a Secret; nil is none.
func (c *Client) getSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret := &corev1.Secret{}
	err := c.get(ctx, secretAt(namespace, name), secret, url.Values{})
	if is(err, NotFound) {
		return nil, nil
	}
	return secret, err
}

// writeSecret is applySecret for who needs to know only which version it has made: the API server answers with no
// more.
func (c *Client) writeSecret(ctx context.Context, m manifest) (written manifestMeta, err error) {
	m.APIVersion, m.Kind = version, "Secret"
	at := secretAt(m.Metadata.Namespace, m.Metadata.Name)
	var answer struct {
		Metadata manifestMeta `json:"metadata"`
	}
	err = c.applyWith(ctx, c.rest.Patch(types.ApplyYAMLPatchType).SetHeader("Accept", metadataOnly), at, m, &answer)
	return answer.Metadata, err
}

// applySecret writes a Secret as m says, over exactly the one that m's uid and resourceVersion name, or, with
// the resourceVersion absent, where there is none.
func (c *Client) applySecret(ctx context.Context, m manifest) (*corev1.Secret, error) {
	m.APIVersion, m.Kind = version, "Secret"
	written := &corev1.Secret{}
	if err := c.apply(ctx, secretAt(m.Metadata.Namespace, m.Metadata.Name), m, written); err != nil {
		return nil, err
	}
	return written, nil
}

// CheckName refuses what cannot be the name of a Secret, before it becomes part of a path.
func CheckName(name string) error {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return fmt.Errorf("%q cannot be the name of a Secret: lower-case letters, digits, '-' and '.', at most 253 of them", name)
	}
	return nil
}

// CheckNamespace refuses what cannot be the name of a namespace.
func CheckNamespace(name string) error {
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
		return fmt.Errorf("%q cannot be the name of a namespace: lower-case letters, digits and '-', at most 63 of them", name)
	}
	return nil
}
