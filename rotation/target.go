// Package rotation says when and in which order services get their certificates, and keeps them so.
//
// # What it guarantees
//
// What to do is decided by [Step], a pure function of what the store knows, what a target was seen to hold
// and the time; the [Engine] around it only observes, calls it, commits and acts. A target is written only
// after the certificate's record is durable, and only with a set whose key matches its leaf and whose chain
// verifies against the very ca.crt that is written. A folder or Secret that is not ours is never touched.
//
// # Failure
//
// A service that cannot be served is named in the status and tried again with back-off while the others go
// on. After a crash at any point the next start finds out from store and target what was done.
package rotation

import (
	"context"
	"errors"
	"strings"
	"time"
)

// A Target is where the services' certificates are written: folders, or Secrets of a cluster. Its methods
// may be called from any goroutine, those for one service never at the same time.
type Target interface {
	// Observe reads what the service has now. Where that cannot be read it returns an error that names the
	// place; where it can be read and could not be written, the error wraps ErrNotWritable: nothing is
	// issued for a place that cannot take it.
	Observe(ctx context.Context, service string) (Observation, error)
	// Write replaces the whole set in one step: a reader sees the old set or the new one. over is the version
	// of the observation that it was decided on: where the place has changed since, a target that can tell
	// writes nothing and returns an error. When it returns nil the new set is in place and survives a power
	// cut; after an error Observe tells what is there.
	Write(ctx context.Context, service string, m Material, over Version) error
	// Watch calls changed with the name of a service, with Published, or with "" for all, soon after somebody
	// else may have changed what they have, or has since it was observed last. It returns when ctx ends, or with
	// an error where it cannot watch: then changes are found by the sweep.
	Watch(ctx context.Context, services []string, changed func(service string)) error
	// Readers tells, for each of the services, who may have read its set.
	Readers(ctx context.Context, services []string) map[string]Readers
	// Publish puts the trust bundle where those find it who only verify. It writes nothing where it is there, and
	// nothing where somebody has written since the last call: those are in changed, as Watch names them, and the
	// services' places are looked at again first. What fails in one does not keep it from the others.
	Publish(ctx context.Context, bundle []byte) (changed []string, err error)
	// Tell makes a notice known beside the place, as far as the target can. It does not wait.
	Tell(n Notice)
	// Tidy removes what Write has replaced and readers no longer need.
	Tidy(ctx context.Context, service string) error
	// Ready says whether the target as a whole answers.
	Ready(ctx context.Context) error
	// Place names where the service's set lies, for people.
	Place(service string) string
	// Subject names it for a mark: the same wherever the target is reached from.
	Subject(service string) string
}

// Published is what Watch says where the published trust bundle may have changed. It is no service's name.
const Published = "ca.crt"

// PublishedIn is Published for one of several places of the bundle.
func PublishedIn(place string) string { return Published + "/" + place }

// isPublished says whether Watch has named the bundle.
func isPublished(name string) bool {
	name, _, _ = strings.Cut(name, "/")
	return name == Published
}

// ErrNotWritable is what Observe wraps for a place that can be read, and could not be written.
var ErrNotWritable = errors.New("cannot be written")

// ErrChanged is what Write wraps where the place is not as it was observed: it is observed again.
var ErrChanged = errors.New("it has changed in between")

// The parts of a set, as people know them.
const (
	CertFile = "tls.crt" // the chain that the service presents: leaf, then issuing CA
	KeyFile  = "tls.key" // the leaf's private key, PKCS #8
	CAFile   = "ca.crt"  // the trust bundle
)

// Material is the whole set of one service, written together.
type Material struct {
	Cert, Key, CA []byte // PEM; nil Cert and Key stay as they are
	Mark          Mark
	Form          Form // of a place that is made anew
}

// A Mark says which store wrote a set, and which: it is kept beside it in the target's own form.
type Mark struct {
	Store   string // identity of the store
	Service string
	Epoch   uint64
	Bundle  string // SHA-256 of ca.crt, hexadecimal
	Serial  string // of the leaf; "" where the leaf is none of ours to tell
	// NotAfter is the leaf's: what the mark says of a leaf matters until then, as the leaf's record does.
	NotAfter time.Time `json:"-"`
	MAC      string    // over all of the above and the place's subject, hexadecimal: see sign

	// What follows is told to people and to other programs, and is in the leaf or the bundle anyway.
	NotBefore time.Time `json:"-"` // of the leaf
	Issuer    string    `json:"-"` // common name of who signed it
}

// A Version is what a target needs to know of an observation to write over it, and over nothing else.
type Version any

// A Form is what of a place is not ours, and is made again with it after somebody has removed it.
type Form struct {
	Made        string            `json:"made,omitempty"` // the instance that meshca made; "" where it has found what is there
	Type        string            `json:"type,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Keys        []string          `json:"keys,omitempty"` // names of foreign content, which is not kept
}

// Readers are those who may have read a service's set. Where none is known and nothing is declared, anybody may
// have.
type Readers struct {
	Known    []Reader
	Declared DeclaredReaders
	Err      error // why it is not known who reads it; nil where it is
}

// DeclaredReaders is what the catalogue says of readers that cannot be seen.
type DeclaredReaders string

// What the catalogue may say.
const (
	ReadersUnknown DeclaredReaders = ""
	ReadersNone    DeclaredReaders = "none" // nobody reads it
	ReadersFollow  DeclaredReaders = "api"  // whoever reads it follows its changes
)

// A Reader is a process that may have read a service's set.
type Reader struct {
	Name    string
	Created time.Time // by the target's clock
}

// An Observation is what a target holds of one service. A nil slice is an absent file.
type Observation struct {
	Cert, Key, CA []byte
	Mark          *Mark       // nil: no meshca wrote here, or its mark cannot be read
	MarkIn        string      // where the target keeps the mark, for people
	Deviations    []Deviation // from the target's own form: modes, links, spelling of the mark
	Instance      string      // tells what is there from what was there before it was removed; "" where a target cannot
	IfMade        []Deviation // further ones where meshca has made the instance: on one that it found they are another's to decide
	Version       Version
	Written       time.Time // when meshca last wrote it, by the target's clock; zero where it is not known
	By            string    // who claims to have written last beside meshca, "" where nobody does
	Form          Form
	Foreign       Obstacle // whose it is, where another program writes it: never fought
	Rests         string   // why an operator wants it left alone for now, "" where nobody does
	Remarks       []Remark // what people should know of the place
}

// An Obstacle says that a place is not meshca's to write, and how to go on; the zero value is none.
type Obstacle struct {
	Reason, Hint string
	// Claimant is another program where nothing but its marks stands in the way. Anybody may set them, so where our own
	// mark is proven they are no obstacle: one annotation would end healing and renewal for good.
	Claimant string
}

// A Remark is something that people should know of a place and that stands in nobody's way.
type Remark struct {
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

// Empty says that nothing is there.
func (o *Observation) Empty() bool {
	return o.Cert == nil && o.Key == nil && o.CA == nil && o.Mark == nil
}

// A Deviation is one difference between what is there and what should be, in words for people; private
// keys are never in it.
type Deviation struct {
	File, Seen, Wanted string
}

// A Notice is one thing that was done or found, in words for people.
type Notice struct {
	Service string
	Kind    NoticeKind
	Serial  string // of the leaf that is new with it, "" where none is
	Text    string
}

// NoticeKind is what a notice is about.
type NoticeKind string

// The kinds of notice.
const (
	NoticeIssued    NoticeKind = "Issued"
	NoticeRenewed   NoticeKind = "Renewed"
	NoticeHealed    NoticeKind = "Healed"
	NoticeRefused   NoticeKind = "Refused"
	NoticeResting   NoticeKind = "Resting" // somebody has broken the glass
	NoticeTakenOver NoticeKind = "TakenOver"
	NoticeAlarm     NoticeKind = "Alarm" // somebody writes there again and again, or claims a place of ours
)

// Warning says whether somebody should look.
func (k NoticeKind) Warning() bool {
	return k != NoticeIssued && k != NoticeRenewed && k != NoticeTakenOver
}
