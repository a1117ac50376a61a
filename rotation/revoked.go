package rotation

// Nudge has Run look at a service soon, since what the store says of it has changed. It waits for nothing, and a
// service that is not in the catalogue is no error. Revocations are noticed without it too, within [checkClock].
func (e *Engine) Nudge(service string) {
	select {
	case e.changed <- service:
	default: // so many changes are waiting that the next pass comes at once
		e.again.add(service)
	}
}

// noticeRevocations reads the records anew where certificates were revoked since the last pass, and returns the
// services whose leaf is among them.
func (e *Engine) noticeRevocations() (names []string) {
	n, err := e.Issuer.Revocations()
	if err != nil || n == e.revocations {
		return nil // a store that cannot be read is named where its records are needed
	}
	e.revocations = n
	for name, s := range e.services {
		s.unread = e.reread(s) != nil // its turn in the pass says what is wrong
		if s.Leaf != nil && s.Leaf.Record().Revoked != nil {
			names = append(names, name)
		}
	}
	return names
}
