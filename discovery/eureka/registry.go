package eureka

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// registry is what is known of one: our application, and of all others what
// the hash code needs.
type registry struct {
	ours   map[string]instance // by ID
	status map[key]string      // of every instance
}

type key struct{ app, id string }

// maxInstances of all applications are followed by changes. Where there are more
// the whole is read each time, which is bounded by its size.
const maxInstances = 1 << 18

// id of an instance; old clients have only a host name.
func (i *instance) id() string {
	if i.ID != "" {
		return i.ID
	}
	return i.Host
}

func newRegistry(all *applications, app string) *registry {
	r := &registry{ours: map[string]instance{}, status: map[key]string{}}
	for _, a := range all.apps {
		for _, i := range a.Instances {
			r.put(a.Name, i, app)
		}
	}
	return r
}

func (r *registry) put(app string, i instance, ours string) {
	r.status[key{app, i.id()}] = i.Status
	if strings.ToUpper(app) == ours {
		r.ours[i.id()] = i
	}
}

// apply takes changes. whole is false where the result is not the registry that
// the server has: the hash code counts its instances by status.
func (r *registry) apply(delta *applications, ours string) (changed, whole bool) {
	for _, a := range delta.apps {
		for _, i := range a.Instances {
			changed = changed || strings.ToUpper(a.Name) == ours
			if i.Action == "DELETED" {
				delete(r.status, key{a.Name, i.id()})
				if strings.ToUpper(a.Name) == ours {
					delete(r.ours, i.id())
				}
				continue
			}
			r.put(a.Name, i, ours)
		}
	}
	return changed, len(r.status) <= maxInstances && r.hash() == delta.hash
}

// hash is "DOWN_2_UP_5_": how many instances have each status.
func (r *registry) hash() string {
	counts := map[string]int{}
	for _, status := range r.status {
		counts[status]++
	}
	var b strings.Builder
	for _, status := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%s_%d_", status, counts[status])
	}
	return b.String()
}

// endpoints are our application's instances that are up.
func (r *registry) endpoints(s *Settings) (list []upstream.EndpointSettings, note string) {
	without := 0
	for _, i := range r.ours {
		if i.Status != "UP" {
			continue
		}
		port, host := i.Port, i.Address
		if s.Secure {
			port = i.SecurePort
		}
		if s.Hostname || host == "" {
			host = i.Host
		}
		if !port.enabled || host == "" {
			without++
			continue
		}
		zone := i.Metadata[s.ZoneMeta]
		if zone == "" {
			zone = i.DataCenter.Metadata["availability-zone"]
		}
		list = append(list, upstream.EndpointSettings{Address: net.JoinHostPort(host, strconv.Itoa(port.number)), Zone: zone})
	}
	if without > 0 {
		kind := "port"
		if s.Secure {
			kind = "secure port"
		}
		note = fmt.Sprintf("%d instances that are up have no address or no %s enabled", without, kind)
	}
	return list, note
}
