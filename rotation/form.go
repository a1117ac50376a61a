package rotation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

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
// is, the record stays: that is what it is for.
func (e *Engine) keepForm(s *service, seen Seen) error {
	absent := seen.Empty() && seen.Form.equal(Form{})
	if absent || seen.Form.equal(s.form) || seen.Foreign.Reason != "" {
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
