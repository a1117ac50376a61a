package rotation

import (
	"context"
	"time"
)

// publishBundle puts the trust bundle where those find it who only verify.
func (e *Engine) publishBundle(ctx context.Context) error {
	return e.Target.Publish(ctx, e.Issuer.Authority().Bundle().PEM())
}

// publishAgain does so after somebody may have changed it. It is metered as the heals of a service are; what is
// not done now is done in the sweep.
func (e *Engine) publishAgain(ctx context.Context, now time.Time) {
	next, ok, _ := e.publications.take(now)
	e.publications = next
	if !ok {
		return
	}
	if err := e.publishBundle(ctx); err != nil {
		e.Log.Error("the trust bundle is not published", "error", err)
	}
}
