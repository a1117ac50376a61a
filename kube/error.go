package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A Kind says what stands in the way of a call.
type Kind string

// The kinds. A conflict of field managers is not among them: whatever is applied is applied with force.
const (
	Away                 Kind = "the API server does not answer"
	Failed               Kind = "the API server fails at it"
	Throttled            Kind = "the API server asks to come later"
	Unauthenticated      Kind = "the API server does not know who asks"
	Forbidden            Kind = "RBAC does not allow it"
	Denied               Kind = "an admission policy refuses it"
	NamespaceMissing     Kind = "the namespace does not exist"
	NamespaceTerminating Kind = "the namespace is being deleted"
	NotFound             Kind = "it does not exist"
	Changed              Kind = "somebody else has changed it in between"         // another resourceVersion
	Replaced             Kind = "somebody else has deleted it in between"         // another uid, or none
	Expired              Kind = "the watch's place in history is no longer known" // 410
	TooLarge             Kind = "it would be larger than an object may be"        // 1 MiB for Secrets
	NotOffered           Kind = "the API server does not offer it"
	Unclear              Kind = "the API server answers what is not understood"
)

// An Error is an answer of the API server that is not yes, or none.
type Error struct {
	Kind       Kind
	Verb       string        // get, patch, watch, list
	RetryAfter time.Duration // with Throttled: what the API server asks for
	object     object
	broken     string // with Denied: the webhook that could not be asked
	detail     string // the API server's words, without what was sent
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s: %s", e.Verb, e.object, e.Kind)
	if e.detail != "" {
		text += " (" + e.detail + ")"
	}
	return text
}

// Hint says how to go on, "" where time will tell.
func (e *Error) Hint() string {
	switch e.Kind {
	case Unauthenticated:
		return "look at the kubeconfig's credentials, or at the pod's service account"
	case Forbidden:
		return fmt.Sprintf("give meshca's account the right to %s %s: examples/kubernetes/rbac.yaml lists all it needs", e.Verb, e.object)
	case Denied:
		if e.broken != "" {
			return fmt.Sprintf("mend webhook %s, or have its configuration leave this out: kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations", e.broken)
		}
		return "if it is meshca's own guard: render it for the account that meshca runs as (meshca guard --user)"
	case NamespaceMissing:
		return "make the namespace, or take the service out of the catalogue"
	case NamespaceTerminating:
		return "take the service out of the catalogue if its namespace is meant to go"
	case TooLarge:
		return "take foreign keys out of the Secret: all its values together have at most 1 MiB"
	}
	return ""
}

// hinted adds its hint to an error that is shown where there is no place for one.
func hinted(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Hint() != "" {
		return fmt.Errorf("%w: %s", err, e.Hint())
	}
	return err
}

// Wait is how long the API server asks to be left alone.
func (e *Error) Wait() time.Duration { return e.RetryAfter }

// is says whether err is an Error of one of the kinds.
func is(err error, kinds ...Kind) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && slices.Contains(kinds, e.Kind)
}

// newError understands an error of client-go. What the API server says is kept only where it cannot quote what
// was sent: a Secret's values are in the request.
func newError(verb string, o object, err error) *Error {
	e := &Error{Verb: verb, object: o, Kind: Away}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		e.detail = away(err)
		return e
	}
	e.understand(status.Status(), err)
	return e
}

// understand tells from its status what the API server has against it.
func (e *Error) understand(s metav1.Status, err error) {
	if e.deniedBy(s) {
		return
	}
	switch {
	case apierrors.IsUnauthorized(err):
		e.Kind = Unauthenticated
	case apierrors.IsForbidden(err):
		e.forbidden(s)
	case apierrors.IsNotFound(err):
		if e.Kind = NotFound; s.Details != nil && s.Details.Kind == "namespaces" {
			e.Kind = NamespaceMissing
		}
	case apierrors.IsConflict(err):
		e.Kind = conflict(s)
	case apierrors.IsGone(err), apierrors.IsResourceExpired(err):
		e.Kind = Expired
	case apierrors.IsRequestEntityTooLargeError(err):
		e.Kind = TooLarge
	case apierrors.IsTooManyRequests(err):
		e.Kind = Throttled
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			e.RetryAfter = time.Duration(seconds) * time.Second
		}
	case apierrors.IsInvalid(err):
		e.Kind, e.detail = invalid(s)
	case s.Code == http.StatusBadGateway, s.Code == http.StatusServiceUnavailable, s.Code == http.StatusGatewayTimeout:
		e.detail = fmt.Sprintf("status %d %s", s.Code, s.Reason)
	case s.Code >= 500: // it answers: others may be answered otherwise
		e.Kind, e.detail = Failed, fmt.Sprintf("status %d %s", s.Code, s.Reason)
	default:
		e.Kind, e.detail = Unclear, fmt.Sprintf("status %d %s", s.Code, s.Reason)
	}
}

// away says in short why there was no answer.
func away(err error) string {
	switch {
	case timedOut(err):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "given up"
	}
	words := err.Error()
	if at := strings.LastIndex(words, ": "); at >= 0 {
		words = words[at+2:]
	}
	return words
}

// timedOut says whether an error is that nothing came in time: of the whole call, or of an attempt to connect.
func timedOut(err error) bool {
	var timed interface{ Timeout() bool }
	return errors.As(err, &timed) && timed.Timeout()
}

// deniedBy says whether an admission policy or webhook has refused, and which. Its status is the policy's to choose:
// 422 where it chooses none. A webhook that must be asked and does not answer refuses as well, as status 500.
func (e *Error) deniedBy(s metav1.Status) (denied bool) {
	if webhook, ok := between(s.Message, `failed calling webhook "`, `"`); ok {
		e.Kind, e.broken, e.detail = Denied, webhook, "webhook "+webhook+", which itself does not answer as it should"
	} else if policy, ok := between(s.Message, "ValidatingAdmissionPolicy '", "'"); ok {
		e.Kind, e.detail = Denied, "policy "+policy
	} else if webhook, ok := between(s.Message, `admission webhook "`, `"`); ok {
		e.Kind, e.detail = Denied, "webhook "+webhook
	}
	return e.Kind == Denied
}

// forbidden tells RBAC, other admission and a dying namespace apart: all are status 403.
func (e *Error) forbidden(s metav1.Status) {
	e.Kind = Forbidden
	if s.Details != nil {
		for _, cause := range s.Details.Causes {
			if cause.Type == "NamespaceTerminating" {
				e.Kind = NamespaceTerminating
				return
			}
		}
	}
	if strings.Contains(s.Message, "exceeded quota: ") {
		e.Kind, e.detail = Denied, "the namespace's quota is used up"
		return
	}
	// An apply of what is not there needs the right to create it as well: what is missing is named.
	if verb, ok := between(s.Message, `" cannot `, ` resource "`); ok && e.Verb == "patch" {
		e.Verb = verb
	}
}

// conflict tells apart whose fault a status 409 is: the object has another uid, or is gone, or was changed.
func conflict(s metav1.Status) Kind {
	if strings.Contains(s.Message, "UID") || strings.Contains(s.Message, "uid mismatch") {
		return Replaced
	}
	return Changed
}

// invalid tells what the API server finds wrong by the fields' names alone.
func invalid(s metav1.Status) (Kind, string) {
	var fields []string
	if s.Details != nil {
		for _, cause := range s.Details.Causes {
			switch cause.Field {
			case "metadata.uid":
				return Replaced, ""
			case "sendInitialEvents", "resourceVersionMatch": // of a watch
				return NotOffered, cause.Field
			}
			if cause.Type == metav1.CauseTypeTooLong || cause.Type == "FieldValueTooLong" {
				return TooLarge, cause.Field
			}
			fields = append(fields, cause.Field)
		}
	}
	return Unclear, "invalid " + strings.Join(fields, ", ")
}

// between cuts what lies between two marks.
func between(s, before, after string) (string, bool) {
	_, s, found := strings.Cut(s, before)
	if !found {
		return "", false
	}
	s, _, found = strings.Cut(s, after)
	return s, found
}
