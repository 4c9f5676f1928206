package config

import (
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
)

// mergeable are the maps whose keys may be spread over several files. Below
// them a key belongs to one file, so that nothing is ever half overridden.
var mergeable = map[string]bool{
	"": true, "node": true, "listeners": true, "certificates": true, "upstreams": true, "consumers": true,
	"waf": true, "waf.policies": true, "waf.patches": true, "routes": true,
}

// mergeDepth is how deep the deepest of them is.
const mergeDepth = 3

// merger puts the documents of a folder together.
type merger struct {
	p     *problem.List
	files map[*yaml.Node]string
}

// own notes the file of n and of what is below it, as deep as merging goes.
func (m *merger) own(n *yaml.Node, file string, depth int) {
	m.files[n] = file
	if depth == 0 {
		return
	}
	for _, c := range n.Content {
		m.own(c, file, depth-1)
	}
}

// merge adds the keys of src, which is from file, to dst.
func (m *merger) merge(dst, src *yaml.Node, path, file string) {
	if src.Kind != yaml.MappingNode || dst.Kind != yaml.MappingNode {
		bad := src
		if src.Kind == yaml.MappingNode {
			return // dst is no map: decoding says so
		}
		m.p.AddAt(problem.Position{File: file, Line: bad.Line, Column: bad.Column}, path,
			"must be a map, got %s", strict.Describe(bad))
		return
	}
	have := make(map[string]int, len(dst.Content)/2)
	for i := 0; i+1 < len(dst.Content); i += 2 {
		if k := dst.Content[i]; k.Kind == yaml.ScalarNode {
			have[k.Value] = i
		}
	}
	own := len(dst.Content)
	for i := 0; i+1 < len(src.Content); i += 2 {
		k, v := src.Content[i], src.Content[i+1]
		if path == "" && k.Kind == yaml.ScalarNode && strings.HasPrefix(k.Value, ignoredKeys) {
			continue // anchors are for their own file
		}
		at, twice := have[k.Value]
		if !twice || k.Kind != yaml.ScalarNode || at >= own || k.Tag == "!!merge" {
			dst.Content = append(dst.Content, k, v)
			continue
		}
		below := problem.Join(path, k.Value)
		old := dst.Content[at+1]
		switch {
		case mergeable[below] && empty(v):
		case mergeable[below] && empty(old):
			dst.Content[at], dst.Content[at+1] = k, v
		case mergeable[below]:
			m.merge(old, v, below, file)
		default:
			first := dst.Content[at]
			m.p.AddAt(problem.Position{File: file, Line: k.Line, Column: k.Column}, below, "duplicate key %q; first at %s",
				k.Value, problem.Position{File: m.files[first], Line: first.Line, Column: first.Column})
		}
	}
}

func empty(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
