package splice_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/splice"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// socketed is what a listener of the gateway hands over.
type socketed struct{ *net.TCPConn }

func (s socketed) Socket() *net.TCPConn { return s.TCPConn }

// opaque hides that it is a socket, as TLS does.
type opaque struct{ net.Conn }

func (o opaque) CloseWrite() error { return o.Conn.(*net.TCPConn).CloseWrite() }
func (o opaque) NetConn() net.Conn { return o.Conn }

func pair(t testing.TB) (outer, inner *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	c.SetDeadline(time.Now().Add(60 * time.Second))
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// kinds are the ways two connections can meet.
var kinds = map[string]func(client, server *net.TCPConn) (c, s net.Conn){
	"sockets":        func(c, s *net.TCPConn) (net.Conn, net.Conn) { return socketed{c}, s },
	"opaque client":  func(c, s *net.TCPConn) (net.Conn, net.Conn) { return opaque{c}, s },
	"opaque server":  func(c, s *net.TCPConn) (net.Conn, net.Conn) { return c, opaque{s} },
	"neither socket": func(c, s *net.TCPConn) (net.Conn, net.Conn) { return opaque{c}, opaque{s} },
}

// joined is a client and a server with a pair between them.
type joined struct {
	client, server *net.TCPConn
	pair           *splice.Pair
	done           chan splice.Outcome
}

// buffer is how much the kernel keeps for the client; 0: what it likes.
var buffer int

// join runs a pair, and closes both sides at its end as a proxy would.
func join(t testing.TB, kind string, s splice.Settings, first ...string) *joined {
	t.Helper()
	j := &joined{done: make(chan splice.Outcome, 1)}
	client, c := pair(t)
	server, sv := pair(t)
	if buffer > 0 {
		c.SetWriteBuffer(buffer)
	}
	j.client, j.server = client, server
	cc, ss := kinds[kind](c, sv)
	j.pair = splice.New(cc, ss, s)
	var up, down []byte
	if len(first) == 2 {
		up, down = []byte(first[0]), []byte(first[1])
	}
	go func() {
		o := j.pair.Run(up, down)
		if o.End.Clean() {
			cc.Close()
			ss.Close()
		} else {
			splice.Reset(cc)
			splice.Reset(ss)
		}
		j.done <- o
	}()
	return j
}

func (j *joined) outcome(t testing.TB) splice.Outcome {
	t.Helper()
	select {
	case o := <-j.done:
		return o
	case <-time.After(30 * time.Second):
		t.Fatal("the pair does not end")
		return splice.Outcome{}
	}
}

func each(t *testing.T, f func(t *testing.T, kind string)) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) { f(t, kind) })
	}
}

func TestWhatWasReadAlreadyComesFirst(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		j := join(t, kind, splice.Settings{Idle: time.Minute}, "early up ", "early down ")
		io.WriteString(j.client, "up")
		j.client.CloseWrite()
		if b, err := io.ReadAll(j.server); string(b) != "early up up" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		// The server's direction is open still.
		io.WriteString(j.server, "down")
		j.server.Close()
		if b, err := io.ReadAll(j.client); string(b) != "early down down" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		if o := j.outcome(t); o != (splice.Outcome{Up: 11, Down: 15}) {
			t.Errorf("%+v", o)
		}
	})
}

func TestServerEndsFirst(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		j := join(t, kind, splice.Settings{})
		j.server.CloseWrite()
		if b, err := io.ReadAll(j.client); len(b) != 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		io.WriteString(j.client, "still here")
		j.client.Close()
		if b, err := io.ReadAll(j.server); string(b) != "still here" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		if o := j.outcome(t); o.End != splice.ServerEnded || o.Up != 10 {
			t.Errorf("%+v", o)
		}
	})
}

// TestAResetIsPassedOn: a stream that broke off must not look whole.
func TestAResetIsPassedOn(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		for _, who := range []splice.End{splice.ClientFailed, splice.ServerFailed} {
			j := join(t, kind, splice.Settings{Idle: time.Minute})
			broken, other := j.client, j.server
			if who == splice.ServerFailed {
				broken, other = other, broken
			}
			io.WriteString(broken, "half")
			if _, err := io.ReadFull(other, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			broken.SetLinger(0)
			broken.Close()
			if _, err := io.ReadAll(other); err == nil {
				t.Error("the other side saw an orderly end")
			}
			if o := j.outcome(t); o.End != who || o.First != who || o.Err == nil {
				t.Errorf("%+v", o)
			}
		}
	})
}

func TestAFailureAfterAnEnd(t *testing.T) {
	j := join(t, "sockets", splice.Settings{})
	j.server.CloseWrite()
	io.ReadAll(j.client)
	j.client.SetLinger(0)
	j.client.Close()
	if _, err := io.ReadAll(j.server); err == nil {
		t.Error("the server saw an orderly end")
	}
	if o := j.outcome(t); o.First != splice.ServerEnded || o.End != splice.ClientFailed {
		t.Errorf("%+v", o)
	}
}

func TestIdle(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		stretched(t, 200*time.Millisecond, func(idle time.Duration) error {
			j := join(t, kind, splice.Settings{Idle: idle})
			began := time.Now()
			for range 10 { // one direction alone keeps both
				time.Sleep(idle / 4)
				if _, err := j.server.Write([]byte("x")); err != nil {
					return err
				}
			}
			o := j.outcome(t)
			if o.End != splice.Idle || o.Down != 10 || time.Since(began) < 10*idle/4+idle {
				return fmt.Errorf("%+v after %v", o, time.Since(began))
			}
			return nil
		})
	})
}

// stretched runs a test of times, which come of d, until it passes: a machine
// that is too slow for short ones gets longer ones.
func stretched(t *testing.T, d time.Duration, f func(d time.Duration) error) {
	t.Helper()
	for {
		err := f(d)
		if err == nil {
			return
		}
		if d > 5*time.Second {
			t.Fatal(err)
		}
		d *= 3
	}
}

func TestIdleInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, c := net.Pipe()
		server, s := net.Pipe()
		p := splice.New(c, s, splice.Settings{Idle: time.Hour})
		done := make(chan splice.Outcome, 1)
		go func() { done <- p.Run(nil, nil) }()
		began := time.Now()
		for range 5 {
			time.Sleep(50 * time.Minute)
			client.Write([]byte("x"))
			server.Read(make([]byte, 1))
		}
		o := <-done
		if took := time.Since(began); o.End != splice.Idle || o.Up != 5 || took != 250*time.Minute+time.Hour {
			t.Errorf("%+v after %v", o, took)
		}
		for _, nc := range []net.Conn{client, c, server, s} {
			nc.Close()
		}
	})
}

// TestASlowReaderIsNotIdle: who takes something, however little, is served; who
// takes nothing is not.
func TestASlowReaderIsNotIdle(t *testing.T) {
	for _, kind := range []string{"sockets", "opaque server"} {
		t.Run(kind, func(t *testing.T) {
			buffer = 16 << 10 // else the kernel takes seconds' worth before it lets on
			defer func() { buffer = 0 }()
			stretched(t, 400*time.Millisecond, func(idle time.Duration) error {
				j := join(t, kind, splice.Settings{Idle: idle})
				j.client.SetReadBuffer(32 << 10)
				stop := make(chan struct{})
				go func() {
					defer close(stop)
					for b := make([]byte, 64<<10); ; {
						if _, err := j.server.Write(b); err != nil {
							return
						}
					}
				}()
				b := make([]byte, 256<<10)
				for range 10 {
					time.Sleep(idle / 4)
					if _, err := io.ReadAtLeast(j.client, b, 64<<10); err != nil {
						return fmt.Errorf("a slow reader was cut off: %w", err)
					}
				}
				if o := j.outcome(t); o.End != splice.Idle && o.End != splice.ClientFailed {
					return fmt.Errorf("%+v", o)
				}
				<-stop
				return nil
			})
		})
	}
}

func TestStop(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		j := join(t, kind, splice.Settings{Idle: time.Minute})
		j.pair.Stop()
		if o := j.outcome(t); o.End != splice.Stopped {
			t.Errorf("%+v", o)
		}
	})
}

func TestAbortEndsTheClientsDirection(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		j := join(t, kind, splice.Settings{Idle: time.Minute})
		io.WriteString(j.client, "a")
		if _, err := j.server.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		j.pair.Abort()
		if b, err := io.ReadAll(j.server); len(b) != 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		io.WriteString(j.server, "goodbye")
		j.server.Close()
		if b, err := io.ReadAll(j.client); string(b) != "goodbye" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		if o := j.outcome(t); !o.End.Clean() {
			t.Errorf("%+v", o)
		}
	})
}

func TestScreen(t *testing.T) {
	errBad := errors.New("bad beginning")
	settings := splice.Settings{Idle: time.Minute, ScreenTime: 100 * time.Millisecond, Screen: func(b []byte) (bool, error) {
		switch {
		case bytes.HasPrefix(b, []byte("bad")):
			return true, errBad
		case bytes.HasPrefix([]byte("bad"), b):
			return false, nil
		}
		return true, nil
	}}
	for text, want := range map[string]string{"good": "good", "ba": "ba", "bat": "bat", "b": "b", "": ""} {
		j := join(t, "sockets", settings)
		// The server may speak first.
		io.WriteString(j.server, "hello")
		if _, err := io.ReadFull(j.client, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		for i := range len(text) {
			io.WriteString(j.client, text[i:i+1])
		}
		if len(text) > 0 {
			b := make([]byte, len(want))
			if _, err := io.ReadFull(j.server, b); err != nil || string(b) != want {
				t.Errorf("%q: %q, %v", text, b, err)
			}
		}
		j.client.Close()
		j.server.Close()
		if o := j.outcome(t); o.Up != int64(len(want)) {
			t.Errorf("%q: %+v", text, o)
		}
	}
	settings.ScreenTime = time.Minute // else the beginning of "bad" passes on a machine that stalls
	for range 20 {
		j := join(t, "sockets", settings)
		for _, b := range []string{"b", "a", "d"} {
			io.WriteString(j.client, b)
		}
		if b, _ := io.ReadAll(j.server); len(b) != 0 {
			t.Errorf("the server got %q", b)
		}
		if o := j.outcome(t); o.End != splice.Refused || !errors.Is(o.Err, errBad) {
			t.Errorf("%+v", o)
		}
	}
}

// flood sends n bytes and returns their digest.
func flood(w *net.TCPConn, n int64, seed uint64) [32]byte {
	h := sha256.New()
	var key [32]byte
	key[0] = byte(seed)
	r := rand.NewChaCha8(key)
	b := make([]byte, 1<<20)
	for n > 0 {
		p := b[:min(int64(len(b)), n)]
		r.Read(p)
		h.Write(p)
		if _, err := w.Write(p); err != nil {
			break
		}
		n -= int64(len(p))
	}
	w.CloseWrite()
	return [32]byte(h.Sum(nil))
}

func drain(r io.Reader) [32]byte {
	h := sha256.New()
	io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 1<<20))
	return [32]byte(h.Sum(nil))
}

// TestMuchBothWaysInConstantMemory: volume bytes each way at once arrive whole.
func TestMuchBothWaysInConstantMemory(t *testing.T) {
	each(t, func(t *testing.T, kind string) {
		size := volume / 8
		if kind == "sockets" {
			size = volume
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		j := join(t, kind, splice.Settings{Idle: time.Minute})
		j.client.SetDeadline(time.Time{})
		j.server.SetDeadline(time.Time{})
		sent := make(chan [32]byte, 2)
		got := make(chan [32]byte, 2)
		go func() { sent <- flood(j.client, size, 1) }()
		up := make(chan [32]byte, 1)
		go func() { up <- drain(j.server) }()
		go func() { got <- drain(j.client) }()
		down := flood(j.server, size, 2)
		if <-sent != <-up || down != <-got {
			t.Error("what arrived is not what was sent")
		}
		o := j.outcome(t)
		runtime.ReadMemStats(&after)
		if o.Up != size || o.Down != size {
			t.Errorf("%+v", o)
		}
		// Under the race detector pools drop buffers at random.
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 && !raceEnabled {
			t.Errorf("%d bytes allocated for %d passed on", grown, 2*size)
		}
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestIdleConnectionsHoldNothing(t *testing.T) {
	if runtime.GOOS != "linux" {
		return
	}
	before := descriptors(t)
	var all []*joined
	for range 50 {
		j := join(t, "sockets", splice.Settings{Idle: time.Minute})
		go flood(j.client, 1<<20, 1)
		if _, err := io.ReadFull(j.server, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		all = append(all, j)
	}
	// Four sockets each; pipes were used in turn. Those that the pool has dropped,
	// as it does at random under the race detector, the collector closes.
	more := func() int { return descriptors(t) - before - 4*len(all) }
	for end := time.Now().Add(30 * time.Second); more() > 20; time.Sleep(time.Millisecond) {
		if runtime.GC(); time.Now().After(end) {
			t.Fatalf("%d descriptors more than the sockets of 50 idle connections", more())
		}
	}
	for _, j := range all {
		j.client.Close()
		j.server.Close()
		j.outcome(t)
	}
}

func TestConversationDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		return
	}
	each(t, func(t *testing.T, kind string) {
		j := join(t, kind, splice.Settings{Idle: time.Minute})
		b, c := []byte("question"), make([]byte, 8)
		n := testing.AllocsPerRun(500, func() {
			j.client.Write(b)
			io.ReadFull(j.server, c)
			j.server.Write(b)
			io.ReadFull(j.client, c)
		})
		if n > 0 {
			t.Errorf("%v allocations for a question and an answer", n)
		}
		j.client.Close()
		j.server.Close()
		j.outcome(t)
	})
}

func BenchmarkThroughput(b *testing.B) {
	const size = 64 << 20
	run := func(b *testing.B, start func(b *testing.B) (client, server *net.TCPConn)) {
		b.SetBytes(size)
		for b.Loop() {
			client, server := start(b)
			go func() {
				p := make([]byte, 256<<10)
				for range size / len(p) {
					server.Write(p)
				}
				server.Close()
			}()
			if n, _ := io.CopyBuffer(io.Discard, struct{ io.Reader }{client}, make([]byte, 256<<10)); n != size {
				b.Fatal(n)
			}
			client.Close()
		}
	}
	for kind := range kinds {
		b.Run(kind, func(b *testing.B) {
			run(b, func(b *testing.B) (client, server *net.TCPConn) {
				j := join(b, kind, splice.Settings{Idle: time.Hour})
				return j.client, j.server
			})
		})
	}
	b.Run("bare io.Copy, splicing", func(b *testing.B) { run(b, bare(func(nc net.Conn) net.Conn { return nc })) })
	b.Run("bare io.Copy, copying", func(b *testing.B) {
		run(b, bare(func(nc net.Conn) net.Conn { return struct{ net.Conn }{nc} }))
	})
}

// bare is the simplest proxy there is.
func bare(wrap func(net.Conn) net.Conn) func(b *testing.B) (client, server *net.TCPConn) {
	return func(b *testing.B) (client, server *net.TCPConn) {
		client, c := pair(b)
		server, s := pair(b)
		go func() { io.Copy(wrap(c), wrap(s)); c.Close() }()
		go func() { io.Copy(wrap(s), wrap(c)); s.Close() }()
		return client, server
	}
}

func BenchmarkConversation(b *testing.B) {
	for kind := range kinds {
		b.Run(kind, func(b *testing.B) {
			j := join(b, kind, splice.Settings{Idle: time.Hour})
			q, a := []byte("question"), make([]byte, 8)
			b.ReportAllocs()
			for b.Loop() {
				j.client.Write(q)
				io.ReadFull(j.server, a)
				j.server.Write(q)
				io.ReadFull(j.client, a)
			}
		})
	}
}

func ExamplePair() {
	client, c := net.Pipe()
	server, s := net.Pipe()
	go splice.New(c, s, splice.Settings{Idle: time.Minute}).Run(nil, nil)
	go client.Write([]byte("hello"))
	b := make([]byte, 5)
	io.ReadFull(server, b)
	fmt.Println(string(b))
	client.Close()
	server.Close()
	// Output: hello
}
