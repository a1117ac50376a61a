package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/meshca/meshca/api/internal/contract"
)

const (
	streamComment = 15 * time.Second // between two comments, at which it is looked at again who asks
	streamWrite   = 10 * time.Second // for a reader to take what is written to it
	streamBatch   = 64               // events in one write
	streamRetry   = time.Second      // before a reader comes back, and up to twice that more: not all at once after a restart
)

// StreamEvents answers with events as they happen.
func (v *V1) StreamEvents(ctx context.Context, r contract.StreamEventsRequestObject) (contract.StreamEventsResponseObject, error) {
	if _, err := wants(ctx, sseType); err != nil {
		return nil, err
	}
	s := &stream{v: v, ctx: ctx, request: fromContext(ctx), service: r.Params.Service, last: v.Events.newest()}
	if id := r.Params.LastEventID; id != nil {
		n, err := strconv.ParseUint(*id, 10, 63)
		if err != nil {
			return nil, badRequest.because("Last-Event-ID is a number that a stream gave", "Last-Event-ID")
		}
		s.last = n
	}
	if err := s.look(); err != nil {
		return nil, err
	}
	return s, nil
}

// A stream is the answer to one who follows events. It holds no events: it reads those that are held at its own pace, so
// that a slow reader holds up nobody, and misses what is held no longer.
type stream struct {
	v       *V1
	ctx     context.Context // of the request
	request *request
	service *string
	last    uint64   // number of the last event that it has passed
	visible []string // services, nil for all
}

// look finds out which services the caller may see.
func (s *stream) look() error {
	visible, err := s.v.visible(s.ctx, s.service)
	if err == nil && visible != nil && len(visible) == 0 {
		err = forbidden.because("no service of the catalogue lists the caller under its clients; " + howToList(&s.request.caller))
	}
	s.visible = visible
	return err
}

// lookAgain finds out whether the caller is still who it was, and may still see what it did: certificates end, and rights
// are taken away, while a stream lives on.
func (s *stream) lookAgain() error {
	caller, err := s.request.again()
	if err != nil {
		return err
	}
	if caller.Name != s.request.caller.Name {
		return unauthenticated.because("the caller is another one now")
	}
	s.request.caller = caller
	return s.look()
}

// VisitStreamEventsResponse implements the contract's answer. It returns when the caller has gone, takes nothing, or may
// see nothing any more, and when the process ends.
func (s *stream) VisitStreamEventsResponse(w http.ResponseWriter) error {
	leave, err := s.v.Events.enter(s.request.caller.Name)
	if err != nil {
		return err
	}
	defer leave()
	c := http.NewResponseController(w)
	if err := c.SetWriteDeadline(time.Time{}); err != nil { // a stream cannot be bounded without
		return err
	}
	w.Header().Set("Content-Type", sseType)
	write := func(text []byte) error { return writeWithin(w, c, text) }
	defer func() { _ = c.SetWriteDeadline(time.Now().Add(streamWrite)) }() // for what net/http writes after this
	if err := s.follow(write); err != nil {
		s.v.Log.Debug("stream of events ended", "request", s.request.id, "caller", s.request.caller.Name, "error", err)
	}
	return nil // the status has been sent
}

// writeWithin sends text, to a reader that takes it in time. No deadline stands while nothing is written: HTTP/2 would
// end the stream by it.
func writeWithin(w http.ResponseWriter, c *http.ResponseController, text []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(streamWrite)); err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return err
	}
	return c.SetWriteDeadline(time.Time{})
}

// follow writes what happens until that ends, or a write fails.
func (s *stream) follow(write func([]byte) error) error {
	tick := time.NewTicker(streamComment)
	defer tick.Stop()
	// An id without data is no event to a reader, and is kept as the last one: whoever is cut off before the first event
	// goes on from here.
	first := fmt.Appendf(nil, "retry: %d\n", (streamRetry + rand.N(2*streamRetry)).Milliseconds())
	if _, from, _, _ := s.v.Events.after(s.last, 0); from == s.last {
		first = fmt.Appendf(first, "id: %d\n", s.last)
	}
	if err := write(append(first, '\n')); err != nil {
		return err
	}
	for {
		found, from, ended, more := s.v.Events.after(s.last, streamBatch)
		if ended {
			return nil
		}
		if text := s.text(found, from); len(text) > 0 {
			if err := write(text); err != nil {
				return err
			}
		}
		select {
		case <-more:
		case <-tick.C: // comes to its turn also where there is always more: a select is fair
			if err := s.comment(write); err != nil {
				return err
			}
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

// comment shows that the server is there, and moves the last id on past what the caller may not see.
func (s *stream) comment(write func([]byte) error) error {
	if err := s.lookAgain(); err != nil {
		why := "it cannot be found out who asks"
		if p, ok := errors.AsType[*problem](err); ok {
			why = p.detail
		}
		return errors.Join(err, write([]byte(": ends: "+why+"\n\n")))
	}
	return write(fmt.Appendf(nil, ":\nid: %d\n\n", s.last))
}

// text is the events that follow the number from as they are sent, and passes them.
func (s *stream) text(found []event, from uint64) []byte {
	var b bytes.Buffer
	if from != s.last {
		s.last = from
		writeEvent(&b, s.last, "gap", contract.Gap{Text: "events after the last one are not held any more: read certificates and services anew"})
	}
	for _, e := range found {
		s.last = e.ID
		if s.visible == nil || slices.Contains(s.visible, e.Service) {
			writeEvent(&b, e.ID, e.Kind, contract.Event{Service: e.Service, At: e.At, Serial: given(e.Serial), Text: e.Text})
		}
	}
	return b.Bytes()
}

func writeEvent(b *bytes.Buffer, id uint64, kind string, data any) {
	line, err := json.Marshal(data)
	if err != nil {
		line = []byte("{}") // the types are ours, and can be written
	}
	fmt.Fprintf(b, "id: %d\nevent: %s\ndata: %s\n\n", id, kind, line)
}
