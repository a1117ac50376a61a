package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/verify"
)

// RepairManager is the field manager of a repair. It is not meshca's: an apply takes away what its own manager
// has set and it leaves out, so a repair under that name could strip the marks of a meshca that it has not seen.
// A later meshca takes the keys over in place, because it applies with force.
const RepairManager = "meshca-repair"

// The codes of what stands against a repair.
const (
	// MeshcaIsLive: a meshca keeps Secrets of the namespace, or guards them.
	MeshcaIsLive verify.Code = "meshca-is-live"
	// WouldBreak: two services that accept each other now would refuse each other afterwards.
	WouldBreak verify.Code = "would-break"
	// RepairRefused: services of the folder are refused, and so all of it.
	RepairRefused verify.Code = "refused"
	// SecretTerminating: the Secret is being deleted.
	SecretTerminating verify.Code = "secret-terminating"
	// BadName: the service's name makes no name of a Secret.
	BadName verify.Code = "bad-name"
)

// An Action is what a repair does to one Secret.
type Action string

// The actions.
const (
	Create Action = "create"
	Update Action = "update"
	Equal  Action = "equal"  // it has these files: nothing is written
	Refuse Action = "refuse" // it stays as it is
)

// A RepairStep is what a repair does to one service.
type RepairStep struct {
	Service, Secret string
	Action          Action
	Now, Then       verify.Row // what the Secret has, and what it would have
	Reason          string

	files verify.Service
	live  *corev1.Secret // nil: there is none
}

// writes says whether the step writes.
func (s *RepairStep) writes() bool { return s.Action == Create || s.Action == Update }

// A Repair is the plan of one: what is written, and what would be afterwards.
type Repair struct {
	Namespace string
	// Steps has one for each service of the folder, in name order.
	Steps []RepairStep
	// Objections are why it is refused: nothing of it is carried out.
	Objections []verify.Finding
	// Findings are why single steps are refused, and what else is to be known of the Secrets.
	Findings []verify.Finding
	// After is the report of the namespace's Secrets as they would be, by their names.
	After *verify.Report
	// Order is in which order the services whose Secrets are updated are best restarted.
	Order Order
}

// Changes says whether the repair would write anything.
func (r *Repair) Changes() bool {
	return slices.ContainsFunc(r.Steps, func(s RepairStep) bool { return s.writes() })
}

// RepairOptions say what a repair is made of.
type RepairOptions struct {
	Namespace string
	Suffix    string           // a service's Secret is its name and this
	From      []verify.Service // the folder's
	Partial   bool             // go on without the services that are refused
	Now       time.Time
}

// PlanRepair reads a namespace and says what a repair would do. Its error is that of a namespace that cannot be
// read as a whole: then it cannot be said how it would be afterwards. Where it may not look for a guard, it says
// so in notLooked.
func (c *Client) PlanRepair(ctx context.Context, o RepairOptions) (r *Repair, notLooked *Error, err error) {
	var secrets []*corev1.Secret
	if err := c.listSecrets(ctx, o.Namespace, func(s *corev1.Secret) { secrets = append(secrets, s) }); err != nil {
		return nil, nil, err
	}
	guards, err := c.guards(ctx)
	if err := hopeless(err); err != nil {
		return nil, nil, err
	}
	notLooked, _ = errors.AsType[*Error](err)
	r = planRepair(o, secrets)
	for _, guard := range guards {
		r.object(MeshcaIsLive, guard, "the ValidatingAdmissionPolicy %s guards Secrets for a meshca in this cluster", guard)
	}
	return r, notLooked, nil
}

// guards lists the admission policies that are meshca's.
func (c *Client) guards(ctx context.Context) (names []string, err error) {
	type policy struct {
		Metadata struct {
			Name   string            `json:"name"`
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	o := object{group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicies"}
	err = list(ctx, c, o, nil, func(p *policy) {
		name := p.Metadata.Name
		if name == "meshca" || strings.HasPrefix(name, "meshca-") || p.Metadata.Labels["app.kubernetes.io/name"] == "meshca" {
			names = append(names, name)
		}
	})
	return names, err
}

// object notes what stands against the whole.
func (r *Repair) object(code verify.Code, at, format string, args ...any) {
	hints := map[verify.Code]string{
		MeshcaIsLive: "let that meshca do it: meshca status says what stands in its way; if it is gone for good, remove what it left first",
		WouldBreak:   "take the missing services into the folder, or give its ca.crt the roots that the others' certificates need",
	}
	r.Objections = append(r.Objections, verify.Finding{Code: code, Service: at, Sentence: fmt.Sprintf(format, args...), Hint: hints[code]})
}

// planRepair decides, from the Secrets of the namespace, what a repair would do.
func planRepair(o RepairOptions, secrets []*corev1.Secret) *Repair {
	r := &Repair{Namespace: o.Namespace}
	live := make(map[string]*corev1.Secret)
	for _, s := range secrets {
		live[s.Name] = s
		if s.Annotations[annotationStamp] != "" || s.Labels[labelService] != "" {
			r.object(MeshcaIsLive, s.Name, "a meshca keeps the Secret %s", s.Name)
		}
	}
	folder := verify.Check(o.From, o.Now)
	for i, row := range folder.Services {
		at := slices.IndexFunc(o.From, func(s verify.Service) bool { return s.Name == row.Name })
		step := RepairStep{Service: row.Name, Secret: row.Name + o.Suffix, Then: folder.Services[i], files: o.From[at]}
		step.live = live[step.Secret]
		r.decide(&step, folder)
		r.Steps = append(r.Steps, step)
	}
	r.refuseWhole(o.Partial)
	r.compare(secrets, o.Now)
	return r
}

// tolerable are the findings with which a service works. All others of the folder refuse it.
var tolerable = []verify.Code{
	verify.BundleDiffers, verify.SameSubjectInBundle, verify.CAExpired, verify.CANotYetValid, verify.LeafInBundle,
	verify.IntermediateInBundle, verify.ExpiresSoon, verify.DuplicateInBundle, verify.BundleBytesDiffer,
}

// decide says what is done to one service's Secret.
func (r *Repair) decide(step *RepairStep, folder *verify.Report) {
	against := slices.DeleteFunc(slices.Clone(folder.Findings), func(f verify.Finding) bool {
		return f.Service != step.Service || slices.Contains(tolerable, f.Code)
	})
	if err := CheckName(step.Secret); err != nil {
		against = append(against, verify.Finding{Code: BadName, Service: step.Service, Sentence: err.Error(), Hint: "rename its folder, or see --suffix"})
	}
	switch {
	case len(against) > 0:
		step.refuse(against)
	case step.live == nil:
		step.Action, step.Reason = Create, "there is none"
	case step.equal(step.live):
		step.Action = Equal
	default:
		step.Action = Update
		if against = unwritable(step); len(against) > 0 {
			step.refuse(against)
		}
	}
	if step.live != nil && step.Action != Refuse && lastAppliedHoldsKeys(step.live) {
		against = append(against, secretFindings(step)...)
	}
	r.Findings = append(r.Findings, against...)
}

// refuse leaves the Secret as it is.
func (s *RepairStep) refuse(against []verify.Finding) {
	s.Action = Refuse
	var codes []string
	for _, f := range against {
		if !slices.Contains(codes, string(f.Code)) {
			codes = append(codes, string(f.Code))
		}
	}
	s.Reason = strings.Join(codes, ", ")
}

// secretFindings is what is to be said of a step's Secret itself.
func secretFindings(step *RepairStep) []verify.Finding {
	item := Item{Service: step.Service, Namespace: step.live.Namespace, Secret: step.Secret}
	return found{item, step.live}.findings()
}

// unwritable is why a Secret must not be written, or cannot be.
func unwritable(step *RepairStep) []verify.Finding {
	against := slices.DeleteFunc(secretFindings(step), func(f verify.Finding) bool { return f.Code == AppliedManifest })
	if step.live.DeletionTimestamp != nil {
		against = append(against, verify.Finding{Code: SecretTerminating, Service: step.Service,
			Sentence: fmt.Sprintf("the Secret %s is being deleted", step.Secret), Hint: "wait until it is gone: its finalizers say who holds it"})
	}
	return against
}

// equal says whether a Secret has just the step's files.
func (s *RepairStep) equal(secret *corev1.Secret) bool {
	return bytes.Equal(secret.Data[rotation.CertFile], s.files.Cert) && bytes.Equal(secret.Data[rotation.KeyFile], s.files.Key) &&
		bytes.Equal(secret.Data[rotation.CAFile], s.files.CA)
}

// refuseWhole refuses all for one, unless it was asked to go on without.
func (r *Repair) refuseWhole(partial bool) {
	refused := 0
	for _, s := range r.Steps {
		if s.Action == Refuse {
			refused++
		}
	}
	if refused == len(r.Steps) || refused > 0 && !partial {
		r.Objections = append(r.Objections, verify.Finding{
			Code: RepairRefused, Service: r.Namespace, Sentence: fmt.Sprintf("%d of %d services of the folder are refused", refused, len(r.Steps)),
			Hint: "mend the folder, or leave them as they are and repair the others: --partial",
		})
	}
}

// compare looks at the namespace as it would be, and objects to what would break. Secrets that the folder does
// not have stay, and are judged as they are.
func (r *Repair) compare(secrets []*corev1.Secret, now time.Time) {
	steps := make(map[string]*RepairStep)
	for i := range r.Steps {
		steps[r.Steps[i].Secret] = &r.Steps[i]
	}
	var before, after []verify.Service
	for _, s := range secrets {
		step := steps[s.Name]
		if step == nil && !isSet(s) {
			continue
		}
		before = append(before, files(s.Name, s))
		if step == nil || !step.writes() {
			after = append(after, files(s.Name, s))
		}
	}
	for name, step := range steps {
		if step.writes() {
			after = append(after, renamed(step.files, name))
		}
	}
	was := verify.Check(before, now)
	r.After = verify.Check(after, now)
	for _, row := range was.Services {
		if step := steps[row.Name]; step != nil {
			step.Now = row
			if step.Action == Update {
				step.Reason = "now " + row.Verdict
			}
		}
	}
	for _, b := range broken(was, r.After) {
		r.object(WouldBreak, b.refuser, "%s accepts %s now, and afterwards would refuse it", b.refuser, b.refused)
	}
	r.Order = restartOrder(r.Steps, now)
}

// renamed is a set under the name of its Secret; its files are named as a Secret's are.
func renamed(s verify.Service, name string) verify.Service {
	return verify.Service{Name: name, Cert: s.Cert, Key: s.Key, CA: s.CA}
}

// Repair carries a plan out: each Secret is written whole, over just the one that was looked at, or not at all.
// wrote is called after each. After an error the rest is as it was; a new plan goes on from there.
func (c *Client) Repair(ctx context.Context, r *Repair, wrote func(*RepairStep)) error {
	if len(r.Objections) > 0 {
		return fmt.Errorf("the repair of namespace %s is refused", r.Namespace)
	}
	as := c.as(RepairManager)
	for _, step := range r.inOrder() {
		m := manifest{
			Metadata: manifestMeta{Name: step.Secret, Namespace: r.Namespace, ResourceVersion: absent},
			Type:     corev1.SecretTypeTLS,
			Data: map[string][]byte{
				rotation.CertFile: step.files.Cert, rotation.KeyFile: step.files.Key, rotation.CAFile: step.files.CA,
			},
		}
		if step.live != nil {
			m.Type, m.Metadata.UID, m.Metadata.ResourceVersion = step.live.Type, step.live.UID, step.live.ResourceVersion
		}
		written, err := as.applySecret(ctx, m)
		if err != nil {
			return err
		}
		if step.live = written; !step.equal(written) {
			return fmt.Errorf("secrets %q in namespace %s: an admission webhook has changed what was written", step.Secret, r.Namespace)
		}
		wrote(step)
	}
	return nil
}

// inOrder gives the steps that write, in the order in which their pods are best restarted: some read their files
// again by themselves.
func (r *Repair) inOrder() []*RepairStep {
	var steps []*RepairStep
	for i := range r.Steps {
		if r.Steps[i].writes() {
			steps = append(steps, &r.Steps[i])
		}
	}
	slices.SortStableFunc(steps, func(a, b *RepairStep) int { return r.Order.compare(a.Service, b.Service) })
	return steps
}

// OlderPods lists the pods that may hold older files than the repaired Secrets have, in the order in which they
// are best restarted.
func (c *Client) OlderPods(ctx context.Context, r *Repair) ([]Older, error) {
	var all []found
	for _, s := range r.Steps {
		if s.Action != Refuse {
			all = append(all, found{Item{s.Service, r.Namespace, s.Secret}, s.live})
		}
	}
	pods, err := c.uses(ctx, r.Namespace, among(all))
	if err != nil {
		return nil, err
	}
	list := older(all, pods)
	slices.SortStableFunc(list, func(a, b Older) int { return r.Order.compare(a.Service, b.Service) })
	return list, nil
}
