package compress

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// encoder is what the three libraries have in common.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(w io.Writer)
}

// coding is one content coding with its pool: an encoder is up to 1 MiB of
// tables that are worth keeping.
type coding struct {
	name string
	pool sync.Pool // of *worker
}

// worker is an encoder with the buffer it writes to.
type worker struct {
	enc encoder
	out bytes.Buffer
	in  []byte // for streams; nil until one comes
}

// window bounds what one encoder keeps of a stream, in powers of two: 512 KiB,
// well inside what every client must be able to decode.
const window = 19

var levels = map[string]struct {
	gzip, br int
	zstd     zstd.EncoderLevel
}{
	"fast":    {1, 1, zstd.SpeedFastest},
	"default": {5, 4, zstd.SpeedDefault},
	"best":    {9, 9, zstd.SpeedBetterCompression},
}

func newCoding(name, level string) *coding {
	l := levels[level]
	c := &coding{name: name}
	c.pool.New = func() any {
		w := &worker{}
		switch name {
		case "gzip":
			w.enc = must(gzip.NewWriterLevel(&w.out, l.gzip))
		case "br":
			w.enc = brotli.NewWriterOptions(&w.out, brotli.WriterOptions{Quality: l.br, LGWin: window})
		default:
			w.enc = zstdEncoder{must(zstd.NewWriter(&w.out, zstd.WithEncoderLevel(l.zstd), zstd.WithEncoderConcurrency(1),
				zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<window)))}
		}
		return w
	}
	return c
}

type zstdEncoder struct{ *zstd.Encoder }

// must is for options that are constants of this file.
func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("BUG: compress: %v", err))
	}
	return v
}

// maxOut bounds the buffer that a worker keeps.
const maxOut = 256 << 10

func (c *coding) get() *worker {
	w := c.pool.Get().(*worker)
	w.out.Reset()
	w.enc.Reset(&w.out)
	return w
}

func (c *coding) put(w *worker) {
	if w.out.Cap() > maxOut {
		w.out = bytes.Buffer{}
	}
	w.enc.Reset(io.Discard) // let go of what it refers to
	c.pool.Put(w)
}

// whole compresses b into the worker's buffer. Writing to memory cannot fail.
func (w *worker) whole(b []byte) []byte {
	must(w.enc.Write(b))
	must(0, w.enc.Close())
	return w.out.Bytes()
}
