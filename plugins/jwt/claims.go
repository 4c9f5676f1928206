package jwt

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"strconv"
	"strings"
)

// decode reads the payload of a token. Numbers are float64, as encoding/json
// has it, but for integers that a float64 would change: 64-bit ids are common
// in claims, and one that is rounded is somebody else's. These are int64, uint64
// or, beyond 64 bits, json.Number.
func decode(payload []byte) (claims map[string]any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if err := d.Decode(&claims); err != nil || claims == nil {
		return nil, false
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, false
	}
	for name, v := range claims {
		if claims[name], ok = exact(v); !ok {
			return nil, false
		}
	}
	return claims, true
}

// exact gives every number in v the type that holds it; ok is false if one is
// out of range, as encoding/json has it.
func exact(v any) (_ any, ok bool) {
	switch v := v.(type) {
	case json.Number:
		return number(v)
	case map[string]any:
		for name, x := range v {
			if v[name], ok = exact(x); !ok {
				return nil, false
			}
		}
	case []any:
		for i, x := range v {
			if v[i], ok = exact(x); !ok {
				return nil, false
			}
		}
	}
	return v, true
}

// maxExact is the largest n for which every integer from -n to n is a float64.
const maxExact = 1 << 53

func number(n json.Number) (any, bool) {
	f, err := strconv.ParseFloat(string(n), 64)
	switch {
	case err != nil:
		return nil, false
	case math.Abs(f) < maxExact || strings.ContainsAny(string(n), ".eE"):
		return f, true
	}
	if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
		return i, true
	}
	if u, err := strconv.ParseUint(string(n), 10, 64); err == nil {
		return u, true
	}
	return n, true
}
