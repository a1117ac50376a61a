package rotation

import (
	"strings"
	"time"

	"github.com/meshca/meshca/issuer"
)

// A CRLStatus tells of one CRL that is in force.
type CRLStatus struct {
	Issuer     string    `json:"issuer"`
	SKI        string    `json:"ski"` // the issuer's subject key identifier, lower-case hexadecimal
	Root       bool      `json:"root"`
	Number     uint64    `json:"number"`
	ThisUpdate time.Time `json:"thisUpdate"`
	NextUpdate time.Time `json:"nextUpdate"`
	Overdue    bool      `json:"overdue"` // there should long have been a newer one
}

// keepCRLs has CRLs made that are due, and notes those in force. One that has ended and could not be made anew stays
// noted, so that it is seen.
func (e *Engine) keepCRLs(now time.Time) error {
	crls, err := e.Issuer.RefreshCRLs(now)
	if err == nil || len(crls) >= len(e.crls) {
		e.crls = crls
	}
	var late []string
	for _, c := range e.crls {
		if overdue(c, now) {
			late = append(late, c.Issuer)
		}
	}
	if words := strings.Join(late, ", "); words != e.late {
		if e.late = words; words != "" {
			e.Log.Warn("CRL is overdue: when it ends, verifiers that check CRLs refuse everything below its issuer", "issuer", words)
		}
	}
	return err
}

func overdue(c issuer.CRL, now time.Time) bool { return !now.Before(c.Overdue) }

func crlStatus(c issuer.CRL, now time.Time) CRLStatus {
	return CRLStatus{c.Issuer, c.SKI, c.Root, c.Number, c.ThisUpdate, c.NextUpdate, overdue(c, now)}
}
