package h1

import (
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// tunnel hands an upgraded connection over until it is done with. The exchange
// ends with it.
func (c *conn) tunnel() {
	c.mu.Lock()
	c.phase.Store(phaseTunnel)
	c.readBy.Store(0)
	c.aborter = nil
	if !c.done {
		_ = c.nc.SetDeadline(time.Time{}) // closed meanwhile: the tunnel will see
	}
	c.mu.Unlock()
	early := c.s.in[c.r:c.w:c.w]
	run := c.upgrade
	c.upgrade = nil
	run(c.nc, early)
	c.phase.Store(phaseEnding)
	c.OnGone(nil)
	c.OnDrain(nil)
	c.r, c.w = 0, 0
	exchange.End(&c.s.ctx)
	c.endBody()
}

// dropUpgrade tells whoever waits for a tunnel that there is none.
func (c *conn) dropUpgrade() {
	if run := c.upgrade; run != nil {
		c.upgrade = nil
		run(nil, nil)
	}
}

var _ exchange.Drainer = (*conn)(nil)

// OnDrain implements exchange.Drainer.
func (c *conn) OnDrain(a exchange.Aborter) {
	c.mu.Lock()
	c.drainer = a
	c.mu.Unlock()
	if a != nil && c.srv.telling.Load() {
		c.tell()
	}
}

// tell has the tunnel end by itself.
func (c *conn) tell() {
	c.mu.Lock()
	a := c.drainer
	c.drainer = nil
	c.mu.Unlock()
	if a != nil {
		a.Abort()
	}
}
