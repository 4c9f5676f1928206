package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestHandoverWithAStore: the file of a local store has one owner at a time, and
// a node that follows it does so before, after, and after a failure.
func TestHandoverWithAStore(t *testing.T) {
	l := newLineage(t)
	l.writeRaw(fmt.Sprintf(`node:
  name: alone
  data_dir: %s
  admin: { address: %q }
  access_log: { path: %s }
  drain: { timeout: 30s }
  handover: { timeout: 60s }
  config: store
`, l.dataDir, l.admin, l.access))
	l.cmd = exec.Command(l.binary, "run", "-c", l.config, "--pid-file", l.pidFile)
	l.startAs("WEB=" + l.web)
	l.says("gatehouse is ready", 1)
	shared := filepath.Join(t.TempDir(), "shared.yaml")
	revision := 0
	apply := func(body string) {
		t.Helper()
		revision++
		if err := os.WriteFile(shared, fmt.Appendf(nil, sharedConfig, body), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, out, errs := l.cli("apply", "-c", shared, "-m", "a test"); code != 0 || !strings.Contains(out, fmt.Sprintf("published as revision %d\nlive on alone\n", revision)) {
			t.Fatalf("code %d\n%s%s", code, out, errs)
		}
		if r := l.get("/"); r.body != body {
			t.Errorf("%q, want %q", r.body, body)
		}
	}
	apply("one")
	l.next()
	l.alone()
	if r := l.get("/"); r.body != "one" {
		t.Errorf("after the handover: %q", r.body)
	}
	apply("two")
	l.install(l.script("exit 7"))
	l.signal(syscall.SIGUSR2)
	l.says("the handover failed", 1)
	apply("three")
	l.install(binary)
	l.next()
	l.alone()
	apply("four")
	if _, out, errs := l.cli("history"); strings.Count(out, "a test") != revision {
		t.Errorf("%s%s", out, errs)
	}
	l.signal(syscall.SIGTERM)
	l.ends()
}

// TestSystemd: sockets come from systemd, which hears what becomes of the
// service; also of one whose process changes.
func TestSystemd(t *testing.T) {
	l := newLineage(t)
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	hears := func(want string) {
		t.Helper()
		b := make([]byte, 1000)
		_ = manager.SetReadDeadline(time.Now().Add(time.Minute))
		for {
			n, err := manager.Read(b)
			if err != nil {
				t.Fatalf("waiting for %s: %v", want, err)
			}
			if got := string(b[:n]); strings.HasPrefix(got, want) {
				return
			} else if got != "WATCHDOG=1" {
				t.Fatalf("heard %q, want %q", got, want)
			}
		}
	}
	listen := func() (*net.TCPListener, *os.File) {
		t.Helper()
		s, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		f, err := s.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return s.(*net.TCPListener), f
	}
	web, webFile := listen()
	other, otherFile := listen()
	l.web = web.Addr().String()
	l.writeRaw(l.words("10s"))
	// A connection that is made before the service is there waits for it.
	early := make(chan error, 1)
	go func() { early <- slowToAsk(l.web, 0, "/") }()
	l.cmd = exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, l.binary, "run", "-c", l.config, "--pid-file", l.pidFile)
	l.cmd.ExtraFiles = []*os.File{webFile, otherFile}
	l.startAs("LISTEN_FDS=2", "LISTEN_FDNAMES=web:other", "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")
	hears("READY=1")
	if err := <-early; err != nil {
		t.Errorf("the early connection: %v", err)
	}
	l.says("no listener of the config has the address of a socket that the process was started with; it is closed\" socket=\"tcp "+other.Addr().String(), 1)
	hears("WATCHDOG=1")
	l.signal(syscall.SIGHUP)
	hears("RELOADING=1\nMONOTONIC_USEC=")
	hears("READY=1")
	first := l.pid()
	l.signal(syscall.SIGUSR2)
	hears("MAINPID=")
	hears("READY=1")
	l.await("the new process", func() error {
		if l.pid() == first {
			return errors.New("not yet")
		}
		return nil
	})
	l.alone()
	hears("WATCHDOG=1") // the new one's
	l.signal(syscall.SIGTERM)
	hears("STOPPING=1")
	go func() { _, _ = io.Copy(io.Discard, manager) }() // systemd never stops listening
	l.ends()
	// The socket is systemd's all the time.
	c, err := net.Dial("tcp", l.web)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
