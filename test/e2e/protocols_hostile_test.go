package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawField is a field as it goes into a block of headers.
type rawField struct{ name, value string }

// rawRequest is a request as HTTP/2 and HTTP/3 see it.
type rawRequest struct {
	what    string
	fields  []rawField
	body    string
	trailer []rawField
}

// base is a good request's beginning.
func base(method, path string) []rawField {
	return []rawField{{":method", method}, {":scheme", "https"}, {":authority", "a.test"}, {":path", path}}
}

// refusal is how a request ended: by a status, or without one.
type refusal struct {
	status int
	err    error
}

func (r refusal) refused() bool { return r.err != nil || r.status >= 400 }

func (r refusal) String() string {
	if r.err != nil {
		return "reset: " + r.err.Error()
	}
	return strconv.Itoa(r.status)
}

var errReset = errors.New("reset")

// rawH2 sends q on a connection of its own.
func rawH2(nc net.Conn, q rawRequest) refusal {
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(nc, http2.ClientPreface)
	f := http2.NewFramer(nc, nc)
	f.AllowIllegalWrites = true
	_ = f.WriteSettings()
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	write := func(fields []rawField, end bool) {
		block.Reset()
		for _, h := range fields {
			_ = e.WriteField(hpack.HeaderField{Name: h.name, Value: h.value})
		}
		first := true
		for b := block.Bytes(); first || len(b) > 0; first = false {
			n := min(len(b), 16<<10)
			if first {
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:n], EndStream: end, EndHeaders: n == len(b)})
			} else {
				_ = f.WriteContinuation(1, n == len(b), b[:n])
			}
			b = b[n:]
		}
	}
	write(q.fields, q.body == "" && q.trailer == nil)
	if q.body != "" {
		_ = f.WriteData(1, q.trailer == nil, []byte(q.body))
	}
	if q.trailer != nil {
		write(q.trailer, true)
	}
	status := 0
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return refusal{status, err}
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status, err = strconv.Atoi(frame.PseudoValue("status")); err != nil {
				return refusal{0, err}
			}
			if frame.StreamEnded() {
				return refusal{status, nil}
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return refusal{status, nil}
			}
		case *http2.RSTStreamFrame:
			if status >= 200 && frame.ErrCode == http2.ErrCodeNo {
				return refusal{status, nil}
			}
			return refusal{status, fmt.Errorf("%w: %v", errReset, frame.ErrCode)}
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo {
				return refusal{status, fmt.Errorf("%w: %v", errReset, frame.ErrCode)}
			}
		}
	}
}

// rawH3 sends q on a stream of c.
func rawH3(c *quic.Conn, q rawRequest) refusal {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		return refusal{0, err}
	}
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	frame := func(kind uint64, payload []byte) {
		b := quicvarint.Append(quicvarint.Append(nil, kind), uint64(len(payload)))
		_, _ = s.Write(append(b, payload...)) // what is refused while it is written is refused
	}
	block := func(fields []rawField) []byte {
		var b bytes.Buffer
		e := qpack.NewEncoder(&b)
		for _, h := range fields {
			_ = e.WriteField(qpack.HeaderField{Name: h.name, Value: h.value})
		}
		return b.Bytes()
	}
	frame(1, block(q.fields))
	if q.body != "" {
		frame(0, []byte(q.body))
	}
	if q.trailer != nil {
		frame(1, block(q.trailer))
	}
	_ = s.Close()
	status := 0
	for all := quicvarint.NewReader(s); ; {
		kind, err := quicvarint.Read(all)
		if err != nil {
			if errors.Is(err, io.EOF) && status != 0 {
				err = nil
			}
			return refusal{status, err}
		}
		n, err := quicvarint.Read(all)
		if err != nil {
			return refusal{status, err}
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(all, payload); err != nil {
			return refusal{status, err}
		}
		if kind != 1 || status >= 200 {
			continue
		}
		next := qpack.NewDecoder().Decode(payload)
		for {
			h, err := next()
			if err != nil {
				break
			}
			if h.Name == ":status" {
				status, _ = strconv.Atoi(h.Value)
			}
		}
	}
}

// translated are the hostile requests of HTTP/1 as far as other protocols can
// express them: what is wrong with lines, versions and chunks they cannot.
func translated(t *testing.T) (list []rawRequest) {
	t.Helper()
	text, err := os.ReadFile("../../gateway/h1/testdata/hostile.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("\n== "))
	for example := range strings.SplitSeq(string(text), "\n== ") {
		title, lines, _ := strings.Cut(example, "\n")
		var raw strings.Builder
		for line := range strings.SplitSeq(strings.TrimRight(lines, "\n"), "\n") {
			times := 1
			if rest, ok := strings.CutPrefix(line, "x"); ok {
				if number, text, ok := strings.Cut(rest, " "); ok {
					if n, err := strconv.Atoi(number); err == nil {
						times, line = n, text
					}
				}
			}
			plain, err := strconv.Unquote(`"` + strings.ReplaceAll(line, `"`, `\"`) + `"`)
			if err != nil {
				t.Fatalf("%s: %q: %v", title, line, err)
			}
			raw.WriteString(strings.Repeat(plain, times))
		}
		if q, ok := translate(title, raw.String()); ok {
			list = append(list, q)
		}
	}
	return list
}

func translate(what, raw string) (q rawRequest, ok bool) {
	head, body, ok := strings.Cut(raw, "\r\n\r\n")
	if !ok {
		return q, false
	}
	line, rest, _ := strings.Cut(head, "\r\n")
	parts := strings.Split(line, " ")
	if len(parts) != 3 || parts[2] != "HTTP/1.1" && parts[2] != "HTTP/1.0" {
		return q, false
	}
	q = rawRequest{what: what, body: body}
	authority := []rawField{}
	var fields []rawField
	for field := range strings.SplitSeq(rest, "\r\n") {
		if field == "" {
			continue
		}
		name, value, ok := strings.Cut(field, ":")
		if !ok {
			return q, false // there are no colons elsewhere
		}
		value = strings.Trim(value, " \t")
		if strings.EqualFold(name, "host") {
			if len(authority) == 0 {
				authority = append(authority, rawField{":authority", value})
			} else {
				fields = append(fields, rawField{"host", value})
			}
			continue
		}
		fields = append(fields, rawField{strings.ToLower(name), value})
	}
	q.fields = append([]rawField{{":method", parts[0]}, {":scheme", "https"}}, authority...)
	q.fields = append(append(q.fields, rawField{":path", parts[1]}), fields...)
	return q, true
}

// harmless is what is served after all, by which protocols, and why that is
// well: nothing of it gets to the upstream.
var harmless = map[string]struct{ protocols, why string }{
	"two equal Hosts: bad_host": {"h2c h2 h3", "the first is :authority, and Host may repeat it"},
	"a length of 0 with a body": {"h2c h2 h3", "the stream is reset; the upstream may have seen a request without a body"},
}

// Whatever HTTP/1 refuses is refused by the other protocols, by whichever part
// of the server sees it first, and no upstream ever hears of it.
func TestHostileRequestsOverEveryProtocol(t *testing.T) {
	var reached atomic.Value
	reached.Store("")
	// What is served may get to the upstream after the client has been told
	// otherwise; it must not be taken for what the next case did.
	type request struct{ protocol, what, seen string }
	var mu sync.Mutex // guards served
	var served []request
	n := prepareMany(t, "", fmt.Sprintf("upstreams: { app: { endpoints: [%q] } }\nroutes: { all: { match: { path: / }, backends: [{ upstream: app }] } }\n",
		upstreamServer(t, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err == nil { // a body that is cut has reached the upstream, but was never complete
				seen := fmt.Sprintf("%s %s %v %q", r.Method, r.RequestURI, r.Header, body) + strings.Repeat(" Trailer", len(r.Trailer))
				if protocol := r.Header.Get("X-Harmless"); protocol != "" {
					mu.Lock()
					served = append(served, request{protocol, r.Header.Get("X-What"), seen})
					mu.Unlock()
					return
				}
				reached.Store(seen)
			}
		})))
	n.begin()
	config := n.tls()
	config.NextProtos = []string{"h3"}
	var c *quic.Conn
	over := map[string]func(q rawRequest) refusal{
		"h2c": func(q rawRequest) refusal {
			nc, err := net.Dial("tcp", n.web)
			if err != nil {
				t.Fatal(err)
			}
			return rawH2(nc, q)
		},
		"h2": func(q rawRequest) refusal {
			config := n.tls()
			config.NextProtos = []string{"h2"}
			nc, err := tls.Dial("tcp", n.secure, config)
			if err != nil {
				t.Fatal(err)
			}
			return rawH2(nc, q)
		},
		"h3": func(q rawRequest) refusal {
			if c == nil {
				var err error
				if c, err = quic.DialAddr(context.Background(), n.secure, config, patientQUIC()); err != nil {
					t.Fatal(err)
				}
				control, err := c.OpenUniStream()
				if err != nil {
					t.Fatal(err)
				}
				_, _ = control.Write([]byte{0, 4, 0})
			}
			r := rawH3(c, q)
			if stream := new(quic.StreamError); r.err != nil && !errors.As(r.err, &stream) {
				_ = c.CloseWithError(0x100, "") // it was the connection that ended
				c = nil
			}
			return r
		},
	}
	defer func() {
		if c != nil {
			_ = c.CloseWithError(0x100, "")
		}
	}()
	good := rawRequest{what: "good", fields: append(base("POST", "/good"), rawField{"content-length", "3"}), body: "abc"}
	for protocol, send := range over {
		if r := send(good); r.refused() {
			t.Fatalf("%s: a good request: %v", protocol, r)
		}
	}
	list := translated(t)
	if len(list) < 80 {
		t.Errorf("only %d of HTTP/1's examples", len(list))
	}
	list = append(list, pseudoTricks()...)
	for _, q := range list {
		for protocol, send := range over {
			reached.Store("")
			if x, ok := harmless[q.what]; ok && slices.Contains(strings.Fields(x.protocols), protocol) {
				q.fields = append(slices.Clone(q.fields), rawField{"x-harmless", protocol}, rawField{"x-what", q.what})
				send(q)
				continue
			}
			r := send(q)
			if got := reached.Load(); !r.refused() || got != "" {
				t.Errorf("%s: %s: %v; the upstream saw %.300v", protocol, q.what, r, got)
			}
		}
	}
	for protocol, send := range over {
		if r := send(good); r.refused() {
			t.Errorf("%s: a good request after them: %v", protocol, r)
		}
	}
	n.stop()
	mu.Lock()
	defer mu.Unlock()
	for _, s := range served {
		if strings.Contains(s.seen, "Trailer") || strings.Contains(s.seen, `"abc"`) && !strings.Contains(s.seen, "Content-Length:[3]") {
			t.Errorf("%s: %s: the upstream saw %.300v", s.protocol, s.what, s.seen)
		}
	}
}

// pseudoTricks are what only HTTP/2 and HTTP/3 can get wrong.
func pseudoTricks() (list []rawRequest) {
	add := func(what string, fields []rawField, body string, trailer ...rawField) {
		list = append(list, rawRequest{what, fields, body, trailer})
	}
	get := func(more ...rawField) []rawField { return append(base("GET", "/smuggled"), more...) }
	post := func(more ...rawField) []rawField { return append(base("POST", "/smuggled"), more...) }
	without := func(name string) (f []rawField) {
		for _, h := range get() {
			if h.name != name {
				f = append(f, h)
			}
		}
		return f
	}
	replaced := func(name, value string) []rawField {
		f := get()
		for i := range f {
			if f[i].name == name {
				f[i].value = value
			}
		}
		return f
	}
	for _, name := range []string{":method", ":path", ":authority", ":scheme"} {
		if name != ":authority" { // without it Host may stand in, and here does not
			add("no "+name, without(name), "")
		}
		add("empty "+name, replaced(name, ""), "")
		add("two "+name, get(rawField{name, "x"}), "")
		add("a second "+name, append([]rawField{{name, replaced(name, "/x")[0].value}}, get()...), "")
		for _, evil := range []string{"a b", "a\r\nx: y", "a\x00", "a\x7f", "\t"} {
			add(fmt.Sprintf("%s %q", name, evil), replaced(name, evil), "")
		}
	}
	add("neither :authority nor host", without(":authority"), "")
	add("an unknown pseudo", append([]rawField{{":evil", "1"}}, get()...), "")
	add("a reply's pseudo", append([]rawField{{":status", "200"}}, get()...), "")
	add(":protocol", append([]rawField{{":protocol", "websocket"}}, get()...), "")
	add("a pseudo behind a field", append([]rawField{{"a", "b"}}, get()...), "")
	for _, path := range []string{"smuggled", "*", "http://evil.test/smuggled", "?smuggled", "/smuggled#f", "/smuggled%zz", "/smuggled%2", "/ smuggled", "/smuggled HTTP/1.1"} {
		add(":path "+path, replaced(":path", path), "")
	}
	for _, host := range []string{"me@a.test", "a.test:x", "a.test/x", "a.test,b.test", "[::1", "a.test:99999", "a%2etest", "a.test\\b"} {
		add(":authority "+host, replaced(":authority", host), "")
	}
	for _, m := range []string{"CONNECT", "TRACE", "GET /smuggled", "G\x00T", "(GET)", "PRI"} {
		add(":method "+m, replaced(":method", m), "")
	}
	add("CONNECT as it should be", []rawField{{":method", "CONNECT"}, {":authority", "a.test:443"}}, "")
	add("another host", get(rawField{"host", "evil.test"}), "")
	add("two hosts", get(rawField{"host", "a.test"}, rawField{"host", "a.test"}), "")
	for _, f := range []rawField{
		{"connection", "close"},
		{"connection", "x-a"},
		{"keep-alive", "1"},
		{"proxy-connection", "close"},
		{"transfer-encoding", "chunked"},
		{"transfer-encoding", "identity"},
		{"upgrade", "h2c"},
		{"upgrade", "websocket"},
		{"te", "gzip"},
		{"te", "trailers, gzip"},
		{"X-Upper", "a"},
		{"x-Upper", "a"},
		{"Host", "a.test"},
		{"Content-Length", "0"},
		{"", "a"},
		{" a", "b"},
		{"a ", "b"},
		{"a\tb", "c"},
		{"a:b", "c"},
		{"a\r\nb", "c"},
		{"a\x00", "b"},
		{"\x80", "a"},
		{"a", "b\rc"},
		{"a", "b\nc"},
		{"a", "b\r\nc: d"},
		{"a", "b\x00"},
		{"a", "\x01"},
		{"a", "b\x7f"},
		{"expect", "the-unexpected"},
		{"content-length", "-1"},
		{"content-length", "+1"},
		{"content-length", "0x1"},
		{"content-length", "1, 1"},
		{"content-length", " 1"},
		{"content-length", "1 "},
		{"content-length", ""},
		{"content-length", "99999999999999999999"},
		{"content-length", "1"},
	} {
		add(fmt.Sprintf("%q: %q", f.name, f.value), get(f), "")
	}
	add("two lengths", post(rawField{"content-length", "3"}, rawField{"content-length", "4"}), "abc")
	add("a length too small", post(rawField{"content-length", "2"}), "abc")
	add("a length too large", post(rawField{"content-length", "4"}), "abc")
	add("a length of 0 with a body", post(rawField{"content-length", "0"}), "abc")
	add("two types", post(rawField{"content-type", "a/b"}, rawField{"content-type", "c/d"}), "abc")
	for _, f := range []rawField{{":path", "/evil"}, {"content-length", "9"}, {"transfer-encoding", "chunked"}, {"host", "evil.test"}, {"X-Upper", "a"}, {"a", "b\r\nc: d"}, {"connection", "close"}} {
		add(fmt.Sprintf("a trailer %q", f.name), post(), "abc", f)
	}
	add("a head without end", get(rawField{"a", strings.Repeat("x", 400<<10)}), "")
	add("200 fields", get(strings200()...), "")
	return list
}

func strings200() (f []rawField) {
	for i := range 200 {
		f = append(f, rawField{fmt.Sprint("x-", i), "v"})
	}
	return f
}
