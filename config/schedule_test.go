package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func scheduled(t rapid.TB, expr, zone string) *Schedule {
	t.Helper()
	s, err := ParseSchedule(expr, zone)
	if err != nil {
		t.Fatalf("%q in %q: %v", expr, zone, err)
	}
	return s
}

func TestScheduleRefused(t *testing.T) {
	tests := []struct{ expr, zone, field, message, hint string }{
		{"", "", "schedule", "is empty", "0 3 * * *"},
		{" ", "", "schedule", "is empty", "0 3 * * *"},
		{"@every 1h", "", "schedule", "counts from the start", "cron fields"},
		{"@reboot", "", "schedule", "has no times", "five fields"},
		{"@yearly", "", "schedule", "too seldom", "@monthly"},
		{"@annually", "", "schedule", "too seldom", "@monthly"},
		{"@fortnightly", "", "schedule", "is unknown", "@weekly"},
		{"@daily 3", "", "schedule", "is unknown", "@weekly"},
		{"TZ=UTC 0 3 * * *", "", "schedule", "names a time zone", "rotation.timezone"},
		{"CRON_TZ=UTC 0 3 * * *", "", "schedule", "names a time zone", "rotation.timezone"},
		{"TZ=UTC", "", "schedule", "names a time zone", "rotation.timezone"}, // the parser panics on it
		{"0 0 3 * * *", "", "schedule", "has 6 fields, want 5", "seconds"},
		{"3 * * *", "", "schedule", "has 4 fields, want 5", ""},
		{"0 3 ? * *", "", "schedule", `holds "?"`, "write *"},
		{"0 3 L * *", "", "schedule", `holds "L"`, ""},
		{"0 3 *-5 * *", "", "schedule", `holds "*-5"`, ""},
		{"0 3 , * *", "", "schedule", `holds ""`, ""},
		{"0 +3 * * *", "", "schedule", `holds "+3"`, ""},
		{"60 3 * * *", "", "schedule", "above maximum (59)", ""},
		{"0 3 * * 7", "", "schedule", "above maximum (6)", "0 for Sunday"},
		{"0 3 * * 5-7", "", "schedule", "above maximum (6)", "0 for Sunday"},
		{"0 7 * * 8", "", "schedule", "above maximum (6)", ""},
		{"*/0 3 * * *", "", "schedule", "positive number", ""},
		{"0 3 5-2 * *", "", "schedule", "beyond end of range", ""},
		{"0 0 30 2 *", "", "schedule", "never comes", ""},
		{"0 0 31 4,6,9,11 *", "", "schedule", "never comes", ""},
		{"0 0 29 2 *", "", "schedule", "has a gap of 35064h, at most 8784h (366 days)", ""},
		{"0 3 * * *", "Local", "timezone", "another zone on every machine", "IANA"},
		{"0 3 * * *", "Nowhere", "timezone", `"Nowhere" is no time zone`, "IANA"},
		{"0 3 * * *", "../etc/passwd", "timezone", "is no time zone", "IANA"},
	}
	for _, tt := range tests {
		t.Run(tt.expr+" "+tt.zone, func(t *testing.T) {
			_, err := ParseSchedule(tt.expr, tt.zone)
			p, ok := errors.AsType[*Problem](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if p.Field != tt.field || !strings.Contains(p.Message, tt.message) {
				t.Errorf("got %s: %s, want %s: %s", p.Field, p.Message, tt.field, tt.message)
			}
			if !strings.Contains(p.Hint, tt.hint) || (tt.hint == "") != (p.Hint == "") {
				t.Errorf("hint %q, want %q", p.Hint, tt.hint)
			}
		})
	}
}

func TestNextAcrossClockChanges(t *testing.T) {
	const layout = "2006-01-02T15:04:05Z07:00"
	tests := []struct {
		name, expr, zone, after string
		want                    []string
	}{
		{"spring, skipped", "30 2 * * *", "America/New_York", "2026-03-07T12:00:00-05:00",
			[]string{"2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"}},
		{"spring, skipped twice and due after", "0,30 2,3 * * *", "America/New_York", "2026-03-08T01:00:00-05:00",
			[]string{"2026-03-08T03:00:00-04:00", "2026-03-08T03:30:00-04:00", "2026-03-09T02:00:00-04:00"}},
		{"autumn, repeated", "30 1 * * *", "America/New_York", "2026-10-31T12:00:00-04:00",
			[]string{"2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"}},
		{"autumn, from within the repetition", "30 1 * * *", "America/New_York", "2026-11-01T01:10:00-05:00",
			[]string{"2026-11-02T01:30:00-05:00"}},
		{"autumn, hourly", "0 * * * *", "America/New_York", "2026-11-01T00:30:00-04:00",
			[]string{"2026-11-01T01:00:00-04:00", "2026-11-01T02:00:00-05:00"}},
		{"half an hour, skipped", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30",
			[]string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		{"half an hour, repeated", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00+11:00",
			[]string{"2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"}},
		{"midnight skipped", "0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00-03:00",
			[]string{"2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"}},
		{"midnight repeated", "30 23 * * *", "America/Sao_Paulo", "2018-02-17T12:00:00-02:00",
			[]string{"2018-02-17T23:30:00-02:00", "2018-02-18T23:30:00-03:00"}},
		{"day skipped", "0 3 * * *", "Pacific/Apia", "2011-12-29T01:00:00-10:00",
			[]string{"2011-12-29T03:00:00-10:00", "2011-12-31T00:00:00+14:00", "2011-12-31T03:00:00+14:00"}},
		{"weekday of the skipped day", "0 3 * * 5", "Pacific/Apia", "2011-12-29T01:00:00-10:00",
			[]string{"2011-12-31T00:00:00+14:00", "2012-01-06T03:00:00+14:00"}},
		{"last day of a leap year", "30 2 * * *", "America/New_York", "2040-12-30T12:00:00-05:00",
			[]string{"2040-12-31T02:30:00-05:00", "2041-01-01T02:30:00-05:00"}},
		{"no changes", "0 3 * * *", "UTC", "2026-01-01T03:00:00Z",
			[]string{"2026-01-02T03:00:00Z", "2026-01-03T03:00:00Z"}},
		{"after with a part of a second", "0 3 * * *", "UTC", "2026-01-01T02:59:59.999Z",
			[]string{"2026-01-01T03:00:00Z"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := scheduled(t, tt.expr, tt.zone)
			at, err := time.Parse(time.RFC3339, tt.after)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for range tt.want {
				at = s.Next(at)
				got = append(got, at.Format(layout))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestLongestGap(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		expr, zone string
		want       time.Duration
	}{
		{"* * * * *", "UTC", time.Minute},
		{"@hourly", "UTC", time.Hour},
		{"@daily", "UTC", day},
		{"@midnight", "UTC", day},
		{"@weekly", "UTC", 7 * day},
		{"@monthly", "UTC", 31 * day},
		{"0 3 * * *", "", day},
		{"0 3 * * *", "America/New_York", day + time.Hour},
		{"0 3 * * *", "Australia/Lord_Howe", day + 30*time.Minute},
		{"0 3 * * *", "Asia/Tokyo", day},
		{"0 3 * * *", "Pacific/Apia", day}, // its skipped day is past
		{"0 9-17 * * 1-5", "UTC", 2*day + 16*time.Hour},
		{"0 0 31 * *", "UTC", 61 * day}, // 31 March to 31 May
		{"0 0 1 1 *", "UTC", 366 * day},
		{"0 0 1 1 0", "UTC", 342 * day},  // a leap year whose 25 January is the last Sunday, to the next New Year
		{"0 0 */10 * 1", "UTC", 7 * day}, // a step is no star: Mondays and the 1st, 11th, 21st and 31st
		{"5/20 2,22 * * *", "UTC", 19*time.Hour + 20*time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.expr+" "+tt.zone, func(t *testing.T) {
			start := time.Now()
			got := scheduled(t, tt.expr, tt.zone).LongestGap()
			if took := time.Since(start); took > 200*time.Millisecond {
				t.Errorf("took %s", took)
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}
