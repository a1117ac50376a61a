package kube

import (
	"context"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// A Pod is one that reads a Secret or a ConfigMap: its processes may hold what it held when they started.
type Pod struct {
	Namespace, Name string
	UID             types.UID
	Created         time.Time // metadata.creationTimestamp, by the API server's clock
	Phase           string
	Terminating     bool
	// Workload is what makes the pod anew, as kubectl rollout restart takes it: "deployment/envoy". It is ""
	// for a pod that nothing makes anew.
	Workload string
	// Fixed says that it reads by an environment variable or a subPath: the kubelet never brings a change into
	// the running pod, while the files of a whole volume are brought up to date within about a minute.
	Fixed bool
}

// readers lists the pods of a namespace that read those of its Secrets, by the Secret's name. Which Secrets a CSI
// driver fetches for a pod by itself is not written in the pod, so it is not known here.
func (c *Client) readers(ctx context.Context, namespace string, secrets map[string]bool) (map[string][]Pod, error) {
	u, err := c.uses(ctx, namespace, func(at place) bool { return secrets[at.name] })
	if err != nil {
		return nil, err
	}
	byName := make(map[string][]Pod)
	for at, pods := range u.secrets {
		byName[at.name] = pods
	}
	return byName, nil
}

// A place names an object within a kind.
type place struct{ namespace, name string }

// uses is which pods read what.
type uses struct {
	secrets, configMaps map[place][]Pod
	wanted              func(place) bool // Secrets and ConfigMaps that are asked for: one pod may name ten thousand others
}

func newUses(wanted func(place) bool) *uses {
	return &uses{secrets: make(map[place][]Pod), configMaps: make(map[place][]Pod), wanted: wanted}
}

// uses lists the pods of a namespace, or of all where it is "", by what they read of what is wanted. A pod whose
// processes have ended reads nothing; one that is terminating or not ready still serves.
func (c *Client) uses(ctx context.Context, namespace string, wanted func(place) bool) (*uses, error) {
	u := newUses(wanted)
	err := list(ctx, c, object{resource: "pods", namespace: namespace}, nil, u.add)
	if err != nil {
		return nil, err
	}
	return u, nil
}

// add notes what one pod reads.
func (u *uses) add(p *livePod) {
	if p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return
	}
	pod := Pod{
		Namespace: p.Metadata.Namespace, Name: p.Metadata.Name, UID: p.Metadata.UID, Created: p.Metadata.CreationTimestamp,
		Phase: p.Status.Phase, Terminating: p.Metadata.DeletionTimestamp != nil, Workload: p.workload(),
	}
	secrets, configMaps := p.Spec.reads()
	u.note(u.secrets, pod, secrets)
	u.note(u.configMaps, pod, configMaps)
}

func (u *uses) note(into map[place][]Pod, pod Pod, names reads) {
	for name, fixed := range names {
		pod.Fixed = fixed
		if at := (place{pod.Namespace, name}); u.wanted(at) {
			into[at] = append(into[at], pod)
		}
	}
}

// livePod is what is read of a pod: the rest, which is most of it, is not kept.
type livePod struct {
	Metadata struct {
		Namespace         string            `json:"namespace"`
		Name              string            `json:"name"`
		UID               types.UID         `json:"uid"`
		Labels            map[string]string `json:"labels"`
		CreationTimestamp time.Time         `json:"creationTimestamp"`
		DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
		OwnerReferences   []struct {
			Kind       string `json:"kind"`
			Name       string `json:"name"`
			Controller bool   `json:"controller"`
		} `json:"ownerReferences"`
	} `json:"metadata"`
	Spec   podSpec `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

type podSpec struct {
	Volumes             []podVolume    `json:"volumes"`
	InitContainers      []podContainer `json:"initContainers"`
	Containers          []podContainer `json:"containers"`
	EphemeralContainers []podContainer `json:"ephemeralContainers"`
}

// named is a reference by name within the pod's namespace.
type named struct {
	Name string `json:"name"`
}

type podVolume struct {
	Name   string `json:"name"`
	Secret *struct {
		SecretName string `json:"secretName"`
	} `json:"secret"`
	ConfigMap *named `json:"configMap"`
	Projected *struct {
		Sources []struct {
			Secret    *named `json:"secret"`
			ConfigMap *named `json:"configMap"`
		} `json:"sources"`
	} `json:"projected"`
	CSI *struct {
		NodePublishSecretRef *named `json:"nodePublishSecretRef"`
	} `json:"csi"`
}

type podContainer struct {
	Env []struct {
		ValueFrom *struct {
			SecretKeyRef    *named `json:"secretKeyRef"`
			ConfigMapKeyRef *named `json:"configMapKeyRef"`
		} `json:"valueFrom"`
	} `json:"env"`
	EnvFrom []struct {
		SecretRef    *named `json:"secretRef"`
		ConfigMapRef *named `json:"configMapRef"`
	} `json:"envFrom"`
	VolumeMounts []struct {
		Name        string `json:"name"`
		SubPath     string `json:"subPath"`
		SubPathExpr string `json:"subPathExpr"`
	} `json:"volumeMounts"`
}

// reads is what a pod reads by name, and whether in a way that a running pod sees no change of.
type reads map[string]bool

func (r reads) add(ref *named, fixed bool) {
	if ref != nil && ref.Name != "" {
		r[ref.Name] = r[ref.Name] || fixed
	}
}

// reads lists what a pod reads. imagePullSecrets are read by the kubelet, not by the pod.
func (s *podSpec) reads() (secrets, configMaps reads) {
	secrets, configMaps = make(reads), make(reads)
	containers := slices.Concat(s.InitContainers, s.Containers, s.EphemeralContainers)
	subPaths := make(map[string]bool) // volumes of which some container mounts a part
	for _, c := range containers {
		for _, m := range c.VolumeMounts {
			if m.SubPath != "" || m.SubPathExpr != "" {
				subPaths[m.Name] = true
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil {
				secrets.add(e.ValueFrom.SecretKeyRef, true)
				configMaps.add(e.ValueFrom.ConfigMapKeyRef, true)
			}
		}
		for _, e := range c.EnvFrom {
			secrets.add(e.SecretRef, true)
			configMaps.add(e.ConfigMapRef, true)
		}
	}
	for _, v := range s.Volumes {
		v.reads(secrets, configMaps, subPaths[v.Name])
	}
	return secrets, configMaps
}

// reads notes what a volume is made of.
func (v *podVolume) reads(secrets, configMaps reads, fixed bool) {
	if v.Secret != nil {
		secrets.add(&named{v.Secret.SecretName}, fixed)
	}
	configMaps.add(v.ConfigMap, fixed)
	if v.CSI != nil {
		secrets.add(v.CSI.NodePublishSecretRef, fixed)
	}
	if v.Projected != nil {
		for _, source := range v.Projected.Sources {
			secrets.add(source.Secret, fixed)
			configMaps.add(source.ConfigMap, fixed)
		}
	}
}

// workload names what makes the pod anew. A Deployment owns its pods through a ReplicaSet, whose name is its
// own with the hash that the pod carries as a label.
func (p *livePod) workload() string {
	for _, o := range p.Metadata.OwnerReferences {
		if !o.Controller {
			continue
		}
		switch o.Kind {
		case "StatefulSet":
			return "statefulset/" + o.Name
		case "DaemonSet":
			return "daemonset/" + o.Name
		case "ReplicaSet":
			hash := p.Metadata.Labels["pod-template-hash"]
			if name, ok := strings.CutSuffix(o.Name, "-"+hash); hash != "" && ok {
				return "deployment/" + name
			}
		}
	}
	return ""
}
