package exchange

// Releaser gets back what a plugin took for the length of one request.
type Releaser interface {
	// Release runs once, when the last byte of the reply has been written or
	// the tunnel has ended, also after a panic. The exchange still has its
	// fields. token is what Hold was given.
	Release(e *Exchange, token uint64)
}

type hold struct {
	by    Releaser
	token uint64
}

// holds are the releases to come. Four places cost no allocation; a chain with
// more such plugins pays for them.
type holds struct {
	first [4]hold
	n     int
	more  []hold
}

// Hold has r.Release called with token when the request is over. A handler
// returns before a streamed body is written and before a tunnel begins, so
// what must last as long as the request (a place in a concurrency limit) is
// given back here and not after c.Next().
func (e *Exchange) Hold(r Releaser, token uint64) {
	if e.held.n < len(e.held.first) {
		e.held.first[e.held.n] = hold{r, token}
		e.held.n++
		return
	}
	e.held.more = append(e.held.more, hold{r, token})
}

// release runs in the reverse order of Hold, as a defer would.
func (e *Exchange) release() {
	for i := len(e.held.more) - 1; i >= 0; i-- {
		e.held.more[i].by.Release(e, e.held.more[i].token)
	}
	for i := e.held.n - 1; i >= 0; i-- {
		e.held.first[i].by.Release(e, e.held.first[i].token)
	}
	e.held = holds{}
}
