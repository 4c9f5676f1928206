package http2_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	frames "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// endpoint is one connection of a server that says what a test wants.
type endpoint struct {
	*frames.Framer

	t    testing.TB
	nc   net.Conn
	n    int // which connection it is, from 0
	mu   sync.Mutex
	text bytes.Buffer
	enc  *hpack.Encoder
	// grown is by how much windows have been made larger: the connection's, and all
	// streams'.
	grown [2]atomic.Int64
}

// event is a frame from the client that a test may care about.
type event struct {
	kind   frames.FrameType
	stream uint32
	code   frames.ErrCode
	end    bool
	size   int // of a body's piece
	fields map[string]string
}

// endpoints serves each connection by f, which gets the frames of the client as
// they come, but for those that need no more than the usual answer.
func endpoints(t testing.TB, f func(e *endpoint, in <-chan event), settings ...frames.Setting) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for n := 0; ; n++ {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[nc] = true
			mu.Unlock()
			e := &endpoint{Framer: frames.NewFramer(nc, nc), t: t, nc: nc, n: n}
			e.enc = hpack.NewEncoder(&e.text)
			e.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			in := make(chan event, 1000)
			wg.Go(func() {
				defer close(in)
				e.read(in, settings)
			})
			wg.Go(func() {
				defer nc.Close()
				f(e, in)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for nc := range open {
			nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

func (e *endpoint) read(in chan<- event, settings []frames.Setting) {
	if _, err := io.CopyN(io.Discard, e.nc, int64(len(frames.ClientPreface))); err != nil {
		return
	}
	e.mu.Lock()
	e.WriteSettings(settings...)
	e.mu.Unlock()
	for {
		f, err := e.ReadFrame()
		if err != nil {
			return
		}
		v := event{kind: f.Header().Type, stream: f.Header().StreamID}
		switch f := f.(type) {
		case *frames.SettingsFrame:
			if !f.IsAck() {
				e.mu.Lock()
				e.WriteSettingsAck()
				e.mu.Unlock()
			}
			continue
		case *frames.MetaHeadersFrame:
			v.end, v.fields = f.StreamEnded(), map[string]string{}
			for _, h := range f.Fields {
				v.fields[h.Name] = h.Value
			}
		case *frames.DataFrame:
			v.end, v.size = f.StreamEnded(), len(f.Data())
		case *frames.RSTStreamFrame:
			v.code = f.ErrCode
		case *frames.GoAwayFrame:
			v.code = f.ErrCode
		case *frames.WindowUpdateFrame:
			e.grown[min(v.stream, 1)].Add(int64(f.Increment))
			continue
		case *frames.PingFrame:
			if !f.IsAck() {
				e.mu.Lock()
				e.WritePing(true, f.Data)
				e.mu.Unlock()
			}
			continue
		}
		in <- v
	}
}

// headers sends a head or trailers.
func (e *endpoint) headers(stream uint32, end bool, fields ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.text.Reset()
	for i := 0; i < len(fields); i += 2 {
		e.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	rest := e.text.Bytes()
	first := rest[:min(len(rest), 16<<10)]
	rest = rest[len(first):]
	e.WriteHeaders(frames.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndStream: end, EndHeaders: len(rest) == 0})
	for len(rest) > 0 {
		next := rest[:min(len(rest), 16<<10)]
		rest = rest[len(next):]
		if e.WriteContinuation(stream, len(rest) == 0, next) != nil {
			return
		}
	}
}

// data sends a piece of a body.
func (e *endpoint) data(stream uint32, end bool, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.WriteData(stream, end, []byte(text))
}

// reset ends a stream.
func (e *endpoint) reset(stream uint32, code frames.ErrCode) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.WriteRSTStream(stream, code)
}

// goAway says which stream is the last.
func (e *endpoint) goAway(last uint32, code frames.ErrCode) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.WriteGoAway(last, code, []byte("bye"))
}

// await waits for a frame of that kind; false when there will be none.
func await(in <-chan event, kind frames.FrameType) (event, bool) {
	late := time.After(30 * time.Second)
	for {
		select {
		case v, open := <-in:
			if !open || v.kind == kind {
				return v, open
			}
		case <-late:
			return event{}, false
		}
	}
}

// each answers every request by f until the connection ends.
func each(f func(e *endpoint, v event)) func(e *endpoint, in <-chan event) {
	return func(e *endpoint, in <-chan event) {
		for v := range in {
			if v.kind == frames.FrameHeaders {
				f(e, v)
			}
		}
	}
}
