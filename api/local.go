package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
)

// An Operator is what the handlers of the Unix socket ask: only the owner of the store can open that.
type Operator interface {
	// Status is a snapshot of the newest pass.
	Status() *rotation.Status
	// Those that follow do nothing where ctx ends before they are taken, and return its error.

	// Continue is the word that readers of the service, or of all where it is "", need not be waited for.
	Continue(ctx context.Context, service string) error
	// Resume has the service healed again after somebody has broken the glass.
	Resume(ctx context.Context, service string) error
}

// Order is the body of a request that has something done for a service.
type Order struct {
	Service string `json:"service"` // "" is all, where that makes sense
}

// orderWait is how long an order waits for the pass under way to end. What is not taken by then is not done later:
// its answer still reaches who asked.
const orderWait = writeTimeout - 2*time.Second

// Local serves on the Unix socket: GET /v1/status, POST /v1/adopt and POST /v1/heal, as JSON. A refusal is
// status 409 and its reason as text; where it cannot be answered or done now, status 503. All else is the contract's.
func Local(o Operator, contract http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", contract)
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		s := o.Status()
		if s.Passed.IsZero() {
			writeText(w, http.StatusServiceUnavailable, "starting: the first look at all places has not ended; /readyz says what is away")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		// The caller may have gone: nobody is left to tell.
		_ = json.NewEncoder(w).Encode(s)
	})
	mux.HandleFunc("POST /v1/adopt", order(o.Continue))
	mux.HandleFunc("POST /v1/heal", order(o.Resume))
	return mux
}

// order has something done for the service that the body names.
func order(do func(ctx context.Context, service string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body Order
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&body); err != nil {
			writeText(w, http.StatusBadRequest, "the body is no {\"service\": …}")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), orderWait)
		defer cancel()
		switch err := do(ctx, body.Service); {
		case err == nil:
			writeText(w, http.StatusOK, "ok")
		case errors.Is(err, context.DeadlineExceeded):
			writeText(w, http.StatusServiceUnavailable, "busy: a pass over all places takes long, and nothing was done: ask again; /readyz says what is away")
		case errors.Is(err, rotation.ErrNothingToDo), errors.Is(err, issuer.ErrUnknownService):
			writeText(w, http.StatusConflict, err.Error())
		default:
			writeText(w, http.StatusInternalServerError, err.Error())
		}
	}
}
