package rotation

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/store"
)

// A Takeover is what the store knows of a place that held another CA's set when meshca came. It stays when a leaf
// of ours is in place: its readers may still be those of the old ca.crt.
//
// First every ca.crt gets the union of the trust that live leaves need and our root, and the leaves stay. Leaves
// are signed anew when every process that reads one of these places is known to have loaded that union, or when
// an operator says so: until then somebody would refuse them.
type Takeover struct {
	Since     time.Time `json:"since"`
	Leaf      FoundLeaf `json:"leaf"`
	Why       string    `json:"why,omitempty"`       // what is wrong with the leaf
	Due       time.Time `json:"due,omitzero"`        // when the leaf would be renewed in any case
	NotAfter  time.Time `json:"notAfter,omitzero"`   // until when anybody accepts the leaf
	Continued bool      `json:"continued,omitempty"` // an operator has said that its readers need not be waited for
	Trusts    bool      `json:"trusts,omitempty"`    // its ca.crt held certificates: its readers accept others by them
	Chains    [][]byte  `json:"chains,omitempty"`    // other CAs' that its processes may present, PEM

	Placed bool `json:"placed,omitempty"` // the union has been in place: what is not as it should be is somebody's doing
	// Since when its ca.crt holds our root, by our clock and by the target's. Zero: it does not, or it is not known.
	InPlace time.Time `json:"inPlace,omitzero"`
	Written time.Time `json:"written,omitzero"`
	Missing time.Time `json:"missing,omitzero"` // when it was last seen to hold it no longer, by our clock
}

// A FoundLeaf says of what use the leaf is that was found.
type FoundLeaf string

// The kinds of leaf.
const (
	LeafUsable FoundLeaf = "usable" // it stays until it is signed anew
	LeafBroken FoundLeaf = "broken" // it cannot be used as it lies there; processes may hold it and its key all the same
	LeafNone   FoundLeaf = "none"   // there is none that anybody could use: it is simply written
)

// notInAnyCA is why a leaf is broken that nobody accepts.
const notInAnyCA = "the CA that signed it is in no " + CAFile

// dueReason says why the leaf is replaced now, "" where it need not be. Of a broken leaf nothing is known that
// could be put back: where it is gone, a new one is simply written.
func (t *Takeover) dueReason(w World, seen Seen, now time.Time) string {
	gone := false
	if t.Leaf == LeafBroken {
		there, _ := usable(seen, now)
		gone = there == LeafNone
	}
	if t.Leaf == LeafNone || w.Trusted || gone || cannotWait(t.Due, t.NotAfter, w.NextRun) && !now.Before(t.Due) {
		return ReasonTakeover
	}
	return ""
}

// asFound says whether the place still is as it was found: meshca has not written there yet.
func (s *State) asFound(seen Seen) bool {
	if s.Takeover == nil || s.Takeover.Placed || seen.Proven {
		return false
	}
	return s.Leaf == nil || seen.Leaf != nil && seen.Leaf.Equal(s.Leaf.Certificate())
}

// waitsBroken says whether the leaf of another CA lies there without its key. The key is nowhere else, and a leaf
// of ours would be refused by those who do not trust our root yet, while processes may hold the old one with its
// key: so it waits as one that was found like this.
func (s *State) waitsBroken(seen Seen) bool {
	if s.Takeover == nil || s.Leaf == nil || seen.Leaf == nil || !seen.Leaf.Equal(s.Leaf.Certificate()) {
		return false
	}
	_, ok := s.key(seen)
	return !ok
}

// renewedElsewhere says whether whoever made the set that is being taken over has made another, whose leaf is
// accepted like the one before: it stays in its turn.
func (s *State) renewedElsewhere(w World, seen Seen, now time.Time) bool {
	if s.Takeover == nil || seen.Leaf == nil || s.Leaf != nil && seen.Leaf.Equal(s.Leaf.Certificate()) {
		return false
	}
	if there, _ := usable(seen, now); there != LeafUsable {
		return false
	}
	trusted := w.Authority.BundleFor(s.Service).Certificates()
	return len(paths(presented(seen.Cert), trusted, now)) > 0
}

const takeoverPrefix = "takeover/"

func takeoverKey(service, subject string) string { return takeoverPrefix + service + "/" + subject }

func putTakeover(w store.Writer, service, subject string, t *Takeover) error {
	value, err := json.Marshal(t)
	if err != nil {
		return err
	}
	w.Delete(takeoverPrefix + service)
	w.Put(takeoverKey(service, subject), value)
	return nil
}

func getTakeover(r store.Reader, service, subject string) (*Takeover, error) {
	value, ok := r.Get(takeoverKey(service, subject))
	if !ok { // from before places were kept with it: of the one that the service has
		value, ok = r.Get(takeoverPrefix + service)
	}
	if !ok {
		return nil, nil
	}
	t := &Takeover{}
	if err := json.Unmarshal(value, t); err != nil {
		return nil, fmt.Errorf("record %s: %w", takeoverKey(service, subject), err)
	}
	return t, nil
}

// chain is the recorded leaf's tls.crt, as it is written. Of one that another CA signed the store has the
// certificates alone; where the file is the one that was found, it stays: whoever reads it may want it in the form
// that it has, with the key in it for instance.
func (s *State) chain(seen Seen) []byte {
	if record := s.Leaf.Record(); record.IsAsFound(seen.Cert) {
		return seen.Cert
	}
	return s.Leaf.Chain()
}

const (
	maxChain  = 16 << 10 // of the tls.crt of another CA that is verified and kept, in bytes of PEM
	maxChains = 4        // of one service that the store keeps, the newest
)

// presented are the certificates of a tls.crt, leaf first, as far as they are verified and kept.
func presented(data []byte) (chain []*x509.Certificate) {
	size := 0
	for _, c := range certificates(data) {
		size += len(issuer.EncodeChain([]*x509.Certificate{c}))
		if len(chain) == maxPresented || size > maxChain {
			break
		}
		chain = append(chain, c)
	}
	return chain
}

// begin makes the record of a place that is taken over, or goes on with it where another leaf has come there.
func begin(before *Takeover, seen Seen, now time.Time) *Takeover {
	t := &Takeover{Since: now.UTC().Truncate(time.Second)}
	if before != nil {
		again := *before
		t = &again
	}
	t.Leaf, t.Why = usable(seen, now)
	t.Trusts = t.Trusts || len(certificates(seen.CA)) > 0
	if chain := issuer.EncodeChain(presented(seen.Cert)); t.Leaf != LeafNone && len(chain) > 0 {
		others := slices.DeleteFunc(slices.Clone(t.Chains), func(c []byte) bool { return bytes.Equal(c, chain) })
		t.Chains = append(others, chain)
		t.Chains = t.Chains[max(0, len(t.Chains)-maxChains):]
	}
	return t
}

// accepted notes until when anybody accepts the leaf, zero where nobody does.
func (t *Takeover) accepted(leaf *x509.Certificate, until time.Time, renewAt float64) {
	if t.Leaf == LeafNone {
		return
	}
	if until.IsZero() {
		until = leaf.NotAfter
		if t.Leaf == LeafUsable {
			t.Leaf, t.Why = LeafBroken, notInAnyCA
		}
	}
	t.NotAfter = until
	t.Due = leaf.NotBefore.Add(time.Duration(renewAt * float64(until.Sub(leaf.NotBefore))))
}

// live are the chains of other CAs that the service's processes may present at now.
func (t *Takeover) live(now time.Time) (chains [][]*x509.Certificate) {
	for _, data := range t.Chains {
		if chain := presented(data); len(chain) > 0 && !now.After(chain[0].NotAfter) {
			chains = append(chains, chain)
		}
	}
	return chains
}

// over is when the last leaf that was found has expired.
func (t *Takeover) over() time.Time {
	end := later(t.Since, t.NotAfter)
	for _, data := range t.Chains {
		if leaf := firstCertificate(data); leaf != nil {
			end = later(end, leaf.NotAfter)
		}
	}
	return end
}
