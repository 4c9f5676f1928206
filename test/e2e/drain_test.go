package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
)

// TestStopTellsTunnels: a tunnel has no end of its own, so on a stop its server
// sees the client's direction end and can say goodbye before everything closes.
func TestStopTellsTunnels(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		for line := ""; line != "\r\n" && err == nil; {
			line, err = r.ReadString('\n')
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\nhello ")
		_, _ = io.Copy(io.Discard, r) // until the client's direction ends
		_, _ = io.WriteString(c, "goodbye")
	}()
	g := prepare(t, fmt.Sprintf(oneRoute, l.Addr(), 1))
	g.writeRaw(strings.Replace(g.text(fmt.Sprintf(oneRoute, l.Addr(), 1)), "drain: { timeout: 30s }", "drain: { timeout: 8s }", 1)) // it is told after half of that
	g.run()
	g.waitReady()
	c, err := net.Dial("tcp", g.web)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if text, err := r.ReadString(' '); err != nil {
		t.Fatalf("%q, %v", text, err)
	}
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if err != nil || !strings.HasSuffix(string(rest), "hello goodbye") {
		t.Errorf("the tunnel ended with %q, %v", rest, err)
	}
	if err := <-g.exited; err != nil {
		t.Errorf("the node ended with %v", err)
	}
}
