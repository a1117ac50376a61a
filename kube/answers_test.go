package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func questionOf(text string) question { return sha256.Sum256([]byte(text)) }

// An oracle answers questions, and counts how often it was asked.
type oracle struct {
	*answers[string]
	asked int
}

func newOracle(most, atOnce int) *oracle {
	return &oracle{answers: newAnswers[string](5*time.Second, 2*time.Second, most, atOnce)}
}

// ask asks; an answer that begins with n is a no.
func (o *oracle) ask(t *testing.T, what, answer string) string {
	t.Helper()
	got, err := o.get(t.Context(), questionOf(what), func(context.Context) (string, bool, error) {
		o.asked++
		return answer, answer[0] != 'n', nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestAnswersAreRemembered: a yes for five seconds, a no for two, an error not at all.
func TestAnswersAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(10, 1)
		o.ask(t, "a", "yes")
		o.ask(t, "b", "no")
		time.Sleep(2*time.Second - 1)
		if got := o.ask(t, "b", "yes, later"); got != "no" || o.asked != 2 {
			t.Errorf("a no that is just young enough: %q, asked %d times", got, o.asked)
		}
		time.Sleep(time.Nanosecond)
		if got := o.ask(t, "b", "yes, later"); got != "yes, later" || o.asked != 3 {
			t.Errorf("a no that has ended: %q, asked %d times", got, o.asked)
		}
		time.Sleep(3*time.Second - 1)
		if got := o.ask(t, "a", "no"); got != "yes" || o.asked != 3 {
			t.Errorf("a yes that is just young enough: %q, asked %d times", got, o.asked)
		}
		time.Sleep(time.Nanosecond)
		if got := o.ask(t, "a", "no"); got != "no" || o.asked != 4 {
			t.Errorf("a yes that has ended: %q, asked %d times", got, o.asked)
		}

		broken := errors.New("broken")
		_, err := o.get(t.Context(), questionOf("c"), func(context.Context) (string, bool, error) { return "", true, broken })
		if !errors.Is(err, broken) {
			t.Errorf("error %v", err)
		}
		if got := o.ask(t, "c", "yes"); got != "yes" {
			t.Errorf("after an error: %q", got)
		}
	})
}

// TestAnswersAreBounded: of each kind so many are kept, and a flood of noes drives out no yes.
func TestAnswersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(100, 1)
		o.ask(t, "mine", "yes")
		for i := range 10_000 {
			o.ask(t, fmt.Sprint("flood ", i), "no")
		}
		if yes, no := len(o.yes.by), len(o.no.by); yes != 1 || no != 100 || len(o.no.order) != 100 {
			t.Errorf("keeps %d and %d", yes, no)
		}
		if got := o.ask(t, "mine", "no"); got != "yes" {
			t.Errorf("the flood has driven the yes out: %q", got)
		}
		if before := o.asked; o.ask(t, "flood 9999", "yes") != "no" || o.ask(t, "flood 9900", "yes") != "no" || o.asked != before {
			t.Error("the newest are not kept")
		}
		time.Sleep(time.Minute)
		o.ask(t, "a", "no")
		if len(o.no.by) != 1 {
			t.Errorf("keeps %d that have ended", len(o.no.by)-1)
		}
	})
}

// TestAnswersAreShared: many who ask the same ask once, and go on when the first of them gives up.
func TestAnswersAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(10, 1)
		asked := 0
		ask := func(ctx context.Context) (string, bool, error) {
			asked++
			select {
			case <-time.After(time.Second):
				return "yes", true, nil
			case <-ctx.Done():
				return "", false, ctx.Err()
			}
		}
		first, leave := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := o.get(first, questionOf("a"), ask)
			gone <- err
		}()
		synctest.Wait()
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if got, err := o.get(t.Context(), questionOf("a"), ask); got != "yes" || err != nil {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		synctest.Wait()
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up is told %v", err)
		}
		if _, err := o.get(t.Context(), questionOf("b"), ask); !errors.Is(err, errBusy) {
			t.Errorf("one more than there are places: %v", err)
		}
		group.Wait()
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

// TestAnswersThatDoNotCome: what is asked ends in time, and its place is free again.
func TestAnswersThatDoNotCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOracle(10, 1)
		began := time.Now()
		_, err := o.get(t.Context(), questionOf("a"), func(ctx context.Context) (string, bool, error) {
			<-ctx.Done()
			return "", false, ctx.Err()
		})
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != askWithin {
			t.Errorf("%v after %s", err, took)
		}
		if got := o.ask(t, "a", "yes"); got != "yes" {
			t.Errorf("afterwards: %q", got)
		}
	})
}
