package config

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// A Schedule is a cron expression in a time zone. The expression is read on the wall clock: a time that
// the spring change skips comes at the first instant after the gap, and the hour that the autumn change
// repeats comes once, when it is first on the clock.
type Schedule struct {
	expr string
	zone *time.Location
	spec *cron.SpecSchedule // in UTC, which stands for the wall clock here
	gap  time.Duration
}

// maxGap is the longest time without a run that a schedule may have: a leap year.
const maxGap = 366 * 24 * time.Hour

// cronItem is one item of a comma-separated cron field. The parser takes more than it says it does ("?",
// "*-5", "+5", an empty item), and each of those means something else elsewhere.
var cronItem = regexp.MustCompile(`^(\*|([0-9]{1,2}|[A-Za-z]{3})(-([0-9]{1,2}|[A-Za-z]{3}))?)(/[0-9]{1,2})?$`)

var sundaySeven = regexp.MustCompile(`(^|[,-])0?7($|[,/-])`)

// ParseSchedule reads five cron fields, or @hourly, @daily, @midnight, @weekly or @monthly, in the named
// zone; "" is UTC. The error is a *[Problem] whose field is "schedule" or "timezone".
func ParseSchedule(expr, zone string) (*Schedule, error) {
	loc, err := loadZone(zone)
	if err != nil {
		return nil, err
	}
	return newSchedule(expr, loc)
}

// Next returns the first time of the schedule that is after the given one.
func (s *Schedule) Next(after time.Time) time.Time {
	for wall := wallClock(after.In(s.zone)); ; {
		wall = s.spec.Next(wall)
		if wall.IsZero() {
			return wall // not reached: newSchedule saw to it that a year brings one
		}
		if t := instant(wall, s.zone); t.After(after) {
			return t
		}
	}
}

// LongestGap returns the longest time between two runs. It is exact where the zone has no clock changes;
// elsewhere it adds the largest change to the longest gap on the wall clock, and may be that much too long.
func (s *Schedule) LongestGap() time.Duration { return s.gap }

// String returns the expression and the zone.
func (s *Schedule) String() string { return s.expr + " " + s.zone.String() }

func refuse(field, hint, format string, args ...any) error {
	return &Problem{Field: field, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func loadZone(name string) (*time.Location, error) {
	const field, hint = "timezone", "write an IANA name, as UTC or Europe/Berlin"
	if name == "Local" {
		return nil, refuse(field, hint, "%q is another zone on every machine", name)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, refuse(field, hint, "%s is no time zone known here", quote(name))
	}
	return loc, nil
}

func newSchedule(expr string, zone *time.Location) (*Schedule, error) {
	expr = strings.Join(strings.Fields(expr), " ")
	if err := checkExpression(expr); err != nil {
		return nil, err
	}
	spec, err := parseCron(expr)
	if err != nil {
		hint := ""
		if f := strings.Fields(expr); len(f) == 5 && sundaySeven.MatchString(f[4]) {
			hint = "write 0 for Sunday; the days of the week are 0 to 6"
		}
		return nil, refuse("schedule", hint, "%s is refused: %s", quote(expr), clip(err.Error()))
	}
	gap, ok := wallGap(spec)
	if !ok {
		return nil, refuse("schedule", "", "%s never comes", quote(expr))
	}
	if gap > maxGap {
		return nil, refuse("schedule", "", "%s has a gap of %s, at most %s (366 days) is allowed", quote(expr), span(gap), span(maxGap))
	}
	return &Schedule{expr: expr, zone: zone, spec: spec, gap: gap + setBack(zone)}, nil
}

// checkExpression refuses what the parser would take in another sense than the reader of the file.
func checkExpression(expr string) error {
	const field = "schedule"
	word, _, _ := strings.Cut(expr, " ")
	switch {
	case expr == "":
		return refuse(field, "write five fields, as 0 3 * * *", "is empty")
	case strings.HasPrefix(expr, "TZ=") || strings.HasPrefix(expr, "CRON_TZ="):
		return refuse(field, "set rotation.timezone", "%s names a time zone", quote(expr))
	case word == "@every":
		return refuse(field, "write cron fields, as 0 */6 * * * for every six hours", "%s counts from the start of the process, so that a restart would put it off", quote(expr))
	case word == "@reboot":
		return refuse(field, "write five fields, as 0 3 * * *", "%s has no times", quote(expr))
	case word == "@yearly" || word == "@annually":
		return refuse(field, "write @monthly, or five fields that come more often", "%s is too seldom", quote(expr))
	case strings.HasPrefix(expr, "@"):
		switch expr {
		case "@hourly", "@daily", "@midnight", "@weekly", "@monthly":
			return nil
		}
		return refuse(field, "known are @hourly, @daily, @midnight, @weekly and @monthly", "%s is unknown", quote(expr))
	}
	return checkFields(strings.Fields(expr), expr)
}

func checkFields(fields []string, expr string) error {
	if n := len(fields); n != 5 {
		hint := ""
		if n == 6 {
			hint = "leave the seconds out"
		}
		return refuse("schedule", hint, "%s has %d fields, want 5: minute, hour, day of month, month, day of week", quote(expr), n)
	}
	for _, f := range fields {
		for item := range strings.SplitSeq(f, ",") {
			if cronItem.MatchString(item) {
				continue
			}
			hint := ""
			if item == "?" {
				hint = "write *"
			}
			return refuse("schedule", hint, "%s holds %s, want *, a number, a name or a range, each with an optional /step",
				quote(expr), quote(item))
		}
	}
	return nil
}

// parseCron is the one use of the cron library. It has panicked on odd input before.
func parseCron(expr string) (spec *cron.SpecSchedule, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cron parser: %v", p)
		}
	}()
	s, err := cron.ParseStandard(expr)
	if err != nil {
		return nil, err
	}
	spec, ok := s.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("cron parser: unexpected %T", s)
	}
	spec.Location = time.UTC
	return spec, nil
}
