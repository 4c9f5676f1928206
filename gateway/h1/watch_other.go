//go:build !linux

package h1

// On systems without epoll nobody hears of a client that goes away before its
// reply is written, and idle connections keep their goroutine.

type watcher struct{}

func (*watcher) close() {}

func (c *conn) watch()     {}
func (c *conn) unwatch()   {}
func (c *conn) unpark()    {}
func (c *conn) park() bool { return false }
