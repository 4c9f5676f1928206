package gateway

import (
	"context"
	"sync"

	"github.com/gatehouse-proxy/gatehouse/gateway/socket"
)

// quicLabel is what the socket of a door's HTTP/3 is called among others.
func quicLabel(d *door) string { return "quic " + d.address }

// Sockets are those in use now, for a process that is to replace this one. They
// are good until the next Swap.
func (g *Gateway) Sockets() []socket.Socket {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []socket.Socket
	for address, d := range g.doors {
		list = append(list, socket.Socket{Label: address, Network: "tcp", Conn: d.socket.Socket()})
		if d.http3 != nil {
			list = append(list, socket.Socket{Label: quicLabel(d), Network: "udp", Conn: d.http3.port.server.Socket()})
		}
	}
	for address, d := range g.datagrams {
		list = append(list, socket.Socket{Label: address, Network: "udp", Conn: d.server.Socket()})
	}
	return list
}

// read begins to read a UDP socket, or has ReadDatagrams do it. The gateway's
// lock is held.
func (g *Gateway) read(begin func()) {
	if g.holding {
		g.held = append(g.held, begin)
		return
	}
	begin()
}

// ReadDatagrams begins what HoldDatagrams has put off.
func (g *Gateway) ReadDatagrams() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holding = false
	for _, begin := range g.held {
		begin()
	}
	g.held = nil
}

// LeaveDatagrams reads nothing more from UDP sockets, so that another process
// can: two that read one socket would take each other's packets. New clients of
// HTTP/3 wait meanwhile; those that are there are told to go and have until ctx
// is done to finish their requests. Sessions of datagrams go on in the
// direction of their clients only. TCP is not touched. Drain is to follow.
func (g *Gateway) LeaveDatagrams(ctx context.Context) {
	var going []*http3
	g.mu.Lock()
	for _, d := range g.doors {
		if d.http3 != nil {
			f := d.takeHTTP3()
			f.stop()
			going = append(going, f)
		}
	}
	g.mu.Unlock()
	var all sync.WaitGroup
	for _, f := range going {
		all.Go(func() {
			if f.shutdown(ctx) != nil {
				open, _, _ := f.connections()
				g.settings.Log.Warn("HTTP/3 connections were cut for the successor", "address", f.door.address, "open", open)
			}
			if err := f.close(); err != nil {
				g.settings.Log.Error("closing HTTP/3 connections", "address", f.door.address, "error", err)
			}
		})
	}
	all.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.datagrams {
		d.server.Mute()
	}
}
