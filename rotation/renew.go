package rotation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshca/meshca/issuer"
)

// ErrUnderWay is what Renew returns where its context ends after the order was taken and before it was done: the status
// tells what becomes of it.
var ErrUnderWay = errors.New("it is under way")

// A NotKeptError says what stands in the way of a service.
type NotKeptError struct {
	State  string // as the status names it
	Reason string // "" where nothing is known
	Hint   string // how to go on, "" where nothing is known
}

func (e *NotKeptError) Error() string { return e.State + ": " + e.Reason }

// A TooSoonError says that a service was renewed too often, and when it may be again.
type TooSoonError struct {
	At time.Time
}

func (e *TooSoonError) Error() string { return "not before " + e.At.Format(time.RFC3339) }

// Renew has the service's leaf renewed now, as a due date does: in the next pass, by [Step], with all that this checks and
// records. by is who asks, for the record. When it returns nil the new leaf is in its place and in the status.
//
// What stands in the way is a *NotKeptError, and has been left as it is; a leaf that was issued and could not be written
// is one too, and is written as soon as that can be. A *TooSoonError says that the service has had its renewals: they are
// metered. ErrUnderWay is no refusal.
func (e *Engine) Renew(ctx context.Context, name, by string) error {
	before := ""
	return e.order(ctx, command{
		only: name,
		do: func(now time.Time) error {
			s := e.services[name]
			if s == nil {
				return fmt.Errorf("service %q: %w", name, issuer.ErrUnknownService)
			}
			if err := e.inTheWay(s, now); err != nil {
				return err
			}
			left, ok, at := s.renewals.take(renewals, now)
			if s.renewals = left; !ok {
				return &TooSoonError{at}
			}
			s.Asked, before = by, s.serial()
			e.Log.Info("renewal asked for", "service", name, "by", by)
			return nil
		},
		after: func() error {
			s := e.services[name]
			s.Asked = "" // an order that was not carried out is not owed
			if err := e.inTheWay(s, e.now()); err != nil {
				return err
			}
			if s.serial() == before {
				return &NotKeptError{State: StateFailing, Reason: "it was not come to: the program is ending"}
			}
			return nil
		},
	})
}

// inTheWay says why the service cannot be renewed now, nil where nothing is known to be in the way.
func (e *Engine) inTheWay(s *service, now time.Time) error {
	status := e.serviceStatus(s, now)
	if status.State == StateAlarm && s.Takeover != nil {
		status.State = StateTaking // an alarm is told before it, and stands in nobody's way
	}
	switch status.State {
	case StateKept, StateAlarm:
		return nil
	case StateTaking:
		reason := "its leaf is another CA's until every process that reads one is known to trust our root"
		if s.waits != "" {
			reason += "; of this service it is not: " + s.waits
		}
		return &NotKeptError{status.State, reason, "meshca adopt says who is waited for"}
	case StateRefused, StateResting:
		return &NotKeptError{status.State, "its place " + status.Error, status.Hint} // which says it as status does, without a subject
	default:
		return &NotKeptError{status.State, status.Error, status.Hint}
	}
}

// serial is the serial number of the service's leaf, "" where it has none.
func (s *service) serial() string {
	if s.Leaf == nil {
		return ""
	}
	return s.Leaf.Record().Serial
}
