//go:build !linux

package http1

// rawState is empty where the socket is not used directly.
type rawState struct{}

func (c *Conn) openRaw() {}

// quiet cannot be told here: a dead connection is found by using it.
func (c *Conn) quiet() bool { return true }

func (c *Conn) exchange() { c.exchangePortable() }
