package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
)

// An Operator is what the handlers of the Unix socket ask: only the owner of the store can open that.
type Operator interface {
	// Status is a snapshot of the newest pass.
	Status() *rotation.Status
	// Continue is the word that readers of the service, or of all where it is "", need not be waited for.
	Continue(ctx context.Context, service string) error
	// Resume has the service healed again after somebody has broken the glass.
	Resume(ctx context.Context, service string) error
}

// Order is the body of a request that has something done for a service.
type Order struct {
	Service string `json:"service"` // "" is all, where that makes sense
}

// Local serves on the Unix socket: GET /v1/status, POST /v1/adopt and POST /v1/heal, as JSON. A refusal is
// status 409 and its reason as text.
func Local(o Operator) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// The caller may have gone: nobody is left to tell.
		_ = json.NewEncoder(w).Encode(o.Status())
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
		switch err := do(r.Context(), body.Service); {
		case err == nil:
			writeText(w, http.StatusOK, "ok")
		case errors.Is(err, rotation.ErrNothingToDo), errors.Is(err, issuer.ErrUnknownService):
			writeText(w, http.StatusConflict, err.Error())
		default:
			writeText(w, http.StatusInternalServerError, err.Error())
		}
	}
}
