package rotation

import (
	"context"
	"errors"
	"time"
)

// publishBundle puts the trust bundle where those find it who only verify, at the end of a pass over all services.
// Where one of them proves that the store is older than what it serves, a newer state has published a newer bundle
// too: whoever writes, publishes last. Where no place could be read it is not known.
func (e *Engine) publishBundle(ctx context.Context) error {
	if older := e.evidence.words(); older != "" {
		return errors.New("the trust bundle is not published: " + older)
	}
	unread := len(e.services) > 0
	for _, s := range e.services {
		unread = unread && s.unseen
	}
	if unread || !e.surveyed {
		return errors.New("the trust bundle is not published: no place could be read")
	}
	err := e.Target.Publish(ctx, e.Issuer.Authority().Bundle().PEM())
	if errors.Is(err, ErrChanged) {
		e.changedAgain(Published) // somebody has written since the places were looked at: they may show why
		return nil
	}
	return err
}

// mayPublish meters what is done after somebody may have changed what was published, as the heals of a service are;
// what is not done now is done in the sweep.
func (e *Engine) mayPublish(now time.Time) bool {
	next, ok, _ := e.publications.take(now)
	e.publications = next
	return ok
}
