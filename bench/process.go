package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server under test, with its children.
type process struct {
	name    string
	address string // HOST:PORT
	cmd     *exec.Cmd
}

// start runs a server and waits until its address answers.
func (r *run) start(ctx context.Context, name, address string, argv ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	log, err := os.Create(filepath.Join(r.dir, strings.ReplaceAll(name, "/", "-")+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{name: name, address: address, cmd: cmd}
	r.started = append(r.started, p)
	for range 400 {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return p, c.Close()
		}
		time.Sleep(25 * time.Millisecond)
	}
	text, _ := os.ReadFile(log.Name())
	return nil, fmt.Errorf("%s does not answer on %s:\n%s", name, address, text)
}

func (r *run) stop(p *process) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have gone already
	done := make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-done
	}
	for i, q := range r.started {
		if q == p {
			r.started = append(r.started[:i], r.started[i+1:]...)
			return
		}
	}
}

func (r *run) stopAll() {
	for len(r.started) > 0 {
		r.stop(r.started[0])
	}
}

// tree lists the process and its descendants.
func (p *process) tree() []int {
	pids := []int{p.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		for _, t := range tasks {
			b, _ := os.ReadFile(t)
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// cpu is user and system time of the tree so far. The kernel counts in ticks
// of 10 ms, so a round must last seconds.
func (p *process) cpu() time.Duration {
	ticks := 0
	for _, pid := range p.tree() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		ticks += user + system
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// rss is the resident memory of the tree in bytes.
func (p *process) rss() int64 {
	var total int64
	for _, pid := range p.tree() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		pages, _ := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
		total += pages * int64(os.Getpagesize())
	}
	return total
}

// freePort asks the system for a port nobody uses.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (r *run) file(name, text string) (string, error) {
	path := filepath.Join(r.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}
