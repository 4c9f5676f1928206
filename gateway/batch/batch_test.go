package batch_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gatehouse-proxy/gatehouse/gateway/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a connection whose writes can be held up.
type wire struct {
	net.Conn // nil: only what is below is used
	gate     chan struct{}
	err      error

	mu      sync.Mutex
	writes  [][]byte
	by      []time.Time // deadlines for writing
	closed  atomic.Bool
	reading chan struct{} // closed by a deadline for reading
}

func newWire() *wire { return &wire{gate: make(chan struct{}), reading: make(chan struct{})} }

func (w *wire) Write(p []byte) (int, error) {
	<-w.gate
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	w.writes = append(w.writes, bytes.Clone(p))
	return len(p), nil
}

func (w *wire) Close() error { w.closed.Store(true); return nil }

func (w *wire) Read([]byte) (int, error) { <-w.reading; return 0, os.ErrDeadlineExceeded }

func (w *wire) SetReadDeadline(t time.Time) error {
	if !t.IsZero() {
		close(w.reading)
	}
	return nil
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by = append(w.by, t)
	return nil
}

func (w *wire) take() (sizes []int, all []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.writes {
		sizes, all = append(sizes, len(p)), append(all, p...)
	}
	w.writes = nil
	return sizes, all
}

func write(t *testing.T, c *batch.Conn, p []byte) {
	t.Helper()
	if n, err := c.Write(p); n != len(p) || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
}

func TestWhatIsWrittenDuringAWriteGoesOutTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		c := batch.New(w)
		var want []byte
		for i := range 100 {
			p := fmt.Appendf(nil, "frame %d;", i)
			want = append(want, p...)
			write(t, c, p)
			if i == 0 {
				synctest.Wait() // the first write is under way
			}
		}
		close(w.gate)
		synctest.Wait()
		sizes, got := w.take()
		if len(sizes) != 2 || !bytes.Equal(got, want) {
			t.Errorf("%d writes of %v bytes: %.40q…", len(sizes), sizes, got)
		}
		if err := c.Close(); err != nil || !w.closed.Load() {
			t.Errorf("closed: %v, %v", w.closed.Load(), err)
		}
	})
}

func TestNoMoreThan64KiBWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		c := batch.New(w)
		var written atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 100 {
				if _, err := c.Write(make([]byte, 4<<10)); err != nil {
					t.Error(err)
				}
				written.Add(4 << 10)
			}
		}()
		synctest.Wait()
		if n := written.Load(); n < 64<<10 || n > 128<<10 {
			t.Errorf("%d bytes were taken from a writer whose reader is slow", n)
		}
		close(w.gate)
		<-done
		synctest.Wait()
		if _, got := w.take(); len(got) != 400<<10 {
			t.Errorf("%d bytes arrived", len(got))
		}
		_ = c.Close()
	})
}

func TestLargeWritesAreNotCopied(t *testing.T) {
	w := newWire()
	close(w.gate)
	c := batch.New(w)
	big := bytes.Repeat([]byte("x"), 200<<10)
	write(t, c, big)
	if sizes, got := w.take(); len(sizes) != 1 || !bytes.Equal(got, big) {
		t.Errorf("writes of %v bytes", sizes)
	}
	_ = c.Close()
}

func TestAFailureShowsWithTheNextWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		w.err = errors.New("broken pipe")
		c := batch.New(w)
		write(t, c, []byte("lost"))
		close(w.gate)
		synctest.Wait()
		for range 2 {
			if _, err := c.Write([]byte("x")); err != w.err { //nolint:errorlint // as it is
				t.Errorf("got %v", err)
			}
		}
		if err := c.Close(); err != nil || !w.closed.Load() {
			t.Errorf("closed: %v, %v", w.closed.Load(), err)
		}
	})
}

func TestWritersThatWaitLearnOfAFailureAndOfTheEnd(t *testing.T) {
	for name, end := range map[string]func(w *wire, c *batch.Conn){
		"failure": func(w *wire, _ *batch.Conn) { w.err = io.ErrClosedPipe; close(w.gate) },
		"close":   func(w *wire, c *batch.Conn) { _ = c.Close(); time.Sleep(time.Minute); close(w.gate) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire()
				c := batch.New(w)
				failed := make(chan error)
				go func() {
					for {
						if _, err := c.Write(make([]byte, 7<<10)); err != nil {
							failed <- err
							return
						}
					}
				}()
				synctest.Wait()
				go end(w, c)
				if err := <-failed; err == nil {
					t.Error("no error")
				}
				time.Sleep(time.Hour)
				_ = c.Close()
			})
		})
	}
}

func TestCloseLetsWhatWasWrittenGoOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		c := batch.New(w)
		write(t, c, []byte("GOAWAY"))
		synctest.Wait()
		write(t, c, []byte(" and more"))
		read := make(chan error)
		go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-read; err == nil {
			t.Error("a read goes on")
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after closing: %v", err)
		}
		if w.closed.Load() {
			t.Error("closed before what was written has gone out")
		}
		if n := len(w.by); n == 0 || time.Until(w.by[n-1]) != time.Second {
			t.Errorf("the last words have until %v", w.by)
		}
		close(w.gate)
		synctest.Wait()
		if _, got := w.take(); string(got) != "GOAWAY and more" || !w.closed.Load() {
			t.Errorf("%q went out, closed: %v", got, w.closed.Load())
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closing again: %v", err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire()
		close(w.gate)
		c := batch.New(w)
		// As net/http does it: a deadline around each write.
		for range 3 {
			if err := c.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			write(t, c, []byte("frame"))
			if err := c.SetWriteDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if by := w.by[len(w.by)-1]; time.Until(by) != 5*time.Second {
				t.Errorf("the kernel has until %v", by)
			}
			time.Sleep(time.Minute)
		}
		if err := c.SetWriteDeadline(time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("late")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		_ = c.Close()
		if err := c.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after closing: %v", err)
		}
	})
}

// pipe is a real connection to a reader.
func pipe(t testing.TB) (c *batch.Conn, other net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if other, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	c = batch.New(nc)
	t.Cleanup(func() { _ = c.Close() })
	return c, other
}

// Many writers at once: every frame arrives whole, and each writer's in order.
func TestFramesOfManyWriters(t *testing.T) {
	c, other := pipe(t)
	const writers, frames, size = 8, 500, 100
	got := make(chan [writers]int, 1)
	go func() {
		var next [writers]int
		var f [size]byte
		for range writers * frames {
			if _, err := io.ReadFull(other, f[:]); err != nil {
				t.Error(err)
				break
			}
			var who, n int
			if _, err := fmt.Sscanf(string(f[:]), "%d %d", &who, &n); err != nil || n != next[who] {
				t.Errorf("writer %d: frame %d after %d, %v", who, n, next[who], err)
				break
			}
			next[who]++
		}
		got <- next
	}()
	var wg sync.WaitGroup
	for who := range writers {
		wg.Go(func() {
			for n := range frames {
				f := fmt.Appendf(make([]byte, 0, size), "%d %d ", who, n)
				if _, err := c.Write(f[:size]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for who, n := range <-got {
		if n != frames {
			t.Errorf("%d frames of writer %d", n, who)
		}
	}
}

func TestWritingAllocatesNothing(t *testing.T) {
	c, other := pipe(t)
	go func() { _, _ = io.Copy(io.Discard, other) }()
	frame := make([]byte, 120)
	if n := testing.AllocsPerRun(2000, func() {
		if _, err := c.Write(frame); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations for a frame", n)
	}
}

func BenchmarkFrames(b *testing.B) {
	c, other := pipe(b)
	go func() { _, _ = io.Copy(io.Discard, other) }()
	frame := make([]byte, 120)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(frame); err != nil {
			b.Fatal(err)
		}
	}
}
