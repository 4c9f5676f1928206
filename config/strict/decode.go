package strict

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// maxAliased bounds how much aliases may multiply a document: this many nodes
// and 20 times what is written out.
const maxAliased = 100_000

// Decoder is one run of Decode, as hooks see it.
type Decoder struct {
	p      *problem.List
	env    func(string) (string, bool)
	file   func(string) ([]byte, error)
	ignore string
	from   string // file the current node is in
	files  map[*yaml.Node]string
	hooks  map[reflect.Type]func(*yaml.Node, reflect.Value)
	types  map[reflect.Type]*typeInfo

	path    []step
	open    map[*yaml.Node]bool // anchors whose alias is being followed
	direct  int                 // nodes seen as written
	aliased int                 // nodes seen through aliases
	flooded bool
}

// step is one key or, if key is "", one index of the path.
type step struct {
	key   string
	index int
}

// noNode stands for a place that is not in any file.
var noNode = &yaml.Node{}

// Path is the path of the value being decoded.
func (d *Decoder) Path() string {
	var b []byte
	for _, s := range d.path {
		switch {
		case s.key == "" && s.index >= 0:
			b = append(b, '[')
			b = strconv.AppendInt(b, int64(s.index), 10)
			b = append(b, ']')
		case len(b) > 0:
			b = append(b, '.')
			fallthrough
		default:
			b = append(b, s.key...)
		}
	}
	return string(b)
}

// Add notes a problem with the node n at key below the current path.
func (d *Decoder) Add(n *yaml.Node, key, format string, args ...any) {
	at := problem.Position{File: d.from, Line: n.Line, Column: n.Column}
	d.p.AddAt(at, problem.Join(d.Path(), key), format, args...)
}

// Suggest is the end of a message about an unknown name.
func (d *Decoder) Suggest(got string, known []string) string { return d.p.Suggest(got, known) }

// Key decodes n, the value of key in the map being decoded, into out.
func (d *Decoder) Key(key string, n *yaml.Node, out any) {
	d.path = append(d.path, step{key: key, index: -1})
	d.value(n, reflect.ValueOf(out).Elem(), nil)
	d.path = d.path[:len(d.path)-1]
}

// value decodes n into v, whose field has rules.
func (d *Decoder) value(n *yaml.Node, v reflect.Value, r *rules) {
	if n.Kind == yaml.AliasNode {
		if n.Alias == nil || d.open[n.Alias] {
			d.Add(n, "", "the alias *%s contains itself", n.Value)
			return
		}
		d.open[n.Alias] = true
		d.value(n.Alias, v, r)
		delete(d.open, n.Alias)
		return
	}
	if !d.count(n) || !d.tagged(n) {
		return
	}
	if hook := d.hooks[v.Type()]; hook != nil {
		hook(n, v)
		return
	}
	before := d.p.Len()
	ti := d.typeOf(v.Type())
	switch {
	case ti.text && (n.Kind == yaml.ScalarNode || ti.fields == nil):
		d.short(n, v, r, ti)
	case v.Kind() == reflect.Struct:
		d.fill(v, ti)
		d.structure(n, v, ti)
	case v.Kind() == reflect.Pointer:
		if isNull(n) {
			d.Add(n, "", "is empty; write {} for all defaults or remove the key")
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), r)
		return // the element has been validated
	case v.Kind() == reflect.Slice:
		d.list(n, v, r)
	case v.Kind() == reflect.Map:
		d.mapping(n, v, r)
	case v.Kind() == reflect.Interface && v.NumMethod() == 0:
		if x := d.any(n); x != nil {
			v.Set(reflect.ValueOf(x))
		}
	default:
		d.scalar(n, v, r)
	}
	if ti.validates && d.p.Len() == before {
		v.Addr().Interface().(Validator).Validate(d.p.Under(d.Path()))
	}
}

// count keeps aliases from multiplying a small file into endless work.
func (d *Decoder) count(n *yaml.Node) bool {
	if len(d.open) == 0 {
		d.direct++
		return true
	}
	d.aliased++
	if d.aliased <= maxAliased+20*d.direct {
		return true
	}
	if !d.flooded {
		d.flooded = true
		d.Add(n, "", "aliases repeat too much of this file")
	}
	return false
}

// tagged refuses tags of other languages' objects and the like.
func (d *Decoder) tagged(n *yaml.Node) bool {
	switch n.Tag {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq", "!!timestamp", "!!merge", "":
		return true
	}
	d.Add(n, "", "the tag %s is not supported", n.Tag)
	return false
}

// short decodes a type that reads text; a struct may also be written as a map.
func (d *Decoder) short(n *yaml.Node, v reflect.Value, r *rules, ti *typeInfo) {
	if n.Kind != yaml.ScalarNode {
		d.Add(n, "", "must be %s, got %s", wanted(v.Type()), Describe(n))
		return
	}
	if isNull(n) {
		if ti.fields != nil {
			d.fill(v, ti)
			d.structure(n, v, ti)
			return
		}
		d.Add(n, "", "must be %s, got nothing; remove the key for its default", wanted(v.Type()))
		return
	}
	text, ok := d.expand(n)
	if !ok {
		return
	}
	before := d.p.Len()
	d.text(text, n.Value, v, r, n)
	if d.p.Len() > before {
		return
	}
	for i := range ti.fields {
		f := &ti.fields[i]
		fv := v.FieldByIndex(f.Index)
		if fv.IsZero() {
			d.fillField(v, f)
		}
		if f.Required && fv.IsZero() {
			d.Add(n, f.Name, "must not be empty")
		}
	}
}

// structure decodes a map into a struct that has its defaults.
func (d *Decoder) structure(n *yaml.Node, v reflect.Value, ti *typeInfo) {
	if isNull(n) {
		n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: n.Line, Column: n.Column}
	}
	if n.Kind != yaml.MappingNode {
		want, keys := "a map", ""
		if ti.text {
			want = "text or a map"
		} else if n.Kind == yaml.ScalarNode && len(d.path) > 0 { // "tls: true"
			keys = "; its keys: " + strings.Join(ti.names, ", ")
		}
		d.Add(n, "", "must be %s, got %s%s", want, Describe(n), keys)
		return
	}
	seen := make([]bool, len(ti.fields))
	for _, e := range d.entries(n) {
		i, ok := ti.byName[e.key.Value]
		if !ok {
			if d.ignore == "" || len(d.path) > 0 || !strings.HasPrefix(e.key.Value, d.ignore) {
				d.in(e.key, func() {
					d.Add(e.key, e.key.Value, "unknown key %q%s", e.key.Value, d.Suggest(e.key.Value, ti.names))
				})
			}
			continue
		}
		f := &ti.fields[i]
		seen[i] = true
		fv := v.FieldByIndex(f.Index)
		before := d.p.Len()
		d.enter(step{key: f.Name, index: -1}, e.value, fv, f.rules)
		if f.Required && d.p.Len() == before && (isEmpty(e.value) || fv.Kind() == reflect.String && fv.Len() == 0) {
			d.in(e.value, func() { d.Add(e.value, f.Name, "must not be empty") })
		}
	}
	for i := range ti.fields {
		if f := &ti.fields[i]; f.Required && !seen[i] {
			d.Add(n, f.Name, "is required")
		}
	}
}

// enter decodes a value one step down the path.
func (d *Decoder) enter(s step, n *yaml.Node, v reflect.Value, r *rules) {
	d.path = append(d.path, s)
	if d.files == nil {
		d.value(n, v, r)
	} else {
		d.in(n, func() { d.value(n, v, r) })
	}
	d.path = d.path[:len(d.path)-1]
}

// in runs do with the file that n is from as the current one.
func (d *Decoder) in(n *yaml.Node, do func()) {
	before := d.from
	if f, ok := d.files[n]; ok {
		d.from = f
	}
	do()
	d.from = before
}

func (d *Decoder) list(n *yaml.Node, v reflect.Value, r *rules) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.Add(n, "", "must be a list, got %s", Describe(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, c := range n.Content {
		d.enter(step{index: i}, c, v.Index(i), r)
	}
}

func (d *Decoder) mapping(n *yaml.Node, v reflect.Value, r *rules) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.Add(n, "", "must be a map, got %s", Describe(n))
		return
	}
	t := v.Type()
	entries := d.entries(n)
	v.Set(reflect.MakeMapWithSize(t, len(entries)))
	for _, e := range entries {
		k := reflect.New(t.Key()).Elem()
		before := d.p.Len()
		d.path = append(d.path, step{key: e.key.Value, index: -1})
		d.in(e.key, func() { d.text(e.key.Value, e.key.Value, k, nil, e.key) })
		d.path = d.path[:len(d.path)-1]
		if d.p.Len() > before {
			continue
		}
		x := reflect.New(t.Elem()).Elem()
		d.enter(step{key: e.key.Value, index: -1}, e.value, x, r)
		v.SetMapIndex(k, x)
	}
}

// any decodes what has no type: maps of text to any, lists, text, int, float64, bool.
func (d *Decoder) any(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		var m map[string]any
		v := reflect.ValueOf(&m).Elem()
		d.mapping(n, v, nil)
		return m
	case yaml.SequenceNode:
		var l []any
		d.list(n, reflect.ValueOf(&l).Elem(), nil)
		return l
	}
	if isNull(n) {
		return nil
	}
	text, ok := d.expand(n)
	if !ok {
		return nil
	}
	switch resolved(n, text) {
	case "!!int":
		var i int
		d.scalar(n, reflect.ValueOf(&i).Elem(), nil)
		return i
	case "!!float":
		var f float64
		d.scalar(n, reflect.ValueOf(&f).Elem(), nil)
		return f
	case "!!bool":
		return text == "true"
	}
	return text
}

// Describe names what is at n, for messages: "a map", "the number 5", `"abc"`.
func Describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return Describe(n.Alias)
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return n.Value
	}
	const most = 40
	if r := []rune(n.Value); len(r) > most {
		return fmt.Sprintf("%q…", string(r[:most]))
	}
	return strconv.Quote(n.Value)
}
