package kubernetes

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/discovery/remote"
	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// slice is what we read of an EndpointSlice.
type slice struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	AddressType string     `json:"addressType"`
	Endpoints   []endpoint `json:"endpoints"`
	Ports       []port     `json:"ports"`
}

type endpoint struct {
	// Addresses stand for the same endpoint; as kube-proxy does we use the first.
	Addresses  []string `json:"addresses"`
	Conditions struct {
		Ready       *bool `json:"ready"`
		Serving     *bool `json:"serving"`
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
	Zone string `json:"zone"`
}

type port struct {
	Name string `json:"name"`
	Port int    `json:"port"`
}

type sliceList struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"`
	} `json:"metadata"`
	Items []slice `json:"items"`
}

// event of a watch. Its object is a slice, or says what went wrong.
type event struct {
	Type   string `json:"type"`
	Object struct {
		slice
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"object"`
}

func parseList(r io.Reader) (*sliceList, error) {
	var l struct {
		Kind string `json:"kind"`
		sliceList
	}
	d := json.NewDecoder(r)
	if err := d.Decode(&l); err != nil {
		return nil, remote.Unreadable(err)
	}
	if err := remote.End(d); err != nil {
		return nil, err
	}
	if l.Kind != "EndpointSliceList" {
		return nil, fmt.Errorf("the answer is no list of EndpointSlices, but %.50q", l.Kind)
	}
	return &l.sliceList, nil
}

// endpoints are those that may get requests: the ready ones. Where there are
// none, those that still serve while they end are better than nothing, as
// kube-proxy has it.
func endpoints(all map[string]*slice, s *Settings) (list []upstream.EndpointSettings, note string) {
	family := s.Addresses
	if family == "" {
		family = "IPv4"
		if !slices.ContainsFunc(slices.Collect(maps.Values(all)), func(x *slice) bool { return x.AddressType == family && len(x.Endpoints) > 0 }) {
			family = "IPv6"
		}
	}
	var ending []upstream.EndpointSettings
	for _, name := range slices.Sorted(maps.Keys(all)) {
		x := all[name]
		if x.AddressType != family || len(x.Endpoints) == 0 {
			continue
		}
		number, why := portOf(x.Ports, s.Port)
		if why != "" {
			note = why
			continue
		}
		for i := range x.Endpoints {
			e := &x.Endpoints[i]
			if len(e.Addresses) == 0 {
				continue
			}
			settings := upstream.EndpointSettings{Address: net.JoinHostPort(e.Addresses[0], number), Zone: e.Zone}
			ready := or(e.Conditions.Ready, true)
			switch {
			case ready:
				list = append(list, settings)
			case or(e.Conditions.Serving, ready) && or(e.Conditions.Terminating, false):
				ending = append(ending, settings)
			}
		}
	}
	if len(list) == 0 && len(ending) > 0 {
		return ending, strings.TrimPrefix(note+"; none is ready: those that end are used", "; ")
	}
	return list, note
}

func or(b *bool, otherwise bool) bool {
	if b == nil {
		return otherwise
	}
	return *b
}

// portOf finds the port that is wanted; why says that there is none.
func portOf(ports []port, want string) (number, why string) {
	_, err := strconv.Atoi(want)
	isNumber := err == nil
	if isNumber && len(ports) == 0 { // all are open
		return want, ""
	}
	if want == "" && len(ports) == 1 {
		return strconv.Itoa(ports[0].Port), ""
	}
	names := make([]string, 0, len(ports))
	for _, p := range ports {
		number := strconv.Itoa(p.Port)
		if isNumber && number == want || !isNumber && want != "" && p.Name == want {
			return number, ""
		}
		names = append(names, cmp.Or(p.Name, number))
	}
	has := fmt.Sprintf("%.200q", names)
	if want == "" {
		return "", fmt.Sprintf("port must say which, since the service has %d: %s", len(ports), has)
	}
	return "", fmt.Sprintf("the service has no port %q, but %s", want, has)
}
