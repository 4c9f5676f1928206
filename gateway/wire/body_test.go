package wire_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// memory is a Source of b, and of what later hands out piece by piece.
type memory struct {
	b     []byte
	later [][]byte
	err   error // at the end; nil is io.EOF
}

func (m *memory) Buffered() []byte { return m.b }
func (m *memory) Consume(n int)    { m.b = m.b[n:] }

func (m *memory) More() error {
	if len(m.later) == 0 {
		if m.err != nil {
			return m.err
		}
		return io.EOF
	}
	m.b = append(append([]byte(nil), m.b...), m.later[0]...)
	m.later = m.later[1:]
	return nil
}

func (m *memory) Direct(p []byte) (int, error) {
	if err := m.More(); err != nil {
		return 0, err
	}
	n := copy(p, m.b)
	m.b = m.b[n:]
	return n, nil
}

// pieces cuts raw into pieces of size bytes.
func pieces(raw string, size int) *memory {
	m := &memory{}
	for ; raw != ""; raw = raw[min(size, len(raw)):] {
		m.later = append(m.later, []byte(raw[:min(size, len(raw))]))
	}
	return m
}

func TestBodies(t *testing.T) {
	for name, c := range map[string]struct {
		chunked  bool
		length   int64
		raw      string
		want     string
		trailers string
		err      error
	}{
		"none":                  {false, 0, "rest", "", "", nil},
		"length":                {false, 5, "hellorest", "hello", "", nil},
		"length cut":            {false, 5, "hel", "hel", "", reason.BodyCut},
		"length nothing":        {false, 5, "", "", "", reason.BodyCut},
		"chunks":                {true, 0, "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\nrest", "abc0123456789", "", nil},
		"empty":                 {true, 0, "0\r\n\r\nrest", "", "", nil},
		"zeros and extension":   {true, 0, "0003;a=\"b\"\r\nabc\r\n000;x\r\n\r\nrest", "abc", "", nil},
		"trailers":              {true, 0, "1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\nrest", "a", "X: y\r\nZ:\r\n", nil},
		"cut in size":           {true, 0, "3", "", "", reason.BodyCut},
		"cut in data":           {true, 0, "3\r\nab", "ab", "", reason.BodyCut},
		"cut behind data":       {true, 0, "3\r\nabc", "abc", "", reason.BodyCut},
		"cut before last chunk": {true, 0, "3\r\nabc\r\n", "abc", "", reason.BodyCut},
		"cut before end":        {true, 0, "3\r\nabc\r\n0\r\n", "abc", "", reason.BodyCut},
		"cut in trailers":       {true, 0, "3\r\nabc\r\n0\r\nX: y\r\n", "abc", "", reason.BodyCut},
		"no size":               {true, 0, "\r\nabc", "", "", reason.BadChunk},
		"16 digits":             {true, 0, "0000000000000003\r\nabc\r\n0\r\n\r\n", "", "", reason.BadChunk},
		"no end of data":        {true, 0, "3\r\nabcd\r\n0\r\n\r\n", "abc", "", reason.BadChunk},
		"bare LF":               {true, 0, "3\nabc\r\n0\r\n\r\n", "", "", reason.BadChunk},
		"endless size line":     {true, 0, "3;" + strings.Repeat("x", 5000), "", "", reason.BadChunk},
		"endless trailer":       {true, 0, "0\r\nX: " + strings.Repeat("x", 20000), "", "", reason.BadTrailer},
		"101 trailers":          {true, 0, "0\r\n" + strings.Repeat("X: y\r\n", 101) + "\r\n", "", "", reason.BadTrailer},
		"16 KiB of extensions":  {true, 0, strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\na\r\n", 20), "", "", reason.BadChunk},
		"forbidden trailer":     {true, 0, "0\r\ncontent-LENGTH: 3\r\n\r\n", "", "", reason.BadTrailer},
		"claiming trailer":      {true, 0, "0\r\nX_Forwarded-Port: 1\r\n\r\n", "", "", reason.BadTrailer},
		"certifying trailer":    {true, 0, "0\r\nclient_cert: :x:\r\n\r\n", "", "", reason.BadTrailer},
		"trailer without colon": {true, 0, "0\r\nX\r\n\r\n", "", "", reason.BadTrailer},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{len(c.raw) + 1, 1, 2, 3, 7, 1000} {
				if size < 7 && len(c.raw) > 10000 {
					continue
				}
				for _, room := range []int{1, 4, 4096} {
					src := pieces(c.raw, size)
					var b wire.Body
					b.Start(src, c.chunked, c.length, 0)
					got, err := readAll(&b, room)
					if !errors.Is(err, c.err) || err == nil && !b.AtEOF() || err != nil && b.AtEOF() {
						t.Fatalf("pieces of %d into %d: %v, AtEOF %v", size, room, err, b.AtEOF())
					}
					if c.want != "" && got != c.want || int64(len(got)) != b.Count {
						t.Fatalf("pieces of %d into %d: %q, count %d", size, room, got, b.Count)
					}
					if err == nil && string(b.Trailers) != c.trailers {
						t.Fatalf("trailers %q", b.Trailers)
					}
					if n, again := b.Read(make([]byte, 1)); n != 0 || err == nil && again != io.EOF || err != nil && again != err {
						t.Fatalf("read again: %d, %v", n, again)
					}
					if rest := string(src.b) + join(src.later); err == nil && rest != strings.TrimPrefix(c.raw[len(c.raw)-len(rest):], "") || err == nil && !strings.HasSuffix(rest, "rest") {
						t.Fatalf("left %q", rest)
					}
				}
			}
		})
	}
}

func join(later [][]byte) (s string) {
	for _, p := range later {
		s += string(p)
	}
	return s
}

func readAll(r io.Reader, room int) (string, error) {
	var out []byte
	for p := make([]byte, room); ; {
		n, err := r.Read(p)
		out = append(out, p[:n]...)
		if err == io.EOF {
			return string(out), nil
		}
		if err != nil {
			return string(out), err
		}
	}
}

func TestBodyLimit(t *testing.T) {
	chunks := "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
	for name, c := range map[string]struct {
		chunked bool
		length  int64
		limits  []int64 // the first at Start, the others before reading
		ok      bool
	}{
		"none":              {true, 0, []int64{0}, true},
		"just":              {true, 0, []int64{6}, true},
		"over":              {true, 0, []int64{5}, false},
		"length just":       {false, 6, []int64{6}, true},
		"length over":       {false, 6, []int64{5}, false},
		"lowered":           {false, 6, []int64{100, 5}, false},
		"not raised":        {false, 6, []int64{5, 100}, false},
		"nothing at all":    {true, 0, []int64{0, 0}, false},
		"negative is none":  {true, 0, []int64{0, -1}, true},
		"negative no raise": {true, 0, []int64{5, -1}, false},
	} {
		var b wire.Body
		raw := chunks
		if !c.chunked {
			raw = "abcdef"
		}
		b.Start(&memory{b: []byte(raw)}, c.chunked, c.length, c.limits[0])
		for _, l := range c.limits[1:] {
			b.Limit(l)
		}
		got, err := readAll(&b, 100)
		if c.ok && (err != nil || got != "abcdef") || !c.ok && (err != error(reason.BodyTooLarge) || b.Whole() != nil) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestBodyPassesOnWhatTheSourceSays(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		src := &memory{b: []byte("3\r\nab"), err: reason.BodyTimeout}
		var b wire.Body
		b.Start(src, chunked, 100, 0)
		if _, err := readAll(&b, 100); err != error(reason.BodyTimeout) {
			t.Errorf("%v", err)
		}
	}
}

func TestWhole(t *testing.T) {
	var b wire.Body
	src := &memory{b: []byte("hello")}
	b.Start(src, false, 6, 0)
	if p := b.Whole(); p != nil {
		t.Errorf("incomplete: %q", p)
	}
	src.b = []byte("hello!next")
	if p := b.Whole(); string(p) != "hello!" || cap(p) != 6 || !b.AtEOF() || b.Count != 6 || string(src.b) != "next" {
		t.Errorf("%q, left %q", p, src.b)
	}
	if p := b.Whole(); p != nil {
		t.Errorf("twice: %q", p)
	}
	b.Start(&memory{b: []byte("hello!")}, false, 6, 0)
	if _, err := b.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if n, ok := b.Remaining(); n != 5 || !ok || b.Whole() != nil {
		t.Errorf("begun: %d %v", n, ok)
	}
}
