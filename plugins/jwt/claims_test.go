package jwt

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

func TestNumbersInClaims(t *testing.T) {
	for text, want := range map[string]any{
		`0`: 0.0, `-1`: -1.0, `1.5`: 1.5, `1e3`: 1000.0,
		`9007199254740991`:           float64(1<<53 - 1),
		`9007199254740993`:           int64(1<<53 + 1), // as float64: …992
		`-9007199254740993`:          int64(-1<<53 - 1),
		`18446744073709551615`:       uint64(1<<64 - 1),
		`18446744073709551617`:       json.Number("18446744073709551617"),
		`9007199254740993.5`:         9007199254740994.0,
		`"9007199254740993"`:         "9007199254740993",
		`[1, [9007199254740993]]`:    []any{1.0, []any{int64(1<<53 + 1)}},
		`{"a": 9007199254740993}`:    map[string]any{"a": int64(1<<53 + 1)},
		`{"a": [null, true, "1"]}`:   map[string]any{"a": []any{nil, true, "1"}},
		`{"a": {"b": [{"c": 0.5}]}}`: map[string]any{"a": map[string]any{"b": []any{map[string]any{"c": 0.5}}}},
	} {
		claims, ok := decode([]byte(`{"x": ` + text + `}`))
		if got := claims["x"]; !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %T %v, want %T %v", text, got, got, want, want)
		}
	}
	for _, text := range []string{``, `null`, `[]`, `1`, `{"x": 1e400}`, `{"x": [{"y": 1e400}]}`, `{} {}`, `{}}`, `{"x": 01}`, `{"x": NaN}`} {
		if claims, ok := decode([]byte(text)); ok {
			t.Errorf("%s: %v, want it refused", text, claims)
		}
	}
}

// A rounded id is another user's.
func TestLargeNumbersAreNotRounded(t *testing.T) {
	claims, _ := decode([]byte(`{"exp": 9007199254740993, "nbf": -9007199254740993, "user": 9007199254740993, "group": 18446744073709551617, "groups": [18446744073709551615]}`))
	for _, tc := range []struct {
		claim, value string
		want         bool
	}{
		{"user", "9007199254740993", true},
		{"user", "9007199254740992", false},
		{"group", "18446744073709551617", true},
		{"group", "18446744073709551616", false},
		{"groups", "18446744073709551615", true},
		{"groups", "18446744073709551616", false},
	} {
		r := rules{required: map[string][]string{tc.claim: {tc.value}}}
		if _, _, f := r.check(claims, time.Now()); (f == nil) != tc.want {
			t.Errorf("%s of %v accepted as %s: %v, want %v", tc.claim, claims[tc.claim], tc.value, f == nil, tc.want)
		}
	}
}
