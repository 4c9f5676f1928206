package accesslog_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
)

// A pipe nobody reads is a disk that hangs.
func TestSlowReaderCostsLinesNotTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := accesslog.Open(accesslog.Settings{Path: path, Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	r := &accesslog.Record{Path: "/" + strings.Repeat("x", 10000), Status: 200}
	for range 2000 { // 20 MB: never returns if Write waits
		l.Write(r)
	}
	if _, dropped := l.Stats(); dropped == 0 {
		t.Error("nothing was dropped: memory is not bounded")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close on a stuck pipe: %v", err)
	}
	go func() {
		buf := make([]byte, 1<<20)
		for {
			if _, err := reader.Read(buf); err != nil {
				return
			}
		}
	}()
	if err := l.Close(context.Background()); err != nil {
		t.Errorf("Close once the pipe is read: %v", err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
}

func TestFullDiskIsToldOnce(t *testing.T) {
	var mu sync.Mutex
	var told []error
	l := open(t, accesslog.Settings{Path: "/dev/full", Sample: 1, OnError: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err)
	}})
	for range 300 {
		l.Write(&accesslog.Record{Path: "/" + strings.Repeat("x", 1000), Status: 200})
	}
	closeLog(t, l)
	mu.Lock()
	defer mu.Unlock()
	if w, d := l.Stats(); w != 0 || d != 300 || len(told) != 1 || !errors.Is(told[0], syscall.ENOSPC) {
		t.Fatalf("written %d, dropped %d, told %v", w, d, told)
	}
}
