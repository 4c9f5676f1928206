package logging_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/telemetry/logging"
)

func TestFormatsAndLevels(t *testing.T) {
	var b bytes.Buffer
	l, err := logging.New(&b, logging.Settings{Level: "warn", Format: "json"})
	if err != nil {
		t.Fatal(err)
	}
	l.Info("hidden")
	l.Warn("shown", "path", "/a\nb")
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["msg"] != "shown" || line["path"] != "/a\nb" {
		t.Fatalf("%v: %s", err, b.String())
	}
	b.Reset()
	if l, err = logging.New(&b, logging.Settings{}); err != nil {
		t.Fatal(err)
	}
	l.Debug("hidden")
	l.Info("line\x1b[31m", "k", "v\n2")
	if got := b.String(); strings.Count(got, "\n") != 1 || strings.Contains(got, "\x1b") || !strings.Contains(got, `k="v\n2"`) {
		t.Fatalf("console: %q", got)
	}
	for _, s := range []logging.Settings{{Level: "loud"}, {Format: "xml"}} {
		if _, err := logging.New(&b, s); err == nil || !strings.HasPrefix(err.Error(), "node.log.") {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestRepeatsAreHeldBackAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		l, err := logging.New(&b, logging.Settings{Burst: 2, Window: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		count := func(want int, part string) {
			t.Helper()
			if got := strings.Count(b.String(), part); got != want {
				t.Errorf("%q: %d lines, want %d in\n%s", part, got, want, b.String())
			}
			b.Reset()
		}
		for i := range 5 {
			l.Warn("down", "try", i)
		}
		count(2, "msg=down")
		l.With("route", "a").Warn("down")
		l.WithGroup("g").Warn("down")
		l.Error("down")
		count(3, "msg=down")
		time.Sleep(time.Second)
		l.Warn("down")
		count(1, "held_back=3")
		for i := range 3000 {
			l.Warn(fmt.Sprint("distinct ", i))
		}
		count(3000, "distinct")
		all, err := logging.New(&b, logging.Settings{Burst: -1})
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			all.Warn("same")
		}
		count(50, "same")
	})
}
