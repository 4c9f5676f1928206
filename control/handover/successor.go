package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
)

// Settings are what a successor is started with.
type Settings struct {
	// Path of its binary.
	Path string
	// Args are its arguments, with its name in front.
	Args []string
	// Env is its environment, besides what this package adds.
	Env []string
	// Sockets it is to serve on, which may be in use.
	Sockets []socket.Socket
	// State is told it.
	State State
}

// Successor is a process that serves beside us, to do so in our place.
type Successor struct {
	process *os.Process
	line    *line
}

// Start starts a successor and waits until it is ready. Where it fails, ends, or
// is not ready before ctx is done, it is killed, nothing has changed here, and
// the error says why.
func Start(ctx context.Context, s Settings) (*Successor, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	cmd, err := command(&s, theirs)
	if err == nil {
		err = cmd.Start()
	}
	for _, f := range cmd.ExtraFiles {
		_ = f.Close() // the successor has its own; and we are to hear of its end
	}
	if err != nil {
		ours.close()
		return nil, err
	}
	if err := ready(ctx, ours); err != nil {
		ours.close()
		return nil, ended(cmd, err)
	}
	return &Successor{cmd.Process, ours}, nil
}

// command is what starts a successor, with descriptors of its own, which the
// caller closes, also after an error.
func command(s *Settings, theirs *os.File) (*exec.Cmd, error) {
	const first = 3 // the number that the first extra file gets
	cmd := &exec.Cmd{Path: s.Path, Args: s.Args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	l := letter{State: s.State, Control: first}
	for _, in := range s.Sockets {
		f, err := in.File()
		if err != nil {
			return cmd, fmt.Errorf("the socket of %s: %w", in.Label, err)
		}
		l.Sockets = append(l.Sockets, descriptor{first + len(cmd.ExtraFiles), in.Label})
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	text, err := json.Marshal(l)
	cmd.Env = append(slices.Clone(s.Env), Env+"="+string(text))
	return cmd, err
}

// ready returns once the successor has said that it is ready, or an error.
func ready(ctx context.Context, l *line) error {
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) })
	m, err := l.hear()
	late := !stop()
	switch {
	case err == nil && m.Error != "":
		_ = l.conn.SetReadDeadline(time.Now().Add(lastWords))
		_, _ = l.hear() // its end, after it has said the same on standard error
		return errors.New(m.Error)
	case late:
		return context.Cause(ctx)
	case err == nil && !m.Ready:
		return errors.New("it says something else than that it is ready")
	}
	return err
}

// lastWords is how long a successor that has failed may take to end.
const lastWords = 2 * time.Second

// ended kills what is left of a successor and completes why it failed.
func ended(cmd *exec.Cmd, why error) error {
	_ = cmd.Process.Kill() // it has ended: as good
	state := cmd.Wait()
	if errors.Is(why, errGone) && state != nil {
		return fmt.Errorf("it ended before it was ready: %w", state)
	}
	return why
}

// pair makes a socket pair: our end, and the successor's.
func pair() (*line, *os.File, error) {
	syscall.ForkLock.RLock() // another process must not get them
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "handover")
	ours, err := newLine(os.NewFile(uintptr(fds[0]), "handover"))
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// PID is the successor's process ID.
func (s *Successor) PID() int { return s.process.Pid }

// Go tells the successor that no datagrams are read here any more. It is called
// once. An error means that the successor is gone.
func (s *Successor) Go() error {
	defer s.line.close()
	return s.line.say(message{Go: true})
}

// Signal sends the successor a signal.
func (s *Successor) Signal(sig os.Signal) error { return s.process.Signal(sig) }

// Binary is the path of the binary to start a successor from: what the first of
// args names now, so that a replaced file, or a link to another one, is the new
// version; or else the file that this process was started from.
func Binary(args []string, dir string) (string, error) {
	if len(args) > 0 && args[0] != "" {
		name := args[0]
		if strings.Contains(name, "/") && !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		if path, err := exec.LookPath(name); err == nil && filepath.IsAbs(path) {
			return path, nil
		}
	}
	return os.Executable()
}
