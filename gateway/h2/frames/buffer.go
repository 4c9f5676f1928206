package frames

import "sync"

const (
	smallBlock = 1 << 10
	largeBlock = 16 << 10
)

var (
	smallBlocks = sync.Pool{New: func() any { return &block{data: make([]byte, smallBlock)} }}
	largeBlocks = sync.Pool{New: func() any { return &block{data: make([]byte, largeBlock)} }}
)

type block struct {
	data []byte
	next *block
}

func (b *block) give() {
	b.next = nil
	if len(b.data) == smallBlock {
		smallBlocks.Put(b)
	} else {
		largeBlocks.Put(b)
	}
}

// Buffer is a body that has come and waits to be read, in memory that goes back
// once it has been. The zero value is empty. It is not safe for concurrent use.
type Buffer struct {
	first, last *block
	r, w        int // where to read in first, and to write in last
	size        int
}

// Len is how many bytes wait.
func (b *Buffer) Len() int { return b.size }

// Write appends p.
func (b *Buffer) Write(p []byte) {
	b.size += len(p)
	for len(p) > 0 {
		if b.last == nil || b.w == len(b.last.data) {
			b.grow(len(p))
		}
		n := copy(b.last.data[b.w:], p)
		b.w, p = b.w+n, p[n:]
	}
}

func (b *Buffer) grow(n int) {
	pool := &largeBlocks
	if b.first == nil && n <= smallBlock {
		pool = &smallBlocks
	}
	k := pool.Get().(*block)
	if b.last == nil {
		b.first, b.r = k, 0
	} else {
		b.last.next = k
	}
	b.last, b.w = k, 0
}

// Read takes what fits into p.
func (b *Buffer) Read(p []byte) (n int) {
	for len(p) > 0 && b.size > 0 {
		m := copy(p, b.head())
		n, p = n+m, p[m:]
		b.drop(m)
	}
	return n
}

// head is what can be read in one piece.
func (b *Buffer) head() []byte {
	if b.first == b.last {
		return b.first.data[b.r:b.w]
	}
	return b.first.data[b.r:]
}

func (b *Buffer) drop(n int) {
	b.r, b.size = b.r+n, b.size-n
	if b.size == 0 {
		b.Reset()
	} else if b.r == len(b.first.data) {
		k := b.first
		b.first, b.r = k.next, 0
		k.give()
	}
}

// One is all that waits if it lies in one piece, borrowed until the next call;
// ok is false otherwise.
func (b *Buffer) One() (p []byte, ok bool) {
	switch {
	case b.size == 0:
		return nil, true
	case b.first == b.last:
		return b.first.data[b.r:b.w], true
	}
	return nil, false
}

// Reset forgets what waits.
func (b *Buffer) Reset() {
	for k := b.first; k != nil; {
		next := k.next
		k.give()
		k = next
	}
	*b = Buffer{}
}
