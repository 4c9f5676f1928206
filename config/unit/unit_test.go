package unit_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

func TestDuration(t *testing.T) {
	f := func(text string, want time.Duration) {
		t.Helper()
		var d unit.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.D() != want {
			t.Errorf("%q: %v, %v, want %v", text, d, err, want)
		}
	}
	f("0s", 0)
	f("250ms", 250*time.Millisecond)
	f("1h30m", 90*time.Minute)
	f("7d", 7*24*time.Hour)
	f("65535d", 65535*24*time.Hour)
	f("1.5s", 1500*time.Millisecond)
}

func TestDurationRefuses(t *testing.T) {
	for _, text := range []string{"", "0", "5", "-1s", "s", "1d12h", "-1d", "1.5d", "65536d", "9999999h", "1 s", "5S"} {
		var d unit.Duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted as %v", text, d)
		}
	}
}

func TestDurationString(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Hour: "1h", 10 * time.Minute: "10m", 100 * time.Minute: "1h40m", 48 * time.Hour: "2d",
		36 * time.Hour: "36h", 90 * time.Second: "1m30s", time.Hour + time.Second: "1h0m1s",
		65535 * 24 * time.Hour: "65535d", 65536 * 24 * time.Hour: "1572864h", // more days are refused
	} {
		if got := unit.Duration(d).String(); got != want {
			t.Errorf("%v is written %q, want %q", d, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	f := func(text string, want int64) {
		t.Helper()
		var z unit.Size
		if err := z.UnmarshalText([]byte(text)); err != nil || int64(z) != want {
			t.Errorf("%q: %d, %v, want %d", text, z, err, want)
		}
	}
	f("0", 0)
	f("512", 512)
	f("512B", 512)
	f("64KiB", 64<<10)
	f("8 MiB", 8<<20)
	f("10GiB", 10<<30)
	f("1kB", 1000)
	f("2MB", 2e6)
	f("3TB", 3e12)
}

func TestSizeRefuses(t *testing.T) {
	for _, text := range []string{"", "-1", "+1", "1.5MiB", "1K", "1kb", "1Mb", "KiB", "9223372036854775807KiB", "99999999999999999999", "0x10"} {
		var z unit.Size
		if err := z.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is accepted as %d", text, z)
		}
	}
}

func TestTextReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := unit.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "duration"))
		d -= d % unit.Duration(rapid.SampledFrom([]time.Duration{1, time.Minute, 24 * time.Hour}).Draw(t, "whole"))
		z := unit.Size(rapid.Int64Range(0, 1<<50).Draw(t, "size"))
		var d2 unit.Duration
		var z2 unit.Size
		if err := d2.UnmarshalText([]byte(d.String())); err != nil || d2 != d {
			t.Fatalf("%v: %v, %v", d, d2, err)
		}
		if err := z2.UnmarshalText([]byte(z.String())); err != nil || z2 != z {
			t.Fatalf("%v: %v, %v", z, z2, err)
		}
	})
}

func TestSecretNeverTells(t *testing.T) {
	s := unit.Secret("hunter2")
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{
		fmt.Sprint(s), fmt.Sprintf("%s %v %+v %#v %q", s, s, s, s, s), string(text),
		fmt.Sprintf("%v %+v", struct{ S unit.Secret }{s}, &struct{ S unit.Secret }{s}),
	} {
		if strings.Contains(shown, "hunter2") {
			t.Errorf("tells: %s", shown)
		}
	}
	if s.Reveal() != "hunter2" || unit.Secret("").String() != "" {
		t.Fatal("Reveal or the empty secret is wrong")
	}
}
