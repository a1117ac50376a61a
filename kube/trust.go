package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/meshca/meshca/rotation"
)

func bundleAt(namespace string) object {
	return object{resource: "configmaps", namespace: namespace, name: BundleMap}
}

// Publish implements [rotation.Target]: the ConfigMap in each namespace. What cannot be done in one does not keep
// the others from it.
func (t *Target) Publish(ctx context.Context, bundle []byte) (changed []string, err error) {
	namespaces := t.namespaces()
	errs := make([]error, len(namespaces))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, namespace := range namespaces {
		group.Go(func() error { // ends with Publish
			errs[i] = t.publish(ctx, namespace, string(bundle))
			return nil
		})
	}
	_ = group.Wait() // no error is returned above
	for i, namespace := range namespaces {
		if errors.Is(errs[i], rotation.ErrChanged) {
			changed, errs[i] = append(changed, rotation.PublishedIn(namespace)), nil
		} else if errs[i] != nil {
			errs[i] = hinted(errs[i])
		}
	}
	return changed, errors.Join(errs...)
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
		t.bundleSeen(namespace, bundle)
		return nil
	}
	if live.Immutable != nil && *live.Immutable {
		t.tellStuck(&live, namespace, bundle)
		return fmt.Errorf("%s is immutable: delete it, and meshca makes it anew", at)
	}
	if !t.mayWriteOver(at, live.ResourceVersion) {
		return fmt.Errorf("%s: %w", at, rotation.ErrChanged)
	}
	written, err := t.writeBundle(ctx, &live, namespace, bundle)
	if err != nil {
		return changed(err)
	}
	t.remember(at.path(), written.ResourceVersion, "")
	if before := t.bundleSeen(namespace, bundle); before == bundle {
		t.tellBundle(&live, written, namespace)
	} else {
		t.log.Info("published the trust bundle", "configmap", namespace+"/"+BundleMap)
	}
	return nil
}

// writeBundle writes over the ConfigMap that was read, or makes one. A ca.crt among its binaryData is of the same
// file for who mounts it, and the API server takes no other beside it: no apply of ours removes it, since it is
// another's field, so it goes by a merge patch that puts ours in its place in the same step.
func (t *Target) writeBundle(ctx context.Context, live *corev1.ConfigMap, namespace, bundle string) (*corev1.ConfigMap, error) {
	at, written := bundleAt(namespace), &corev1.ConfigMap{}
	if _, binary := live.BinaryData[rotation.CAFile]; binary {
		return written, t.client.merge(ctx, at, map[string]any{
			"metadata":   map[string]any{"uid": live.UID, "resourceVersion": live.ResourceVersion},
			"binaryData": map[string]any{rotation.CAFile: nil}, "data": map[string]any{rotation.CAFile: bundle},
		}, written)
	}
	m := manifest{APIVersion: version, Kind: "ConfigMap", Data: map[string]string{rotation.CAFile: bundle},
		Metadata: manifestMeta{Name: BundleMap, Namespace: namespace, UID: live.UID, ResourceVersion: cmp.Or(live.ResourceVersion, absent)}}
	if live.ResourceVersion == "" || live.Labels[labelManagedBy] == managedBy {
		m.Metadata.Labels = map[string]string{labelManagedBy: managedBy}
	}
	return written, t.client.apply(ctx, at, m, written)
}

// bundleSeen keeps which bundle is in place in a namespace, and returns the one before.
func (t *Target) bundleSeen(namespace, bundle string) (before string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before = t.bundles[namespace]
	t.bundles[namespace] = bundle
	return before
}

// tellBundle says what was put right in a ConfigMap that had the bundle before: in the log, and as an Event on it.
func (t *Target) tellBundle(was, now *corev1.ConfigMap, namespace string) {
	wanted := []byte(now.Data[rotation.CAFile])
	seen, right, by := rotation.Describe(heldBundle(was), wanted), rotation.Describe(wanted, nil), bundleWriter(was)
	t.log.Info("healed the published trust bundle", "configmap", namespace+"/"+BundleMap, "seen", seen, "wanted", right, "by", by)
	t.events.add(notice{
		Notice: rotation.Notice{Kind: rotation.NoticeHealed, Text: fmt.Sprintf("%s: %s → %s; by %s", rotation.CAFile, seen, right, by)},
		about:  reference{version, "ConfigMap", namespace, BundleMap, string(now.UID)},
	})
}

// tellStuck says, once for each version, that a ConfigMap with another bundle cannot be written: whoever verifies by it
// trusts what it holds.
func (t *Target) tellStuck(was *corev1.ConfigMap, namespace, bundle string) {
	t.mu.Lock()
	told := t.stuck[namespace] == was.ResourceVersion
	t.stuck[namespace] = was.ResourceVersion
	t.mu.Unlock()
	if told {
		return
	}
	seen, right, by := rotation.Describe(heldBundle(was), []byte(bundle)), rotation.Describe([]byte(bundle), nil), bundleWriter(was)
	t.log.Warn("the published trust bundle is another, and immutable", "configmap", namespace+"/"+BundleMap, "seen", seen, "wanted", right, "by", by,
		"hint", "delete it, and meshca makes it anew")
	t.events.add(notice{
		Notice: rotation.Notice{Kind: rotation.NoticeAlarm,
			Text: fmt.Sprintf("immutable, with another %s: %s, wanted %s; by %s; delete it, and meshca makes it anew", rotation.CAFile, seen, right, by)},
		about: reference{version, "ConfigMap", namespace, BundleMap, string(was.UID)},
	})
}

// heldBundle is the ca.crt that a ConfigMap holds, nil where it has none.
func heldBundle(m *corev1.ConfigMap) []byte {
	if text, there := m.Data[rotation.CAFile]; there {
		return []byte(text)
	}
	if binary, there := m.BinaryData[rotation.CAFile]; there {
		return append([]byte{}, binary...)
	}
	return nil
}

// bundleWriter is who claims to have written the bundle last, beside us.
func bundleWriter(m *corev1.ConfigMap) string {
	by, at := removed, time.Time{}
	for _, entry := range m.ManagedFields {
		var set struct {
			Data   map[string]json.RawMessage `json:"f:data"`
			Binary map[string]json.RawMessage `json:"f:binaryData"`
		}
		if entry.Manager == FieldManager || entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &set) != nil {
			continue
		}
		const file = "f:" + rotation.CAFile
		if holds := set.Data[file] != nil || set.Binary[file] != nil; holds && entry.Time != nil && !entry.Time.Time.Before(at) {
			at = entry.Time.Time
			by = fmt.Sprintf("%s at %s (as its field manager says)", clean(entry.Manager), at.UTC().Format(time.RFC3339))
		}
	}
	return by
}
