package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshca/meshca/rotation"
)

func bundleAt(namespace string) object {
	return object{resource: "configmaps", namespace: namespace, name: BundleMap}
}

// Publish implements [rotation.Target]: the ConfigMap in each namespace. What cannot be done in one does not keep
// the others from it.
func (t *Target) Publish(ctx context.Context, bundle []byte) error {
	var failed []error
	var changed error
	for _, namespace := range t.namespaces() {
		err := t.publish(ctx, namespace, string(bundle))
		if errors.Is(err, rotation.ErrChanged) {
			changed = err
		} else if err != nil {
			failed = append(failed, hinted(err))
		}
	}
	if len(failed) > 0 {
		return errors.Join(failed...) // what has changed elsewhere is looked at in the next sweep
	}
	return changed
}

func (t *Target) namespaces() (all []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.services {
		all = append(all, s.Namespace)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// mayWriteOver says whether that version of the ConfigMap was seen before the services were looked at: then nothing
// newer than what they showed is written over. A process that was stopped in the middle of a pass finds another
// version when it wakes, and must look again. An absent one is made by the first who comes.
func (t *Target) mayWriteOver(at object, version string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen, looked := t.versions[at.path()]
	t.versions[at.path()] = version
	return looked && seen == version || !looked && version == ""
}

// publish brings the ConfigMap of one namespace up to date.
func (t *Target) publish(ctx context.Context, namespace, bundle string) error {
	at := bundleAt(namespace)
	var live corev1.ConfigMap
	err := t.client.get(ctx, at, &live, nil)
	if err != nil && !is(err, NotFound) {
		return err
	}
	if live.Data[rotation.CAFile] == bundle {
		t.remember(at.path(), live.ResourceVersion, "")
		return nil
	}
	if live.Immutable != nil && *live.Immutable {
		return fmt.Errorf("%s is immutable: delete it, and meshca makes it anew", at)
	}
	if !t.mayWriteOver(at, live.ResourceVersion) {
		return fmt.Errorf("%s: %w", at, rotation.ErrChanged)
	}
	m := manifest{APIVersion: version, Kind: "ConfigMap", Data: map[string]string{rotation.CAFile: bundle},
		Metadata: manifestMeta{Name: BundleMap, Namespace: namespace, UID: live.UID, ResourceVersion: cmp.Or(live.ResourceVersion, absent)}}
	if live.ResourceVersion == "" || live.Labels[labelManagedBy] == managedBy {
		m.Metadata.Labels = map[string]string{labelManagedBy: managedBy}
	}
	if err := t.client.apply(ctx, at, m, &live); err != nil {
		return err
	}
	t.remember(at.path(), live.ResourceVersion, "")
	t.log.Info("published the trust bundle", "configmap", namespace+"/"+BundleMap)
	return nil
}
