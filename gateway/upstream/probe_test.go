package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// raw serves each connection with handle, on loopback, until the test ends.
func raw(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// says reads a request's head and answers with text.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			if err != nil || line == "\r\n" {
				break
			}
		}
		io.WriteString(c, text)
	}
}

// closed is an address where nobody listens, nor can while the test lasts: it is the
// near end of a connection.
func closed(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}

func probeOnce(t *testing.T, h HealthSettings, address string) error {
	t.Helper()
	if err := h.setDefaults(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return newProber(h, new(net.Dialer).DialContext).probe(ctx, address)
}

func TestHTTPProbe(t *testing.T) {
	f := func(reply, wantErr string) {
		t.Helper()
		err := probeOnce(t, HealthSettings{}, raw(t, says(reply)))
		switch {
		case wantErr == "" && err != nil:
			t.Errorf("%.40q: %v", reply, err)
		case wantErr != "" && (err == nil || !strings.Contains(err.Error(), wantErr)):
			t.Errorf("%.40q: got %v, want %q", reply, err, wantErr)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "")
	f("HTTP/1.0 204 No Content\r\n\r\n", "")
	f("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\npart", "") // the body does not matter
	f("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "")
	f("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503")
	f("HTTP/1.1 500 Internal Server Error\r\n\r\n", "status 500")
	f("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "status 302")
	f("HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101")
	f("", "connection closed before a reply")
	f("HTTP/1.1 200 OK\r\nContent-Le", "malformed MIME header")
	f("SSH-2.0-OpenSSH_9.2\r\n", "malformed HTTP")
	f("\x00\x01\x02\x03\r\n\r\n", "malformed HTTP")
	f("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("a", 1<<20), "connection closed before a reply")
	f(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 10000), "malformed HTTP status code")
}

func TestHTTPProbeAsksAsTold(t *testing.T) {
	head := make(chan string, 1)
	address := raw(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil {
			head <- err.Error()
			return
		}
		head <- req.Method + " " + req.RequestURI + " " + req.Host + " " + req.Header.Get("Connection")
		io.WriteString(c, "HTTP/1.1 401 Unauthorized\r\n\r\n")
	})
	err := probeOnce(t, HealthSettings{Path: "/health?full=1", Host: "users.internal", Expect: []StatusRange{{200, 200}, {400, 410}}}, address)
	if err != nil {
		t.Error(err)
	}
	if got, want := <-head, "GET /health?full=1 users.internal close"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
	if err := probeOnce(t, HealthSettings{}, address); err == nil || err.Error() != "status 401" {
		t.Errorf("got %v", err)
	}
	if got, want := <-head, "GET / "+address+" close"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestProbeOfNobody(t *testing.T) {
	for _, kind := range []string{"http", "tcp"} {
		err := probeOnce(t, HealthSettings{Type: kind}, closed(t))
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestTCPProbe(t *testing.T) {
	if err := probeOnce(t, HealthSettings{Type: "tcp"}, raw(t, func(net.Conn) {})); err != nil {
		t.Error(err)
	}
}

// A server that accepts and is silent, or sends a byte now and then, is cut off.
func TestProbeOfTheSilent(t *testing.T) {
	for _, kind := range []string{"", "HTTP/1.1 200 OK\r\n"} {
		release := make(chan struct{})
		address := raw(t, func(c net.Conn) {
			io.WriteString(c, kind)
			<-release
		})
		ctx, cancel := context.WithCancelCause(context.Background())
		result := make(chan error)
		go func() {
			result <- newProber(HealthSettings{Type: "http", Path: "/"}, new(net.Dialer).DialContext).probe(ctx, address)
		}()
		cancel(errors.New("closing"))
		if err := <-result; err == nil {
			t.Errorf("%q: healthy", kind)
		}
		close(release)
	}
}

// A whole upstream over real sockets: one endpoint flaps.
func TestFlappingServer(t *testing.T) {
	var ill atomic.Bool
	flapping := raw(t, func(c net.Conn) {
		if ill.Load() {
			says("HTTP/1.1 500 Internal Server Error\r\n\r\n")(c)
			return
		}
		says("HTTP/1.1 200 OK\r\n\r\n")(c)
	})
	steady := raw(t, says("HTTP/1.1 200 OK\r\n\r\n"))
	changes := make(chan Event, 10)
	u := start(t, made(t, Settings{
		Endpoints: []EndpointSettings{{Address: flapping}, {Address: steady}},
		HealthCheck: &HealthSettings{
			Interval: 5 * time.Millisecond, Timeout: time.Minute, Jitter: 50,
		},
		PanicThreshold: 50,
		Events:         func(e Event) { changes <- e },
	}, nil))
	for range 3 {
		ill.Store(true)
		if e := <-changes; e.Kind != EndpointDown || e.Address != flapping || e.Detail != "status 500" || e.Upstream != "users" {
			t.Fatalf("got %+v", e)
		}
		if got := shares(t, u, 50); got[steady] != 50 {
			t.Errorf("used %v", got)
		}
		ill.Store(false)
		if e := <-changes; e.Kind != EndpointUp || e.Address != flapping {
			t.Fatalf("got %+v", e)
		}
		if got := shares(t, u, 50); got[flapping] == 0 {
			t.Errorf("used %v", got)
		}
	}
}

func TestProbedAddress(t *testing.T) {
	for port, want := range map[int]string{0: "[::1]:80", 9901: "[::1]:9901"} {
		if got := (&HealthSettings{Port: port}).address("[::1]:80"); got != want {
			t.Errorf("port %d: %s", port, got)
		}
	}
}
