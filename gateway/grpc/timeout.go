package grpc

import (
	"math"
	"strconv"
	"time"
)

// MaxTimeout is what longer timeouts are cut to: about 292 years, which is all
// a time.Duration holds.
const MaxTimeout = time.Duration(math.MaxInt64)

// ParseTimeout reads the value of grpc-timeout: one to eight digits and one of
// the units H, M, S, m, u, n. ok is false for anything else.
func ParseTimeout(v []byte) (d time.Duration, ok bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	unit := unitOf(v[len(v)-1])
	if unit == 0 {
		return 0, false
	}
	var n int64
	for _, c := range v[:len(v)-1] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if n > int64(MaxTimeout/unit) {
		return MaxTimeout, true // only hours can
	}
	return time.Duration(n) * unit, true
}

func unitOf(c byte) time.Duration {
	switch c {
	case 'H':
		return time.Hour
	case 'M':
		return time.Minute
	case 'S':
		return time.Second
	case 'm':
		return time.Millisecond
	case 'u':
		return time.Microsecond
	case 'n':
		return time.Nanosecond
	}
	return 0
}

var units = [...]struct {
	size time.Duration
	sign byte
}{{time.Nanosecond, 'n'}, {time.Microsecond, 'u'}, {time.Millisecond, 'm'}, {time.Second, 'S'}, {time.Minute, 'M'}, {time.Hour, 'H'}}

// AppendTimeout appends d as a value of grpc-timeout in the finest unit that
// eight digits allow, rounded up: what is told must not end before what is
// meant. Nothing left is told as one nanosecond, because some servers take a
// timeout of 0 for none.
func AppendTimeout(dst []byte, d time.Duration) []byte {
	d = max(d, 1)
	for _, u := range units {
		n := d / u.size
		if d%u.size > 0 {
			n++
		}
		if n < 1e8 {
			return append(strconv.AppendInt(dst, int64(n), 10), u.sign)
		}
	}
	return append(dst, "99999999H"...) // not reached: 292 years are 2.6 million hours
}
