package waf

import (
	"context"
	"runtime"
	"time"
)

const (
	// Large is the size of a head or body, in bytes, from which inspecting it
	// takes so long (10 µs a byte in the worst case) that it needs a turn.
	Large = 16 << 10
	// waitTurn is how long it waits at most, and maxWaiting how many may wait:
	// bodies that wait are held in memory.
	waitTurn   = 5 * time.Second
	maxWaiting = 64
)

// turns keeps large inspections from taking every core, so that whoever posts
// large bodies slows down only others who do.
type turns struct {
	running chan struct{}
	waiting chan struct{}
}

func newTurns() *turns {
	half := max(1, runtime.GOMAXPROCS(0)/2)
	return &turns{running: make(chan struct{}, half), waiting: make(chan struct{}, maxWaiting)}
}

// Turn waits until something Large may be inspected; end must be called
// afterwards. ok is false if too many wait, the wait was too long, or ctx has
// ended: the request must then be refused, whatever the policy says of
// failures, since anybody can bring this about.
func (p *Pool) Turn(ctx context.Context) (end func(), ok bool) {
	t := p.turns
	end = func() { <-t.running }
	select {
	case t.running <- struct{}{}:
		return end, true
	default:
	}
	select {
	case t.waiting <- struct{}{}:
		defer func() { <-t.waiting }()
	default:
		return nil, false
	}
	timer := time.NewTimer(waitTurn)
	defer timer.Stop()
	select {
	case t.running <- struct{}{}:
		return end, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, false
}
