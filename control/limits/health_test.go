package limits

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// logBuffer may be read while it is written to.
type logBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestAStoreThatComesAndGoesDoesNotFillTheLog(t *testing.T) {
	f := newFake(t)
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		h := newHealth(Settings{Store: f, Deadline: Deadline, Log: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); h.watch(ctx) }()
		lines := func(away, back int) {
			t.Helper()
			synctest.Wait()
			text := log.String()
			if a, b := strings.Count(text, "does not answer in time"), strings.Count(text, "answers again"); a != away || b != back {
				t.Errorf("%d times away and %d times back, want %d and %d:\n%s", a, b, away, back, text)
			}
		}
		blink := func() {
			h.lost(context.DeadlineExceeded)
			time.Sleep(2 * probing)
			if h.away() {
				t.Fatal("it is back and not noticed")
			}
		}
		for range 50 { // ten seconds of it
			blink()
		}
		lines(1, 1)
		time.Sleep(reported)
		blink()
		lines(2, 2)

		// Away for good within that minute is told nevertheless, once.
		f.broken.Store(true)
		h.lost(errBroken)
		time.Sleep(2 * probing)
		lines(2, 2)
		time.Sleep(30 * time.Second)
		lines(3, 2)
		f.broken.Store(false)
		time.Sleep(2 * probing)
		lines(3, 3)
		cancel()
		<-done
	})
}
