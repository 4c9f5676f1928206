//go:build long && linux

package h1_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/h1"
)

// The server of TestTenThousandIdleConnections runs in a process of its own,
// so that its memory can be told from the clients'.
func TestServeForMemoryTest(t *testing.T) {
	if os.Getenv("H1_MEMORY_SERVER") == "" {
		return // it is only a helper
	}
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if string(ctx.Path()) == "/gc" {
			debug.FreeOSMemory()
		}
		echo(ctx, f)
	})
	s.HeadTimeout, s.IdleTimeout = 10*time.Minute, 10*time.Minute
	srv := h1.New(s)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the parent
		_, _ = io.Copy(io.Discard, os.Stdin)
		ln.Close()
	}()
	fmt.Printf("address %s\n", ln.Addr())
	for {
		nc, err := ln.Accept()
		if err != nil {
			srv.Close()
			return
		}
		srv.ServeConn(nc)
	}
}

func TestTenThousandIdleConnections(t *testing.T) {
	const n, most = 10_000, 8 << 10
	cmd := exec.Command(os.Args[0], "-test.run=^TestServeForMemoryTest$")
	cmd.Env = append(os.Environ(), "H1_MEMORY_SERVER=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); cmd.Wait() }()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "address ")
	if err != nil || !ok {
		t.Fatalf("%q, %v", line, err)
	}
	control := dial(t, addr)
	rss := func(path string) int {
		control.SetDeadline(time.Now().Add(time.Minute))
		control.send("GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		control.reply("GET")
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		pages, err := strconv.Atoi(strings.Fields(string(b))[1])
		if err != nil {
			t.Fatal(err)
		}
		return pages * os.Getpagesize()
	}
	for range 5 {
		rss("/gc")
	}
	before := rss("/gc")
	conns := make([]net.Conn, n)
	buf := make([]byte, 4096)
	request := []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	ask := func(nc net.Conn) {
		t.Helper()
		if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write(request); err != nil {
			t.Fatal(err)
		}
		got := 0
		for !bytes.HasSuffix(buf[:got], []byte("GET / ")) { // it may come in parts
			n, err := nc.Read(buf[got:])
			if got += n; err != nil || got == len(buf) {
				t.Fatalf("%q, %v", buf[:got], err)
			}
		}
	}
	for i := range conns {
		if conns[i], err = net.Dial("tcp", addr); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
		ask(conns[i])
	}
	each := func(when, path string) int {
		k := (rss(path) - before) / n
		t.Logf("%s: %d bytes of RSS per connection", when, k)
		return k
	}
	each("just served, mostly with goroutines", "/")
	// Connections are parked after two seconds; a busy machine takes its time.
	falls := func(when, path string) {
		t.Helper()
		end := time.Now().Add(time.Minute)
		for each(when, path) > most {
			if time.Now().After(end) {
				t.Fatalf("more than %d bytes", most)
			}
			time.Sleep(time.Second)
		}
	}
	time.Sleep(5 * time.Second)
	falls("parked, no GC asked for", "/")
	falls("parked, after a GC", "/gc")
	for _, nc := range conns {
		ask(nc)
	}
	falls("all served again", "/gc")
}

// TestSoak mixes every kind of client for a minute and then counts what is left.
func TestSoak(t *testing.T) {
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		f.OnGone(aborterNop{})
		defer f.OnGone(nil)
		switch string(ctx.Path()) {
		case "/panic":
			panic("soak")
		case "/cut":
			f.Cut()
		case "/stream":
			ctx.SetBodyStream(pattern(int64(rand.IntN(200_000))), -1)
		case "/unread":
		case "/slow":
			time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
			echo(ctx, f)
		default:
			echo(ctx, f)
		}
	})
	s.HeadTimeout, s.BodyTimeout, s.IdleTimeout = time.Second, time.Second, 2*time.Second
	addr, srv := start(t, s)
	srv.SetParkAfter(200 * time.Millisecond)
	end := time.Now().Add(time.Minute)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			for time.Now().Before(end) {
				soakOnce(addr)
			}
		})
	}
	all.Wait()
	eventually(t, "all connections gone", func() bool { return srv.Stats().Open == 0 })
	eventually(t, "the descriptors are closed", func() bool {
		list, err := os.ReadDir("/proc/self/fd")
		return err == nil && len(list) <= 50
	})
}

type aborterNop struct{}

func (aborterNop) Abort() {}

func soakOnce(addr string) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, nc)
	}()
	for range 1 + rand.IntN(5) {
		path := []string{"/", "/", "/", "/panic", "/cut", "/stream", "/unread", "/slow"}[rand.IntN(8)]
		raw := []string{
			"GET %s HTTP/1.1\r\nHost: a\r\n\r\n", "GET %s HTTP/1.0\r\nHost: a\r\n\r\n", "GET %s HTTP/1.1\r\nHost",
			"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\nhello",
			"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "POST %s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
			"GET %s HTTP/1.1\nHost: a\r\n\r\n",
		}[rand.IntN(8)]
		raw = fmt.Sprintf(raw, path)
		cut := rand.IntN(len(raw))
		if _, err := io.WriteString(nc, raw[:cut]); err != nil {
			return
		}
		if rand.IntN(3) == 0 {
			time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		}
		if _, err := io.WriteString(nc, raw[cut:]); err != nil {
			return
		}
	}
	switch rand.IntN(3) {
	case 0:
		_ = nc.(*net.TCPConn).CloseWrite()
		<-drained
	case 1:
		_ = nc.(*net.TCPConn).SetLinger(0)
	}
}
