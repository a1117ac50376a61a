package api

import (
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/meshca/meshca/issuer"
	"github.com/meshca/meshca/rotation"
)

// An event is one thing that happened to a service.
type event struct {
	ID      uint64
	Kind    string
	Service string
	Serial  string // of the certificate that is new or revoked with it, "" where none is
	At      time.Time
	Text    string // in words, of at most maxEventText bytes
}

// The kinds of event that the engine does not tell of.
const (
	kindIssued  = "issued"
	kindRenewed = "renewed"
	kindRevoked = "revoked"
)

const (
	eventsHeld   = 1024
	maxEventText = 1024
)

// Events holds the newest events of this process for those who follow them. What it holds ends with the process, and
// whoever comes back later is told that there is a gap: the records of certificates are the store's, and whole.
//
// Numbers of events rise, also over restarts: they begin with the instant of the start, in milliseconds, times 2²⁰. Where
// the clock has gone back meanwhile, a number of before is one that is not held: a gap all the same.
type Events struct {
	now func() time.Time

	mu     sync.Mutex
	held   []event // rising by one, the newest last
	last   uint64
	ended  bool
	change chan struct{} // closed at the next event, and at the end

	already chan struct{} // closed

	streams map[string]int // that are open, by caller
	all     int
}

// NewEvents makes the events of a process that starts now. The clock is the wall's.
func NewEvents(now func() time.Time) *Events {
	e := &Events{now: now, last: uint64(max(now().UnixMilli(), 0)) << 20, change: make(chan struct{}), already: make(chan struct{}), streams: make(map[string]int)}
	close(e.already)
	return e
}

// Tell adds what the engine tells of. It does not wait.
func (e *Events) Tell(n rotation.Notice) {
	kind := strings.ToLower(string(n.Kind[:1])) + string(n.Kind[1:])
	e.add(event{Kind: kind, Service: n.Service, Serial: n.Serial, Text: n.Text, At: e.now()})
}

// End ends all streams, now and later: the process is ending.
func (e *Events) End() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		e.ended = true
		close(e.change)
	}
}

func (e *Events) add(v event) {
	if v.At = v.At.UTC().Truncate(time.Millisecond); len(v.Text) > maxEventText {
		v.Text = strings.ToValidUTF8(v.Text[:maxEventText-utf8.UTFMax], "") + "…"
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return
	}
	e.last++
	v.ID = e.last
	if len(e.held) == eventsHeld {
		e.held = e.held[1:] // the array grows now and then, and leaves them behind
	}
	e.held = append(e.held, v)
	close(e.change)
	e.change = make(chan struct{})
}

// newest is the number of the newest event.
func (e *Events) newest() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// after gives the events after the one of that number, at most limit of them. more is closed when there are others. Where
// from is another number, events after that of id are not held any more, or it is none of this process's: those that are
// given are the oldest that are held.
func (e *Events) after(id uint64, limit int) (found []event, from uint64, ended bool, more <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.last - uint64(len(e.held)) // the number before the oldest
	if from = id; id < before || id > e.last {
		from = before
	}
	rest, more := e.held[from-before:], e.change
	if len(rest) > limit {
		rest, more = rest[:limit], e.already
	}
	return append([]event(nil), rest...), from, e.ended, more
}

const (
	streamsEach = 4
	streamsAll  = 32
)

// enter counts a stream of the caller until leave.
func (e *Events) enter(caller string) (leave func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	full := tooMany.because(fmt.Sprintf("the caller has %d streams of events open: end one", streamsEach))
	switch {
	case e.ended:
		return nil, busy("the server is ending", nil)
	case e.streams[caller] >= streamsEach:
	case e.all >= streamsAll:
		full = tooMany.because(fmt.Sprintf("%d streams of events are open, and more are not held", streamsAll))
	default:
		e.streams[caller]++
		e.all++
		return func() { e.leave(caller) }, nil
	}
	full.after = streamComment
	return nil, full
}

func (e *Events) leave(caller string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all--
	if e.streams[caller]--; e.streams[caller] == 0 {
		delete(e.streams, caller)
	}
}

// tell adds that a caller was given a certificate.
func (v *V1) tell(r issuer.Record, renewal bool) {
	kind := kindIssued
	if renewal {
		kind = kindRenewed
	}
	v.Events.add(event{Kind: kind, Service: r.Service, Serial: r.Serial, At: v.Now(),
		Text: fmt.Sprintf("certificate %s, valid until %s, for %s", r.Serial, r.NotAfter.Format(time.RFC3339), r.Caller)})
}
