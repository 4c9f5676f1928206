package http2_test

import (
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	frames "golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/http2"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/transport"
)

const piece = 16 << 10

// wide lets streams send as much as the connection may.
var wide = frames.Setting{ID: frames.SettingInitialWindowSize, Val: 1 << 24}

// waiting returns when so many requests have begun and used up the connection's
// window. It counts what came of each.
func waiting(in <-chan event, streams int, came map[uint32]int) bool {
	for all := 0; len(came) < streams || all < 65535; {
		v, open := <-in
		if !open {
			return false
		}
		came[v.stream] += v.size
		all += v.size
	}
	return true
}

// TestUploadsTakeTurns: each stream that waits for the connection's window sends
// a frame, then the next one does.
func TestUploadsTakeTurns(t *testing.T) {
	const streams, size = 30, 8 * piece
	addr := endpoints(t, func(e *endpoint, in <-chan event) {
		came, turns, since := map[uint32]int{}, map[uint32]int{}, map[uint32]int{}
		if !waiting(in, streams, came) {
			return
		}
		for left := streams; left > 0; {
			e.grow(0, piece)
			v, open := await(in, frames.FrameData)
			if !open {
				t.Errorf("no more came; %d are not complete", left)
				return
			}
			came[v.stream] += v.size
			turns[v.stream]++
			if len(since) == 0 && len(turns) == streams && slices.Min(slices.Collect(maps.Values(turns))) == 2 {
				since = maps.Clone(turns) // by now most are in one line, whatever they waited for at first
			}
			for id, from := range since {
				if n := turns[v.stream] - since[v.stream]; came[id] < size && n > turns[id]-from+2 { // who changes lines late is overtaken once
					t.Errorf("stream %d has sent %d frames, stream %d only %d", v.stream, n, id, turns[id]-from)
				}
			}
			if v.end {
				left--
				e.headers(v.stream, true, ":status", "200")
			}
		}
	}, wide)
	p := newPool(t, http2.Settings{}, addr)
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			if r := do(p, &transport.Call{Head: head("POST /"), Body: make([]byte, size), Idle: 30 * time.Second}); r.err != nil || r.status != 200 {
				t.Errorf("%+v", r)
			}
		})
	}
	wg.Wait()
}

// TestOneWhoseTurnItIsMayGo: others do not wait for who was before them and has
// gone, or does something else.
func TestOneWhoseTurnItIsMayGo(t *testing.T) {
	const streams = 12
	goOn, done := make(chan struct{}), make(chan struct{})
	addr := endpoints(t, func(e *endpoint, in <-chan event) {
		who := map[uint32]string{}
		for all := 0; len(who) < streams || all < 65535; {
			v, open := <-in
			if !open {
				return
			}
			if all += v.size; v.kind == frames.FrameHeaders {
				who[v.stream] = v.fields["does"]
			}
		}
		for id, does := range who {
			if does == "reads nothing" {
				e.headers(id, false, ":status", "200")
			}
		}
		<-goOn
		for left := streams / 3; left > 0; {
			e.grow(0, piece)
			v, open := await(in, frames.FrameData)
			if !open {
				t.Errorf("no more came; %d are not complete", left)
				break
			}
			if v.end && who[v.stream] == "sends all" {
				left--
				e.headers(v.stream, true, ":status", "204")
			}
		}
		close(done)
		for range in {
		}
	}, wide)
	p := newPool(t, http2.Settings{}, addr)
	var wg sync.WaitGroup
	headed, left, clients := make(chan transport.Conn, streams), make(chan struct{}, streams), make(chan *client, streams)
	for i := range streams {
		does := []string{"reads nothing", "goes", "sends all"}[i%3]
		wg.Go(func() {
			front := newClient()
			call := &transport.Call{Head: head("POST /", "Does: "+does), Body: make([]byte, 4*piece), Front: front, Watch: front}
			if i%2 == 1 {
				call.Body, call.Stream, call.Length = nil, io.LimitReader(zeros{}, 4*piece), 4*piece
			}
			c, err := p.Get(call, false)
			if err != nil {
				t.Error(err)
				return
			}
			if does == "goes" {
				clients <- front
			}
			switch err := c.Do(call); {
			case does == "reads nothing" && err == nil:
				headed <- c
			case does == "goes" && err != nil:
				left <- struct{}{}
			case does == "sends all" && err == nil:
				c.Release()
			default:
				t.Errorf("who %s: %v", does, err)
			}
		})
	}
	var unread []transport.Conn
	for range streams / 3 {
		unread = append(unread, <-headed) // and so all have begun
	}
	for range streams / 3 {
		(<-clients).leave()
	}
	for range streams / 3 {
		<-left
	}
	close(goOn)
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("those behind still wait")
	}
	for _, c := range unread {
		c.Abort()
		c.Release()
	}
	wg.Wait()
}

// TestFloodsOfAnEndpoint end the connection: they cost it next to nothing.
func TestFloodsOfAnEndpoint(t *testing.T) {
	for name, send := range map[string]func(e *endpoint, id uint32) error{
		"PING":          func(e *endpoint, _ uint32) error { return e.WritePing(false, [8]byte{}) },
		"PING answers":  func(e *endpoint, _ uint32) error { return e.WritePing(true, [8]byte{}) },
		"SETTINGS":      func(e *endpoint, _ uint32) error { return e.WriteSettings() },
		"SETTINGS acks": func(e *endpoint, _ uint32) error { return e.WriteSettingsAck() },
		"PRIORITY":      func(e *endpoint, id uint32) error { return e.WritePriority(id, frames.PriorityParam{}) },
		"unknown":       func(e *endpoint, _ uint32) error { return e.WriteRawFrame(0xfa, 0, 0, nil) },
		"GOAWAY":        func(e *endpoint, _ uint32) error { return e.WriteGoAway(1<<31-1, 0, nil) },
		"WINDOW_UPDATE": func(e *endpoint, id uint32) error { return e.WriteWindowUpdate(id, 1) },
		"empty DATA":    func(e *endpoint, id uint32) error { return e.WriteData(id, false, nil) },
		"resets":        func(e *endpoint, id uint32) error { return e.WriteRSTStream(id-2, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := endpoints(t, each(func(e *endpoint, v event) {
				if v.stream == 1 {
					e.headers(1, true, ":status", "200")
					return
				}
				e.headers(v.stream, false, ":status", "200")
				end := time.Now().Add(20 * time.Second)
				for i := 0; time.Now().Before(end); i++ {
					e.mu.Lock()
					err := send(e, v.stream)
					e.mu.Unlock()
					if err != nil {
						return
					}
				}
			}))
			p := newPool(t, http2.Settings{}, addr)
			if r := do(p, newCall()); r.err != nil {
				t.Fatal(r.err)
			}
			r := do(p, newCall())
			f := failure(t, r.err)
			if f.Reason != reason.UpstreamProtocol || !strings.Contains(f.Error(), "ask for nothing") {
				t.Errorf("got %s: %v", f.Reason.Name, f)
			}
		})
	}
}

// TestAnEndpointThatIsOnlyBusy is none of those.
func TestAnEndpointThatIsOnlyBusy(t *testing.T) {
	addr := endpoints(t, each(func(e *endpoint, v event) {
		e.mu.Lock()
		for range 3 {
			e.WritePing(false, [8]byte{1})
			e.WriteWindowUpdate(0, 10)
		}
		e.mu.Unlock()
		e.headers(v.stream, true, ":status", "200")
	}))
	p := newPool(t, http2.Settings{}, addr)
	for i := range 1200 {
		if r := do(p, newCall()); r.err != nil || r.reused != (i > 0) {
			t.Fatalf("request %d: %+v", i, r)
		}
	}
}

// TestTrailersAfterTheReply are not sent: the endpoint may have forgotten the
// stream, and would take a head for a breach of the rules.
func TestTrailersAfterTheReply(t *testing.T) {
	ended := make(chan event, 1)
	addr := endpoints(t, func(e *endpoint, in <-chan event) {
		for v := range in {
			switch {
			case v.kind == frames.FrameHeaders && v.fields[":path"] != "":
				e.headers(v.stream, true, ":status", "413")
			case v.end:
				ended <- v
			}
		}
	})
	p := newPool(t, http2.Settings{}, addr)
	front := newClient()
	front.trailers = "X-Sum: 1\r\n"
	body, write := io.Pipe()
	call := &transport.Call{Head: head("POST /"), Stream: body, Length: -1, Front: front, Watch: front, Trailers: true}
	c, err := p.Get(call, false)
	if err == nil {
		err = c.Do(call)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r := read(c); r.err != nil || r.status != 413 {
		t.Fatalf("%+v", r)
	}
	_, _ = write.Write([]byte("x"))
	_ = write.Close()
	select {
	case v := <-ended:
		if v.kind != frames.FrameData || v.size != 0 {
			t.Errorf("the request ended by %+v", v)
		}
	case <-time.After(20 * time.Second):
		t.Error("the request did not end")
	}
	c.Release()
	if r := do(p, newCall()); r.err != nil || !r.reused {
		t.Errorf("%+v", r)
	}
}
