package kube

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/meshca/meshca/rotation"
)

// refusals keeps what cannot be done beside the Secrets themselves, such as watches and Events: it keeps nobody from
// being served, and shows as a remark on the services concerned.
type refusals struct {
	what string // the consequence, for people

	mu sync.Mutex
	by map[string]map[object]*Error // by service
}

// lasting says whether an error is one that time does not heal.
func lasting(err error) bool { return is(err, Forbidden, Denied) }

// note keeps how an attempt went, and says whether that is news.
func (r *refusals) note(service string, at object, err error) (news bool) {
	refused, ok := errors.AsType[*Error](err)
	r.mu.Lock()
	defer r.mu.Unlock()
	_, before := r.by[service][at]
	if !ok {
		delete(r.by[service], at)
		return before
	}
	if r.by == nil {
		r.by = make(map[string]map[object]*Error)
	}
	if r.by[service] == nil {
		r.by[service] = make(map[object]*Error)
	}
	r.by[service][at] = refused
	return !before
}

// clear keeps that what was refused to one service is no longer refused to any.
func (r *refusals) clear(at object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, refused := range r.by {
		delete(refused, at)
	}
}

// leave forgets what was refused to one service.
func (r *refusals) leave(service string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.by, service)
}

// forget begins anew.
func (r *refusals) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by = nil
}

// of are the remarks on a service.
func (r *refusals) of(service string) (remarks []rotation.Remark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, refused := range r.by[service] {
		remarks = append(remarks, rotation.Remark{Text: fmt.Sprintf("%s: %v", r.what, refused), Hint: refused.Hint()})
	}
	slices.SortFunc(remarks, func(a, b rotation.Remark) int { return strings.Compare(a.Text, b.Text) })
	return remarks
}
