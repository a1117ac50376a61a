package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/meshca/meshca/rotation"
)

// half is a take-over in which each kind of service waits or is waited for.
var half = &rotation.Status{
	Awaited: []string{"broken", "mail", "search"}, Waiting: []string{"envoy", "search"},
	Services: []rotation.ServiceStatus{
		{Name: "broken", State: rotation.StateFailing, Error: "the folder is gone", WaitsFor: "it cannot be read"},
		{Name: "done", State: rotation.StateKept},
		{Name: "envoy", State: rotation.StateAlarm},
		{Name: "mail", State: rotation.StateKept, WaitsFor: "mail/old"},
		{Name: "search", State: rotation.StateTaking, WaitsFor: "search/old"},
	},
}

// TestAdoptPlan: whatever the state of a service is, it is said whether it waits, and whether others wait for it.
func TestAdoptPlan(t *testing.T) {
	var out bytes.Buffer
	if err := writeAdoption(&out, half, ""); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"broken": "the folder is gone; others wait for it: it cannot be read",
		"done":   "nothing: it is ours",
		"envoy":  "its leaf is signed anew when these are ready: broken, mail, search",
		"mail":   "others wait for it: mail/old",
		"search": "its leaf is signed anew after: search/old",
	} {
		if !strings.Contains(out.String(), "\n"+name+" ") || !strings.Contains(out.String(), "  "+want+"\n") {
			t.Errorf("%s: no %q in\n%s", name, want, &out)
		}
	}
}

// TestAdoptSaysWhoMightRefuse names each that is waited for, also one that is ours or left alone.
func TestAdoptSaysWhoMightRefuse(t *testing.T) {
	for only, names := range map[string][]string{"": half.Awaited, "mail": {"mail"}, "envoy": nil} {
		var out bytes.Buffer
		writeRefusals(&out, half, only)
		if n := strings.Count(out.String(), "\n"); n != len(names) {
			t.Errorf("adopt %s: %d lines\n%s", only, n, &out)
		}
		for _, name := range names {
			wantIn(t, out.String(), "readers of "+name+" that do not trust our root yet will refuse the new leaves of envoy, search, ")
		}
	}
}

// TestAdoptThatDoesNotGoOn: what was named and is waited for still is said, and the answer is no.
func TestAdoptThatDoesNotGoOn(t *testing.T) {
	for only, want := range map[string]string{"": "mail is waited for still: mail/old", "search": "search is waited for still: search/old"} {
		var out bytes.Buffer
		failed, ok := errors.AsType[*failure](continued(&out, half, only))
		if !ok || failed.code != exitNo || !strings.Contains(failed.Error(), want) || out.Len() > 0 {
			t.Errorf("adopt %s: %v %s", only, failed, &out)
		}
	}
	var out bytes.Buffer
	if err := continued(&out, half, "done"); err != nil {
		t.Error(err)
	}
	wantIn(t, out.String(), "continued: leaves are signed anew when these are ready too: broken, mail, search")
}
