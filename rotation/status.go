package rotation

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meshca/meshca/store"
	"github.com/meshca/meshca/verify"
)

// Status is what the engine knew after its newest pass.
type Status struct {
	Store    string          `json:"store"` // identity
	Epoch    uint64          `json:"epoch"`
	Bundle   string          `json:"bundleSHA256"`
	Roots    []CAStatus      `json:"roots"`
	Issuing  CAStatus        `json:"issuing"`
	Foreign  []AnchorStatus  `json:"foreignAnchors,omitempty"` // other CAs' that the bundle holds
	CRLs     []CRLStatus     `json:"crls"`
	NoCRL    []string        `json:"withoutCRL,omitempty"` // names of CAs in the bundle for which there is none
	Services []ServiceStatus `json:"services"`
	Awaited  []string        `json:"awaited,omitempty"` // while places are taken over: services whose processes may refuse leaves that are signed anew
	Waiting  []string        `json:"waiting,omitempty"` // services whose leaves are signed anew when nobody is awaited any more
	Passed   time.Time       `json:"lastPass"`          // when the engine last finished a look, at least every minute
	Sweep    Sweep           `json:"lastSweep"`
	LastRun  time.Time       `json:"lastRun"` // of the schedule
	NextRun  time.Time       `json:"nextRun"`
}

// CAStatus tells of one root or issuing CA.
type CAStatus struct {
	Name        string    `json:"name"`
	Generation  int       `json:"generation"`
	Fingerprint string    `json:"fingerprint"` // SHA-256, with colons
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
}

// AnchorStatus tells of another CA's trust anchor in the bundle, and why it is there.
type AnchorStatus struct {
	Fingerprint string    `json:"fingerprint"`
	NotAfter    time.Time `json:"notAfter"`
	Since       time.Time `json:"since"`
	Services    []string  `json:"services"`       // whose live leaves chained to it
	Only        []string  `json:"only,omitempty"` // the services whose ca.crt holds it; empty: all
	Why         string    `json:"why"`
}

// The states of a service, as people are told.
const (
	StateKept    = "kept"        // all three files are as they should be
	StateAlarm   = "alarm"       // kept, but somebody writes there again and again
	StateTaking  = "taking over" // its ca.crt is as it should be; its leaf is another CA's still
	StateResting = "resting"     // somebody has broken the glass, and it is left alone
	StateRefused = "refused"     // what is there is not ours to change
	StateFailing = "failing"     // it could not be brought to where it should be; Error says why
)

// ServiceStatus tells of one service.
type ServiceStatus struct {
	Name          string    `json:"name"`
	Place         string    `json:"place"`
	State         string    `json:"state"`
	Serial        string    `json:"serial,omitempty"`
	NotBefore     time.Time `json:"notBefore,omitzero"`
	NotAfter      time.Time `json:"notAfter,omitzero"`
	Due           time.Time `json:"due,omitzero"` // renewed in the first run from then on
	ForeignWrites int       `json:"foreignWrites"`
	Healed        int       `json:"healed"` // since the start
	Issued        int       `json:"issued"` // since the start
	LastHeal      time.Time `json:"lastHeal,omitzero"`
	Error         string    `json:"error,omitempty"`
	Hint          string    `json:"hint,omitempty"`
	WaitsFor      string    `json:"waitsFor,omitempty"` // while places are taken over: why its processes may refuse leaves that are signed anew
	Brings        string    `json:"brings,omitempty"`   // other CAs that all would trust if its place were taken over: an operator must let them in
	Remarks       []Remark  `json:"remarks,omitempty"`
}

// Status is a snapshot; it must not be changed.
func (e *Engine) Status() *Status { return e.status.Load() }

// publish makes a new snapshot.
func (e *Engine) publish(now time.Time) {
	authority := e.Issuer.Authority()
	issuing := authority.Issuing()
	s := &Status{
		Store:   authority.Identity(),
		Epoch:   authority.Epoch(),
		Bundle:  authority.Bundle().SHA256(),
		Issuing: caStatus(issuing.Generation, issuing.Certificate),
		Passed:  e.passed,
		Sweep:   e.swept,
		LastRun: e.lastRun,
		NextRun: e.Schedule.Next(now),
		Roots:   []CAStatus{}, CRLs: []CRLStatus{}, Services: []ServiceStatus{}, // lists that are there, also where nothing is in them
	}
	for _, root := range authority.Roots() {
		s.Roots = append(s.Roots, caStatus(root.Generation, root.Certificate))
	}
	for _, anchor := range authority.Anchors() {
		s.Foreign = append(s.Foreign, AnchorStatus{
			Fingerprint: verify.Fingerprint(anchor.Certificate), NotAfter: anchor.Certificate.NotAfter, Since: anchor.Since,
			Services: anchor.Services, Only: anchor.Only, Why: describeAnchor(anchor),
		})
	}
	for _, c := range e.crls {
		s.CRLs = append(s.CRLs, crlStatus(c, now))
	}
	for _, c := range authority.WithoutCRL() {
		s.NoCRL = append(s.NoCRL, c.Subject.String())
	}
	before := e.Status()
	for _, name := range e.names() {
		if e.busy(name) {
			s.keep(before, name)
			continue
		}
		s.Services = append(s.Services, e.serviceStatus(e.services[name], now))
		if e.services[name].waits != "" {
			s.Awaited = append(s.Awaited, name)
		}
		if e.services[name].waiting() {
			s.Waiting = append(s.Waiting, name)
		}
	}
	e.status.Store(s)
}

// keep takes over what another snapshot tells of a service.
func (s *Status) keep(before *Status, name string) {
	named := func(v ServiceStatus) bool { return v.Name == name }
	if i := slices.IndexFunc(before.Services, named); i >= 0 {
		s.Services = append(s.Services, before.Services[i])
	}
	if slices.Contains(before.Awaited, name) {
		s.Awaited = append(s.Awaited, name)
	}
	if slices.Contains(before.Waiting, name) {
		s.Waiting = append(s.Waiting, name)
	}
}

func caStatus(generation int, c *x509.Certificate) CAStatus {
	return CAStatus{Name: c.Subject.CommonName, Generation: generation, Fingerprint: verify.Fingerprint(c),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter}
}

func (e *Engine) serviceStatus(s *service, now time.Time) ServiceStatus {
	foreign := len(recent(s.Foreign, now))
	status := ServiceStatus{
		Name: s.Service, Place: e.Target.Place(s.Service), State: StateKept,
		ForeignWrites: foreign, Healed: s.healed, Issued: s.issued, LastHeal: s.lastHeal,
		Error: s.finding, Hint: s.hint, Remarks: s.remarks,
	}
	status.WaitsFor, status.Brings = s.waits, s.brings
	switch {
	case s.refused:
		status.State = StateRefused
	case s.rests:
		status.State = StateResting
	case s.finding != "":
		status.State = StateFailing
		if foreign >= alarmWrites {
			status.Hint = cmp.Or(s.hint, "find out who writes to "+status.Place)
		}
	case foreign >= alarmWrites:
		status.State = StateAlarm
		status.Hint = "find out who writes to " + status.Place
	case s.Takeover != nil:
		status.State = StateTaking
	}
	if s.Leaf != nil {
		record := s.Leaf.Record()
		status.Serial, status.NotBefore, status.NotAfter = record.Serial, record.NotBefore, record.NotAfter
		status.Due = Due(record, e.RenewAt)
	}
	if t := s.Takeover; t != nil && t.Leaf != LeafNone {
		status.NotAfter, status.Due = t.NotAfter, t.Due
	}
	return status
}

// readyKey is written by Ready, to find out whether the store takes writes.
const readyKey = "rotation/ready"

// Ready says whether the store takes writes, a leaf can be signed, the target answers, and Start has ended. The error
// joins all that do not.
func (e *Engine) Ready(ctx context.Context) error {
	now := e.now()
	var failed []error
	if err := e.Store.Update(func(w store.Writer) error {
		w.Put(readyKey, []byte(now.UTC().Format(time.RFC3339)))
		return nil
	}); err != nil {
		failed = append(failed, fmt.Errorf("store: %w", err))
	}
	if err := e.Issuer.Ready(now); err != nil {
		failed = append(failed, fmt.Errorf("signing: %w", err))
	}
	if err := e.Target.Ready(ctx); err != nil {
		failed = append(failed, fmt.Errorf("target: %w", err))
	}
	if passed := e.Status().Passed; passed.IsZero() {
		failed = append(failed, errors.New("starting: the first look at all places has not ended"))
	} else if since := now.Sub(passed); since > stuckAfter {
		failed = append(failed, fmt.Errorf("engine: it has not finished a pass for %s", since.Round(time.Second)))
	}
	return errors.Join(failed...)
}

// stuckAfter is how long a pass may take before Ready says so: a target can hang.
const stuckAfter = 3 * checkClock
