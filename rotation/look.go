package rotation

import (
	"context"
	"errors"
)

// look observes places for the turns that follow. One that hangs keeps nobody waiting: meanwhile those whose places
// change have their turn, and what was seen of them before is not used. It returns their names.
func (e *Engine) look(ctx context.Context, names []string) (served map[string]bool) {
	seen, turns := make([]look, len(names)), make([]int, len(names))
	var jobs []job
	for i, name := range names {
		turns[i] = e.services[name].turns
		jobs = append(jobs, job{name, func() error {
			seen[i].Observation, seen[i].err = e.Target.Observe(ctx, name)
			return nil
		}})
	}
	_ = e.work(ctx, jobs) // what turns in between could not record is recorded with the next ones
	looks := make(Looks, len(names))
	served = make(map[string]bool)
	for i, name := range names {
		if e.services[name].turns == turns[i] {
			looks[name] = seen[i]
		} else {
			served[name] = true
		}
	}
	e.take(looks)
	return served
}

// take keeps observations for the turns that follow. A place that cannot be observed is left to its turn, which
// says so.
func (e *Engine) take(looks Looks) {
	for name, l := range looks {
		s := e.services[name]
		if s == nil {
			continue
		}
		if seen, err := e.judge(s, l.Observation, l.err); err == nil || errors.Is(err, ErrNotWritable) {
			s.ahead = &looked{seen, err}
		}
	}
}
