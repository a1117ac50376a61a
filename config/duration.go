package config

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// MaxLifetime is the longest duration that a file may name: 100 years. It is what keeps the sums and
// products of durations within 64 bits.
const MaxLifetime = 876000 * time.Hour

// A Duration is a [time.Duration] that reads and writes as Go spells it, such as 720h or 1h30m.
type Duration time.Duration

var longUnit = regexp.MustCompile(`^([0-9]{1,5})(d|w)$`)

// UnmarshalYAML reads a duration. A number without a unit is refused (but for 0), since it would mean
// nanoseconds to Go and seconds to the reader.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return errors.New("is no duration: write it as 720h, 5m or 60s")
	}
	v, err := time.ParseDuration(n.Value)
	if err == nil {
		*d = Duration(v)
		return nil
	}
	if m := longUnit.FindStringSubmatch(n.Value); m != nil {
		hours, _ := strconv.Atoi(m[1]) // the expression admits digits only
		hours *= 24
		if m[2] == "w" {
			hours *= 7
		}
		return fmt.Errorf("%q is no duration: write hours, as %dh", n.Value, hours)
	}
	if f, err := strconv.ParseFloat(n.Value, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
		return fmt.Errorf("%s is no duration: write its unit, as %ss", quote(n.Value), clip(n.Value))
	}
	return fmt.Errorf("%s is no duration: write it as 720h, 5m or 60s, at most %s", quote(n.Value), span(MaxLifetime))
}

// MarshalYAML writes the duration as String does.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }

// String spells the duration without trailing zero units: 720h, not 720h0m0s.
func (d Duration) String() string { return span(time.Duration(d)) }

// Std returns the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
