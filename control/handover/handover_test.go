package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

// role makes the test binary the successor, in one of the ways below.
const role = "GATEHOUSE_HANDOVER_TEST"

func TestMain(m *testing.M) {
	if how := os.Getenv(role); how != "" {
		if err := successor(how); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	leak.VerifyTestMain(m)
}

// successor plays the new process.
func successor(how string) error {
	switch how {
	case "ends":
		return nil
	case "crashes":
		return errors.New("as it should")
	case "hangs":
		time.Sleep(time.Minute)
	}
	p, err := Begin()
	if err != nil {
		return err
	}
	if _, ok := os.LookupEnv(Env); ok {
		return errors.New("a process that it starts would get the same")
	}
	switch how {
	case "fails":
		p.Fail(errors.New("this config is no good"))
		return errors.New("as it should")
	case "babbles":
		return p.line.say(message{Go: true})
	case "floods":
		p.Fail(errors.New(strings.Repeat("\x00", 1<<20)))
		return nil
	}
	l, err := p.Sockets.Listen(context.Background(), "web", "127.0.0.1:1")
	if err != nil {
		return err
	}
	u, err := p.Sockets.ListenUDP(context.Background(), "dns", "127.0.0.1:1")
	if err != nil {
		return err
	}
	left := p.Sockets.Close()
	if err := p.Ready(); err != nil {
		return err
	}
	p.Await(context.Background())
	b := make([]byte, 100)
	n, from, err := u.ReadFrom(b)
	if err != nil {
		return err
	}
	if _, err := u.WriteTo([]byte("new "+string(b[:n])), from); err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = fmt.Fprintf(c, "%d unused, state %+v", len(left), p.State)
	return err
}

// settings start the test binary as a successor.
func settings(t *testing.T, how string, sockets ...socket.Socket) Settings {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Settings{Path: self, Args: os.Args[:1], Env: append(os.Environ(), role+"="+how), Sockets: sockets, State: State{Live: true, Succeeded: 2}}
}

func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("it was not ready in time"))
	t.Cleanup(cancel)
	return ctx
}

func TestHandover(t *testing.T) {
	var none *socket.Inherited
	l, err := none.Listen(t.Context(), "", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := none.Listen(t.Context(), "", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	u, err := none.ListenUDP(t.Context(), "", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(patience(t), settings(t, "serves",
		socket.Socket{Label: "web", Network: "tcp", Conn: l.(*net.TCPListener)},
		socket.Socket{Label: "dns", Network: "udp", Conn: u},
		socket.Socket{Label: "gone", Network: "tcp", Conn: other.(*net.TCPListener)}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.process.Wait() //nolint:errcheck // it ends by itself, as does its error
	if s.PID() == os.Getpid() || s.Signal(syscall.Signal(0)) != nil {
		t.Error("there is no other process")
	}
	client, err := net.Dial("udp", u.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	// Before Go it reads none: this one is still ours.
	b := make([]byte, 100)
	_ = u.SetDeadline(time.Now().Add(time.Minute))
	if n, err := u.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if _, err := io.WriteString(client, "again"); err != nil {
		t.Fatal(err)
	}
	if err := s.Go(); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(b); err != nil || string(b[:n]) != "new again" {
		t.Errorf("%q, %v", b[:n], err)
	}
	l.Close()
	u.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("nobody listens: %v", err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if text, err := io.ReadAll(c); err != nil || string(text) != "1 unused, state {Live:true Succeeded:2 Failed:0}" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestASuccessorThatFails(t *testing.T) {
	for how, want := range map[string]string{
		"ends":    "the other process is gone",
		"crashes": "it ended before it was ready: exit status 3",
		"fails":   "this config is no good",
		"babbles": "it says something else",
		"floods":  "\x00\x00",
	} {
		t.Run(how, func(t *testing.T) {
			if _, err := Start(patience(t), settings(t, how)); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("hangs", func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("not ready within a moment"))
		defer cancel()
		if _, err := Start(ctx, settings(t, "hangs")); err == nil || err.Error() != "not ready within a moment" {
			t.Errorf("%v", err)
		}
	})
	t.Run("no such file", func(t *testing.T) {
		s := settings(t, "ends")
		s.Path = filepath.Join(t.TempDir(), "gatehouse")
		if _, err := Start(patience(t), s); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a closed socket", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		s := settings(t, "serves", socket.Socket{Label: "web", Network: "tcp", Conn: l.(*net.TCPListener)})
		if _, err := Start(patience(t), s); err == nil || !strings.HasPrefix(err.Error(), "the socket of web: ") {
			t.Errorf("%v", err)
		}
	})
}

func TestBegin(t *testing.T) {
	if p, err := Begin(); p != nil || err != nil {
		t.Errorf("nobody has handed over: %v, %v", p, err)
	}
	for _, text := range []string{"", "{", `{"control":0}`, `{"control":9999}`, `{"control":1}`} {
		t.Setenv(Env, text)
		if p, err := Begin(); p != nil || err == nil {
			t.Errorf("%q: %v", text, p)
		}
	}
	// A descriptor that is no socket: the predecessor is told.
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.close()
	file, err := os.Open("handover.go")
	if err != nil {
		t.Fatal(err)
	}
	var fds [2]int // Begin closes them
	for i, f := range []*os.File{theirs, file} {
		if fds[i], err = syscall.Dup(int(f.Fd())); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	text, err := json.Marshal(letter{Control: fds[0], Sockets: []descriptor{{fds[1], "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(Env, string(text))
	if _, err := Begin(); err == nil {
		t.Error("a file was taken for a socket")
	}
	if m, err := ours.hear(); err != nil || !strings.Contains(m.Error, "neither a TCP listener nor a UDP socket") {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestAwait(t *testing.T) {
	for name, what := range map[string]func(*line, context.CancelFunc){
		"told":          func(l *line, _ context.CancelFunc) { _ = l.say(message{Go: true}) },
		"gone":          func(l *line, _ context.CancelFunc) { l.close() },
		"out of time":   func(_ *line, cancel context.CancelFunc) { cancel() },
		"not as agreed": func(l *line, _ context.CancelFunc) { _, _ = io.WriteString(l.conn, "x\n") },
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs, err := pair()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.close()
			l, err := newLine(theirs)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go what(ours, cancel)
			p := &Predecessor{line: l}
			p.Await(ctx)
		})
	}
}

func TestBinary(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"v1", "v2"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "gatehouse")
	if err := os.Symlink("v2", link); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	for arg, want := range map[string]string{
		link: link, "./gatehouse": link, "gatehouse": link, filepath.Base(dir) + "/v1": self, "": self, "/nonsense": self,
	} {
		if got, err := Binary([]string{arg}, dir); err != nil || got != want {
			t.Errorf("%q: %q, %v", arg, got, err)
		}
	}
}
