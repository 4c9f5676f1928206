package bridge

import (
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// body is the body stream of one request. A reader in another goroutine (an
// upload that goes on while the reply comes) is allowed for. It ends with io.EOF
// at the body's true end only; its errors are final.
type body struct {
	s     *stream
	count atomic.Int64
	done  atomic.Bool // read to its end

	mu       sync.Mutex // held while reading
	src      io.Reader
	length   int64 // as announced, -1 if it was not
	max      int64 // -1: unlimited
	waits    bool  // the client waits for 100 Continue
	over     bool  // the request is: nothing is read any more
	err      error
	trailers []byte
}

// begin is called once for each request, with a body or without.
func (b *body) begin(s *stream) {
	b.s = s
	b.mu.Lock()
	b.src, b.length, b.max = s.r.Body, s.r.ContentLength, -1
	b.over, b.err = false, nil
	b.waits = s.head.Expect && s.hasBody // net/http's HTTP/2 keeps this to itself
	b.trailers = b.trailers[:0]
	b.mu.Unlock()
	b.count.Store(0)
	b.done.Store(!s.hasBody)
	if s.hasBody && s.settings.MaxBody > 0 {
		b.limit(s.settings.MaxBody)
	}
}

func (b *body) limit(limit int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if limit < 0 || b.max >= 0 && b.max <= limit || b.done.Load() {
		return
	}
	b.max = limit
	if b.length > limit && b.err == nil {
		b.err = reason.BodyTooLarge
	}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over:
		return 0, errOver
	case b.err != nil:
		return 0, b.err
	case len(p) == 0:
		return 0, nil
	}
	n, err := b.read(p)
	got := b.count.Add(int64(n))
	if b.max >= 0 && got > b.max {
		n, err = 0, reason.BodyTooLarge
	} else if err == nil && got == b.length {
		err = io.EOF
	} else if err == io.EOF && got < b.length {
		err = reason.BodyCut
	}
	if err == io.EOF {
		if b.takeTrailers() {
			b.done.Store(true)
		} else {
			err = reason.BadTrailer
		}
	}
	b.err = err
	return n, err
}

// read waits for the client for as long as it may take.
func (b *body) read(p []byte) (int, error) {
	s := b.s
	if b.waits {
		b.waits = false
		s.interim.Lock()
		if !s.started {
			s.w.WriteHeader(http.StatusContinue)
		}
		s.interim.Unlock()
	}
	if s.bodyBroke.Load() {
		return 0, errInterrupted
	}
	s.readBy.Store(s.bridge.clock.After(s.settings.BodyTimeout))
	n, err := b.src.Read(p)
	late := s.readBy.Swap(0) == timedOut
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case late:
		return n, reason.BodyTimeout
	case s.bodyBroke.Load():
		return n, errInterrupted
	}
	return n, reason.BodyCut.Wrap(err)
}

// takeTrailers is called at the end; false, if one is not allowed.
func (b *body) takeTrailers() bool {
	from := b.s.r.Trailer
	if len(from) == 0 {
		return true
	}
	names := make([]string, 0, len(from))
	for name, values := range from {
		if len(values) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	ok := true
	for _, name := range names {
		for _, v := range from[name] {
			if b.trailers, ok = wire.AppendTrailer(b.trailers, name, v); !ok {
				return false
			}
		}
	}
	return true
}

// endBody makes sure that nobody reads from the server through this body any
// more. A reader that may not know yet that it is over keeps the body it has;
// the next request gets another.
func (s *stream) endBody() {
	if !s.hasBody {
		return
	}
	b := s.body
	if !b.mu.TryLock() {
		s.bodyBroke.Store(true)
		s.interruptBody()
		b.mu.Lock()
	}
	b.over, b.src = true, nil
	b.mu.Unlock()
	if !b.done.Load() {
		s.body = new(body)
	}
}
