package rotation

import (
	"context"
	"errors"
	"slices"
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
	bundle := e.Issuer.Authority().Bundle().PEM()
	return e.work(ctx, []job{{Published, func() error {
		changed, err := e.Target.Publish(ctx, bundle)
		for _, place := range changed {
			e.changedAgain(place) // somebody has written since the services' places were looked at: they may show why
		}
		return err
	}}})
}

// mayPublish meters what is done after somebody may have changed what was published, as the heals of a service are:
// each place by itself, so that who fights over one does not keep the others from being healed. What is not done now
// is done in the sweep.
func (e *Engine) mayPublish(names []string, now time.Time) (may bool) {
	names = slices.Clone(names)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if isPublished(name) {
			next, ok, _ := e.publications[name].take(heals, now)
			e.publications[name] = next
			may = may || ok
		}
	}
	return may
}

// Describe tells of a ca.crt by the fingerprint of its first certificate, as all that is healed is told of.
func Describe(seen, wanted []byte) string { return describe(seen, wanted) }
