package cmd

import (
	"cmp"
	"slices"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control"
	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/secrets"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// status is what /readyz and /api/v1/status show, and `gatehouse status` reads.
type status struct {
	Node    string         `json:"node"`
	Zone    string         `json:"zone,omitempty"`
	Version string         `json:"version"`
	Config  control.Status `json:"config"`
	// Fleet is the revision that config is; absent where the config is a file.
	Fleet *fleet.Status `json:"fleet,omitempty"`
	// Announced says that the node shares a store with others, and tells them that
	// it is there.
	Announced bool `json:"announced,omitempty"`
	// Nodes of the fleet; `gatehouse status` asks for them by themselves.
	Nodes []fleet.Member `json:"nodes,omitempty"`
	// Alerts about them, as above.
	Alerts []fleet.Alert `json:"alerts,omitempty"`
	// Handover is absent where none has been tried.
	Handover *handoverStatus `json:"handover,omitempty"`
	// Registry is this node's view of the services; absent where it needs none.
	Registry    *registry.Summary          `json:"registry,omitempty"`
	Listeners   []listenerStatus           `json:"listeners"`
	Connections connectionStatus           `json:"connections"`
	Upstreams   map[string]upstream.Status `json:"upstreams"`
	// Shared is what is shared with other nodes and sealed; absent: nothing is.
	Shared *secrets.Status `json:"shared,omitempty"`
	// Certificates of files and of ACME alike.
	Certificates []compile.CertificateStatus `json:"certificates"`
}

type listenerStatus struct {
	Name string `json:"name"`
	// Address is the one bound: with port 0 in the config, what the system chose.
	Address string `json:"address"`
	// Protocol as in the config: http, tcp, tls or udp. TLS says that it is ended
	// here, HTTP3 that the UDP port of the same number speaks it.
	Protocol string `json:"protocol"`
	TLS      bool   `json:"tls"`
	HTTP3    bool   `json:"http3,omitempty"`
	// Error is why the authorities of client certificates cannot be read anew;
	// where none could be read before, the listener refuses everybody.
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
}

type connectionStatus struct {
	Open    int `json:"open"`
	Idle    int `json:"idle"`
	Tunnels int `json:"tunnels"`
}

func (n *node) status() status {
	open, idle, tunnels := n.gateway.Connections()
	s := status{
		Node: nodeName(n.config.Node), Zone: n.config.Node.Zone, Version: n.version, Config: n.loop.Status(), Fleet: n.fleetStatus(), Shared: n.sharedStatus(),
		Handover:    n.handoverStatus(),
		Announced:   n.fleet != nil || n.announcer != nil,
		Registry:    n.registryStatus(),
		Connections: connectionStatus{open, idle, tunnels},
	}
	snap := n.gateway.Current()
	if snap == nil || !snap.TryRef() {
		return s
	}
	defer snap.Release()
	s.Upstreams, s.Certificates = compile.UpstreamStatus(snap), compile.CertificatesStatus(snap)
	bound := n.gateway.Addresses()
	for _, l := range snap.Listeners {
		if a := bound[l.Name]; a != nil {
			s.Listeners = append(s.Listeners, newListenerStatus(l, a.String()))
		}
	}
	slices.SortFunc(s.Listeners, func(a, b listenerStatus) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

var protocolNames = [...]string{snapshot.HTTP: "http", snapshot.TCP: "tcp", snapshot.TLS: "tls", snapshot.UDP: "udp"}

func newListenerStatus(l *snapshot.Listener, address string) listenerStatus {
	s := listenerStatus{Name: l.Name, Address: address, Protocol: protocolNames[l.Protocol], TLS: l.TLS != nil, HTTP3: l.HTTP3 != nil}
	if s.TLS {
		if f := l.TLS.Fault(); f != nil {
			s.Error, s.ErrorAt = f.Err.Error(), f.Since
		}
	}
	return s
}
