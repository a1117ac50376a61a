package rotation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshca/meshca/store"
)

const formPrefix = "form/"

func (f Form) equal(o Form) bool {
	return f.Made == o.Made && f.Type == o.Type && maps.Equal(f.Labels, o.Labels) && maps.Equal(f.Annotations, o.Annotations) && slices.Equal(f.Keys, o.Keys)
}

// getForm reads the form of the place of that subject.
func getForm(r store.Reader, subject string) (f Form, err error) {
	value, ok := r.Get(formPrefix + subject)
	if !ok {
		return f, nil
	}
	if err := json.Unmarshal(value, &f); err != nil {
		return f, fmt.Errorf("record %s%s: %w", formPrefix, subject, err)
	}
	return f, nil
}

// keepForm records what of a place is not ours, so that it can be made again with it. Of a place where nothing
// is, the record stays: that is what it is for. It is metered as heals are: whoever changes a label all day costs no
// commit each time, and what is not recorded now is recorded when the place is looked at again.
func (e *Engine) keepForm(s *service, seen Seen, now time.Time) error {
	absent := seen.Empty() && seen.Form.equal(Form{})
	if absent || seen.Form.equal(s.form) || seen.Foreign.Reason != "" {
		return nil
	}
	next, ok, _ := s.forms.take(heals, now)
	if s.forms = next; !ok {
		return nil
	}
	value, err := json.Marshal(seen.Form)
	if err != nil {
		return err
	}
	if err := e.Store.Update(func(w store.Writer) error {
		w.Put(formPrefix+s.Subject, value)
		return nil
	}); err != nil {
		return fmt.Errorf("record the form of %s: %w", e.Target.Place(s.Service), err)
	}
	s.form = seen.Form
	return nil
}

// forget deletes what the store has of the places of services that the catalogue has no longer. The form is read from
// the place when one comes back. What it was taken over with stays until no process can hold a leaf of that time, and
// as long as other records.
func (e *Engine) forget(now time.Time) error {
	var keys []string
	err := e.Store.View(func(r store.Reader) (err error) {
		keys, err = e.forgotten(r, now)
		return err
	})
	if err == nil && len(keys) > 0 {
		err = e.Store.Update(func(w store.Writer) error {
			for _, key := range keys {
				w.Delete(key)
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("forget services that are kept no longer: %w", err)
	}
	return nil
}

// forgotten are the keys that forget deletes.
func (e *Engine) forgotten(r store.Reader, now time.Time) (keys []string, err error) {
	subjects := make(map[string]bool)
	for _, s := range e.services {
		subjects[s.Subject] = true
	}
	for key := range r.Scan(store.Prefix(formPrefix)) {
		if !subjects[strings.TrimPrefix(key, formPrefix)] {
			keys = append(keys, key)
		}
	}
	for _, prefix := range []string{wordPrefix, admittedPrefix} {
		for key := range r.Scan(store.Prefix(prefix)) {
			if e.services[strings.TrimPrefix(key, prefix)] == nil {
				keys = append(keys, key)
			}
		}
	}
	for key := range r.Scan(store.Prefix(takeoverPrefix)) {
		name, subject, _ := strings.Cut(strings.TrimPrefix(key, takeoverPrefix), "/")
		if s := e.services[name]; s != nil && (subject == "" || subject == s.Subject) {
			continue
		}
		t, err := getTakeover(r, name, subject)
		if err != nil {
			return nil, err
		}
		if t != nil && t.over().Add(e.Retain).Before(now) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}
