package h3_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// with is a good request with fields more.
func with(fields ...string) []byte { return headers(append(plain[:4:4], fields...)...) }

// extended is a CONNECT with fields more.
func extended(fields ...string) []byte {
	return headers(append([]string{":method: CONNECT"}, fields...)...)
}

// hostile are heads that quic-go refuses without asking us, and what we call it.
var hostile = map[string]struct {
	head []byte
	want string
}{
	"upper case":              {with("Accept: a"), "bad_header_name"},
	"upper case inside":       {with("acceptX: a"), "bad_header_name"},
	"space in a name":         {with("a b: c"), "bad_header_name"},
	"colon in a name":         {with("a:b: c"), "bad_header_name"},
	"empty name":              {frame(1, append(headers(plain...)[2:], 0x20, 1, 'a')), "bad_header_name"},
	"CR in a value":           {with("a: b\rc"), "bad_header_value"},
	"LF in a value":           {with("a: b\nc"), "bad_header_value"},
	"CRLF and a field":        {with("a: b\r\nx: y"), "bad_header_value"},
	"NUL in a value":          {with("a: b\x00c"), "bad_header_value"},
	"DEL in a value":          {with("a: b\x7f"), "bad_header_value"},
	"LF in :path":             {headers(":method: GET", ":scheme: https", ":authority: a.test", ":path: /a\nb"), "bad_header_value"},
	"connection":              {with("connection: close"), "connection_header"},
	"keep-alive":              {with("keep-alive: 1"), "connection_header"},
	"proxy-connection":        {with("proxy-connection: x"), "connection_header"},
	"upgrade":                 {with("upgrade: websocket"), "connection_header"},
	"transfer-encoding":       {with("transfer-encoding: chunked"), "connection_header"},
	"te: gzip":                {with("te: gzip"), "connection_header"},
	"two lengths":             {with("content-length: 1", "content-length: 2"), "bad_content_length"},
	"a length with a sign":    {with("content-length: +1"), "bad_content_length"},
	"a length below 0":        {with("content-length: -1"), "bad_content_length"},
	"a list of lengths":       {with("content-length: 1, 1"), "bad_content_length"},
	"a huge length":           {with("content-length: 99999999999999999999"), "bad_content_length"},
	"unknown pseudo":          {headers(append([]string{":evil: 1"}, plain...)...), "bad_pseudo_header"},
	"a reply's pseudo":        {headers(append([]string{":status: 200"}, plain...)...), "bad_pseudo_header"},
	"pseudo after a field":    {headers(":method: GET", ":scheme: https", ":authority: a.test", "a: b", ":path: /"), "bad_pseudo_header"},
	"two :path":               {headers(append([]string{":path: /x"}, plain...)...), "bad_pseudo_header"},
	"two :method":             {headers(append([]string{":method: GET"}, plain...)...), "bad_pseudo_header"},
	"two :authority":          {headers(append([]string{":authority: a.test"}, plain...)...), "bad_pseudo_header"},
	"two :scheme":             {headers(append([]string{":scheme: https"}, plain...)...), "bad_pseudo_header"},
	"no :method":              {headers(":scheme: https", ":authority: a.test", ":path: /"), "bad_pseudo_header"},
	"empty :method":           {headers(":method: ", ":scheme: https", ":authority: a.test", ":path: /"), "bad_method"},
	"a space in :method":      {headers(":method: GET /x", ":scheme: https", ":authority: a.test", ":path: /"), "bad_method"},
	"no :path":                {headers(":method: GET", ":scheme: https", ":authority: a.test"), "bad_pseudo_header"},
	"empty :path":             {headers(":method: GET", ":scheme: https", ":authority: a.test", ":path: "), "bad_pseudo_header"},
	":path without a slash":   {headers(":method: GET", ":scheme: https", ":authority: a.test", ":path: x"), "bad_target"},
	":path in full":           {headers(":method: GET", ":scheme: https", ":authority: a.test", ":path: http://evil.test/"), "bad_target"},
	":path *":                 {headers(":method: GET", ":scheme: https", ":authority: a.test", ":path: *"), "bad_target"},
	"a bad escape":            {headers(":method: GET", ":scheme: https", ":authority: a.test", ":path: /%zz"), "bad_target"},
	"no authority":            {headers(":method: GET", ":scheme: https", ":path: /"), "bad_host"},
	"userinfo":                {headers(":method: GET", ":scheme: https", ":authority: me@a.test", ":path: /"), "bad_host"},
	"another host":            {with("host: b.test"), "authority_differs"},
	"two hosts":               {headers(":method: GET", ":scheme: https", ":path: /", "host: a.test", "host: b.test"), "bad_host"},
	"CONNECT":                 {headers(":method: CONNECT", ":authority: a.test", ":path: /"), "bad_pseudo_header"},
	"CONNECT, :scheme":        {headers(":method: CONNECT", ":scheme: https", ":authority: a.test"), "bad_pseudo_header"},
	"CONNECT, no :authority":  {headers(":method: CONNECT"), "method_refused"},
	":protocol":               {headers(append([]string{":protocol: websocket"}, plain...)...), "bad_pseudo_header"},
	"extended, no :path":      {extended(":protocol: websocket", ":scheme: https", ":authority: a.test"), "bad_pseudo_header"},
	"extended, a bad :path":   {extended(":protocol: websocket", ":scheme: https", ":authority: a.test", ":path: x"), "bad_target"},
	"extended, :path *":       {extended(":protocol: websocket", ":scheme: https", ":authority: a.test", ":path: *"), "bad_target"},
	"extended, no :scheme":    {extended(":protocol: websocket", ":authority: a.test", ":path: /"), "bad_pseudo_header"},
	"extended, no :authority": {extended(":protocol: websocket", ":scheme: https", ":path: /", "host: a.test"), "bad_host"},
	"extended, another host":  {extended(":protocol: websocket", ":scheme: https", ":authority: a.test", ":path: /", "host: b.test"), "authority_differs"},
	"extended, an upgrade":    {extended(":protocol: websocket", ":scheme: https", ":authority: a.test", ":path: /", "upgrade: websocket"), "connection_header"},
	"extended, a list":        {extended(":protocol: websocket, h2c", ":scheme: https", ":authority: a.test", ":path: /"), "protocol_refused"},
	"an empty :protocol":      {extended(":protocol: ", ":scheme: https", ":authority: a.test", ":path: /"), "protocol_refused"},
	"a line in :protocol":     {extended(":protocol: websocket\r\nx: y", ":scheme: https", ":authority: a.test", ":path: /"), "bad_header_value"},
	"two :protocol":           {extended(":protocol: websocket", ":protocol: websocket", ":scheme: https", ":authority: a.test", ":path: /"), "bad_pseudo_header"},
	":protocol later":         {extended(":scheme: https", ":authority: a.test", ":path: /", "a: b", ":protocol: websocket"), "bad_pseudo_header"},
	"a huge head":             {with("a: " + strings.Repeat("x", 300<<10)), "head_too_large"},
	"endless fields":          {with(strings.Split(strings.Repeat("a: b\n", 5000), "\n")[:5000]...), "head_too_large"},
}

func TestHostileHeads(t *testing.T) {
	b := start(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/good" {
			t.Errorf("the handler was reached by %s %s", r.Method, r.RequestURI)
		}
	})
	c := b.dial()
	for name, tc := range hostile {
		b.mu.Lock()
		b.malformed = nil
		b.mu.Unlock()
		s, err := c.OpenStreamSync(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = s.Write(tc.head) // of which a part may be refused
		_ = s.Close()
		all, err := io.ReadAll(s)
		var reset *quic.StreamError
		switch {
		case tc.want == "head_too_large":
			if !bytes.Contains(all, []byte{1}) {
				t.Errorf("%s: no answer: %v", name, err)
			}
		case !errors.As(err, &reset) || reset.ErrorCode != quic.StreamErrorCode(http3.ErrCodeMessageError):
			t.Errorf("%s: %q, %v; want a reset with H3_MESSAGE_ERROR", name, all, err)
		}
		b.counted(name, tc.want)
	}
	s := c.open(true, headers(":method: GET", ":scheme: https", ":authority: a.test", ":path: /good", "te: trailers", "content-length: 0", "host: a.test", "cookie: a=b", "cookie: c=d"))
	if _, err := io.ReadAll(s); err != nil || c.Context().Err() != nil {
		t.Errorf("after all that: %v, %v", err, c.Context().Err())
	}
}

// What quic-go lets through is refused all the same, with an answer.
func TestLaxities(t *testing.T) {
	b := start(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the handler was reached: %v", r.Header) })
	c := b.dial()
	for name, tc := range map[string]struct {
		frames [][]byte
		want   string
	}{
		"no :scheme":              {[][]byte{headers(":method: GET", ":authority: a.test", ":path: /")}, "bad_pseudo_header"},
		"empty :scheme":           {[][]byte{headers(":method: GET", ":scheme: ", ":authority: a.test", ":path: /")}, "bad_pseudo_header"},
		"another :scheme":         {[][]byte{headers(":method: GET", ":scheme: ftp", ":authority: a.test", ":path: /")}, "bad_pseudo_header"},
		"two equal lengths":       {[][]byte{with("content-length: 3", "content-length: 3"), frame(0, []byte("abc"))}, "bad_content_length"},
		"an empty length":         {[][]byte{with("content-length: ")}, "bad_content_length"},
		"a body of no length":     {[][]byte{with("content-length: 0"), frame(0, []byte("abc"))}, "bad_content_length"},
		"extended, no web scheme": {[][]byte{extended(":protocol: websocket", ":scheme: ws", ":authority: a.test", ":path: /")}, "bad_pseudo_header"},
		"HEAD, two equal lengths": {[][]byte{headers(":method: HEAD", ":scheme: https", ":authority: a.test", ":path: /", "content-length: 0", "content-length: 0")}, "bad_content_length"},
	} {
		b.mu.Lock()
		b.malformed = nil
		b.mu.Unlock()
		all, err := io.ReadAll(c.open(true, tc.frames...))
		if reset := name == "a body of no length"; (err != nil) != reset {
			t.Errorf("%s: %q, %v", name, all, err)
		} else if !reset && !strings.HasPrefix(name, "HEAD") && !bytes.Contains(all, []byte(tc.want)) {
			t.Errorf("%s: %q", name, all)
		}
		b.counted(name, tc.want)
	}
}

// What breaks a connection is counted, and ends it alone.
func TestHostileFrames(t *testing.T) {
	var served atomic.Int32
	b := start(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		served.Add(1)
	})
	for name, frames := range map[string][][]byte{
		"data before a head": {frame(0, []byte("x"))},
		"settings":           {frame(4, nil)},
		"settings later":     {headers(plain...), frame(4, nil)},
		"a frame of HTTP/2":  {frame(6, nil)},
	} {
		b.mu.Lock()
		b.refused = nil
		b.mu.Unlock()
		c := b.dial()
		c.open(true, frames...)
		select {
		case <-c.Context().Done():
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: the connection lives on", name)
		}
		eventually(t, name+": it is counted", func() bool { return b.noted(&b.refused) == "protocol_error" })
	}
	c := b.dial()
	for name, first := range map[string][]byte{"two control streams": {0, 4, 0}, "push": {1, 0}} {
		s, err := c.OpenUniStream()
		if err != nil {
			t.Fatal(name, err)
		}
		_, _ = s.Write(first)
		<-c.Context().Done()
		c = b.dial()
	}
	if r, err := b.client().Get(b.url("/")); err != nil {
		t.Error(err)
	} else {
		r.Body.Close()
	}
}

// A body that is not what its length says never looks complete.
func TestLengthThatLies(t *testing.T) {
	errs := make(chan error, 1)
	b := start(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		errs <- err
	})
	c := b.dial()
	post := []string{":method: POST", ":scheme: https", ":authority: a.test", ":path: /", "content-length: 5"}
	for name, frames := range map[string][][]byte{
		"short":                  {headers(post...), frame(0, []byte("abc"))},
		"long":                   {headers(post...), frame(0, []byte("abcdefgh"))},
		"long, in two":           {headers(post...), frame(0, []byte("abcde")), frame(0, []byte("f"))},
		"short, with a trailer":  {headers(post...), frame(0, []byte("abc")), headers("x-a: b")},
		"a trailer with a colon": {headers(post...), frame(0, []byte("abcde")), headers(":path: /evil")},
		"a trailer of framing":   {headers(post...), frame(0, []byte("abcde")), headers("content-length: 9")},
	} {
		c.open(true, frames...)
		if err := <-errs; err == nil {
			t.Errorf("%s: looks complete", name)
		}
	}
}
