package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// lineage is a node whose process changes. The binary is at a path of its own,
// where it can be replaced.
type lineage struct {
	*gatehouse
	binary, pidFile string
}

// newLineage starts nothing yet.
func newLineage(t *testing.T) *lineage {
	t.Helper()
	l := &lineage{gatehouse: prepare(t, "")}
	dir := filepath.Dir(l.config)
	l.binary, l.pidFile = filepath.Join(dir, "gatehouse"), filepath.Join(dir, "pid")
	l.install(binary)
	return l
}

// install makes the path name another file.
func (l *lineage) install(path string) {
	l.t.Helper()
	if err := os.Symlink(path, l.binary+".new"); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Rename(l.binary+".new", l.binary); err != nil {
		l.t.Fatal(err)
	}
}

// script is a file to install in the place of the binary.
func (l *lineage) script(text string) string {
	l.t.Helper()
	f, err := os.CreateTemp(filepath.Dir(l.config), "script")
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := io.WriteString(f, "#!/bin/sh\n"+text+"\n"); err != nil {
		l.t.Fatal(err)
	}
	if err := f.Chmod(0o700); err != nil {
		l.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		l.t.Fatal(err)
	}
	return f.Name()
}

// begin starts the first process and waits until it is ready.
func (l *lineage) begin(env ...string) {
	l.t.Helper()
	l.cmd = exec.Command(l.binary, "run", "-c", l.config, "--pid-file", l.pidFile)
	l.startAs(env...)
	l.says("gatehouse is ready", 1)
}

// startAs starts the first process. It, and those that follow, write their log
// into a pipe that outlives them.
func (l *lineage) startAs(env ...string) {
	l.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	l.cmd.Stdout, l.cmd.Stderr = w, w
	l.cmd.Env = append(os.Environ(), env...)
	err = l.cmd.Start()
	w.Close()
	if err != nil {
		l.t.Fatal(err)
	}
	l.exited = make(chan error, 1)
	go func() { l.exited <- l.cmd.Wait() }()
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(l.log, r) // until the last of them has ended
	}()
	l.t.Cleanup(func() {
		for _, pid := range l.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // most tests have stopped it
		}
		<-read
		r.Close()
		if strings.Contains(l.log.String(), "DATA RACE") {
			l.t.Error("a node has a data race")
		}
		if l.t.Failed() {
			l.t.Logf("log of the nodes:\n%s", l.log)
		}
	})
}

// processes are those of this node, found by the file that only they are
// started with.
func (l *lineage) processes() (list []int) {
	l.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, name := range all {
		b, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(b, []byte(l.pidFile)) {
			continue // it has ended, perhaps just now
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			l.t.Fatal(err)
		}
		list = append(list, pid)
	}
	return list
}

// pid is the process that serves.
func (l *lineage) pid() int {
	l.t.Helper()
	b, err := os.ReadFile(l.pidFile)
	if err != nil {
		l.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		l.t.Fatal(err)
	}
	return pid
}

func (l *lineage) signal(s syscall.Signal) {
	l.t.Helper()
	if err := syscall.Kill(l.pid(), s); err != nil {
		l.t.Fatal(err)
	}
}

// await waits without a look at whether the first process has ended, which it is
// to do in these tests.
func (l *lineage) await(what string, ok func() error) {
	l.t.Helper()
	if err := awaited(ok, nil); err != nil {
		l.t.Fatalf("%s: %v", what, err)
	}
}

// next has the process replaced and waits until the new one serves.
func (l *lineage) next() {
	l.t.Helper()
	old := l.pid()
	l.signal(syscall.SIGUSR2)
	l.await("another process serves", func() error {
		if l.pid() == old {
			return fmt.Errorf("still %d", old)
		}
		return nil
	})
}

// alone waits until there is one process.
func (l *lineage) alone() {
	l.t.Helper()
	l.await("the old process ends", func() error {
		if all := l.processes(); len(all) != 1 || all[0] != l.pid() {
			return fmt.Errorf("there are %v", all)
		}
		return nil
	})
}

// ends waits until there is no process.
func (l *lineage) ends() {
	l.t.Helper()
	l.await("all processes end", func() error {
		if all := l.processes(); len(all) != 0 {
			return fmt.Errorf("there are %v", all)
		}
		return nil
	})
	if _, err := os.Stat(l.pidFile); !os.IsNotExist(err) {
		l.t.Errorf("the file of the process ID is still there (%v)", err)
	}
}

// says waits until the log has a text so many times.
func (l *lineage) says(text string, times int) {
	l.t.Helper()
	l.await("log: "+text, func() error {
		if n := strings.Count(l.log.String(), text); n < times {
			return fmt.Errorf("it is there %d times", n)
		}
		return nil
	})
}

// busyAddress is one that somebody else listens on.
func busyAddress(t *testing.T) string {
	t.Helper()
	s, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.Addr().String()
}

// address is that of a listener, as the node says.
func (l *lineage) address(listener string) string {
	l.t.Helper()
	_, out, errs := l.cli("status", "-o", "json")
	var s struct {
		Listeners []struct{ Name, Address string }
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		l.t.Fatalf("%v\n%s%s", err, out, errs)
	}
	for _, x := range s.Listeners {
		if x.Name == listener {
			return x.Address
		}
	}
	l.t.Fatalf("no listener %s: %s", listener, out)
	return ""
}
