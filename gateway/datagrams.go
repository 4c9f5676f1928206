package gateway

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/udp"
	"github.com/gatehouse-proxy/gatehouse/telemetry/accesslog"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// datagrams is an address that datagrams enter by. Its door has no socket of
// its own and no fronts.
type datagrams struct {
	door   *door
	server *udp.Server
}

// bindDatagrams binds the addresses of next that are new.
func (g *Gateway) bindDatagrams(ctx context.Context, next *snapshot.Snapshot) ([]*datagrams, error) {
	var fresh []*datagrams
	var failed BindError
	for address, l := range next.Listeners {
		if l.Protocol != snapshot.UDP || g.datagrams[address] != nil {
			continue
		}
		d := &datagrams{door: &door{gateway: g, address: address}}
		var err error
		if d.server, err = udp.Listen(ctx, d.settings(l)); err != nil {
			failed = append(failed, Unbound{"listeners." + l.Name + ".address", err})
			continue
		}
		fresh = append(fresh, d)
	}
	if len(failed) == 0 {
		return fresh, nil
	}
	for _, d := range fresh {
		_ = d.server.Close() // it has had nothing to do
	}
	return nil, failed
}

func (d *datagrams) settings(l *snapshot.Listener) udp.Settings {
	return udp.Settings{
		Address: l.Address, Sockets: d.door.gateway.settings.Sockets, Label: d.door.address,
		MaxSessions: l.Server.MaxConnections, MaxPerClient: l.Server.MaxPerClient,
		Acquire: d.acquire, Ended: d.door.gateway.streamEnded, Refused: d.refused,
		Failed: func(err error) {
			d.door.gateway.settings.Log.Error("datagrams cannot be read", "listener", l.Name, "error", err)
		},
	}
}

// acquire says what to do with a new session; it holds the snapshot until its end.
func (d *datagrams) acquire() (udp.Job, bool) {
	b := d.door.acquire()
	if b == nil {
		return udp.Job{}, false
	}
	l := b.listener
	if l == nil || l.Streams == nil { // the listener is going
		b.snapshot.Release()
		return udp.Job{}, false
	}
	return udp.Job{Route: l.Streams.Default, Idle: l.Streams.Idle, Replies: l.Replies, Listener: l.Name, Release: b.snapshot.Release}, true
}

// refused takes down what was over a limit. Of floods it logs samples; the
// metrics have them all.
func (d *datagrams) refused(r *reason.Reason, client netip.AddrPort) {
	name := d.door.countRefusal(r)
	log := d.door.gateway.settings.AccessLog
	if log == nil {
		return
	}
	left, ok := d.door.floods.take(time.Now())
	if !ok {
		return
	}
	detail := ""
	if left > 0 {
		detail = fmt.Sprintf("%d more since the last such line", left)
	}
	log.Write(&accesslog.Record{
		Time: time.Now(), Client: client.Addr(), Peer: client, Listener: name, Protocol: "UDP",
		Status: r.Status, Flags: r.Flag, Reason: r.Name, Detail: detail, Step: "session",
	})
}

func (d *datagrams) counts() metrics.Connections {
	s := d.server.Stats()
	return metrics.Connections{
		Open: s.Open, Accepted: s.Accepted, Refused: s.Refused, AcceptFails: s.ReadErrors,
		Received: s.Received, Sent: s.Sent,
	}
}

// swapDatagrams serves fresh addresses and lets those go that next does not have.
func (g *Gateway) swapDatagrams(ctx context.Context, fresh []*datagrams, next *snapshot.Snapshot, drain time.Duration) {
	for _, d := range fresh {
		g.datagrams[d.door.address] = d
		g.read(d.server.Serve)
	}
	for address, d := range g.datagrams {
		d.door.last.Store(nil) // or an idle address would keep the old snapshot in memory
		l := next.Listeners[address]
		if l == nil {
			delete(g.datagrams, address)
			g.leaveDatagrams(context.WithoutCancel(ctx), d, drain)
			continue
		}
		d.server.Update(d.settings(l))
		g.settings.Metrics.Listener(l.Name).Watch(d.counts)
	}
}

// leaveDatagrams begins no more sessions and gives those there are their time.
// Until then the address stays bound: replies leave by it.
func (g *Gateway) leaveDatagrams(ctx context.Context, d *datagrams, drain time.Duration) {
	g.leaving.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, drain)
		defer cancel()
		_ = d.server.Shutdown(ctx) // sessions end by being idle: cutting them is no news
		if err := d.server.Close(); err != nil {
			g.settings.Log.Error("closing sessions", "address", d.door.address, "error", err)
		}
	})
}
