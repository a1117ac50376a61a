package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// field draws one cron field of the numbers low to high.
func field(low, high int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		number := rapid.IntRange(low, high)
		switch rapid.IntRange(0, 4).Draw(t, "form") {
		case 0, 1:
			return "*"
		case 2:
			return "*/" + strconv.Itoa(rapid.IntRange(1, high).Draw(t, "step"))
		case 3:
			from := number.Draw(t, "from")
			return fmt.Sprintf("%d-%d", from, rapid.IntRange(from, high).Draw(t, "to"))
		}
		var list []string
		for _, n := range rapid.SliceOfN(number, 1, 3).Draw(t, "list") {
			list = append(list, strconv.Itoa(n))
		}
		return strings.Join(list, ",")
	})
}

// drawSchedule draws a schedule that is accepted; ok is false where the drawn one never or seldom comes.
func drawSchedule(t *rapid.T, zone string) (*Schedule, bool) {
	expr := strings.Join([]string{
		field(0, 59).Draw(t, "minute"), field(0, 23).Draw(t, "hour"),
		field(1, 31).Draw(t, "day of month"), field(1, 12).Draw(t, "month"), field(0, 6).Draw(t, "day of week"),
	}, " ")
	s, err := ParseSchedule(expr, zone)
	if err != nil && !strings.Contains(err.Error(), "never comes") && !strings.Contains(err.Error(), "has a gap of") {
		t.Fatalf("%q: %v", expr, err)
	}
	return s, err == nil
}

func drawTime(t *rapid.T, from, to int) time.Time {
	low, high := time.Date(from, 1, 1, 0, 0, 0, 0, time.UTC).Unix(), time.Date(to, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	return time.Unix(rapid.Int64Range(low, high).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds"))
}

func drawZone(t *rapid.T) string {
	return rapid.SampledFrom([]string{
		"UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia",
		"Africa/Casablanca", "Asia/Kolkata", "Antarctica/Troll", "America/Scoresbysund", "Asia/Gaza",
	}).Draw(t, "zone")
}

// fires says whether the wall time is one of the expression's, read by other means than the package's.
func fires(t *rapid.T, s *Schedule, at time.Time) bool {
	f := strings.Fields(s.expr)
	has := func(field string, n, low, high int) bool {
		return slices.ContainsFunc(strings.Split(field, ","), func(item string) bool {
			item, step, _ := strings.Cut(item, "/")
			from, to := low, high
			if item != "*" {
				a, b, isRange := strings.Cut(item, "-")
				if !isRange {
					b = a
				}
				from, _ = strconv.Atoi(a)
				to, _ = strconv.Atoi(b)
			}
			by, err := strconv.Atoi(step)
			if err != nil {
				by = 1
			}
			return n >= from && n <= to && (n-from)%by == 0
		})
	}
	star := func(field string) bool { return field == "*" || field == "*/1" }
	if !has(f[0], at.Minute(), 0, 59) || !has(f[1], at.Hour(), 0, 23) || !has(f[3], int(at.Month()), 1, 12) {
		return false
	}
	dom, dow := has(f[2], at.Day(), 1, 31), has(f[4], int(at.Weekday()), 0, 6)
	if star(f[2]) || star(f[4]) {
		return dom && dow
	}
	return dom || dow
}

// In UTC, Next is what a scan over every minute finds.
func TestNextIsTheScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, ok := drawSchedule(t, "UTC")
		if !ok {
			return
		}
		after := drawTime(t, 1990, 2060).UTC()
		next := s.Next(after)
		if !next.After(after) || next.Second() != 0 || next.Nanosecond() != 0 || !fires(t, s, next) {
			t.Fatalf("%s after %s: %s", s, after, next)
		}
		const most = 60 * 24 * 60
		at := after.Truncate(time.Minute).Add(time.Minute)
		for range most {
			if !at.Before(next) {
				return
			}
			if fires(t, s, at) {
				t.Fatalf("%s after %s: got %s, the scan found %s", s, after, next, at)
			}
			at = at.Add(time.Minute)
		}
	})
}

// In any zone, Next goes forward, never repeats, has no regard for where a caller's clock stood in
// between, and no gap is longer than LongestGap.
func TestNextGoesForward(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, ok := drawSchedule(t, drawZone(t))
		if !ok {
			return
		}
		last := s.Next(drawTime(t, 2026, 2050))
		for range 200 {
			next := s.Next(last)
			if !next.After(last) {
				t.Fatalf("%s: after %s came %s", s, last, next)
			}
			gap := next.Sub(last)
			if gap > s.LongestGap() {
				t.Fatalf("%s: %s to %s is %s, longer than %s", s, last, next, gap, s.LongestGap())
			}
			if between := last.Add(gap / 2); !s.Next(between).Equal(next) {
				t.Fatalf("%s: after %s came %s, after %s %s", s, last, next, between, s.Next(between))
			}
			last = next
		}
	})
}

// The first instant at which the clock shows a wall time or later is what a scan finds, too.
func TestInstantIsTheScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone, err := time.LoadLocation(drawZone(t))
		if err != nil {
			t.Fatal(err)
		}
		// Near a change of the clock, where there is one.
		at := drawTime(t, 2005, 2040).In(zone)
		if _, end := at.ZoneBounds(); !end.IsZero() {
			at = end
		}
		wall := wallClock(at).Truncate(time.Minute).Add(time.Duration(rapid.IntRange(-180, 180).Draw(t, "minutes")) * time.Minute)
		got := instant(wall, zone)
		if wallClock(got).Before(wall) {
			t.Fatalf("%s in %s is %s, which is before", wall, zone, got)
		}
		for scan := got.Add(-26 * time.Hour); scan.Before(got); scan = scan.Add(time.Minute) {
			if !wallClock(scan.In(zone)).Before(wall) {
				t.Fatalf("%s in %s is %s, but %s shows it already", wall, zone, got, scan.In(zone))
			}
		}
	})
}

// In UTC the longest gap is reached: schedules with few runs over the calendar's whole cycle, others
// within two days.
func TestLongestGapIsReached(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		months := rapid.SampledFrom([]string{"1", "2", "2,3", "12", "6-7", "*"}).Draw(t, "months")
		dom := rapid.SampledFrom([]string{"*", "1", "29", "31", "1,15", "28-31"}).Draw(t, "day of month")
		dow := rapid.SampledFrom([]string{"*", "0", "3", "1-5"}).Draw(t, "day of week")
		expr, years := fmt.Sprintf("%d %d %s %s %s", rapid.IntRange(0, 59).Draw(t, "minute"), rapid.IntRange(0, 23).Draw(t, "hour"), dom, months, dow), 30
		if months == "*" {
			years = 12
		}
		if months == "*" && dom == "*" && dow == "*" {
			expr, years = field(0, 59).Draw(t, "minutes")+" "+field(0, 23).Draw(t, "hours")+" * * *", 0
		}
		s, err := ParseSchedule(expr, "UTC")
		if err != nil {
			return
		}
		at := s.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		end, longest := at.AddDate(years, 0, 2), time.Duration(0)
		for at.Before(end) {
			next := s.Next(at)
			longest, at = max(longest, next.Sub(at)), next
		}
		if longest != s.LongestGap() {
			t.Fatalf("%s: seen %s, said %s", s, longest, s.LongestGap())
		}
	})
}

func FuzzParseSchedule(f *testing.F) {
	for _, expr := range []string{"0 3 * * *", "@daily", "TZ=UTC", "*/5 1-3,7 1 jan mon", "0 0 29 2 *", "@every 1h", "0 0 * * 7"} {
		f.Add(expr, "UTC")
		f.Add(expr, "America/New_York")
	}
	f.Fuzz(func(t *testing.T, expr, zone string) {
		s, err := ParseSchedule(expr, zone)
		if err != nil {
			return
		}
		at := s.Next(time.Date(2026, 3, 8, 0, 0, 0, 0, time.UTC))
		next := s.Next(at)
		if gap := next.Sub(at); gap <= 0 || gap > s.LongestGap() || s.LongestGap() > maxGap+24*time.Hour {
			t.Errorf("%s: %s to %s, longest gap %s", s, at, next, s.LongestGap())
		}
		if again, err := newSchedule(s.expr, s.zone); err != nil || again.String() != s.String() {
			t.Errorf("%s reads back as %v, %v", s, again, err)
		}
	})
}
