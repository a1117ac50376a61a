package config

import (
	"math/bits"
	"time"

	"github.com/robfig/cron/v3"
)

// The calendar repeats its weekdays and leap years every 28 years (but for a skipped leap year, which
// brings no pair of years that the 28 do not have). The two more years let every gap begin and end inside.
// The years are ahead of this code, so that a zone's changes long past do not count.
const (
	firstYear = 2026
	lastYear  = firstYear + 28 + 2
)

// cronStar is the bit by which the parser marks a field that was written as a star.
const cronStar = 1 << 63

// wallClock returns the time that a clock in t's zone shows, as if it were UTC.
func wallClock(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instant returns the first instant at which the clock in zone shows wall or later. Where the clock shows
// wall once, it is that; where twice, the first; where never, the end of the gap. As a minimum over times
// it cannot decrease from one wall time to a later one.
func instant(wall time.Time, zone *time.Location) time.Time {
	// No zone has ever been a day ahead of UTC, so a day before wall is before what is sought.
	for t := wall.Add(-24 * time.Hour).In(zone); ; {
		_, offset := t.Zone()
		end := offsetEnd(t)
		at := wall.Add(-time.Duration(offset) * time.Second)
		switch {
		case at.Before(t):
			return t
		case end.IsZero() || at.Before(end):
			return at.In(zone)
		}
		t = end
	}
}

// offsetEnd returns a time after t up to which the zone's offset is that of t, zero if that is for ever. On
// the last day of a leap year [time.Time.ZoneBounds] gives an end that has passed (it counts 365 days, in Go
// 1.26 for years that a zone's rule extends to); no zone changes between there and the next year.
func offsetEnd(t time.Time) time.Time {
	_, end := t.ZoneBounds()
	if end.IsZero() || end.After(t) {
		return end
	}
	return time.Date(t.UTC().Year()+1, 1, 1, 0, 0, 0, 0, time.UTC).In(t.Location())
}

// setBack returns by how much, at most, the zone's clock is behind what it was at any earlier time. That
// much a gap between two runs can be longer than the wall clock shows.
func setBack(zone *time.Location) time.Duration {
	end := time.Date(lastYear, 1, 1, 0, 0, 0, 0, time.UTC)
	t := time.Date(firstYear, 1, 1, 0, 0, 0, 0, zone)
	_, highest := t.Zone()
	most := 0
	for !t.IsZero() && t.Before(end) {
		_, offset := t.Zone()
		highest = max(highest, offset)
		most = max(most, highest-offset)
		t = offsetEnd(t)
	}
	return time.Duration(most) * time.Second
}

// wallGap returns the longest gap between two times of spec on the wall clock, and whether there is any.
// It takes a day's minutes and the calendar's days apart, since every day with runs has the same ones.
func wallGap(spec *cron.SpecSchedule) (time.Duration, bool) {
	const minutesPerDay = 24 * 60
	first, last, longest := -1, -1, 0
	for hour := range 24 {
		if spec.Hour&(1<<hour) == 0 {
			continue
		}
		for minutes := spec.Minute & (1<<60 - 1); minutes != 0; minutes &= minutes - 1 {
			at := hour*60 + bits.TrailingZeros64(minutes)
			if first < 0 {
				first = at
			} else {
				longest = max(longest, at-last)
			}
			last = at
		}
	}
	days := longestDays(spec)
	if first < 0 || days == 0 {
		return 0, false
	}
	longest = max(longest, days*minutesPerDay-last+first)
	return time.Duration(longest) * time.Minute, true
}

// longestDays returns the longest distance in days between two days of spec; 0 if there are no two.
func longestDays(spec *cron.SpecSchedule) int {
	longest, last := 0, -1
	day := time.Date(firstYear, 1, 1, 0, 0, 0, 0, time.UTC)
	for n := 0; day.Year() < lastYear; n++ {
		if runsOn(spec, day) {
			if last >= 0 {
				longest = max(longest, n-last)
			}
			last = n
		}
		day = day.AddDate(0, 0, 1)
	}
	return longest
}

// runsOn is cron's rule for days: if neither the day of month nor the day of week is a star, one of them
// is enough.
func runsOn(spec *cron.SpecSchedule, day time.Time) bool {
	month := spec.Month&(1<<day.Month()) != 0
	ofMonth, ofWeek := spec.Dom&(1<<day.Day()) != 0, spec.Dow&(1<<day.Weekday()) != 0
	if (spec.Dom|spec.Dow)&cronStar != 0 {
		return month && ofMonth && ofWeek
	}
	return month && (ofMonth || ofWeek)
}
