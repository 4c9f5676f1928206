package plugintest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

type sampleConfig struct {
	Key string `yaml:"key" default:"x"`
}

const sampleReadme = "# sample\n\n## Name\n\n## Description\n\n## Syntax\n\n`key`\n\n## Examples\n\n```yaml\nplugins:\n  - sample: { key: a }\n```\n\n## Metrics\n\n`gatehouse_sample_seen_total`\n"

// sample is a plugin that keeps the contract; each fault breaks one promise.
type sample struct {
	fault string
	stop  chan struct{}
	bin   [][]byte
}

func (s *sample) Handle(c *fiber.Ctx) error {
	switch s.fault {
	case "panics":
		if len(c.Request().Header.PeekAll("Origin")) > 1 {
			panic("two origins")
		}
	case "allocates":
		s.bin = append(s.bin[:0], make([]byte, 100))
	case "internal error":
		if c.Method() == fiber.MethodOptions {
			return errors.New("cannot")
		}
	}
	return c.Next()
}

func (s *sample) Start(context.Context) error {
	if s.fault == "goroutine" {
		go func() { <-s.stop }()
	}
	return nil
}

func (s *sample) Close(context.Context) error {
	if s.fault == "close twice" {
		if s.stop == nil {
			return errors.New("closed already")
		}
		s.stop = nil
	}
	return nil
}

func sampleFactory(fault string) plugins.Factory {
	return plugins.Define("sample", func(_ *sampleConfig, s plugins.Settings) (plugins.Instance, error) {
		name := "gatehouse_sample_seen_total"
		if fault == "metric name" {
			name = "sample_seen"
		}
		s.Counter(name, "x", "route").WithLabelValues(s.Route.Name).Inc()
		return &sample{fault: fault, stop: make(chan struct{})}, nil
	})
}

// TestSample is run by TestRunFindsFaults in a process of its own, because it
// is meant to fail there.
func TestSample(t *testing.T) {
	fault := os.Getenv("PLUGINTEST_FAULT")
	dir := t.TempDir()
	text := sampleReadme
	switch fault {
	case "readme key":
		text = strings.Replace(text, "`key`", "", 1)
	case "readme example":
		text = strings.Replace(text, "key: a", "kay: a", 1)
	}
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := plugintest.Options{Dir: dir, Bad: []plugintest.Bad{{YAML: "key: [1]", Want: "key"}}}
	if fault == "bad config" {
		o.Bad = append(o.Bad, plugintest.Bad{YAML: "key: fine", Want: "key"})
	}
	plugintest.Run(t, sampleFactory(fault), o)
}

func TestRunFindsFaults(t *testing.T) {
	for fault, want := range map[string]string{
		"":               "PASS",
		"panics":         "panic: two origins",
		"allocates":      "allocations per request, want at most 0",
		"internal error": "internal error for",
		"goroutine":      "a goroutine outlives Close",
		"close twice":    "Close: closed already",
		"metric name":    "does not begin with gatehouse_sample_",
		"readme key":     `the key "key" is not under Syntax`,
		"readme example": "kay",
		"bad config":     "is accepted, want",
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSample$", "-test.v")
		cmd.Env = append(os.Environ(), "PLUGINTEST_FAULT="+fault)
		out, err := cmd.CombinedOutput()
		if fault == "allocates" && strings.Contains(string(out), "not counted") {
			continue // under the race detector
		}
		if (err != nil) != (fault != "") || !strings.Contains(string(out), want) {
			t.Errorf("fault %q: %v, want %q in\n%s", fault, err, want, out)
		}
	}
}
