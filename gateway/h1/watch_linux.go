package h1

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// watchState says what the watcher does for a connection.
type watchState = uint32

const (
	watchNone   watchState = iota // unknown to the watcher
	watchKnown                    // known, but spent: says nothing
	watchGone                     // tells when the client closes its side
	watchParked                   // tells also when there is something to read, once
)

const (
	eventsGone   = unix.EPOLLRDHUP | unix.EPOLLET
	eventsParked = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT
	eventsEnd    = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
)

// watcher hears of clients that go away while their request is being answered,
// and wakes parked connections, by one epoll for the whole server. Data never
// wakes it for a connection that has a goroutine.
type watcher struct {
	file *os.File // of the epoll itself, which Go's own poller can wait for
	conn syscall.RawConn
	fd   int
	done sync.WaitGroup

	mu     sync.Mutex // after a connection's mu
	closed bool
	slots  []slot
	free   []uint32
}

// slot gives a connection a number that no later one shares: descriptors are
// reused, and an event may come late.
type slot struct {
	c     *conn
	count uint32
}

func newWatcher() *watcher {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil // out of descriptors: served all the same, without watching
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil
	}
	w := &watcher{file: os.NewFile(uintptr(fd), "epoll"), fd: fd}
	if w.conn, err = w.file.SyscallConn(); err != nil {
		_ = w.file.Close()
		return nil
	}
	w.done.Go(w.run)
	return w
}

func (w *watcher) close() {
	w.mu.Lock()
	closed := w.closed
	w.closed = true
	w.mu.Unlock()
	if !closed {
		_ = w.file.Close() // ends run
	}
	w.done.Wait()
}

func (w *watcher) run() {
	events := make([]unix.EpollEvent, 64)
	_ = w.conn.Read(func(fd uintptr) bool { // its only error is that the file was closed
		for {
			n, err := unix.EpollWait(int(fd), events, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return true
			}
			if n == 0 {
				return false
			}
			for i := range events[:n] {
				e := &events[i]
				if c := w.lookup(uint32(e.Fd), uint32(e.Pad)); c != nil {
					c.event(e.Events)
				}
			}
		}
	})
}

func (w *watcher) lookup(place, count uint32) *conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if int(place) >= len(w.slots) || w.slots[place].count != count {
		return nil
	}
	return w.slots[place].c
}

// set makes the watcher report events of c. c.mu is held.
func (w *watcher) set(c *conn, events uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	op := unix.EPOLL_CTL_MOD
	if c.watched.Load() == watchNone {
		op = unix.EPOLL_CTL_ADD
		if n := len(w.free); n > 0 {
			c.ticket, w.free = w.free[n-1], w.free[:n-1]
		} else {
			c.ticket = uint32(len(w.slots))
			w.slots = append(w.slots, slot{})
		}
		w.slots[c.ticket].c = c
		c.watched.Store(watchKnown)
	}
	e := unix.EpollEvent{Events: events, Fd: int32(c.ticket), Pad: int32(w.slots[c.ticket].count)}
	err := error(syscall.EBADF)
	if control := c.sock.Control(func(fd uintptr) { err = unix.EpollCtl(w.fd, op, int(fd), &e) }); control != nil || err != nil {
		if op == unix.EPOLL_CTL_ADD {
			w.drop(c)
		}
		return false
	}
	return true
}

// drop forgets c; closing the socket takes it out of the epoll. w.mu is held.
func (w *watcher) drop(c *conn) {
	s := &w.slots[c.ticket]
	s.c = nil
	s.count++
	w.free = append(w.free, c.ticket)
	c.watched.Store(watchNone)
}

func (s *Server) theWatcher() *watcher {
	s.watchOnce.Do(func() { s.watcher = newWatcher() })
	return s.watcher
}

// watch makes the client's hang-up known from now on, and at once if it has
// happened already.
func (c *conn) watch() {
	if c.sock == nil || c.watched.Load() >= watchGone {
		return
	}
	w := c.srv.theWatcher()
	if w == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done && c.watched.Load() < watchGone && w.set(c, eventsGone) {
		c.watched.Store(watchGone)
	}
}

// park gives up the goroutine of an idle connection until there is something to
// read. When it returns true the connection may be another goroutine's already.
func (c *conn) park() bool {
	w := c.srv.theWatcher()
	if w == nil || c.s != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done || c.gone.Load() || c.leave.Load() {
		return false
	}
	if !w.set(c, eventsParked) {
		return false
	}
	c.watched.Store(watchParked)
	c.parked.Store(true)
	return true
}

// unpark starts the goroutine of a parked connection. c.mu is held.
func (c *conn) unpark() {
	if c.parked.CompareAndSwap(true, false) {
		c.watched.Store(watchKnown)
		go c.serve()
	}
}

// unwatch is for a connection that is about to be closed. c.mu is held.
func (c *conn) unwatch() {
	if c.watched.Load() == watchNone {
		return
	}
	w := c.srv.theWatcher()
	w.mu.Lock()
	w.drop(c)
	w.mu.Unlock()
}

func (c *conn) event(events uint32) {
	c.mu.Lock()
	if c.parked.Load() && !c.done {
		if events&eventsEnd != 0 {
			c.gone.Store(true)
		}
		c.unpark()
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	if events&eventsEnd != 0 {
		c.hungUp()
	}
}
