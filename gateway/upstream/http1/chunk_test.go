package http1

import (
	"bytes"
	"io"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

// memory is a wire.Source that has all there is.
type memory struct{ b []byte }

func (m *memory) Buffered() []byte           { return m.b }
func (m *memory) Consume(n int)              { m.b = m.b[n:] }
func (m *memory) More() error                { return io.EOF }
func (m *memory) Direct([]byte) (int, error) { return 0, io.EOF }

// FuzzWholeChunked: what is taken for a complete body is one to the decoder
// too, to the last byte, and decoding it in place gives what decoding it
// elsewhere does.
func FuzzWholeChunked(f *testing.F) {
	for _, s := range []string{
		"0\r\n\r\n", "2\r\nok\r\n0\r\n\r\n", "a\r\n0123456789\r\n0\r\n\r\n", "2\r\nok\r\n0\r\nT: x\r\n\r\n",
		"00\r\n\r\n", "2;x\r\nok\r\n0\r\n\r\n", "2\r\nok\r\n0\r\n\r\nmore", "fffffff\r\n", "2\nok\r\n0\r\n\r\n", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !wholeChunked(b) {
			return
		}
		src := &memory{b: bytes.Clone(b)}
		var body wire.Body
		body.Start(src, true, 0, 0)
		want, err := io.ReadAll(&body)
		if err != nil || len(src.b) != 0 {
			t.Fatalf("%q: the decoder says %v and leaves %q", b, err, src.b)
		}
		c := &Conn{in: bytes.Clone(b), w: len(b)}
		c.head.Chunked = true
		c.body.Start(c, true, 0, 0)
		got, whole := c.Whole(len(b))
		if !whole || !bytes.Equal(got, want) || c.r != c.w {
			t.Fatalf("%q: %q, want %q", b, got, want)
		}
	})
}
