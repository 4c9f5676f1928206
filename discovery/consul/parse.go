package consul

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// entry is what we read of an instance.
type entry struct {
	Node struct {
		Node     string
		Address  string
		Meta     map[string]string
		Locality *locality
	}
	Service struct {
		Address  string
		Port     int
		Weights  struct{ Passing, Warning int }
		Locality *locality
	}
	Checks []struct{ Status string }
}

type locality struct{ Zone string }

// parse reads an answer, one instance after the other.
func parse(r io.Reader, s *Settings) (list []upstream.EndpointSettings, note string, err error) {
	d := json.NewDecoder(r)
	if t, err := d.Token(); err != nil {
		return nil, "", fmt.Errorf("the answer is no JSON: %w", err)
	} else if t != json.Delim('[') {
		return nil, "", fmt.Errorf("the answer is not a list of instances")
	}
	without := 0
	for d.More() {
		var e entry
		if err := d.Decode(&e); err != nil {
			return nil, "", remote.Unreadable(err)
		}
		weight, ok := e.weight(s)
		if !ok {
			continue
		}
		host := cmp.Or(e.Service.Address, e.Node.Address)
		if host == "" || e.Service.Port == 0 {
			without++
			continue
		}
		if len(list) == upstream.MaxEndpoints {
			return nil, "", fmt.Errorf("the service has more than the %d instances that can be used", upstream.MaxEndpoints)
		}
		list = append(list, upstream.EndpointSettings{
			Address: net.JoinHostPort(host, strconv.Itoa(e.Service.Port)), Weight: weight, Zone: e.zone(s),
		})
	}
	if _, err := d.Token(); err != nil {
		return nil, "", remote.Unreadable(err)
	}
	if err := remote.End(d); err != nil {
		return nil, "", err
	}
	if without > 0 {
		note = fmt.Sprintf("%d instances without an address or port", without)
	}
	return list, note, nil
}

// weight is what an instance counts by its worst check; one with a critical
// check does not count, whatever the server thinks.
func (e *entry) weight(s *Settings) (w int, ok bool) {
	w = e.Service.Weights.Passing
	for _, c := range e.Checks {
		switch c.Status {
		case "passing":
		case "warning":
			if !s.Warning {
				return 0, false
			}
			w = e.Service.Weights.Warning
		default: // critical, or maintenance
			return 0, false
		}
	}
	return w, true
}

func (e *entry) zone(s *Settings) string {
	if z := e.Node.Meta[s.ZoneMeta]; z != "" {
		return z
	}
	for _, l := range []*locality{e.Service.Locality, e.Node.Locality} {
		if l != nil && l.Zone != "" {
			return l.Zone
		}
	}
	return ""
}
