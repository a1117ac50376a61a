package main

import (
	"strings"
	"testing"
	"time"

	"github.com/meshca/meshca/rotation"
)

// TestStatusOfCRLs: an overdue CRL is named with what it leads to, and is a reason for exit code 1; a CA without one is named.
func TestStatusOfCRLs(t *testing.T) {
	end := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	for _, overdue := range []bool{false, true} {
		s := &rotation.Status{NoCRL: []string{"CN=other"}, CRLs: []rotation.CRLStatus{{Issuer: "meshca issuing CA 1", Number: 7, NextUpdate: end, Overdue: overdue}}}
		var text strings.Builder
		if err := writeStatus(&text, s); err != nil {
			t.Fatal(err)
		}
		wantIn(t, text.String(), "CRL       meshca issuing CA 1  number 7  until 2026-12-01 12:00 UTC\n", "no CRL    CN=other\n")
		if strings.Contains(text.String(), "overdue: the CRL of meshca issuing CA 1\n  hint: it ends at 2026-12-01 12:00 UTC") != overdue || allWell(s) == overdue {
			t.Errorf("overdue %t: in order %t\n%s", overdue, allWell(s), &text)
		}
	}
}
