package telemetry_test

import (
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/telemetry"
)

const valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestParseTraceparent(t *testing.T) {
	for in, want := range map[string]string{ // "" means refused
		valid: valid,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00":       "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff":       "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01":       valid,
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later": valid,
		"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01later":  "",
		valid + "-x": "",
		valid + " ":  "",
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": "",
		"00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": "",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01": "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g": "",
		"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01": "",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1":  "",
		"0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011": "",
		"": "",
	} {
		c, ok := telemetry.ParseTraceparent([]byte(in))
		if got := string(c.AppendTraceparent(nil)); got != want || ok != (want != "") || ok != c.Valid() {
			t.Errorf("%q: got %q, ok %v; want %q", in, got, ok, want)
		}
	}
}

func TestTraceContext(t *testing.T) {
	c, _ := telemetry.ParseTraceparent([]byte(valid))
	if hex.EncodeToString(c.TraceID[:]) != "4bf92f3577b34da6a3ce929d0e0e4736" || !c.Sampled() {
		t.Fatalf("got %+v", c)
	}
	if c.SetSampled(false); c.Sampled() {
		t.Error("still sampled")
	}
	if c.SetSampled(true); !c.Sampled() {
		t.Error("not sampled")
	}
	var none telemetry.TraceContext
	if len(none.AppendTraceparent(nil)) != 0 {
		t.Error("no trace is passed on")
	}
}

func TestValidTracestate(t *testing.T) {
	many := func(n int) string {
		var m []string
		for i := range n {
			m = append(m, "k"+strings.Repeat("x", i)+"=1")
		}
		return strings.Join(m, ",")
	}
	for in, want := range map[string]bool{
		"": true, "a=1": true, "foo=1, bar=2": true, "a=1,,b=2": true, "a=1\t,\tb=2": true,
		"t@s=1": true, "0t@s=1": true, "a*/_-=x y": true, many(32): true, "a=" + strings.Repeat("x", 256): true,
		"a": false, "a=": false, "=1": false, "A=1": false, "a=1,a=2": false, "a=1=2": false, "a=\x00": false,
		"t@0s=1": false, "@s=1": false, "t@=1": false, "a@b@c=1": false, many(33): false, "a=é": false,
		"a=" + strings.Repeat("x", 257): false, strings.Repeat("k", 257) + "=1": false, "_a=1": false, "a =1": false,
	} {
		if got := telemetry.ValidTracestate([]byte(in)); got != want {
			t.Errorf("%q: got %v", in, got)
		}
	}
}

func FuzzParseTraceparent(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x"))
	shape := regexp.MustCompile(`^([0-9a-e][0-9a-f]|f[0-9a-e])-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-|$)`)
	f.Fuzz(func(t *testing.T, in []byte) {
		c, ok := telemetry.ParseTraceparent(in)
		m := shape.FindSubmatch(in)
		want := m != nil && strings.Trim(string(m[2]), "0") != "" && strings.Trim(string(m[3]), "0") != "" &&
			(len(in) == 55 || string(m[1]) != "00")
		if ok != want {
			t.Fatalf("%q: got %v, want %v", in, ok, want)
		}
		if ok {
			again, ok := telemetry.ParseTraceparent(c.AppendTraceparent(nil))
			if !ok || again != c {
				t.Fatalf("%q does not survive a round trip: %+v", in, again)
			}
		}
	})
}

func BenchmarkParseTraceparent(b *testing.B) {
	in, dst := []byte(valid), make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		c, _ := telemetry.ParseTraceparent(in)
		dst = c.AppendTraceparent(dst[:0])
	}
}
