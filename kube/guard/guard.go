// Package guard renders the admission policies that keep everybody but meshca from changing what meshca keeps
// in a cluster.
//
// # What it guarantees
//
// With the policies applied in mode deny, the API server refuses, from everybody but meshca's own account and
// the group [BreakGlassGroup]:
//
//   - to change tls.crt, tls.key or ca.crt of a Secret with the label [ServiceLabel]; its labels and annotations
//     that begin with meshca.io/; its ownerReferences; whether it is immutable;
//   - to delete such a Secret, unless its namespace is being deleted;
//   - to put the label on a Secret, at its creation or later;
//   - to create a Secret under a name of the catalogue;
//   - to make or delete the ConfigMap [TrustBundle] in a namespace of the catalogue, or to change its ca.crt, its
//     ownerReferences or whether it is immutable.
//
// From that group it refuses to change one of the three keys without the annotation [BreakGlassAnnotation] and a reason:
// meshca would put them back at once.
//
// All else of such a Secret, and all other Secrets, are free. The policies are CEL in the API server
// (admissionregistration.k8s.io/v1, Kubernetes 1.30 and later): no webhook, nothing that has to be running.
package guard

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/meshca/meshca/profile"
)

// A Mode is what happens to a write that the policies are against.
type Mode string

// The modes.
const (
	Warn Mode = "warn" // it passes, with a warning to its author and a line in the audit log
	Deny Mode = "deny" // it is refused
	Off  Mode = "off"  // there are no policies
)

// actions are what a binding does in each mode. The API server takes no binding that denies and warns.
var actions = map[Mode]string{Warn: "[Warn, Audit]", Deny: "[Deny]"}

const (
	// DefaultUser is meshca's account where it is installed as its manifests do it.
	DefaultUser = "system:serviceaccount:meshca:meshca"
	// BreakGlassGroup is let through, if it says why. Nobody is in it: it is reached by impersonation only, which the audit
	// log shows together with who it was.
	BreakGlassGroup = "meshca:break-glass"
	// BreakGlassUser is the name to impersonate together with the group. It has no rights but the group's, so
	// that who may break the glass needs no right to impersonate real users.
	BreakGlassUser = "meshca:break-glass"
	// BreakGlassAnnotation holds the reason for which somebody broke the glass: meshca rests its healing of a
	// Secret that carries it.
	BreakGlassAnnotation = prefix + "break-glass"
	// TrustBundle is the ConfigMap that has the trust bundle in each namespace of the catalogue.
	TrustBundle = "meshca-ca"
	// ServiceLabel is on every Secret that meshca keeps; its value is the service's name.
	ServiceLabel = prefix + "service"

	// prefix begins every label and annotation of meshca's.
	prefix = "meshca.io/"
	// remove takes the policies out of a cluster.
	remove = "kubectl delete validatingadmissionpolicybinding,validatingadmissionpolicy -l app.kubernetes.io/name=meshca,app.kubernetes.io/component=guard"
)

const (
	// maxChunk is the most bytes of names in one expression: the API server's parser takes 100,000 characters.
	maxChunk = 50_000
	// maxOutput is the most that is rendered. kubectl apply keeps a copy of each object in one of its
	// annotations, of which an object holds 262,144 bytes; the copy, in JSON, is longer than the YAML by little
	// more than the escaped ends of lines.
	maxOutput = 240_000
)

// maxKeys is the most labels, and the most annotations, of a Secret whose change is judged one by one. The API
// server's CEL takes 10 ms for 1,000 of them and 22 s for 75,000, which an annotation's size allows.
const maxKeys = 1000

// A Name is a Secret's.
type Name struct {
	Namespace, Name string
}

// Options say what the policies are to be.
type Options struct {
	// Mode is Warn where it is empty.
	Mode Mode
	// User is the only account that is let through; where it is empty, [DefaultUser].
	User string
	// Secrets are the names of the catalogue that nobody else may create, in any order.
	Secrets []Name
}

//go:embed guard.yaml.tmpl
var source string

var policies = template.Must(template.New("guard").Option("missingkey=error").Parse(source))

// Render makes the policies as YAML for kubectl apply. The same options give the same bytes. In mode Off it
// makes a comment that says how to remove them. What cannot be a name in Kubernetes is refused: nothing that
// is said in the options can become another part of the policies.
func Render(o Options) ([]byte, error) {
	if o.Mode == "" {
		o.Mode = Warn
	}
	if o.User == "" {
		o.User = DefaultUser
	}
	if o.Mode == Off {
		return []byte("# The guard is off: there is nothing to apply. To remove one that is there:\n#   " + remove + "\n"), nil
	}
	if actions[o.Mode] == "" {
		return nil, fmt.Errorf("mode %q is not %s, %s or %s", o.Mode, Warn, Deny, Off)
	}
	if err := checkUser(o.User); err != nil {
		return nil, fmt.Errorf("user %q %w", o.User, err)
	}
	names, err := sorted(o.Secrets)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := policies.Execute(&out, page{Mode: o.Mode, User: o.User, Chunks: chunks(names), Namespaces: namespaces(o.Secrets)}); err != nil {
		return nil, err
	}
	if out.Len() > maxOutput {
		return nil, fmt.Errorf("the policies of %d Secrets have %d bytes, kubectl apply takes %d: shorten the names of Secrets or namespaces",
			len(names), out.Len(), maxOutput)
	}
	return out.Bytes(), nil
}

// A page is what the template is filled with. Every text of it is safe between single quotes in CEL between
// double quotes in YAML: it has neither, no backslash, and nothing that does not print.
type page struct {
	Mode   Mode
	User   string
	Chunks [][]string

	Namespaces []string // of the Secrets
}

// The constants, under the names that the template has for them.
func (page) Remove() string     { return remove }
func (page) Group() string      { return BreakGlassGroup }
func (page) Annotation() string { return BreakGlassAnnotation }
func (page) Label() string      { return ServiceLabel }
func (page) Prefix() string     { return prefix }
func (page) Most() int          { return maxKeys }
func (page) Bundle() string     { return TrustBundle }

// Glass is the end of every message: the way through, for whoever may.
func (page) Glass() string {
	return "in an emergency, kubectl --as=" + BreakGlassUser + " --as-group=" + BreakGlassGroup + " does it"
}

// Binding is what the template of a policy's binding is filled with.
func (p page) Binding(policy string) map[string]string {
	return map[string]string{"Policy": policy, "Actions": actions[p.Mode]}
}

// sorted checks the names and returns them as namespace/name, each once.
func sorted(secrets []Name) ([]string, error) {
	names := make([]string, 0, len(secrets))
	for _, s := range secrets {
		if err := profile.CheckLabel(s.Namespace); err != nil {
			return nil, fmt.Errorf("namespace %q %w", s.Namespace, err)
		}
		if err := checkSubdomain(s.Name); err != nil {
			return nil, fmt.Errorf("secret %q in namespace %s %w", s.Name, s.Namespace, err)
		}
		names = append(names, s.Namespace+"/"+s.Name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// namespaces are those of the names, which are checked, each once.
func namespaces(secrets []Name) []string {
	var all []string
	for _, s := range secrets {
		all = append(all, s.Namespace)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// chunks splits names into lists that an expression holds. There is one at least, since a policy without an
// expression is none.
func chunks(names []string) [][]string {
	lists := [][]string{{}}
	size := 0
	for _, name := range names {
		size += len(name)
		if size > maxChunk {
			lists, size = append(lists, nil), len(name)
		}
		last := &lists[len(lists)-1]
		*last = append(*last, name)
	}
	return lists
}

var (
	subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	username  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:._@/+-]*$`)
)

// checkSubdomain says whether a Secret may have the name: Kubernetes' DNS subdomain, whose labels may be longer
// than those of DNS.
func checkSubdomain(name string) error {
	switch {
	case len(name) > 253:
		return fmt.Errorf("has %d bytes, a name has at most 253", len(name))
	case !subdomain.MatchString(name):
		return errors.New("is no DNS subdomain: a-z, 0-9, and - and . inside")
	}
	return nil
}

// checkUser says whether the name is one that a single account can have.
func checkUser(user string) error {
	switch {
	case len(user) > 253:
		return fmt.Errorf("has %d bytes, a user has at most 253 here", len(user))
	case !username.MatchString(user):
		return errors.New("is no name of an account: A-Z, a-z, 0-9 and :._@/+-, beginning with a letter or a digit")
	case user == "system:anonymous":
		return errors.New("is whoever does not say who they are")
	case user == BreakGlassUser:
		return errors.New("is the name to break the glass with")
	}
	account, isAccount := strings.CutPrefix(user, "system:serviceaccount:")
	if !isAccount {
		return nil
	}
	namespace, name, _ := strings.Cut(account, ":")
	if profile.CheckLabel(namespace) != nil || checkSubdomain(name) != nil {
		return errors.New("is no ServiceAccount: system:serviceaccount:NAMESPACE:NAME")
	}
	return nil
}
