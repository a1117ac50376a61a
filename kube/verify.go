package kube

import "context"

// Read reads the Secrets of the named services of the catalogue, and what concerns them, beside whoever keeps them. The
// error is one after which nothing more can be asked.
func (t *Target) Read(ctx context.Context, services []string) (*Mesh, error) {
	var items []Item
	for _, name := range services {
		if s, err := t.service(name); err == nil { // one that has left meanwhile is not read
			items = append(items, Item{s.Name, s.Namespace, s.Secret})
		}
	}
	return t.client.ReadSecrets(ctx, items)
}
