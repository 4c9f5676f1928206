package http2_test

import (
	"errors"
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
	const short = 60 * time.Millisecond
	for name, c := range map[string]struct {
		call func() *transport.Call
	}{
		"deadline": {func() *transport.Call {
			return &transport.Call{Head: head("GET /"), Deadline: time.Now().Add(short), Idle: time.Minute}
		}},
		"idle": {func() *transport.Call { return &transport.Call{Head: head("GET /"), Idle: short} }},
		"answer": {func() *transport.Call {
			return &transport.Call{Head: head("POST /"), Stream: strings.NewReader("abc"), Length: 3, Answer: short, Idle: time.Minute}
		}},
		// 64 KiB is what an endpoint takes that never gives more room.
		"no room": {func() *transport.Call {
			return &transport.Call{Head: head("POST /"), Stream: zeros{}, Length: 1 << 20, Answer: time.Minute, Idle: short}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan event, 1000)
			p := newPool(t, http2.Settings{}, silent(t, got))
			start := time.Now()
			f := failure(t, do(p, c.call()).err)
			took := time.Since(start)
			if f.Reason != reason.UpstreamTimeout || f.Unsent || f.Stale || f.Client {
				t.Errorf("%s: %+v", name, f)
			}
			if took < short || took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if v, ok := await(got, frames.FrameRSTStream); !ok || v.code != frames.ErrCodeCancel {
				t.Errorf("the endpoint was not told: %+v", v)
			}
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
	body := &drip{n: 5, every: 50 * time.Millisecond}
	r := do(p, &transport.Call{Head: head("POST /"), Stream: body, Length: -1, Answer: 150 * time.Millisecond, Idle: time.Minute})
	if r.err != nil || r.body != "thanks" {
		t.Errorf("%+v", r)
	}
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
	p := newPool(t, http2.Settings{}, serve(t, func(w http.ResponseWriter, r *http.Request) {
		for range 10 {
			io.WriteString(w, "x")
			http.NewResponseController(w).Flush()
			time.Sleep(30 * time.Millisecond)
		}
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
	}))
	for path, want := range map[string]*reason.Reason{"/": nil, "/hang": reason.UpstreamTimeout} {
		call := &transport.Call{Head: head("GET " + path), Deadline: time.Now().Add(200 * time.Millisecond), Idle: 250 * time.Millisecond}
		c, err := p.Get(call, false)
		if err == nil {
			err = c.Do(call)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Unbounded()
		r := read(c)
		if r.body != strings.Repeat("x", 10) || want == nil && r.err != nil {
			t.Errorf("%s: %+v", path, r)
		}
		if want != nil && failure(t, r.err).Reason != want {
			t.Errorf("%s: %v", path, r.err)
		}
		c.Release()
	}
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
			if d := (<-told).Sub(left); d > 500*time.Millisecond {
				t.Errorf("the endpoint was told after %v", d)
			}
		})
	}
}

func TestConnectionThatWentSilentIsGivenUp(t *testing.T) {
	addr := listenSettled(t)
	p := newPool(t, http2.Settings{PingTimeout: 300 * time.Millisecond}, addr)
	call := &transport.Call{Head: head("GET /"), Deadline: time.Now().Add(50 * time.Millisecond)}
	if f := failure(t, do(p, call).err); f.Reason != reason.UpstreamTimeout {
		t.Fatalf("%+v", f)
	}
	// The next request does not go there, although the connection is still open.
	call = &transport.Call{Head: head("GET /"), Deadline: time.Now().Add(50 * time.Millisecond)}
	c, err := p.Get(call, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.Reused() {
		t.Error("a silent connection was used again")
	}
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
		if v.stream > 1 {
			e.headers(v.stream, true, ":status", "200")
		}
	}))
	p := newPool(t, http2.Settings{PingTimeout: time.Minute}, addr)
	call := &transport.Call{Head: head("GET /"), Deadline: time.Now().Add(20 * time.Millisecond)}
	if f := failure(t, do(p, call).err); f.Reason != reason.UpstreamTimeout {
		t.Fatalf("%+v", f)
	}
	time.Sleep(150 * time.Millisecond) // the answer comes at once
	if r := do(p, newCall()); r.err != nil || !r.reused {
		t.Errorf("%+v", r)
	}
}

// listenSettled sends SETTINGS and then nothing more, not even the answer to a
// PING.
func listenSettled(t testing.TB) (address string) {
	return listen(t, "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
}
