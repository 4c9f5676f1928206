package config

import (
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
)

// ParseEndpoints reads a list of endpoints, as under upstreams.*.endpoints, from
// the content of a file of its own, YAML or JSON. The error is of type Problems
// and has every problem with its place.
func ParseEndpoints(content []byte, name string) ([]Endpoint, error) {
	var (
		p    problem.List
		list []Endpoint
	)
	if strings.TrimSpace(string(content)) == "" {
		p.AddAt(problem.Position{File: name}, "", "is empty; write [] if there shall be no endpoints")
		return nil, Problems(p.All())
	}
	n := strict.Parse(content, name, &p)
	if n == nil {
		return nil, Problems(p.All())
	}
	where := strict.NewPositions(n, name, nil)
	strict.Decode(n, &list, &p, strict.Files(name, nil))
	if p.Len() == 0 {
		checkEndpoints("", list, &p)
	}
	if all := p.All(); len(all) > 0 {
		return nil, locate(all, where)
	}
	return list, nil
}

// checkEndpoints checks the list at key.
func checkEndpoints(key string, list []Endpoint, p *problem.List) {
	seen := make(map[string]int, len(list))
	for i, e := range list {
		at := index(key, i)
		checkPeerAddress(p, problem.Join(at, "address"), e.Address)
		if first, twice := seen[e.Address]; twice {
			p.Add(problem.Join(at, "address"), "%q is already %s; give one of them more weight instead", e.Address, index(key, first))
		} else {
			seen[e.Address] = i
		}
		p.Check(e.Zone == "" || isName(e.Zone), problem.Join(at, "zone"), "%s, got %q", nameRule, e.Zone)
	}
}
