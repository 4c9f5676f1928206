package cmd

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/control/limits"
	"github.com/gatehouse-proxy/gatehouse/control/nodes"
	"github.com/gatehouse-proxy/gatehouse/control/store"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
)

// announce has a node whose config is a file say in the shared store that it is
// there. One whose config comes from there does so as a member of its fleet, and
// one without shares nothing.
func (n *node) announce(ctx context.Context, c config.Node) error {
	if n.fleet != nil || c.Store.Redis == nil {
		return nil
	}
	if err := store.CheckNames(nodes.Folder, c.Name); err != nil {
		return fmt.Errorf("node.name: %w", err)
	}
	self := nodes.Member{Node: c.Name, Zone: c.Zone, Role: "gateway", Version: n.version, Instance: rand.Text()[:12], File: true}
	n.announcer = nodes.New(nodes.Settings{
		Store: n.store, Log: n.log,
		Self: func() nodes.Member {
			m := self
			m.Time = time.Now().UTC()
			return m
		},
	})
	n.announcer.Start(ctx)
	return nil
}

// liveNodes is how many nodes share the store; 0: nobody knows.
func (n *node) liveNodes() int {
	switch {
	case n.announcer != nil:
		return n.announcer.Live()
	case n.fleet != nil:
		return n.fleet.follower.Live()
	}
	return 1
}

// openLimits makes what fleet-wide limits are counted with.
func (n *node) openLimits(ctx context.Context, c config.Node) ratelimit.Fleet {
	n.limits = limits.New(limits.Settings{
		Store: n.store, Alone: c.Store.Redis == nil, Live: n.liveNodes, Log: n.log, Metrics: n.metrics.Registerer(),
	})
	n.quotas.limits = n.limits
	n.limits.Start(ctx)
	return n.limits
}

// members lists the nodes that share the store.
func (n *node) members(ctx context.Context) ([]nodes.Member, error) {
	return nodes.List(ctx, n.store)
}
