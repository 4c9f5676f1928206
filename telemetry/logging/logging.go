// Package logging sets up the node's own log: log/slog to one writer, as JSON
// or for people, with messages that repeat themselves held back.
package logging

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Settings of a logger.
type Settings struct {
	// Level is "debug", "info", "warn" or "error"; empty means info.
	Level string
	// Format is "json" or "console"; empty means console.
	Format string
	// Burst is how many equal messages pass within Window before the rest are
	// held back and counted; 0 means 10 within 10 s. Below 0 all pass.
	Burst  int
	Window time.Duration
}

// New returns a logger that writes to w.
func New(w io.Writer, s Settings) (*slog.Logger, error) {
	level := slog.LevelInfo
	if s.Level != "" {
		if err := level.UnmarshalText([]byte(s.Level)); err != nil {
			return nil, fmt.Errorf("node.log.level %q: must be debug, info, warn or error", s.Level)
		}
	}
	var h slog.Handler
	switch s.Format {
	case "json":
		h = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	case "", "console":
		h = slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: shorten})
	default:
		return nil, fmt.Errorf("node.log.format %q: must be json or console", s.Format)
	}
	if s.Burst < 0 {
		return slog.New(h), nil
	}
	if s.Burst == 0 {
		s.Burst = 10
	}
	if s.Window <= 0 {
		s.Window = 10 * time.Second
	}
	return slog.New(&quiet{next: h, state: newState(s.Burst, s.Window)}), nil
}

// shorten makes the time of a console line readable.
func shorten(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		return slog.String(slog.TimeKey, a.Value.Time().Format("2006-01-02T15:04:05.000Z07:00"))
	}
	return a
}
