package http2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	frames "golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

func TestReplyComesAsItWas(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["Date"] = nil
		switch r.URL.Path {
		case "/repeated":
			h.Add("Set-Cookie", "a=b")
			h.Add("Set-Cookie", "c=d; Path=/")
			h.Add("B", "2")
			h.Add("A", "1")
			io.WriteString(w, "x")
		case "/none":
			w.WriteHeader(204)
		case "/empty":
			h.Set("Content-Length", "0")
		case "/unchanged":
			h.Set("Etag", `"x"`)
			w.WriteHeader(304)
		case "/trailers":
			h.Set("Trailer", "Grpc-Status, X-Sum")
			w.WriteHeader(200)
			io.WriteString(w, "body")
			h.Set("Grpc-Status", "0")
			h.Set("X-Sum", "é")
			h.Set(http.TrailerPrefix+"Content-Length", "7")
		case "/only":
			h.Set(http.TrailerPrefix+"Grpc-Status", "5")
		}
	})
	p := newPool(t, http2.Settings{}, addr)
	plain := "Content-Type: text/plain; charset=utf-8\n"
	for _, c := range []struct {
		first, fields, body, trailers string
		status                        int
	}{
		{"GET /repeated", "A: 1\nB: 2\nSet-Cookie: a=b\nSet-Cookie: c=d; Path=/\n" + plain, "x", "", 200},
		{"GET /none", "", "", "", 204},
		{"GET /empty", "", "", "", 200},
		{"GET /unchanged", "Etag: \"x\"\n", "", "", 304},
		{"GET /trailers", plain, "body", "Grpc-Status: 0\r\nX-Sum: é\r\n", 200},
		{"GET /only", "", "", "Grpc-Status: 5\r\n", 200},
	} {
		r := do(p, &transport.Call{Head: head(c.first)})
		if r.err != nil || r.status != c.status || r.fields != c.fields || r.body != c.body || r.trailers != c.trailers {
			t.Errorf("%s: got %+v", c.first, r)
		}
	}
	if open, connects, _ := p.Counts(); open != 1 || connects != 1 {
		t.Errorf("%d connections open, %d made", open, connects)
	}
}

func TestHeadTellsTheLength(t *testing.T) {
	p := newPool(t, http2.Settings{}, serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "17") }))
	call := &transport.Call{Head: head("HEAD /"), NoBody: true}
	c, err := p.Get(call, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(call); err != nil {
		t.Fatal(err)
	}
	h, _ := c.Head()
	if !c.Complete() || c.Length() != 0 || h.ContentLength != 17 {
		t.Errorf("complete %v, length %d, announced %d", c.Complete(), c.Length(), h.ContentLength)
	}
	if err := c.Release(); err != nil {
		t.Error(err)
	}
}

func TestBodyGoesOutFromWhereverItIs(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d of %d %v %v", len(b), r.ContentLength, err, r.Trailer)
	})
	p := newPool(t, http2.Settings{}, addr)
	long := strings.Repeat("x", 300_000)
	trailing := newClient()
	trailing.trailers = "X-Sum: 7\r\nY: a\r\nY: b\r\n"
	for name, c := range map[string]struct {
		call *transport.Call
		want string
	}{
		"with the head":          {&transport.Call{Head: append(head("POST /", "Content-Length: 3"), "abc"...)}, "3 of 3 <nil> map[]"},
		"at hand":                {&transport.Call{Head: head("POST /"), Body: []byte(long)}, "300000 of 300000 <nil> map[]"},
		"a stream":               {&transport.Call{Head: head("POST /"), Stream: strings.NewReader(long), Length: 300_000}, "300000 of 300000 <nil> map[]"},
		"a stream, byte by byte": {&transport.Call{Head: head("POST /"), Stream: slow{strings.NewReader("abc")}, Length: 3}, "3 of 3 <nil> map[]"},
		"of unknown length":      {&transport.Call{Head: head("POST /"), Stream: strings.NewReader(long), Length: -1}, "300000 of -1 <nil> map[]"},
		"begun":                  {&transport.Call{Head: head("POST /"), Body: []byte("ab"), Stream: strings.NewReader("cd"), Length: 4}, "4 of 4 <nil> map[]"},
		"with trailers": {
			&transport.Call{Head: head("POST /", "Trailer: X-Sum, Content-Length, y"), Stream: strings.NewReader(long), Length: -1, Front: trailing},
			"300000 of -1 <nil> map[X-Sum:[7] Y:[a b]]",
		},
		"none": {&transport.Call{Head: head("POST /", "Content-Length: 0")}, "0 of 0 <nil> map[]"},
	} {
		var copied bytes.Buffer
		if c.call.Stream != nil {
			c.call.Tee = &copied
		}
		if r := do(p, c.call); r.err != nil || r.body != c.want {
			t.Errorf("%s: got %q, %v", name, r.body, r.err)
		}
		if c.call.Stream != nil && copied.Len() == 0 {
			t.Errorf("%s: no copy", name)
		}
	}
}

// slow gives a byte at a time, and nothing in between.
type slow struct{ r io.Reader }

func (s slow) Read(p []byte) (int, error) { return s.r.Read(p[:1]) }

func TestBodyThatBreaksOffNeverLooksComplete(t *testing.T) {
	ended := make(chan error, 1)
	addr := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		ended <- err
	})
	p := newPool(t, http2.Settings{}, addr)
	for name, length := range map[string]int64{"announced": 10, "not announced": -1} {
		body := io.MultiReader(strings.NewReader("abc"), broken{reason.BodyTooLarge})
		r := do(p, &transport.Call{Head: head("POST /"), Stream: body, Length: length})
		if f := failure(t, r.err); f.Reason != reason.BodyTooLarge || !f.Client || f.BodyRead || f.Unsent || f.Stale {
			t.Errorf("%s: %+v", name, f)
		}
		if err := <-ended; err == nil {
			t.Errorf("%s: the endpoint saw a complete body", name)
		}
	}
	r := do(p, &transport.Call{Head: head("POST /"), Stream: strings.NewReader("abc"), Length: 10})
	if f := failure(t, r.err); !f.Client || !errors.Is(f, io.ErrUnexpectedEOF) {
		t.Errorf("too short: %+v", f)
	}
	if err := <-ended; err == nil {
		t.Error("too short: the endpoint saw a complete body")
	}
}

type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }

func TestEarlyReplyArrivesDuringAnUpload(t *testing.T) {
	front := newClient()
	addr := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		<-front.reading
		w.WriteHeader(413)
		io.WriteString(w, "too much")
	})
	p := newPool(t, http2.Settings{}, addr)
	start := time.Now()
	r := do(p, &transport.Call{Head: head("POST /"), Stream: front, Length: -1, Front: front, Watch: front})
	if r.err != nil || r.status != 413 || r.body != "too much" {
		t.Errorf("%+v", r)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("it took %v", d)
	}
	select {
	case <-front.interrupted:
	default:
		t.Error("the upload was not interrupted")
	}
	if r := do(p, newCall()); r.err != nil || r.status != 413 || !r.reused {
		t.Errorf("the connection cannot be used any more: %+v", r)
	}
}

func TestBothDirectionsAtOnce(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.WriteHeader(200)
		rc.Flush()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			w.Write(bytes.ToUpper(b[:n]))
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	p := newPool(t, http2.Settings{}, addr)
	in, out := io.Pipe()
	call := &transport.Call{Head: head("POST /"), Stream: in, Length: -1, Idle: time.Minute}
	c, err := p.Get(call, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(call); err != nil {
		t.Fatal(err)
	}
	c.Unbounded()
	b := make([]byte, 100)
	for i := range 100 {
		msg := fmt.Sprintf("message %d", i)
		io.WriteString(out, msg)
		if n, err := c.Read(b); err != nil || string(b[:n]) != strings.ToUpper(msg) {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
	out.Close()
	if n, err := c.Read(b); n != 0 || err != io.EOF {
		t.Errorf("%d, %v", n, err)
	}
	if !c.BodyRead() {
		t.Error("the request's body has not been read")
	}
	if err := c.Release(); err != nil {
		t.Error(err)
	}
}

// Who has sent a complete reply may go on working, and is not cancelled.
func TestCompleteReplyDoesNotCancelItsHandler(t *testing.T) {
	open, ended := make(chan struct{}), make(chan error, 1)
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "5")
		io.WriteString(w, "hello")
		http.NewResponseController(w).Flush()
		<-open
		ended <- r.Context().Err()
	})
	p := newPool(t, http2.Settings{}, addr)
	if r := do(p, newCall()); r.err != nil || r.body != "hello" {
		t.Errorf("%+v", r)
	}
	time.Sleep(20 * time.Millisecond)
	close(open)
	if err := <-ended; err != nil {
		t.Errorf("the handler was told %v", err)
	}
}

func TestInterimRepliesArePassedOn(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil
		w.WriteHeader(100)
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		w.Header().Set("Link", "</b>")
		w.WriteHeader(103)
		w.Header().Del("Link")
		w.WriteHeader(201)
	})
	p := newPool(t, http2.Settings{}, addr)
	front := newClient()
	r := do(p, &transport.Call{Head: head("GET /"), Front: front, Watch: front})
	if r.err != nil || r.status != 201 {
		t.Errorf("%+v", r)
	}
	if got := strings.Join(front.informed, "\n"); got != "Early Hints|Link: </a>|\nEarly Hints|Link: </b>|" {
		t.Errorf("got %s", got)
	}
}

// What an interim reply says of a body would have a client of HTTP/1, or what is
// between it and us, wait for one.
func TestInterimRepliesHaveNoLength(t *testing.T) {
	addr := endpoints(t, func(e *endpoint, in <-chan event) {
		v, _ := await(in, frames.FrameHeaders)
		e.headers(v.stream, false, ":status", "103", "content-length", "5", "link", "</a>")
		e.headers(v.stream, true, ":status", "204")
	})
	front := newClient()
	r := do(newPool(t, http2.Settings{}, addr), &transport.Call{Head: head("GET /"), Front: front, Watch: front})
	if r.err != nil || r.status != 204 {
		t.Errorf("%+v", r)
	}
	if got := strings.Join(front.informed, "\n"); got != "Early Hints|Link: </a>|" {
		t.Errorf("got %s", got)
	}
}

func TestUpgradeIsRefused(t *testing.T) {
	p := newPool(t, http2.Settings{}, serve(t, func(http.ResponseWriter, *http.Request) { t.Error("asked") }))
	r := do(p, &transport.Call{Head: head("GET /", "Connection: Upgrade", "Upgrade: websocket"), Upgrade: true})
	if f := failure(t, r.err); f.Reason != reason.UpstreamNoUpgrade || !f.Unsent {
		t.Errorf("%+v", f)
	}
}

func TestLargeBodiesBothWays(t *testing.T) {
	const size = 16 << 20
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if n != size || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		io.CopyN(w, zeros{}, size)
	})
	p := newPool(t, http2.Settings{}, addr)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			call := &transport.Call{Head: head("POST /"), Stream: zeros{}, Length: size, Idle: time.Minute}
			c, err := p.Get(call, false)
			if err == nil {
				err = c.Do(call)
			}
			if err != nil {
				t.Error(err)
				return
			}
			if n, err := io.Copy(io.Discard, c); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			c.Release()
		})
	}
	wg.Wait()
}

// A client that does not read holds the endpoint up, and no other request.
func TestSlowClientsBoundWhatIsHeld(t *testing.T) {
	var sent atomic.Int64
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.URL.Path == "/large" && sent.Load() < 8<<20 {
			n, err := w.Write(make([]byte, 16<<10))
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	})
	p := newPool(t, http2.Settings{Window: 64 << 10}, addr)
	call := &transport.Call{Head: head("GET /large")}
	c, err := p.Get(call, false)
	if err == nil {
		err = c.Do(call)
	}
	if err != nil {
		t.Fatal(err)
	}
	last := int64(-1)
	for n := sent.Load(); n != last; n = sent.Load() {
		last = n
		time.Sleep(50 * time.Millisecond)
	}
	if last > 128<<10 {
		t.Errorf("%d bytes were sent to nobody", last)
	}
	if r := do(p, newCall()); r.err != nil || !r.reused {
		t.Errorf("another request on the connection: %+v", r)
	}
	if n, err := io.Copy(io.Discard, c); n != 8<<20 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	c.Release()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
