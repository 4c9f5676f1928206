//go:build !linux

package http1

// rawState is empty where the socket is not used directly.
type rawState struct{}

func (c *Conn) openRaw() {}

// quiet cannot be told of a plain socket here: a dead connection is found by
// using it.
func (c *Conn) quiet() bool { return c.quietPortable() }

func (c *Conn) exchange() { c.exchangePortable() }
