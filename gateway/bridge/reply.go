package bridge

import (
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/pipeline"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

const (
	lastStatus = 999
	// maxWrite is the piece of a reply that WriteTimeout is for.
	maxWrite = 64 << 10
)

// reply writes the response; false, if the stream must be reset.
func (s *stream) reply(resp *fasthttp.Response) (complete bool) {
	s.beginReply()
	if s.cut {
		return false
	}
	if s.upgrade != nil && resp.StatusCode() == http.StatusSwitchingProtocols {
		return s.openTunnel(resp)
	}
	if s.impossible(resp) {
		pipeline.Replace(resp, reason.Internal)
	}
	h := s.w.Header()
	s.putHead(h, resp)
	stream := resp.BodyStream()
	if stream == nil || s.bodiless(resp.StatusCode()) {
		return s.sendBytes(h, resp, stream != nil)
	}
	return s.sendStream(h, resp, stream)
}

// beginReply notes that the final reply begins. From now on no interim one is sent.
func (s *stream) beginReply() {
	s.interim.Lock()
	s.started = true
	s.interim.Unlock()
}

// impossible reports a response that cannot be sent as a final reply.
func (s *stream) impossible(resp *fasthttp.Response) bool {
	status := resp.StatusCode()
	return status < 200 || status > lastStatus || s.ctx.Hijacked()
}

// bodiless is true for replies that end with their head whatever it says.
func (s *stream) bodiless(status int) bool {
	return wire.Bodiless(status, s.r.Method == http.MethodHead)
}

// putHead fills the server's header map, without the length.
func (s *stream) putHead(h http.Header, resp *fasthttp.Response) {
	trailers := resp.Header.PeekTrailerKeys()
	typed := false
	for k, v := range resp.Header.All() {
		if wire.ServersOwn(k, trailers, false) {
			continue
		}
		name, ok := names[string(k)]
		if !ok {
			name = string(k)
		}
		typed = typed || name == "Content-Type"
		s.put(h, name, string(v))
	}
	if !typed {
		h["Content-Type"] = nil // or the server would guess
	}
	if len(s.date) > 0 {
		s.put(h, "Date", string(s.date))
	} else {
		h["Date"] = s.bridge.clock.DateValues()
	}
}

// usualFields is how many a reply seldom has more of.
const usualFields = 16

// put adds a field. Of those that come once, which are nearly all, the list
// needs no memory of its own.
func (s *stream) put(h http.Header, name, value string) {
	if before := h[name]; len(before) > 0 {
		h[name] = append(before, value)
		return
	}
	if s.values == nil {
		s.values = make([]string, 0, usualFields)
	}
	n := len(s.values)
	s.values = append(s.values, value)
	h[name] = s.values[n : n+1 : n+1]
}

// names spares the memory for the names that nearly every reply has.
var names = func() map[string]string {
	m := map[string]string{}
	for _, n := range []string{
		"Accept-Ranges", "Access-Control-Allow-Credentials", "Access-Control-Allow-Headers",
		"Access-Control-Allow-Methods", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers",
		"Age", "Allow", "Alt-Svc", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language",
		"Content-Location", "Content-Range", "Content-Security-Policy", "Content-Type", "Etag", "Expires",
		"Grpc-Encoding", "Grpc-Message", "Grpc-Status", "Last-Modified", "Link", "Location", "Pragma",
		"Permissions-Policy", "Ratelimit", "Ratelimit-Policy", "Referrer-Policy", "Retry-After", "Server", "Server-Timing", "Set-Cookie",
		"Strict-Transport-Security", "Vary", "Via", "Www-Authenticate", "X-Content-Type-Options",
		"X-Frame-Options", "X-Request-Id", "X-Xss-Protection",
	} {
		m[n] = n
	}
	return m
}()

// sendBytes sends a reply whose body is in memory or absent.
func (s *stream) sendBytes(h http.Header, resp *fasthttp.Response, streamed bool) bool {
	var content []byte
	if !streamed {
		content = resp.Body()
	}
	status := resp.StatusCode()
	length := len(content)
	if s.bodiless(status) {
		length = wire.BodilessLength(resp, length, streamed)
		content = nil
	}
	if length >= 0 {
		s.put(h, "Content-Length", strconv.Itoa(length))
	}
	s.w.WriteHeader(status)
	for len(content) > 0 {
		piece := content[:min(len(content), maxWrite)]
		if s.write(piece) != nil {
			return false
		}
		content = content[len(piece):]
	}
	s.putTrailers(h, resp)
	return true
}

// peeker is a body stream that knows how much it has without blocking.
type peeker interface{ BufferedNow() int }

// Copying begins with little memory, as thousands of streams may be open that
// say something now and then; who has much to say gets more.
var (
	small = sync.Pool{New: func() any { return new([4 << 10]byte) }}
	large = sync.Pool{New: func() any { return new([32 << 10]byte) }}
)

// sendStream copies a body stream to the client. What a Read returns goes out
// at once, unless more is at hand: events and slow bodies are never held back.
func (s *stream) sendStream(h http.Header, resp *fasthttp.Response, from io.Reader) bool {
	left := int64(resp.Header.ContentLength())
	if left >= 0 {
		s.put(h, "Content-Length", strconv.FormatInt(left, 10))
	}
	s.w.WriteHeader(resp.StatusCode())
	p, _ := from.(peeker)
	if left != 0 && (p == nil || p.BufferedNow() == 0) && s.flush() != nil {
		return false
	}
	first := small.Get().(*[4 << 10]byte)
	defer small.Put(first)
	var more *[32 << 10]byte
	buf := first[:]
	for left != 0 {
		if left > 0 && int64(len(buf)) > left {
			buf = buf[:left]
		}
		n, err := from.Read(buf)
		if n > 0 {
			if s.write(buf[:n]) != nil {
				return false
			}
			if left > 0 {
				left -= int64(n)
			}
		}
		switch {
		case err == io.EOF && left <= 0:
			left = 0
		case err != nil && left != 0:
			return false // it promised more
		case left == 0 || n == 0 || p != nil && p.BufferedNow() > 0:
		case s.flush() != nil:
			return false
		}
		if n == len(first) && left != 0 && more == nil {
			more = large.Get().(*[32 << 10]byte)
			defer large.Put(more)
			buf = more[:]
		}
	}
	if s.cut {
		return false
	}
	s.putTrailers(h, resp)
	return true
}

// putTrailers adds what comes behind the body. The server keeps what it is
// given beyond the end of the request.
func (s *stream) putTrailers(h http.Header, resp *fasthttp.Response) {
	if len(s.trailers) > 0 {
		eachLine(s.trailers, func(name, value string) {
			k := http.TrailerPrefix + name
			h[k] = append(h[k], value)
		})
	}
	for _, k := range resp.Header.PeekTrailerKeys() {
		name := http.TrailerPrefix + http.CanonicalHeaderKey(string(k))
		h[name] = append(h[name], string(resp.Header.PeekBytes(k)))
	}
}

// write hands p to the server, or fails when the client takes too long over it.
func (s *stream) write(p []byte) error {
	if !s.startWrite() {
		return errWriteTimeout
	}
	n, err := s.w.Write(p)
	s.replied += int64(n)
	return s.endWrite(err)
}

func (s *stream) flush() error {
	if !s.startWrite() {
		return errWriteTimeout
	}
	return s.endWrite(s.w.FlushError())
}

// startWrite sets the time limit of a write. Once one was missed there are no more.
func (s *stream) startWrite() bool {
	before := s.writeBy.Load()
	return before != timedOut && s.writeBy.CompareAndSwap(before, s.bridge.clock.After(s.settings.WriteTimeout))
}

func (s *stream) endWrite(err error) error {
	if s.writeBy.Swap(0) == timedOut {
		s.writeBy.Store(timedOut)
		return errWriteTimeout
	}
	return err
}

// refuse answers what never became a request.
func (s *stream) refuse(why *reason.Reason) (complete bool) {
	s.beginReply()
	if f := s.settings.Refused; f != nil {
		f(why, s.conn.Peer(), s.sent(s.Protocol()))
	}
	h := s.w.Header()
	clear(h)
	content := pipeline.AppendProblem(nil, why.Status, why, "")
	h["Content-Type"] = []string{"application/problem+json"}
	h["Cache-Control"] = []string{"no-store"}
	h["Date"] = s.bridge.clock.DateValues()
	h["Content-Length"] = []string{strconv.Itoa(len(content))}
	s.w.WriteHeader(why.Status)
	return s.r.Method == http.MethodHead || s.write(content) == nil
}
