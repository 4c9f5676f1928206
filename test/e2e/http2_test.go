package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestHTTP2WithCurl is a client that nobody of us wrote: all protocols on one
// port, and what its requests look like to the upstream and in the log.
func TestHTTP2WithCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal("curl is needed for this test")
	}
	app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s %s %s body=%d via=%s", r.Method, r.Host, r.URL, n, r.Header.Get("Via"))
	})
	for _, k := range []struct {
		name, tls, want string
		args            []string
	}{
		{"over TLS", "certificates: [api]", "2 GET api.test /p body=0 via=2.0 ", []string{"--http2"}},
		{"HTTP/1.1 over TLS", "certificates: [api]", "1.1 GET api.test /p body=0 via=1.1 ", []string{"--http1.1"}},
		{"only HTTP/1.1 offered", "certificates: [api], alpn: [http/1.1]", "1.1 GET api.test /p body=0 via=1.1 ", []string{"--http2"}},
		{"by prior knowledge", "", "2 GET api.test /p body=0 via=2.0 ", []string{"--http2-prior-knowledge"}},
		{"HTTP/1.1 in plain text", "", "1.1 GET api.test /p body=0 via=1.1 ", nil},
		{"an upgrade is not answered", "", "1.1 GET api.test /p body=0 via=1.1 ", []string{"--http2"}},
		{"an upload", "certificates: [api]", "2 POST api.test /p body=5000 via=2.0 ", []string{"--http2", "--data", strings.Repeat("x", 5000)}},
	} {
		t.Run(k.name, func(t *testing.T) {
			n := startTLS(t, k.tls, app)
			scheme, port := "http", n.web[strings.LastIndexByte(n.web, ':')+1:]
			if k.tls != "" {
				scheme = "https"
			}
			args := append([]string{
				"-sS", "--max-time", "20", "--cacert", n.path("clients.pem"), "-w", "\n%{http_version}",
				"--connect-to", "api.test:80:127.0.0.1:" + port, "--connect-to", "api.test:443:127.0.0.1:" + port,
			}, k.args...)
			out, err := exec.Command(curl, append(args, scheme+"://api.test/p")...).CombinedOutput()
			body, version, _ := strings.Cut(string(out), "\n")
			if err != nil || !strings.HasPrefix(version+" "+body, k.want) {
				t.Errorf("%v: %q", err, out)
			}
			protocol := "HTTP/" + strings.Replace(version, "2", "2.0", 1)
			n.accessLine("the request", func(l map[string]any) bool { return l["protocol"] == protocol && l["path"] == "/p" })
		})
	}
}

// h2cClient speaks HTTP/2 in plain text.
func h2cClient(t *testing.T) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	c := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: time.Minute}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func TestHTTP2RefusalsAreCountedAndLogged(t *testing.T) {
	g := start(t, fmt.Sprintf(oneRoute, upstreamServer(t, seen), 0))
	req, err := http.NewRequest("GET", "http://"+g.web+"/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Content-Type"] = []string{"a/b", "c/d"}
	resp, err := h2cClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 400 || resp.ProtoMajor != 2 {
		t.Errorf("got %v", resp)
	}
	g.accessLine("the refusal", func(l map[string]any) bool {
		return l["protocol"] == "HTTP/2.0" && l["reason"] == "repeated_header" && l["path"] == "/a" && l["method"] == "GET"
	})
	g.eventually("the refusal is counted", func() error {
		return is(g.metric(`gatehouse_listener_protocol_refusals_total{listener="web",reason="repeated_header"}`), 1)
	})
	nc := g.dial(t)
	defer nc.Close()
	f := http2.NewFramer(nc, nc)
	f.AllowIllegalWrites = true
	_, _ = io.WriteString(nc, http2.ClientPreface)
	_ = f.WriteSettings()
	_ = f.WriteData(1, true, []byte("of no stream")) // which ends the connection
	_, _ = io.Copy(io.Discard, nc)
	g.eventually("the broken connection is counted", func() error {
		if n := g.metric(`gatehouse_listener_protocol_refusals_total{listener="web",reason="http2_protocol_error"}`); n != 1 {
			return fmt.Errorf("counted %v", n)
		}
		return nil
	})
}

// TestHTTP2StreamsFinishBeforeTheNodeStops, and before a listener that a reload
// has taken away is gone; no request is lost on the way.
func TestHTTP2StreamsFinishBeforeTheNodeStops(t *testing.T) {
	for _, how := range []string{"stop", "reload"} {
		t.Run(how, func(t *testing.T) {
			arrived, release := make(chan struct{}, 1), make(chan struct{})
			app := upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					arrived <- struct{}{}
					<-release
				}
				_, _ = io.WriteString(w, "done")
			})
			g := start(t, fmt.Sprintf(oneRoute, app, 0))
			addr := g.web
			nc := g.dial(t)
			defer nc.Close()
			f := http2.NewFramer(nc, nc)
			_, _ = io.WriteString(nc, http2.ClientPreface)
			_ = f.WriteSettings()
			var head strings.Builder
			enc := hpack.NewEncoder(&head)
			for _, p := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", addr}, {":path", "/slow"}} {
				_ = enc.WriteField(hpack.HeaderField{Name: p[0], Value: p[1]})
			}
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(head.String()), EndHeaders: true, EndStream: true})
			<-arrived
			if how == "stop" {
				if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			} else {
				g.web = freeAddress(t)
				g.reload(fmt.Sprintf(oneRoute, app, 0))
			}
			answer := sync.OnceFunc(func() { close(release) })
			goAway, body := false, ""
			for ended := false; !ended; {
				frame, err := f.ReadFrame()
				if err != nil {
					t.Fatalf("%v, GOAWAY %v", err, goAway)
				}
				switch frame := frame.(type) {
				case *http2.GoAwayFrame:
					if goAway = true; frame.ErrCode != http2.ErrCodeNo || frame.LastStreamID != 1 && frame.LastStreamID != 1<<31-1 {
						t.Errorf("%v", frame)
					}
					answer() // a second GOAWAY comes where this takes long
				case *http2.DataFrame:
					body += string(frame.Data())
					ended = frame.StreamEnded()
				case *http2.RSTStreamFrame:
					t.Fatalf("%v", frame)
				}
			}
			if body != "done" || !goAway {
				t.Errorf("got %q, GOAWAY %v", body, goAway)
			}
			if _, err := io.Copy(io.Discard, nc); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
			if how == "stop" {
				if err := <-g.exited; err != nil {
					t.Errorf("the node ended with %v", err)
				}
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+g.web+"/", nil)
			resp, err := h2cClient(t).Do(req)
			if err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
			resp.Body.Close()
		})
	}
}
