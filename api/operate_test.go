package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshca/meshca/api/internal/contract"
	"github.com/meshca/meshca/rotation"
	"github.com/meshca/meshca/verify"
)

// fill gives every field below v a value of its own, and each list one element.
func fill(v reflect.Value, n *int64) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if at, ok := v.Addr().Interface().(*time.Time); ok {
			*at = time.Unix(*n, 0).UTC()
			return
		}
		for _, field := range v.Fields() {
			fill(field, n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), n)
	case reflect.String:
		v.SetString(time.Unix(*n, 0).String())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(*n)
	case reflect.Uint64:
		v.SetUint(uint64(*n))
	}
}

// isForm says whether the contract's type carries all of a value, and nothing that is not in it.
func isForm[Contract any](t *testing.T, value any) {
	t.Helper()
	ours, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(ours, []byte("null")) {
		t.Errorf("a list is none in %s", ours)
	}
	var theirs Contract
	decoder := json.NewDecoder(bytes.NewReader(ours))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&theirs); err != nil {
		t.Fatalf("the contract does not know all of %s: %v", ours, err)
	}
	again, err := json.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if err := errors.Join(json.Unmarshal(ours, &a), json.Unmarshal(again, &b)); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("what is answered is\n%s\nand by the contract\n%s", ours, again)
	}
}

// TestAnswersThatAreNotGenerated have the form that the contract says.
func TestAnswersThatAreNotGenerated(t *testing.T) {
	var n int64
	var status rotation.Status
	fill(reflect.ValueOf(&status).Elem(), &n)
	isForm[contract.Status](t, status)
	reading := Reading{Report: &verify.Report{}}
	fill(reflect.ValueOf(&reading.Older).Elem(), &n)
	fill(reflect.ValueOf(&reading.Unread).Elem(), &n)
	fill(reflect.ValueOf(reading.Report).Elem(), &n)
	for _, r := range []*Reading{&reading, {Report: verify.Check([]verify.Service{{Name: "empty"}}, time.Now())}} {
		body, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		isForm[contract.Verification](t, json.RawMessage(body))
	}
}

// TestStreamsHaveABound: of a caller, and of all together; one that ends makes room.
func TestStreamsHaveABound(t *testing.T) {
	e := NewEvents(time.Now)
	var leave []func()
	enter := func(caller string) bool {
		l, err := e.enter(caller)
		if err == nil {
			leave = append(leave, l)
		} else if p, ok := errors.AsType[*problem](err); !ok || p.kind != tooMany || p.after == 0 || p.hangsUp {
			t.Errorf("%v", err)
		}
		return err == nil
	}
	for caller := range streamsAll / streamsEach {
		for range streamsEach {
			if !enter(string(rune('a' + caller))) {
				t.Fatalf("caller %d has no room", caller)
			}
		}
		if enter(string(rune('a' + caller))) {
			t.Errorf("caller %d has one too many", caller)
		}
	}
	if enter("another") {
		t.Error("there are too many in all")
	}
	leave[0]()
	if !enter("another") {
		t.Error("one has ended, and there is no room")
	}
	for _, l := range leave[1:] {
		l()
	}
	if len(e.streams) != 0 || e.all != 0 {
		t.Errorf("all have ended: %v, %d", e.streams, e.all)
	}
}

// TestLooks: one at a time, kept for a while and, where looking takes long, for longer; who waits too long is told so, and a
// look that failed is not kept.
func TestLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &looks{turn: make(chan struct{}, 1)}
		made, takes, fails := 0, time.Duration(0), error(nil)
		look := func(context.Context) (*Reading, error) {
			made++
			time.Sleep(takes)
			return &Reading{Report: &verify.Report{Pairs: made}}, fails
		}
		take := func() error {
			_, err := l.take(t.Context(), look)
			return err
		}
		want := func(n int) {
			t.Helper()
			body, err := l.take(t.Context(), look)
			var v verification
			if err := errors.Join(err, json.Unmarshal(body, &v)); err != nil || v.Pairs != n || made != n {
				t.Fatalf("look %d of %d, %v; want %d", v.Pairs, made, err, n)
			}
		}
		want(1)
		time.Sleep(lookKept - time.Nanosecond)
		want(1)
		time.Sleep(time.Nanosecond)
		takes = 5 * time.Second
		want(2)
		time.Sleep(lookShare*takes - time.Nanosecond)
		want(2)
		time.Sleep(time.Nanosecond)

		takes = time.Minute // a folder that hangs
		results := make(chan error, 3)
		for range 3 {
			go func() { results <- take() }() // ends with the look
		}
		synctest.Wait()
		time.Sleep(lookWait)
		synctest.Wait()
		for range 2 {
			if p, ok := errors.AsType[*problem](<-results); !ok || p.kind != unavailable {
				t.Errorf("who waits is told %v", p)
			}
		}
		time.Sleep(time.Minute)
		if err := <-results; err != nil || made != 3 {
			t.Errorf("%v, %d looks", err, made)
		}
		time.Sleep(time.Hour)
		takes, fails = 0, errors.New("the API server is away")
		for n := range 2 {
			if err := take(); !errors.Is(err, fails) || made != 4+n {
				t.Errorf("%v, %d looks", err, made)
			}
		}
	})
}

// TestOrderProblems: why an order was not carried out is told under a type of its own.
func TestOrderProblems(t *testing.T) {
	now := time.Unix(1000, 0)
	v := &V1{Now: func() time.Time { return now }}
	for _, tt := range []struct {
		err   error
		kind  kind
		after time.Duration
	}{
		{&rotation.NotKeptError{State: rotation.StateResting, Reason: "its place /tmp/x rests", Hint: "heal /tmp/x"}, notKept, 0},
		{&rotation.TooSoonError{At: now.Add(7 * time.Minute)}, tooMany, 7 * time.Minute},
		{rotation.ErrNothingToDo, conflict, 0},
	} {
		p, ok := errors.AsType[*problem](v.orderProblem(tt.err))
		if !ok || p.kind != tt.kind || p.after != tt.after || slices.Contains([]string{"", p.title}, p.detail) || strings.Contains(p.detail, "/tmp/x") {
			t.Errorf("%v: %+v", tt.err, p)
		}
	}
	for _, err := range []error{context.DeadlineExceeded, context.Canceled} {
		if p, ok := errors.AsType[*problem](v.orderProblem(err)); !ok || p.kind != unavailable || p.after == 0 {
			t.Errorf("%v: %+v", err, p)
		}
	}
}
