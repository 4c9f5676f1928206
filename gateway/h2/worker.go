package h2

import "sync"

// workers are goroutines that answer requests, one after another: a new one for
// each would begin with a small stack every time.
type workers struct {
	mu     sync.Mutex
	idle   []*worker // those who have waited longest come first
	closed bool
	all    sync.WaitGroup
}

type worker struct {
	jobs  chan *stream
	since int64 // coarse time it began to wait
}

// spareTime is how long a worker waits for work, in milliseconds.
const spareTime = 2_000

// run has s answered, on another goroutine.
func (w *workers) run(s *stream) {
	w.mu.Lock()
	if n := len(w.idle); n > 0 {
		one := w.idle[n-1]
		w.idle[n-1] = nil
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		one.jobs <- s
		return
	}
	w.mu.Unlock()
	one := &worker{jobs: make(chan *stream, 1)}
	w.all.Go(func() { w.work(one, s) })
}

func (w *workers) work(one *worker, s *stream) {
	for s != nil {
		srv := s.c.srv
		s.serve()
		w.mu.Lock()
		if w.closed {
			w.mu.Unlock()
			return
		}
		one.since = srv.clock.Now()
		w.idle = append(w.idle, one)
		w.mu.Unlock()
		s = <-one.jobs
	}
}

// sweep lets those go that have had nothing to do for long.
func (w *workers) sweep(now int64) {
	w.mu.Lock()
	n := 0
	for n < len(w.idle) && now-w.idle[n].since > spareTime {
		w.idle[n].jobs <- nil
		n++
	}
	if n > 0 {
		left := copy(w.idle, w.idle[n:])
		clear(w.idle[left:])
		w.idle = w.idle[:left]
	}
	w.mu.Unlock()
}

// close lets all go and, if none of them is stuck, waits for them.
func (w *workers) close(wait bool) {
	w.mu.Lock()
	w.closed = true
	for _, one := range w.idle {
		one.jobs <- nil
	}
	w.idle = nil
	w.mu.Unlock()
	if wait {
		w.all.Wait()
	}
}
