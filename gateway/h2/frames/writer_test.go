package frames_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// wire is a connection whose writes can be held up.
type wire struct {
	net.Conn // nil: only what is below is used
	gate     chan struct{}
	err      error

	mu         sync.Mutex
	writes     [][]byte
	once       sync.Once
	closed     chan struct{}
	readBy, by atomic.Bool // whether a deadline was set
}

func newWire() *wire { return &wire{gate: make(chan struct{}), closed: make(chan struct{})} }

func (w *wire) Write(p []byte) (int, error) {
	select {
	case <-w.gate:
	case <-w.closed:
		return 0, net.ErrClosed
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	w.writes = append(w.writes, bytes.Clone(p))
	return len(p), nil
}

func (w *wire) Close() error                     { w.once.Do(func() { close(w.closed) }); return nil }
func (w *wire) SetReadDeadline(time.Time) error  { w.readBy.Store(true); return nil }
func (w *wire) SetWriteDeadline(time.Time) error { w.by.Store(true); return nil }

func (w *wire) isClosed() bool {
	select {
	case <-w.closed:
		return true
	default:
		return false
	}
}

func put(t *testing.T, w *frames.Writer, p []byte) {
	t.Helper()
	b, err := w.Begin()
	if err != nil {
		t.Fatal(err)
	}
	w.End(append(b, p...))
}

func TestWhatComesDuringAWriteGoesOutTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := newWire()
		w := frames.NewWriter(nc, time.Minute, nil)
		var want []byte
		for i := range 100 {
			p := fmt.Appendf(nil, "frame %d;", i)
			want = append(want, p...)
			put(t, w, p)
			if i == 0 {
				synctest.Wait() // the first write is under way
			}
		}
		close(nc.gate)
		synctest.Wait()
		if got := bytes.Join(nc.writes, nil); len(nc.writes) != 2 || !bytes.Equal(got, want) {
			t.Errorf("%d writes: %.40q…", len(nc.writes), got)
		}
		put(t, w, nil)
		w.Close()
		w.Close()
		if _, err := w.Begin(); !errors.Is(err, net.ErrClosed) || !nc.isClosed() {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestWhoWaitsForRoomIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := newWire()
		told := 0
		w := frames.NewWriter(nc, 0, func() { told++ })
		put(t, w, make([]byte, frames.Enough))
		synctest.Wait()
		b, _ := w.Begin()
		w.Await(b)
		if synctest.Wait(); told != 0 {
			t.Error("told too early")
		}
		close(nc.gate)
		if synctest.Wait(); told != 1 {
			t.Errorf("told %d times", told)
		}
		w.Close()
	})
}

func TestAFailureIsFinal(t *testing.T) {
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		nc := newWire()
		nc.err = broken
		close(nc.gate)
		told := 0
		w := frames.NewWriter(nc, 0, func() { told++ })
		b, _ := w.Begin()
		w.Await(append(b, "x"...))
		synctest.Wait()
		if _, err := w.Begin(); !errors.Is(err, broken) || told != 1 || !nc.isClosed() {
			t.Errorf("%v, told %d times", err, told)
		}
	})
}

func TestAPeerThatTakesNothingIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := newWire()
		w := frames.NewWriter(nc, 20*time.Second, nil)
		go func() { // a write now and then is not stuck
			for range 9 {
				nc.gate <- struct{}{}
				time.Sleep(5 * time.Second)
			}
		}()
		for range 9 {
			put(t, w, []byte("x"))
			time.Sleep(5 * time.Second)
		}
		if nc.isClosed() {
			t.Fatal("given up too early")
		}
		put(t, w, []byte("x"))
		time.Sleep(41 * time.Second)
		if _, err := w.Begin(); err == nil || !nc.isClosed() {
			t.Error("it was not given up")
		}
	})
}

func TestAPeerThatMakesUsAnswerAndDoesNotReadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := newWire()
		w := frames.NewWriter(nc, 0, nil)
		answer := bytes.Repeat(frames.AppendPing(nil, true, [8]byte{}), 1000)
		n := 0
		for ; n < 1000; n++ {
			b, err := w.Begin()
			if err != nil {
				break
			}
			w.End(append(b, answer...))
		}
		if held := n * len(answer); held > 2*frames.TooMuch || !nc.isClosed() {
			t.Errorf("%d bytes are held", held)
		}
	})
}

func TestLastWordsGoOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nc := newWire()
		w := frames.NewWriter(nc, time.Minute, nil)
		put(t, w, []byte("one"))
		synctest.Wait()
		put(t, w, []byte("two"))
		w.Close()
		if nc.isClosed() || !nc.readBy.Load() || !nc.by.Load() {
			t.Error("it was closed before, or without deadlines")
		}
		close(nc.gate)
		synctest.Wait()
		if got := string(bytes.Join(nc.writes, nil)); got != "onetwo" || !nc.isClosed() {
			t.Errorf("got %q, closed %v", got, nc.isClosed())
		}
	})
}

func TestWriterDoesNotAllocate(t *testing.T) {
	nc := newWire()
	close(nc.gate)
	gone := make(chan struct{}, 1)
	w := frames.NewWriter(discard{nc}, time.Minute, func() { gone <- struct{}{} })
	one := func() {
		b, err := w.Begin()
		if err != nil {
			t.Fatal(err)
		}
		w.Await(append(b, "a frame"...))
		<-gone
	}
	one()
	if n := testing.AllocsPerRun(500, one); n > 0.5 && !raceEnabled { // the collector may empty the pool
		t.Errorf("%v allocations", n)
	}
	w.Close()
}

type discard struct{ *wire }

func (discard) Write(p []byte) (int, error) { return len(p), nil }
