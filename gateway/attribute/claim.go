package attribute

import (
	"fmt"
	"strconv"
	"time"
)

// appendClaim finds a claim by its whole name first, since names may have dots
// ("https://example.com/tenant"), then by walking objects.
func appendClaim(dst []byte, claims map[string]any, name string, steps []string) ([]byte, bool) {
	if v, ok := claims[name]; ok {
		return appendValue(dst, v)
	}
	for i, s := range steps {
		v, ok := claims[s]
		if !ok {
			return dst, false
		}
		if i == len(steps)-1 {
			return appendValue(dst, v)
		}
		if claims, ok = v.(map[string]any); !ok {
			return dst, false
		}
	}
	return dst, false
}

// appendValue writes a claim as text: numbers without exponent, times as Unix
// seconds as they stand in the token, lists of such values with commas.
// Objects and null have no text: as if absent.
func appendValue(dst []byte, v any) ([]byte, bool) {
	switch v := v.(type) {
	case string:
		return append(dst, v...), true
	case bool:
		return strconv.AppendBool(dst, v), true
	case float64:
		return strconv.AppendFloat(dst, v, 'f', -1, 64), true
	case int:
		return strconv.AppendInt(dst, int64(v), 10), true
	case int64:
		return strconv.AppendInt(dst, v, 10), true
	case uint64:
		return strconv.AppendUint(dst, v, 10), true
	case time.Time:
		return strconv.AppendInt(dst, v.Unix(), 10), true
	case []string:
		for i, s := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, s...)
		}
		return dst, true
	case []any:
		return appendList(dst, v)
	case fmt.Stringer: // json.Number
		return append(dst, v.String()...), true
	}
	return dst, false
}

func appendList(dst []byte, list []any) ([]byte, bool) {
	at := len(dst)
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		switch v.(type) {
		case []any, []string:
			return dst[:at], false // "a,b" must not mean two things
		}
		var ok bool
		if dst, ok = appendValue(dst, v); !ok {
			return dst[:at], false
		}
	}
	return dst, true
}
