package h2_test

import (
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// TestHostileHeads sends what HTTP/1 refuses, and what only HTTP/2 can send.
// What is malformed (RFC 9113, 8.1.1) has its stream reset, the rest is answered,
// and each is counted: the handler sees none of them.
func TestHostileHeads(t *testing.T) {
	for name, c := range map[string]struct {
		fields []string
		want   string // a status, or reset, and a reason
	}{
		"no authority":                    {[]string{":method", "GET", ":scheme", "http", ":path", "/"}, "400 bad_host"},
		"host differs from authority":     {get("host", "b.test"), "400 authority_differs"},
		"host with another port":          {get("host", "a.test:81"), "400 authority_differs"},
		"two hosts":                       {get("host", "a.test", "host", "a.test"), "400 bad_host"},
		"two hosts without authority":     {[]string{":method", "GET", ":scheme", "http", ":path", "/", "host", "a", "host", "b"}, "400 bad_host"},
		"userinfo":                        {[]string{":method", "GET", ":scheme", "http", ":authority", "u@a", ":path", "/"}, "400 bad_host"},
		"userinfo in host":                {[]string{":method", "GET", ":scheme", "http", ":path", "/", "host", "u@a"}, "400 bad_host"},
		"a path in authority":             {[]string{":method", "GET", ":scheme", "http", ":authority", "a/b", ":path", "/"}, "400 bad_host"},
		"a bad port":                      {[]string{":method", "GET", ":scheme", "http", ":authority", "a:99999", ":path", "/"}, "400 bad_host"},
		"a space in authority":            {[]string{":method", "GET", ":scheme", "http", ":authority", "a b", ":path", "/"}, "400 bad_host"},
		"two authorities":                 {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":authority", "b", ":path", "/"}, "reset bad_pseudo_header"},
		"two paths":                       {get(":path", "/b"), "reset bad_pseudo_header"},
		"two methods":                     {get(":method", "POST"), "reset bad_pseudo_header"},
		"no method":                       {[]string{":scheme", "http", ":authority", "a", ":path", "/"}, "reset bad_pseudo_header"},
		"an empty method":                 {[]string{":method", "", ":scheme", "http", ":authority", "a", ":path", "/"}, "400 bad_method"},
		"CONNECT with a path":             {[]string{":method", "CONNECT", ":authority", "a", ":path", "/"}, "reset bad_pseudo_header"},
		"CONNECT with a scheme":           {[]string{":method", "CONNECT", ":scheme", "http", ":authority", "a"}, "reset bad_pseudo_header"},
		"CONNECT to nobody":               {[]string{":method", "CONNECT"}, "501 method_refused"},
		"no path":                         {[]string{":method", "GET", ":scheme", "http", ":authority", "a"}, "reset bad_pseudo_header"},
		"no scheme":                       {[]string{":method", "GET", ":authority", "a", ":path", "/"}, "reset bad_pseudo_header"},
		"an unknown scheme":               {[]string{":method", "GET", ":scheme", "ftp", ":authority", "a", ":path", "/"}, "reset bad_pseudo_header"},
		"an empty path":                   {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", ""}, "reset bad_pseudo_header"},
		"an unknown pseudo-header":        {get(":evil", "1"), "reset bad_pseudo_header"},
		"a status":                        {get(":status", "200"), "reset bad_pseudo_header"},
		"a pseudo-header behind fields":   {[]string{":method", "GET", ":scheme", "http", ":authority", "a", "x-a", "b", ":path", "/"}, "reset bad_pseudo_header"},
		"extended CONNECT":                {[]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/"}, "reset bad_pseudo_header"},
		"CONNECT":                         {[]string{":method", "CONNECT", ":authority", "a:443"}, "501 method_refused"},
		"TRACE":                           {[]string{":method", "TRACE", ":scheme", "http", ":authority", "a", ":path", "/"}, "501 method_refused"},
		"PRI":                             {[]string{":method", "PRI", ":scheme", "http", ":authority", "a", ":path", "*"}, "501 method_refused"},
		"a space in the method":           {[]string{":method", "GET /x", ":scheme", "http", ":authority", "a", ":path", "/"}, "400 bad_method"},
		"a space ends the method":         {[]string{":method", "GET /x HTTP/1.1", ":scheme", "http", ":authority", "a", ":path", "a"}, "400 bad_method"},
		"a line in the method":            {[]string{":method", "GET / HTTP/1.1\r\nX: y", ":scheme", "http", ":authority", "a", ":path", "/"}, "reset bad_header_value"},
		"a path without a slash":          {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "a"}, "400 bad_target"},
		"an absolute URI as path":         {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "http://a/"}, "400 bad_target"},
		"an asterisk with GET":            {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "*"}, "400 bad_target"},
		"a fragment":                      {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/a#b"}, "400 bad_target"},
		"a space in the path":             {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/a b"}, "400 bad_target"},
		"a version in the path":           {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/a HTTP/1.1"}, "400 bad_target"},
		"a line in the path":              {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/ HTTP/1.1\r\nX: y"}, "reset bad_header_value"},
		"NUL in the path":                 {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/\x00"}, "reset bad_header_value"},
		"DEL in the path":                 {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/\x7f"}, "reset bad_header_value"},
		"a broken escape in the path":     {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/%zz"}, "400 bad_target"},
		"a long path":                     {[]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/" + strings.Repeat("a", 8<<10)}, "414 uri_too_long"},
		"many fields":                     {get(strings.Split(strings.Repeat("x-a b ", 100)+"x-a b", " ")...), "431 too_many_headers"},
		"a large head":                    {get("x-a", strings.Repeat("a", 64<<10)), "431 head_too_large"},
		"an upper-case name":              {get("X-A", "b"), "reset bad_header_name"},
		"a space in a name":               {get("x a", "b"), "reset bad_header_name"},
		"an empty name":                   {get("", "b"), "reset bad_header_name"},
		"a colon in a name":               {get("x:a", "b"), "reset bad_header_name"},
		"CR in a value":                   {get("x-a", "b\rc"), "reset bad_header_value"},
		"LF in a value":                   {get("x-a", "b\nc"), "reset bad_header_value"},
		"a line in a value":               {get("x-a", "b\r\nx-b: c"), "reset bad_header_value"},
		"a control character in a value":  {get("x-a", "b\x01c"), "reset bad_header_value"},
		"white space in front of a value": {get("x-a", " b"), "reset bad_header_value"},
		"white space behind a value":      {get("x-a", "b\t"), "reset bad_header_value"},
		"an expectation twice":            {get("expect", "100-continue", "expect", "100-continue"), "417 bad_expect"},
		"NUL in a value":                  {get("x-a", "b\x00c"), "reset bad_header_value"},
		"connection":                      {get("connection", "close"), "reset connection_header"},
		"keep-alive":                      {get("keep-alive", "5"), "reset connection_header"},
		"proxy-connection":                {get("proxy-connection", "close"), "reset connection_header"},
		"upgrade":                         {get("upgrade", "websocket"), "reset connection_header"},
		"transfer-encoding":               {get("transfer-encoding", "chunked"), "reset connection_header"},
		"te with an encoding":             {get("te", "gzip"), "reset connection_header"},
		"te with more than trailers":      {get("te", "trailers, gzip"), "reset connection_header"},
		"an empty te":                     {get("te", ""), "reset connection_header"},
		"an expectation":                  {get("expect", "the worst"), "417 bad_expect"},
		"a length without a body":         {get("content-length", "5"), "400 bad_content_length"},
		"a signed length":                 {get("content-length", "+0"), "400 bad_content_length"},
		"a length in hex":                 {get("content-length", "0x5"), "400 bad_content_length"},
		"a negative length":               {get("content-length", "-1"), "400 bad_content_length"},
		"two lengths":                     {get("content-length", "0", "content-length", "0"), "400 bad_content_length"},
		"a list of lengths":               {get("content-length", "0, 0"), "400 bad_content_length"},
		"two content types":               {get("content-type", "a/b", "content-type", "c/d"), "400 repeated_header"},
	} {
		t.Run(name, func(t *testing.T) {
			var r refusals
			addr, _ := start(t, settings(func(*fasthttp.RequestCtx, exchange.Front) { t.Error("it reached the handler") }, &r))
			cl := dial(t, addr)
			cl.open(1, true, c.fields...)
			a := cl.await(1)
			got := a.status
			if a.wasReset && a.reset == http2.ErrCodeProtocol && a.status == "" {
				got = "reset"
			}
			_, counted, _ := strings.Cut(c.want, " ")
			if got += " " + r.await(counted); got != c.want {
				t.Errorf("got %+v, refused %q, want %s", a, r.String(), c.want)
			}
		})
	}
}

func TestBodiesThatDoNotMatchTheirLength(t *testing.T) {
	type result struct {
		n   int
		err string
	}
	for name, c := range map[string]struct {
		length string
		data   []string
		want   result
		reset  bool
	}{
		"too little": {"5", []string{"abc", ""}, result{3, "body_cut"}, false},
		"too much":   {"5", []string{"abcdefgh", ""}, result{0, "body_cut"}, true},
		"just right": {"5", []string{"abc", "de"}, result{5, ""}, false},
		"none":       {"0", []string{""}, result{0, ""}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var r refusals
			got := make(chan result, 1)
			addr, _ := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
				b, whole, err := exchange.BufferRequest(ctx, 1<<20)
				res := result{n: int(f.RequestBytes())}
				if err != nil {
					res.err = strings.Split(err.Error(), ":")[0]
				} else if !whole || len(b) != res.n {
					t.Errorf("%d bytes, whole %v", len(b), whole)
				}
				got <- res
			}, &r))
			cl := dial(t, addr)
			cl.open(1, false, get("content-length", c.length)...)
			for i, d := range c.data {
				_ = cl.WriteData(1, i == len(c.data)-1, []byte(d))
			}
			if a := cl.await(1); c.reset != a.wasReset {
				t.Errorf("got %+v", a)
			}
			if g := <-got; g != c.want {
				t.Errorf("got %+v, want %+v", g, c.want)
			}
		})
	}
}

// cutOff sends until the server has ended the connection.
func cutOff(t *testing.T, c *raw, send func(i int) error) (a answer, sent int) {
	t.Helper()
	c.mute = true
	done := make(chan answer, 1)
	go func() { done <- c.await(1 << 30) }()
	for i := range 5_000_000 {
		select {
		case a = <-done:
			return a, i
		default:
		}
		if send(i) != nil {
			return <-done, i
		}
	}
	c.nc.Close()
	<-done
	return answer{}, -1
}

func TestRapidResetEndsTheConnection(t *testing.T) {
	var r refusals
	addr, srv := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		time.Sleep(time.Millisecond)
		ctx.SetBodyString("ok")
	}, &r))
	before := runtime.NumGoroutine()
	c := dial(t, addr)
	most := 0
	a, sent := cutOff(t, c, func(i int) error {
		id := uint32(2*i + 1)
		c.open(id, true, get()...)
		if i%100 == 0 {
			most = max(most, runtime.NumGoroutine()-before)
		}
		return c.WriteRSTStream(id, http2.ErrCodeCancel)
	})
	if sent < 0 || !a.gone {
		t.Fatalf("the flood was let through: %+v", a)
	}
	if most > 150 {
		t.Errorf("%d goroutines for 100 streams", most)
	}
	eventually(t, "the connection is gone", func() bool { return srv.Stats().Open == 0 })
	if !strings.Contains(r.String(), "http2_flood") {
		t.Errorf("counted %q after %d streams", r.String(), sent)
	}
}

func TestResetsOfSlowRequestsEndTheConnectionToo(t *testing.T) {
	t.Parallel()
	var r refusals
	addr, srv := start(t, settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		gone := make(chan struct{})
		f.OnGone(abort(func() { close(gone) }))
		<-gone
		f.OnGone(nil)
	}, &r))
	c := dial(t, addr)
	for i := range 100 {
		c.open(uint32(2*i+1), true, get()...)
	}
	a, sent := cutOff(t, c, func(i int) error {
		if err := c.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel); err != nil {
			return err
		}
		c.open(uint32(2*(i+100)+1), true, get()...)
		time.Sleep(time.Millisecond)
		return nil
	})
	if sent < 0 || !a.gone {
		t.Fatalf("let through: %+v", a)
	}
	eventually(t, "the connection is gone", func() bool { return srv.Stats().Open == 0 })
	if !strings.Contains(r.String(), "http2_flood") {
		t.Errorf("counted %q after %d", r.String(), sent)
	}
}

type abort func()

func (a abort) Abort() { a() }

func TestContinuationFloodEndsTheConnection(t *testing.T) {
	var r refusals
	addr, srv := start(t, settings(ok, &r))
	c := dial(t, addr)
	block := c.fields("x-a", strings.Repeat("a", 1000))
	var first http2.HeadersFrameParam
	first.StreamID, first.BlockFragment = 1, c.fields(get()...)
	if err := c.WriteHeaders(first); err != nil {
		t.Fatal(err)
	}
	before := memory()
	_, sent := cutOff(t, c, func(int) error { return c.WriteContinuation(1, false, block) })
	if sent < 0 {
		t.Fatal("the flood was let through")
	}
	c.nc.Close()
	if grown := memory() - before; grown > 16<<20 {
		t.Errorf("%d bytes more in use", grown)
	}
	eventually(t, "the connection is gone", func() bool { return srv.Stats().Open == 0 })
}

func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// TestControlFloodsOfClientsThatDoNotRead have the server answer, and take none
// of it.
func TestControlFloodsOfClientsThatDoNotRead(t *testing.T) {
	for name, send := range map[string]func(c *raw) error{
		"PING":     func(c *raw) error { return c.WritePing(false, [8]byte{}) },
		"SETTINGS": func(c *raw) error { return c.WriteSettings() },
	} {
		t.Run(name, func(t *testing.T) {
			var r refusals
			s := settings(ok, &r)
			s.WriteTimeout = time.Second
			addr, srv := start(t, s)
			c := dial(t, addr)
			before, goroutines := memory(), runtime.NumGoroutine()
			for end := time.Now().Add(4 * time.Second); send(c) == nil && time.Now().Before(end); {
			}
			if grown := memory() - before; grown > 16<<20 {
				t.Errorf("%d bytes more in use", grown)
			}
			if n := runtime.NumGoroutine() - goroutines; n > 10 {
				t.Errorf("%d goroutines more", n)
			}
			c.nc.Close()
			eventually(t, "the connection is gone", func() bool { return srv.Stats().Open == 0 })
		})
	}
}

func TestMoreStreamsThanAllowedAreRefused(t *testing.T) {
	var r refusals
	release := make(chan struct{})
	s := settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { <-release }, &r)
	s.MaxStreams = 3
	addr, _ := start(t, s)
	c := dial(t, addr)
	for i := range 4 {
		c.open(uint32(2*i+1), true, get()...)
	}
	if a := c.await(7); !a.wasReset || a.reset != http2.ErrCodeRefusedStream && a.reset != http2.ErrCodeProtocol {
		t.Errorf("the fourth of three: %+v", a)
	}
	close(release)
	if a := c.await(1); a.status != "200" {
		t.Errorf("the first: %+v", a)
	}
	if got := r.await("http2_protocol_error"); got != "http2_protocol_error" {
		t.Errorf("counted %q", got)
	}
}

// TestAWindowOfNothing is a client that asks for much and takes none of it.
func TestAWindowOfNothing(t *testing.T) {
	var r refusals
	s := settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) { ctx.SetBodyString(strings.Repeat("x", 100<<10)) }, &r)
	s.WriteTimeout = 300 * time.Millisecond
	addr, _ := start(t, s)
	c := dial(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	before := runtime.NumGoroutine()
	for i := range 50 {
		c.open(uint32(2*i+1), true, get()...)
	}
	if a := c.await(1); !a.wasReset || a.body != "" {
		t.Errorf("got %+v", a)
	}
	eventually(t, "the handlers have ended", func() bool { return runtime.NumGoroutine() < before+10 })
}

func TestAWindowOfNothingForSmallReplies(t *testing.T) {
	t.Parallel()
	var r refusals
	s := settings(ok, &r)
	s.WriteTimeout = 300 * time.Millisecond
	addr, _ := start(t, s)
	c := dial(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	c.open(1, true, get()...)
	if a := c.await(1); !a.wasReset || a.status != "200" || a.body != "" {
		t.Errorf("got %+v", a)
	}
}

func TestABodyThatStalls(t *testing.T) {
	t.Parallel()
	var r refusals
	got := make(chan error, 1)
	s := settings(func(ctx *fasthttp.RequestCtx, _ exchange.Front) {
		_, _, err := exchange.BufferRequest(ctx, 1<<20)
		got <- err
		ctx.SetStatusCode(http.StatusRequestTimeout)
	}, &r)
	s.BodyTimeout = 200 * time.Millisecond
	addr, _ := start(t, s)
	c := dial(t, addr)
	c.open(1, false, get()...)
	_ = c.WriteData(1, false, []byte("some"))
	if err := <-got; err == nil || !strings.HasPrefix(err.Error(), "body_timeout") {
		t.Errorf("got %v", err)
	}
	if a := c.await(1); a.status != "408" {
		t.Errorf("got %+v", a)
	}
	c.open(3, true, get()...) // the connection is as good as ever
	if a := c.await(3); a.gone {
		t.Errorf("got %+v", a)
	}
}

func TestHeadLimitsAreThoseOfHTTP1(t *testing.T) {
	var r refusals
	s := settings(ok, &r)
	s.Heads = wire.Limits{Head: 1 << 10, Fields: 10, URI: 100}
	addr, _ := start(t, s)
	for want, fields := range map[string][]string{
		"200":                  get("x-a", strings.Repeat("a", 800)),
		"431 head_too_large":   get("x-a", strings.Repeat("a", 1000)),
		"431 too_many_headers": get(strings.Split(strings.Repeat("x-a b ", 9)+"x-a b", " ")...),
		"414 uri_too_long":     {":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/" + strings.Repeat("a", 100)},
	} {
		r.list = nil
		c := dial(t, addr)
		c.open(1, true, fields...)
		if a := c.await(1); strings.TrimSpace(a.status+" "+r.String()) != want {
			t.Errorf("got %s, refused %s, want %s", a.status, r.String(), want)
		}
	}
	c := dial(t, addr) // more than we want to look at: net/http says so itself
	c.open(1, true, get("x-a", strings.Repeat("a", 10<<10))...)
	if a := c.await(1); a.status != "431" && !a.gone {
		t.Errorf("got %+v", a)
	}
}
