package http2_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	frames "golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

// silent never answers, but tells what it gets.
func silent(t *testing.T, got chan<- event) (address string) {
	return endpoints(t, func(_ *endpoint, in <-chan event) {
		for v := range in {
			got <- v
		}
	})
}

func TestTimeouts(t *testing.T) {
	for name, call := range map[string]func(short time.Duration) *transport.Call{
		"deadline": func(short time.Duration) *transport.Call {
			return &transport.Call{Head: head("GET /"), Deadline: time.Now().Add(short), Idle: time.Minute}
		},
		"idle": func(short time.Duration) *transport.Call { return &transport.Call{Head: head("GET /"), Idle: short} },
		"answer": func(short time.Duration) *transport.Call {
			return &transport.Call{Head: head("POST /"), Stream: strings.NewReader("abc"), Length: 3, Answer: short, Idle: time.Minute}
		},
		// 64 KiB is what an endpoint takes that never gives more room.
		"no room": func(short time.Duration) *transport.Call {
			return &transport.Call{Head: head("POST /"), Stream: zeros{}, Length: 1 << 20, Answer: time.Minute, Idle: short}
		},
	} {
		t.Run(name, func(t *testing.T) {
			stretched(t, 60*time.Millisecond, func(short time.Duration) error {
				got := make(chan event, 1000)
				p := newPool(t, http2.Settings{}, silent(t, got))
				start := time.Now()
				f := failure(t, do(p, call(short)).err)
				took := time.Since(start)
				if f.Reason != reason.UpstreamTimeout || f.Unsent || f.Stale || f.Client {
					return fmt.Errorf("%s: %w %+v", name, f, f)
				}
				if took < short || took > 30*time.Second {
					return fmt.Errorf("it took %v", took)
				}
				if v, ok := await(got, frames.FrameRSTStream); !ok || v.code != frames.ErrCodeCancel {
					return fmt.Errorf("the endpoint was not told: %+v", v)
				}
				return nil
			})
		})
	}
}

func TestUploadMayTakeLongerThanTheAnswer(t *testing.T) {
	p := newPool(t, http2.Settings{}, serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if n == 5 {
			io.WriteString(w, "thanks")
		}
	}))
	stretched(t, 50*time.Millisecond, func(every time.Duration) error {
		body := &drip{n: 5, every: every}
		r := do(p, &transport.Call{Head: head("POST /"), Stream: body, Length: -1, Answer: 3 * every, Idle: time.Minute})
		if r.err != nil || r.body != "thanks" {
			return fmt.Errorf("%w, %+v", r.err, r)
		}
		return nil
	})
}

// drip is a body that comes a byte at a time.
type drip struct {
	n     int
	every time.Duration
}

func (d *drip) Read(p []byte) (int, error) {
	if d.n == 0 {
		return 0, io.EOF
	}
	d.n--
	time.Sleep(d.every)
	return copy(p, "x"), nil
}

func TestUnboundedRepliesEndOnlyWhenIdle(t *testing.T) {
	stretched(t, 30*time.Millisecond, func(pause time.Duration) error { return unbounded(t, pause) })
}

func unbounded(t *testing.T, pause time.Duration) error {
	p := newPool(t, http2.Settings{}, serve(t, func(w http.ResponseWriter, r *http.Request) {
		for range 10 {
			io.WriteString(w, "x")
			http.NewResponseController(w).Flush()
			time.Sleep(pause)
		}
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	}))
	for path, want := range map[string]*reason.Reason{"/": nil, "/hang": reason.UpstreamTimeout} {
		call := &transport.Call{Head: head("GET " + path), Deadline: time.Now().Add(7 * pause), Idle: 8 * pause}
		c, err := p.Get(call, false)
		if err == nil {
			err = c.Do(call)
		}
		if err != nil {
			return err
		}
		c.Unbounded()
		r := read(c)
		c.Release()
		if r.body != strings.Repeat("x", 10) || want == nil && r.err != nil {
			return fmt.Errorf("%s: %w, %+v", path, r.err, r)
		}
		if want != nil && failure(t, r.err).Reason != want {
			return fmt.Errorf("%s: %w", path, r.err)
		}
	}
	return nil
}

func TestClientThatGoesAwayCancels(t *testing.T) {
	for name, c := range map[string]struct {
		answer bool
		call   func(front *client) *transport.Call
	}{
		"waiting":   {false, func(f *client) *transport.Call { return &transport.Call{Head: head("GET /"), Front: f, Watch: f} }},
		"receiving": {true, func(f *client) *transport.Call { return &transport.Call{Head: head("GET /"), Front: f, Watch: f} }},
		"sending": {false, func(f *client) *transport.Call {
			return &transport.Call{Head: head("POST /"), Front: f, Watch: f, Stream: f, Length: -1}
		}},
		"both": {true, func(f *client) *transport.Call {
			return &transport.Call{Head: head("POST /"), Front: f, Watch: f, Stream: f, Length: -1}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			begun, told := make(chan struct{}), make(chan time.Time, 1)
			addr := endpoints(t, func(e *endpoint, in <-chan event) {
				v, _ := await(in, frames.FrameHeaders)
				if c.answer {
					e.headers(v.stream, false, ":status", "200")
					e.data(v.stream, false, "x")
				}
				close(begun)
				await(in, frames.FrameRSTStream)
				told <- time.Now()
				for range in {
				}
			})
			p := newPool(t, http2.Settings{}, addr)
			front := newClient()
			var left time.Time
			go func() {
				<-begun
				time.Sleep(20 * time.Millisecond)
				left = time.Now()
				front.leave()
			}()
			r := do(p, c.call(front))
			if f := failure(t, r.err); f.Reason != reason.ClientGone {
				t.Errorf("%+v", f)
			}
			if d := (<-told).Sub(left); d > 20*time.Second {
				t.Errorf("the endpoint was told after %v", d)
			}
		})
	}
}

func TestConnectionThatWentSilentIsGivenUp(t *testing.T) {
	addr := listenSettled(t)
	p := newPool(t, http2.Settings{PingTimeout: 300 * time.Millisecond}, addr)
	call := newCall()
	c, err := p.Get(call, false)
	if err != nil {
		t.Fatal(err)
	}
	call.Deadline = time.Now().Add(50 * time.Millisecond)
	if f := failure(t, c.Do(call)); f.Reason != reason.UpstreamTimeout {
		t.Fatalf("%+v", f)
	}
	// The next request does not go there, although the connection is still open.
	call = newCall()
	c, err = p.Get(call, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.Reused() {
		t.Error("a silent connection was used again")
	}
	call.Deadline = time.Now().Add(50 * time.Millisecond)
	var f *transport.Failure
	if err := c.Do(call); !errors.As(err, &f) || f.Reason != reason.UpstreamTimeout {
		t.Error(err)
	}
	if !eventually(func() bool { open, _, _ := p.Counts(); return open == 0 }) {
		t.Error("silent connections were kept")
	}
}

func TestConnectionThatAnswersThePingIsKept(t *testing.T) {
	addr := endpoints(t, each(func(e *endpoint, v event) {
		if v.fields[":path"] != "/silence" {
			e.headers(v.stream, true, ":status", "200")
		}
	}))
	stretched(t, 150*time.Millisecond, func(soon time.Duration) error {
		p := newPool(t, http2.Settings{PingTimeout: time.Minute}, addr)
		call := &transport.Call{Head: head("GET /silence")}
		c, err := p.Get(call, false)
		if err != nil {
			t.Fatal(err)
		}
		call.Deadline = time.Now().Add(20 * time.Millisecond)
		if f := failure(t, c.Do(call)); f.Reason != reason.UpstreamTimeout {
			t.Fatalf("%+v", f)
		}
		time.Sleep(soon) // the answer comes at once
		if r := do(p, newCall()); r.err != nil || !r.reused {
			return fmt.Errorf("%w, %+v", r.err, r)
		}
		return nil
	})
}

// listenSettled sends SETTINGS and then nothing more, not even the answer to a
// PING.
func listenSettled(t testing.TB) (address string) {
	return listen(t, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
}
