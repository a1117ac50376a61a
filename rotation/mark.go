package rotation

import (
	"crypto/hmac"
	"crypto/x509"
	"fmt"
	"strconv"
	"time"

	"github.com/meshca/meshca/ca"
)

// sign is the MAC of a mark on the place of that subject. Who can write to a place can write any mark; only who
// has the seal can make one that verifies, and one that was copied from another place does not.
func (m *Mark) sign(a *ca.Authority, subject string) string {
	end := ""
	if !m.NotAfter.IsZero() {
		end = m.NotAfter.UTC().Format(time.RFC3339)
	}
	return a.Authenticate("mark", subject, m.Store, m.Service, strconv.FormatUint(m.Epoch, 10), m.Bundle, m.Serial, end)
}

// outlived says whether the leaf that the mark names has expired. Its record may have been pruned since, so that the store
// has none proves nothing.
func (m *Mark) outlived(now time.Time) bool { return !m.NotAfter.IsZero() && now.After(m.NotAfter) }

// mayProve says whether a record must be in the store that wrote the mark. One without a serial was written while
// another CA's leaf was there, and says of no time until when: whoever has kept it may put it there again in years.
func (m *Mark) mayProve(now time.Time) bool { return m.Serial != "" && !m.outlived(now) }

// proven says whether this store's seal made the mark for this place.
func (m *Mark) proven(a *ca.Authority, subject string) bool {
	return m != nil && hmac.Equal([]byte(m.MAC), []byte(m.sign(a, subject)))
}

// token identifies a mark for an operator's word that it may be written over.
func (m *Mark) token() string {
	return fmt.Sprintf("mark:%s:%s:%d:%s:%s", m.Store, m.Service, m.Epoch, m.Serial, m.MAC)
}

// leafToken identifies a leaf for the same.
func leafToken(c *x509.Certificate) string {
	return "leaf:" + digest(c.Raw)
}

// same says whether two marks name the same set.
func (m *Mark) same(o Mark) bool {
	return m != nil && m.Store == o.Store && m.Service == o.Service && m.Epoch == o.Epoch && m.Bundle == o.Bundle &&
		m.Serial == o.Serial && m.MAC == o.MAC
}
