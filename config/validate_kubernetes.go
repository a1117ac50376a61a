package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/meshca/meshca/profile"
)

// How a change of a Secret is noticed.
const (
	watchNames     = "names"
	watchNone      = "none"
	watchNamespace = "namespace"
)

// maxObjectName is the longest name that Kubernetes gives an object.
const maxObjectName = 253

func (k checker) target() {
	switch t := k.c.Target; {
	case t.Directory == nil && t.Kubernetes == nil:
		k.add("target", "write target: {directory: {path: mesh}} or target: {kubernetes: {}}", "names no target, want exactly one")
	case t.Directory != nil && t.Kubernetes != nil:
		k.add("target", "run two processes, each with a store of its own", "names two targets, want exactly one")
	case t.Kubernetes != nil:
		k.oneOf("target.kubernetes.watch", t.Kubernetes.Watch, watchNames, watchNone, watchNamespace)
	}
}

// oneOf reports a value that is none of the allowed ones, with the one that was likely meant.
func (k checker) oneOf(path, value string, allowed ...string) {
	if slices.Contains(allowed, value) {
		return
	}
	hint := ""
	if near := nearest(value, allowed); near != "" {
		hint = "write " + near
	}
	k.add(path, hint, "%s is not one of %s", quote(value), strings.Join(allowed, ", "))
}

// delivery checks what only target.kubernetes reads of a service, and refuses it beside another target, where
// it would be a setting that is silently not applied.
func (k checker) delivery(path string, s Service) {
	secret, workloads, consumers := path+".secret", path+".workloads", path+".consumers"
	if k.c.Target.Directory != nil && k.c.Target.Kubernetes == nil {
		for _, field := range [...]string{secret, workloads, consumers} {
			if k.has(field) {
				k.add(field, "leave the key out", "is for target.kubernetes, target.directory does not apply it")
			}
		}
		return
	}
	if k.has(secret) {
		k.spelled(secret, s.Secret, checkObjectName)
	}
	k.workloads(workloads, s.Workloads)
	if s.Consumers != "" {
		k.oneOf(consumers, s.Consumers, "none", "api")
	}
}

func (k checker) workloads(path string, workloads []Workload) {
	first := map[Workload]int{}
	for i, w := range workloads {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !k.ok(at) {
			continue // no mapping
		}
		kind, name := at+".kind", at+".name"
		if k.has(kind) {
			k.oneOf(kind, w.Kind, "Deployment", "StatefulSet", "DaemonSet")
		} else {
			k.add(kind, "", "is missing, every workload has a kind")
		}
		if k.has(name) {
			k.spelled(name, w.Name, checkObjectName)
		} else {
			k.add(name, "", "is missing, every workload has a name")
		}
		if !k.ok(kind, name) {
			continue
		}
		if line, again := first[w]; again {
			k.add(at, "keep one of the two", "%s %s is listed twice, first on line %d", w.Kind, quote(w.Name), line)
			continue
		}
		first[w] = k.line(at)
	}
}

// secrets refuses one Secret for two services: each would write over what the other has, without end.
func (k checker) secrets() {
	first := map[[2]string]int{}
	for i, s := range k.c.Services {
		path := servicePath(i)
		secret := path + ".secret"
		if !k.ok(path, path+".namespace", secret) || !k.has(secret) && !k.ok(path+".name") {
			continue // what the Secret is, is not known
		}
		at := [2]string{s.Namespace, s.Secret}
		if line, again := first[at]; again {
			k.add(secret, "write another secret, unique in its namespace",
				"%s is the Secret of the service on line %d already", quote(s.Secret), line)
			continue
		}
		first[at] = k.line(secret)
	}
}

// checkAccount says whether s may be NAMESPACE/NAME of a service account.
func checkAccount(s string) error {
	namespace, name, both := strings.Cut(s, "/")
	if !both {
		return errors.New("is no NAMESPACE/NAME")
	}
	if err := profile.CheckLabel(namespace); err != nil {
		return fmt.Errorf("has a namespace that %w", err)
	}
	if err := checkObjectName(name); err != nil {
		return fmt.Errorf("has a name that %w", err)
	}
	return nil
}

// checkObjectName says whether s may name an object in Kubernetes, which takes a DNS subdomain in lower case.
// It is not profile.CheckDNSName: there are no labels here, so that a part may be longer than 63 bytes (the
// default for a service's longest name is), and an IP address is a name like another.
func checkObjectName(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > maxObjectName:
		return fmt.Errorf("has %d bytes, a Kubernetes object's name has at most %d", len(s), maxObjectName)
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return fmt.Errorf("holds %q, a Kubernetes object's name holds only a-z, 0-9, hyphens and dots", c)
		}
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return errors.New("has a hyphen or a dot at an end or beside a dot")
		}
	}
	return nil
}
