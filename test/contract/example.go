package contract

import (
	"encoding/json"
	"maps"
	"slices"
)

// An Example is a request that the contract shows.
type Example struct {
	Operation *Operation
	Name      string
	Body      []byte // JSON
}

// Examples lists all requests that the contract shows, in the order of its operations.
func (c *Contract) Examples() (all []Example, err error) {
	for _, o := range c.operations {
		if o.route.Operation.RequestBody == nil {
			continue
		}
		content := o.route.Operation.RequestBody.Value.Content["application/json"]
		values := make(map[string]any)
		if content.Example != nil {
			values["example"] = content.Example
		}
		for name, example := range content.Examples {
			values[name] = example.Value.Value
		}
		for _, name := range slices.Sorted(maps.Keys(values)) {
			body, err := json.Marshal(values[name])
			if err != nil {
				return nil, err
			}
			all = append(all, Example{Operation: o, Name: name, Body: body})
		}
	}
	return all, nil
}
