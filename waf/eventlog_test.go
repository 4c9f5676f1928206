package waf

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func testEvent() *Event {
	return &Event{
		Time: time.Date(2026, 11, 22, 10, 20, 30, 456e6, time.UTC), RequestID: "r-1", Client: "192.0.2.1",
		Method: "GET", Host: "shop.test", Path: "/a\"b\n\\", Route: "shop", Policy: "default", Mode: "block", Action: "blocked",
		Status: 403, Score: 5, Matches: []Match{
			{
				ID: 942100, Phase: 2, Message: "SQL Injection", Severity: "critical", Version: "OWASP_CRS/4.25.0",
				Tags: []string{"attack-sqli", "OWASP_CRS"}, Target: "ARGS:q", Data: "found \x01\xff é",
			},
			{ID: 949110, Phase: 2, Message: "Score", Disruptive: true, Target: "TX"},
		},
	}
}

const eventModSecurity = `2026/11/22 10:20:30.456 [error] [client 192.0.2.1] ModSecurity: Warning. Matched at ARGS:q. [id "942100"] [msg "SQL Injection"] [data "found \x01\xff \xc3\xa9"] [severity "critical"] [ver "OWASP_CRS/4.25.0"] [tag "attack-sqli"] [tag "OWASP_CRS"] [hostname "shop.test"] [uri "/a\x22b\x0a\x5c"] [unique_id "r-1"]
2026/11/22 10:20:30.456 [error] [client 192.0.2.1] ModSecurity: Access denied with code 403 (phase 2). Matched at TX. [id "949110"] [msg "Score"] [hostname "shop.test"] [uri "/a\x22b\x0a\x5c"] [unique_id "r-1"]
`

func TestModSecurityForm(t *testing.T) {
	if got := string(ModSecurity.Append(nil, testEvent())); got != eventModSecurity {
		t.Errorf("got\n%s\nwant\n%s", got, eventModSecurity)
	}
}

func TestJSONForm(t *testing.T) {
	line := JSON.Append(nil, testEvent())
	if bytes.Count(line, []byte("\n")) != 1 || !utf8.Valid(line) {
		t.Fatalf("not one line of UTF-8: %q", line)
	}
	var got struct {
		Time      time.Time `json:"time"`
		RequestID string    `json:"request_id"`
		Path      string    `json:"path"`
		Action    string    `json:"action"`
		Status    int       `json:"status"`
		Score     int       `json:"score"`
		Matches   []struct {
			ID         int      `json:"id"`
			Target     string   `json:"target"`
			Data       string   `json:"data"`
			Tags       []string `json:"tags"`
			Disruptive bool     `json:"disruptive"`
		} `json:"matches"`
	}
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	e := testEvent()
	if !got.Time.Equal(e.Time) || got.RequestID != "r-1" || got.Path != e.Path || got.Action != "blocked" || got.Status != 403 || got.Score != 5 {
		t.Errorf("%+v", got)
	}
	m := got.Matches
	if len(m) != 2 || m[0].ID != 942100 || m[0].Target != "ARGS:q" || m[0].Data != "found \x01\ufffd é" || len(m[0].Tags) != 2 || !m[1].Disruptive {
		t.Errorf("%+v", m)
	}
}

func TestEventLogWritesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "waf.log")
	for range 2 { // the second appends
		l, err := OpenEventLog(path, ModSecurity)
		if err != nil {
			t.Fatal(err)
		}
		l.Send(testEvent())
		for range 2 {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		l.Send(testEvent())
		if l.Dropped() != 1 {
			t.Errorf("%d dropped, want the one after Close", l.Dropped())
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != eventModSecurity+eventModSecurity {
		t.Fatalf("%v\n%s", err, b)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if _, err := OpenEventLog(filepath.Join(path, "x"), JSON); err == nil || !strings.HasPrefix(err.Error(), "waf.event_log.path: ") {
		t.Errorf("error %v", err)
	}
}

func TestEventLogReopens(t *testing.T) {
	dir := t.TempDir()
	path, moved := filepath.Join(dir, "waf.log"), filepath.Join(dir, "waf.log.1")
	l, err := OpenEventLog(path, ModSecurity)
	if err != nil {
		t.Fatal(err)
	}
	var senders sync.WaitGroup
	const n = 200
	for range 2 { // one of them meets the rotation
		senders.Go(func() {
			for range n {
				l.Send(testEvent())
			}
		})
	}
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	senders.Wait()
	l.Send(testEvent())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Errorf("after Close: %v", err)
	}
	before, err := os.ReadFile(moved)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(after), eventModSecurity) {
		t.Errorf("%v: the last event is not in the new file:\n%s", err, after)
	}
	if got := strings.Count(string(before)+string(after), eventModSecurity); got != 2*n+1 {
		t.Errorf("%d whole events in both files, want %d", got, 2*n+1)
	}
}

func TestEventLogKeepsTheOldFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := OpenEventLog(filepath.Join(dir, "waf.log"), ModSecurity)
	if err != nil {
		t.Fatal(err)
	}
	moved := dir + ".1"
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil || !strings.HasPrefix(err.Error(), "waf.event_log.path: ") {
		t.Errorf("error %v", err)
	}
	l.Send(testEvent())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(moved, "waf.log")); err != nil || string(b) != eventModSecurity {
		t.Errorf("%v\n%s", err, b)
	}
}

// slow is a disk that takes an hour for each write, or fails.
type slow struct {
	mu  sync.Mutex
	n   int
	err error
}

func (s *slow) Write(b []byte) (int, error) {
	time.Sleep(time.Hour)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return len(b), s.err
}

func TestEventLogNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slow{}
		l := NewEventLog(out, JSON)
		began := time.Now()
		for range queued + 101 {
			l.Send(testEvent())
			synctest.Wait()
		}
		if time.Since(began) != 0 {
			t.Error("Send waited")
		}
		if l.Dropped() != 100 { // one is being written, the queue is full
			t.Errorf("%d dropped", l.Dropped())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if out.n != queued+1 {
			t.Errorf("%d written", out.n)
		}
	})
}

func TestEventLogCountsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewEventLog(&slow{err: errors.New("disk full")}, JSON)
		l.Send(testEvent())
		if err := l.Close(); err != nil || l.Dropped() != 1 {
			t.Fatal(err, l.Dropped())
		}
	})
}
