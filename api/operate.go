package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/profile"
	"github.com/meshca/meshca/rotation"
)

// An Operator does what is asked of the engine. Where ctx ends before an order was taken nothing is done, and its error
// is returned.
type Operator interface {
	// Continue is the word that readers of the service, or of all where it is "", need not be waited for.
	Continue(ctx context.Context, service string) error
	// Resume has the service healed again after somebody has broken the glass.
	Resume(ctx context.Context, service string) error
	// Renew has the service's leaf renewed now, as [rotation.Engine.Renew] says.
	Renew(ctx context.Context, service, by string) error
}

// orderWait is how long an order waits for the pass under way, and for its own. What is not taken by then is not done
// later: its answer still reaches who asked.
const orderWait = writeTimeout - 2*time.Second

// RenewService has what a service's Secret or folder holds renewed.
func (v *V1) RenewService(ctx context.Context, r contract.RenewServiceRequestObject) (contract.RenewServiceResponseObject, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return nil, err
	}
	policy, err := v.known(ctx, r.Name, VerbRotate)
	if err != nil {
		return nil, err
	}
	if err := v.admitted(); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, orderWait)
	defer cancel()
	err = v.Operator.Renew(wait, r.Name, fromContext(ctx).caller.Name)
	switch {
	case errors.Is(err, rotation.ErrUnderWay):
		return contract.RenewService202JSONResponse(v.service(policy, v.Engine.Status())), nil
	case err != nil:
		return nil, v.orderProblem(err)
	}
	return contract.RenewService200JSONResponse(v.service(policy, v.Engine.Status())), nil
}

// orderProblem is what a caller is told where an order was not carried out.
func (v *V1) orderProblem(err error) error {
	if stands, ok := errors.AsType[*rotation.NotKeptError](err); ok {
		// What the target says of its places, paths and all, is in the service's finding, and in no problem.
		return notKept.because("the service is " + stands.State + ": its finding and hint, GET /v1/services/{name}, say why and how to go on").caused(err)
	}
	if soon, ok := errors.AsType[*rotation.TooSoonError](err); ok {
		p := tooMany.because("the service was renewed again and again: the next one may be asked for at " + soon.At.UTC().Format(time.RFC3339)).caused(err)
		p.after = max(soon.At.Sub(v.Now()), time.Second)
		return p
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return busy("busy: a pass over all places takes long, and nothing was done: ask again; /readyz says what is away", err)
	case errors.Is(err, rotation.ErrNothingToDo):
		return conflict.because(err.Error())
	case errors.Is(err, issuer.ErrUnknownService):
		return notFound.because("the catalogue has no such service", "/service")
	}
	return err
}

// operator refuses whoever is no operator with the verb.
func (v *V1) operator(ctx context.Context, verb string) error {
	ok, err := v.may(ctx, &fromContext(ctx).caller, verb)
	if err == nil && !ok {
		err = forbidden.because("it is for operators who may " + verb)
	}
	return err
}

// GetStatus tells what the newest pass has left.
func (v *V1) GetStatus(ctx context.Context, _ contract.GetStatusRequestObject) (contract.GetStatusResponseObject, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return nil, err
	}
	if err := v.operator(ctx, VerbList); err != nil {
		return nil, err
	}
	return v.status()
}

// Adopt takes an operator's word that nobody need be waited for.
func (v *V1) Adopt(ctx context.Context, r contract.AdoptRequestObject) (contract.AdoptResponseObject, error) {
	service := ""
	if r.Body.Service != nil {
		service = *r.Body.Service
	}
	return v.order(ctx, service, r.Body.Service == nil, v.Operator.Continue)
}

// Heal takes an operator's word that the glass is whole again.
func (v *V1) Heal(ctx context.Context, r contract.HealRequestObject) (contract.HealResponseObject, error) {
	return v.order(ctx, r.Body.Service, false, v.Operator.Resume)
}

// order has an operator's order carried out for a service, or for all, and tells what is then.
func (v *V1) order(ctx context.Context, service string, all bool, do func(context.Context, string) error) (statusAnswer, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return statusAnswer{}, err
	}
	if err := v.operator(ctx, VerbRotate); err != nil {
		return statusAnswer{}, err
	}
	if !all {
		if profile.CheckLabel(service) != nil {
			return statusAnswer{}, badRequest.because("a service's name is a DNS label", "/service")
		}
		if _, ok := v.Issuer.Policy(service); !ok {
			return statusAnswer{}, notFound.because("the catalogue has no such service", "/service")
		}
	}
	wait, cancel := context.WithTimeout(ctx, orderWait)
	defer cancel()
	if err := do(wait, service); err != nil {
		return statusAnswer{}, v.orderProblem(err)
	}
	return v.status()
}

// status is the engine's, once there is one.
func (v *V1) status() (statusAnswer, error) {
	status := v.Engine.Status()
	if status.Passed.IsZero() {
		return statusAnswer{}, busy("starting: the first look at all places has not ended; /readyz says what is away", nil)
	}
	return statusAnswer{status}, nil
}

// A statusAnswer is the engine's status as it stands. A test compares it with the contract.
type statusAnswer struct{ *rotation.Status }

// VisitGetStatusResponse implements the contract's answer, as those that follow do.
func (a statusAnswer) VisitGetStatusResponse(w http.ResponseWriter) error {
	return writeJSON(w, a.Status)
}

// VisitAdoptResponse is VisitGetStatusResponse.
func (a statusAnswer) VisitAdoptResponse(w http.ResponseWriter) error { return writeJSON(w, a.Status) }

// VisitHealResponse is VisitGetStatusResponse.
func (a statusAnswer) VisitHealResponse(w http.ResponseWriter) error { return writeJSON(w, a.Status) }

func writeJSON(w http.ResponseWriter, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", jsonType)
	// The caller may have gone: nobody is left to tell.
	_, _ = w.Write(append(body, '\n'))
	return nil
}
