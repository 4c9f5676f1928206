package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

const words = `node:
  name: test
  data_dir: %s
  admin: { address: %q }
  access_log: { path: %s }
  drain: { timeout: 30s }
  handover: { timeout: %s }
listeners:
  web: { address: %q }
routes:
  all: { match: { path: / }, respond: { body: "${WORD:-one}" } }
`

func (l *lineage) words(timeout string) string {
	return fmt.Sprintf(words, l.dataDir, l.admin, l.access, timeout, l.web)
}

// fails has the process replaced for the given time, which is not to succeed.
func (l *lineage) fails(times int, why string) {
	l.t.Helper()
	first := l.pid()
	l.signal(syscall.SIGUSR2)
	l.says("the handover failed; this process goes on", times)
	l.await("the log says why", func() error {
		if !strings.Contains(strings.ReplaceAll(l.log.String(), `\"`, `"`), why) {
			return fmt.Errorf("it does not have %q", why)
		}
		return nil
	})
	code, out, errs := l.cli("status")
	if code != 1 || !strings.Contains(out, "handover: the last one failed ") || !strings.Contains(out, why) {
		l.t.Errorf("status: %d\n%s%s", code, out, errs)
	}
	if n := l.metric(`gatehouse_node_handovers_total{result="failure"}`); n != float64(times) {
		l.t.Errorf("%v failures counted, want %d", n, times)
	}
	if r := l.get("/"); r.body != "one" || l.pid() != first || len(l.processes()) != 1 {
		l.t.Errorf("%q by %d, processes %v", r.body, l.pid(), l.processes())
	}
}

// TestAHandoverThatFails: whatever is wrong with the new process, the old one
// goes on and says so; and the next one succeeds.
func TestAHandoverThatFails(t *testing.T) {
	l := newLineage(t)
	good := l.words("60s")
	l.writeRaw(good)
	l.begin()
	l.install(l.script("exit 7"))
	l.fails(1, "it ended before it was ready: exit status 7")
	l.install(binary)
	l.writeRaw(strings.Replace(good, "respond", "respnod", 1))
	l.says("the new config was refused", 1)
	l.fails(2, `unknown key "respnod"`)
	l.writeRaw(strings.Replace(good, "web: {", "busy: { address: \""+busyAddress(t)+"\" }\n  web: {", 1))
	l.says("the new config was refused", 2)
	l.fails(3, "address already in use")
	l.writeRaw(good)
	l.install(l.script("WORD=two exec " + binary + ` "$@"`))
	l.next()
	l.alone()
	if r := l.get("/"); r.body != "two" {
		t.Errorf("the new binary answers %q", r.body)
	}
	if ok, bad := l.metric(`gatehouse_node_handovers_total{result="success"}`), l.metric(`gatehouse_node_handovers_total{result="failure"}`); ok != 1 || bad != 3 {
		t.Errorf("%v handovers succeeded, %v failed", ok, bad)
	}
	if code, out, errs := l.cli("status"); code != 0 || !strings.Contains(out, "1 succeeded, 3 failed") {
		t.Errorf("status: %d\n%s%s", code, out, errs)
	}
	l.signal(syscall.SIGTERM)
	l.ends()
}

// TestAHandoverThatHangs: the new process is never ready, and ended for that.
func TestAHandoverThatHangs(t *testing.T) {
	l := newLineage(t)
	l.writeRaw(l.words("1s"))
	l.begin()
	l.install(l.script("exec sleep 600 # " + l.pidFile))
	l.fails(1, "the new process was not ready within 1s")
	l.signal(syscall.SIGTERM)
	l.ends()
}

// TestSignalsDuringAHandover: a second one is one too many; a stop ends both.
func TestSignalsDuringAHandover(t *testing.T) {
	l := newLineage(t)
	l.writeRaw(l.words("60s"))
	l.begin()
	l.install(l.script("exec tail -f /dev/null " + l.pidFile))
	l.signal(syscall.SIGUSR2)
	l.await("a new process", func() error {
		if n := len(l.processes()); n != 2 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	l.signal(syscall.SIGUSR2)
	l.says("a handover is going on already", 1)
	l.signal(syscall.SIGHUP)
	l.says("the config has not changed", 1)
	if r := l.get("/"); r.body != "one" {
		t.Errorf("meanwhile it answers %q", r.body)
	}
	l.signal(syscall.SIGTERM)
	l.ends()
	if err := <-l.exited; err != nil {
		t.Errorf("the old process ended with %v", err)
	}
	l.says("stopped by the signal terminated", 1)
}
