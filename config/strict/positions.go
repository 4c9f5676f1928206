package strict

import (
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// Positions finds the place of a path in a document. Nothing is stored per
// path: a lookup walks the parsed document, which costs what the path is long
// and makes the common case, no problem at all, free.
type Positions struct {
	root  *yaml.Node
	file  string
	files map[*yaml.Node]string

	mu    sync.Mutex // guards large
	large map[*yaml.Node]*keyIndex
}

// NewPositions is for a document whose nodes are from file unless files says otherwise.
func NewPositions(root *yaml.Node, file string, files map[*yaml.Node]string) *Positions {
	if root.Kind == yaml.DocumentNode && len(root.Content) > 0 {
		root = root.Content[0]
	}
	return &Positions{root: root, file: file, files: files}
}

// Find is the place of the value at path, of its key if the value is a map or
// a list, or of the nearest parent that exists.
func (p *Positions) Find(path string) problem.Position {
	w := p.walk(path)
	best := w.best
	if best == nil {
		return problem.Position{File: p.file, Line: 1, Column: 1}
	}
	return problem.Position{File: w.bestFile, Line: best.Line, Column: best.Column}
}

func (p *Positions) walk(path string) *walk {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.large == nil {
		p.large = make(map[*yaml.Node]*keyIndex)
	}
	w := &walk{files: p.files, file: p.file, large: p.large}
	w.find(p.root, p.root, path, 0)
	return w
}

// Node is the value at path, aliases followed, or nil.
func (p *Positions) Node(path string) *yaml.Node {
	w := p.walk(path)
	if !w.whole {
		return nil
	}
	return w.value
}

// walk looks for a path. Keys may contain dots and brackets, so that a path
// can be read in several ways; the reading that gets furthest wins.
type walk struct {
	files map[*yaml.Node]string
	file  string
	large map[*yaml.Node]*keyIndex

	best     *yaml.Node // what to point at
	value    *yaml.Node
	bestFile string
	depth    int
	whole    bool
	steps    int
}

const maxWalk = 1 << 20 // nodes looked at, against documents built to be slow

// find looks for path below n; point is the key or value that stands for n.
func (w *walk) find(n, point *yaml.Node, path string, depth int) {
	if f, ok := w.files[n]; ok {
		before := w.file
		w.file = f
		defer func() { w.file = before }()
	}
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode {
		point = n
	}
	if !w.whole && (w.best == nil || depth > w.depth || path == "") {
		w.best, w.bestFile, w.depth, w.value = point, w.file, depth, n
	}
	if path == "" {
		w.whole = true
	}
	if w.whole || depth > 2*maxDepth {
		return
	}
	switch n.Kind {
	case yaml.SequenceNode:
		w.index(n, path, depth)
	case yaml.MappingNode:
		w.key(n, strings.TrimPrefix(path, "."), depth)
	}
}

func (w *walk) index(n *yaml.Node, path string, depth int) {
	digits, rest, ok := strings.Cut(strings.TrimPrefix(path, "["), "]")
	i, err := strconv.Atoi(digits)
	if ok && err == nil && i >= 0 && i < len(n.Content) {
		w.find(n.Content[i], n.Content[i], rest, depth+1)
	}
}

// manyKeys is from how many keys on a map gets an index: thousands of problems
// in a map of thousands must not be looked for one key at a time.
const manyKeys = 64

func (w *walk) key(n *yaml.Node, path string, depth int) {
	if len(n.Content) > 2*manyKeys {
		w.indexed(n, path, depth)
		return
	}
	w.scan(n, path, depth)
	for i := 0; i+1 < len(n.Content) && !w.whole; i += 2 {
		if n.Content[i].Tag == "!!merge" {
			w.merged(n.Content[i+1], path, depth)
		}
	}
}

// keyIndex says where in Content the keys of a large map are, and the values
// of its merge keys.
type keyIndex struct {
	at     map[string]int
	merges []*yaml.Node
}

func newKeyIndex(n *yaml.Node) *keyIndex {
	x := &keyIndex{at: make(map[string]int, len(n.Content)/2)}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		_, twice := x.at[k.Value]
		switch {
		case k.Tag == "!!merge":
			x.merges = append(x.merges, n.Content[i+1])
		case !twice && k.Kind == yaml.ScalarNode && k.Value != "":
			x.at[k.Value] = i
		}
	}
	return x
}

// indexed tries every reading of the path's beginning as one key.
func (w *walk) indexed(n *yaml.Node, path string, depth int) {
	x := w.large[n]
	if x == nil {
		x = newKeyIndex(n)
		w.large[n] = x
	}
	for end := 1; end <= len(path) && !w.whole; end++ {
		if end < len(path) && path[end] != '.' && path[end] != '[' {
			continue
		}
		if w.steps++; w.steps > maxWalk {
			return
		}
		if i, ok := x.at[path[:end]]; ok {
			w.find(n.Content[i+1], n.Content[i], path[end:], depth+1)
		}
	}
	for _, m := range x.merges {
		if w.steps++; w.steps > maxWalk || w.whole {
			return
		}
		w.merged(m, path, depth)
	}
}

func (w *walk) scan(n *yaml.Node, path string, depth int) {
	for i := 0; i+1 < len(n.Content) && !w.whole; i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if w.steps++; w.steps > maxWalk {
			return
		}
		if k.Tag == "!!merge" {
			continue
		}
		rest, ok := strings.CutPrefix(path, k.Value)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') && k.Value != "" {
			w.find(v, k, rest, depth+1)
		}
	}
}

func (w *walk) merged(v *yaml.Node, path string, depth int) {
	if v.Kind == yaml.AliasNode && v.Alias != nil {
		v = v.Alias
	}
	if depth > 2*maxDepth {
		return
	}
	switch v.Kind {
	case yaml.MappingNode:
		w.key(v, path, depth+1)
	case yaml.SequenceNode:
		for _, c := range v.Content {
			w.merged(c, path, depth+1)
		}
	}
}

// Child is the value of one key of the document's outermost map, merge keys
// followed, or nil.
func (p *Positions) Child(key string) *yaml.Node {
	return childOf(p.root, key, 0)
}

func childOf(n *yaml.Node, key string, depth int) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	if depth > maxDepth {
		return nil
	}
	if n.Kind == yaml.SequenceNode && depth > 0 { // << of a list
		for _, c := range n.Content {
			if x := childOf(c, key, depth+1); x != nil {
				return x
			}
		}
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := n.Content[i]; k.Value == key && k.Tag != "!!merge" {
			return n.Content[i+1]
		}
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Tag == "!!merge" {
			if x := childOf(n.Content[i+1], key, depth+1); x != nil {
				return x
			}
		}
	}
	return nil
}
