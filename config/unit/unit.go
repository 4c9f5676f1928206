// Package unit has the scalar types a config is written in. They read and
// write text, so that neither YAML nor JSON need to be known here.
package unit

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is written with its unit: "250ms", "5s", "1h30m", "7d".
type Duration time.Duration

const (
	day = 24 * time.Hour
	// maxDays is the most that is written in days: what 16 bits hold.
	maxDays = math.MaxUint16
)

// D is d as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil {
			*d = Duration(time.Duration(n) * day)
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || s == "0" {
		return fmt.Errorf("must be a duration such as 250ms, 5s, 1h or 7d, got %q", s)
	}
	if v < 0 {
		return fmt.Errorf("must not be negative, got %q", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is the shortest way to write d.
func (d Duration) String() string {
	v := time.Duration(d)
	if v == 0 {
		return "0s"
	}
	if v%day == 0 && v <= maxDays*day {
		return strconv.FormatInt(int64(v/day), 10) + "d"
	}
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Size is a number of bytes: "512", "64KiB", "8MiB", "10GiB"; also kB, MB, GB (powers of 1000).
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
	{"", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (z *Size) UnmarshalText(text []byte) error {
	s := string(text)
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(num), 10, 63)
		if err != nil || n > uint64((1<<62)/u.bytes) {
			break
		}
		*z = Size(int64(n) * u.bytes)
		return nil
	}
	return fmt.Errorf("must be a size such as 512, 64KiB or 8MiB, got %q", s)
}

// MarshalText implements encoding.TextMarshaler.
func (z Size) MarshalText() ([]byte, error) { return []byte(z.String()), nil }

// String is the largest binary unit that divides z.
func (z Size) String() string {
	for i := 3; i >= 0; i-- {
		if u := sizeUnits[i]; z != 0 && int64(z)%u.bytes == 0 {
			return strconv.FormatInt(int64(z)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(z), 10)
}

// Secret is text that never appears in a log, a dump or a revision. It is
// written in place, as ${ENV_NAME}, or as file:PATH (a trailing newline in the
// file is dropped). Config resolves it on each node.
type Secret string

// Hidden is what a secret looks like wherever it is shown.
const Hidden = "********"

// Reveal is the secret's text.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer; it never tells.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return Hidden
}

// GoString implements fmt.GoStringer; it never tells.
func (s Secret) GoString() string { return s.String() }

// MarshalText implements encoding.TextMarshaler; it never tells.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
