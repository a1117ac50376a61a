package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/verify"
)

// A Reading is what the services were found to present and trust.
type Reading struct {
	Report *verify.Report // of what could be read
	Older  []OlderPod     // empty without a cluster
	Unread []string       // what could not be read, and why
}

// An OlderPod is a pod that may hold older files than the Secret that it reads.
type OlderPod struct {
	Service   string    `json:"service"`
	Namespace string    `json:"namespace"`
	Secret    string    `json:"secret"`
	Pod       string    `json:"pod"`
	Workload  string    `json:"workload,omitempty"`
	Fixed     bool      `json:"fixed"` // it has read the Secret once, and does not again
	Created   time.Time `json:"created"`
	Changed   time.Time `json:"changed"`
}

// verification is the answer. A test compares it with the contract.
type verification struct {
	Now      time.Time        `json:"now"`
	Services []verify.Row     `json:"services"`
	Pairs    int              `json:"pairs"`
	Refusals int              `json:"refusals"` // their matrix would grow with the square of the services; the findings say it in words
	Findings []verify.Finding `json:"findings"`
	Older    []OlderPod       `json:"mayHoldOlderFiles"`
	Unread   []string         `json:"unread"`
}

const (
	lookWait  = writeTimeout - 2*time.Second // for a look, or for the turn of another
	lookKept  = 10 * time.Second             // at least
	lookShare = 5                            // a look is kept for this many times as long as it took: what looking costs has a bound
)

// looks makes one look at a time at all services, and keeps it for a while. It does not touch the engine.
type looks struct {
	turn  chan struct{} // held by who looks, or takes what is kept
	body  []byte        // of the newest look; owned, as what follows, by the turn's holder
	until time.Time
}

// take gives the newest look, which may be a new one. That is for all who ask, so it does not end with who asked first.
func (l *looks) take(ctx context.Context, read func(context.Context) (*Reading, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookWait)
	defer cancel()
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, busy("somebody has all services looked at, and that takes long: ask again", ctx.Err())
	}
	began := time.Now()
	if began.Before(l.until) {
		return l.body, nil
	}
	reading, err := read(ctx)
	if err != nil {
		return nil, busy("what the services hold could not be read: /readyz says what is away", err)
	}
	if l.body, err = reading.encode(); err != nil {
		return nil, err
	}
	ended := time.Now()
	l.until = ended.Add(max(lookKept, lookShare*ended.Sub(began)))
	return l.body, nil
}

func (r *Reading) encode() ([]byte, error) {
	return json.Marshal(verification{Now: r.Report.Now, Services: list(r.Report.Services), Pairs: r.Report.Pairs, Refusals: len(r.Report.Refusals),
		Findings: list(r.Report.Findings), Older: list(r.Older), Unread: list(r.Unread)})
}

// list is one that is there, also where nothing is in it.
func list[T any](all []T) []T { return append([]T{}, all...) }

// VerifyServices says who would refuse whom.
func (v *V1) VerifyServices(ctx context.Context, _ contract.VerifyServicesRequestObject) (contract.VerifyServicesResponseObject, error) {
	if _, err := wants(ctx, jsonType); err != nil {
		return nil, err
	}
	if err := v.operator(ctx, VerbList); err != nil {
		return nil, err
	}
	body, err := v.looks.take(ctx, v.Read)
	return verified(body), err
}

// verified is an encoded verification.
type verified json.RawMessage

// VisitVerifyServicesResponse implements the contract's answer.
func (b verified) VisitVerifyServicesResponse(w http.ResponseWriter) error {
	return writeJSON(w, json.RawMessage(b))
}
