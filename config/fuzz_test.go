package config_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gatehouse-proxy/gatehouse/config"
)

// FuzzParse holds for every text: no panic, an answer in bounded time, and
// either problems with their places or a config that prints to itself.
func FuzzParse(f *testing.F) {
	for _, dir := range []string{"bad", "good"} {
		for _, a := range archives(f, "testdata/"+dir+"/*.txtar", 9) {
			for name, data := range documents(a) {
				if name != "want.print" {
					f.Add(data)
				}
			}
		}
	}
	o := config.Options{
		Env:  environment,
		File: func(string) ([]byte, error) { return []byte("0123456789abcdef\n"), nil },
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = data[:min(len(data), 1<<16)] // time grows with size
		start := time.Now()
		c, s, err := config.Parse(data, "in.yaml", kinds(), o)
		if d := time.Since(start); d > time.Minute {
			t.Fatalf("took %v for %d bytes", d, len(data))
		}
		if err != nil {
			var all config.Problems
			if c != nil || !errors.As(err, &all) || len(all) == 0 {
				t.Fatalf("config %v, error %#v", c, err)
			}
			for _, p := range all {
				if p.At.File != "in.yaml" || p.At.Line < 1 || p.At.Column < 1 || p.Message == "" {
					t.Fatalf("problem without a place or message: %#v", p)
				}
			}
			return
		}
		var out bytes.Buffer
		if err := config.Print(&out, c, s); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(out.Bytes(), []byte("********")) {
			return // a hidden secret does not come back
		}
		again, _, err := config.Parse(out.Bytes(), "printed.yaml", kinds(), o)
		if err != nil {
			t.Fatalf("what was printed is refused: %v\n%s", err, out.String())
		}
		if d := cmp.Diff(c, again, same); d != "" {
			t.Fatalf("printed and read again, -before +after:\n%s", strings.ToValidUTF8(d, "?"))
		}
	})
}
