package limits

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxFlights is how many batches may be under way at once: enough that a
	// request seldom waits for two round trips, few enough that under load each
	// carries many.
	maxFlights = 4
	// maxBatch bounds one round trip.
	maxBatch = 512
	// patience is how long an answer is of any use, if the deadline is not longer:
	// what it says was taken is still noted when nobody waits any more.
	patience = 500 * time.Millisecond
)

// receiver is told the answer to its question, whether or not somebody still
// waits for it, and how long that took. It is called once, with nil if there is
// none.
type receiver[Q, A any] interface {
	answered(q *Q, a *A, took time.Duration)
}

// batcher puts what many requests ask at the same time into one round trip. A
// question that comes alone is sent at once. The zero value of what is not set by
// New is ready.
type batcher[Q, A any] struct {
	health   *health
	ask      func(context.Context, []Q) ([]A, error)
	deadline time.Duration

	mu      sync.Mutex // guards all below
	queue   []*batch[Q, A]
	flights int
	ended   bool
	flying  sync.WaitGroup
}

// batch is one round trip. Whoever has joined it waits for done.
type batch[Q, A any] struct {
	questions []Q
	to        []receiver[Q, A] // nil: nobody but who waits
	state     atomic.Int32
	done      chan struct{}
	// answers and err are read after done, and only if the state is answered.
	answers []A
	err     error
	timer   *time.Timer
}

// The states of a batch.
const (
	pending = iota
	answered
	late
)

// post asks a question; to, if not nil, is told the answer. It is false if none
// can be asked any more.
func (b *batcher[Q, A]) post(q Q, to receiver[Q, A]) (in *batch[Q, A], at int, ok bool) {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return nil, 0, false
	}
	last := len(b.queue) - 1
	if last < 0 || len(b.queue[last].questions) == maxBatch {
		in = &batch[Q, A]{done: make(chan struct{})}
		in.timer = time.AfterFunc(b.deadline, func() { b.expire(in) })
		b.queue = append(b.queue, in)
		if b.flights < maxFlights {
			b.flights++
			b.flying.Go(b.fly)
		}
	} else {
		in = b.queue[last]
	}
	at = len(in.questions)
	in.questions, in.to = append(in.questions, q), append(in.to, to)
	b.mu.Unlock()
	return in, at, true
}

// wait returns the answer to a question that was posted, nil if there is none in time.
func (x *batch[Q, A]) wait(at int) *A {
	<-x.done
	if x.state.Load() != answered || x.err != nil {
		return nil
	}
	return &x.answers[at]
}

// fly sends batches for as long as there are any.
func (b *batcher[Q, A]) fly() {
	for {
		b.mu.Lock()
		if len(b.queue) == 0 {
			b.flights--
			b.mu.Unlock()
			return
		}
		x := b.queue[0]
		b.queue[0] = nil
		b.queue = b.queue[1:]
		if len(b.queue) == 0 {
			b.queue = nil
		}
		b.mu.Unlock()
		b.send(x)
	}
}

func (b *batcher[Q, A]) send(x *batch[Q, A]) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), max(patience, b.deadline))
	answers, err := b.ask(ctx, x.questions)
	cancel()
	took := time.Since(began)
	x.timer.Stop()
	x.answers, x.err = answers, err
	inTime := x.state.CompareAndSwap(pending, answered)
	for i, r := range x.to {
		switch {
		case r == nil:
		case err != nil:
			r.answered(&x.questions[i], nil, took)
		default:
			r.answered(&x.questions[i], &answers[i], took)
		}
	}
	b.health.asked(took, err, inTime)
	if inTime {
		close(x.done)
	}
}

// expire lets those go who wait. What the answer says is noted when it comes.
func (b *batcher[Q, A]) expire(x *batch[Q, A]) {
	if x.state.CompareAndSwap(pending, late) {
		close(x.done)
		b.health.late()
	}
}

// close waits for what is under way, which is no longer than patience for each
// of the batches that wait.
func (b *batcher[Q, A]) close() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	b.flying.Wait()
}
