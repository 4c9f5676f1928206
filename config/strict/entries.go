package strict

import "go.yaml.in/yaml/v4"

// entry is one key of a map with its value.
type entry struct{ key, value *yaml.Node }

// few is how many keys are compared one by one before an index is worth it.
const few = 12

// entries lists the keys of a map, merge keys (<<) carried out: a key written
// in the map wins over a merged one, an earlier merged map over a later.
func (d *Decoder) entries(n *yaml.Node) []entry {
	out := make([]entry, 0, len(n.Content)/2)
	var index map[string]int
	find := func(key string) int {
		if index != nil {
			if i, ok := index[key]; ok {
				return i
			}
			return -1
		}
		for i := range out {
			if out[i].key.Value == key {
				return i
			}
		}
		return -1
	}
	add := func(e entry) {
		out = append(out, e)
		if index != nil {
			index[e.key.Value] = len(out) - 1
		} else if len(out) > few {
			index = make(map[string]int, len(n.Content)/2)
			for i := range out {
				index[out[i].key.Value] = i
			}
		}
	}
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode && k.Alias != nil {
			k = k.Alias
		}
		switch {
		case k.Kind != yaml.ScalarNode || k.Tag == "!!null":
			d.in(k, func() { d.Add(k, "", "a key must be text, got %s", Describe(k)) })
		case k.Tag == "!!merge":
			merged = append(merged, v)
		default:
			if first := find(k.Value); first >= 0 {
				line := out[first].key.Line
				d.in(k, func() { d.Add(k, k.Value, "duplicate key %q; first on line %d", k.Value, line) })
				continue
			}
			add(entry{k, v})
		}
	}
	for _, m := range merged {
		d.merge(m, true, func(e entry) {
			if find(e.key.Value) < 0 {
				add(e)
			}
		})
	}
	return out
}

// merge gives the entries that the value of a merge key stands for.
func (d *Decoder) merge(m *yaml.Node, lists bool, add func(entry)) {
	target := m
	if m.Kind == yaml.AliasNode {
		target = m.Alias
	}
	switch {
	case target == nil || d.open[target]:
		d.Add(m, "<<", "the alias *%s contains itself", m.Value)
	case target.Kind == yaml.MappingNode:
		d.open[target] = true
		if d.count(m) {
			for _, e := range d.entries(target) {
				add(e)
			}
		}
		delete(d.open, target)
	case target.Kind == yaml.SequenceNode && lists:
		for _, c := range target.Content {
			d.merge(c, false, add)
		}
	default:
		d.Add(m, "<<", "must be a map or an alias of one, got %s", Describe(target))
	}
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

// isEmpty is true for "", {}, [] and nothing at all.
func isEmpty(n *yaml.Node) bool {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.ScalarNode:
		return n.Value == "" && n.Tag == "!!str" || isNull(n)
	case yaml.MappingNode, yaml.SequenceNode:
		return len(n.Content) == 0
	}
	return false
}
