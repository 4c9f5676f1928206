// Package strict decodes YAML into Go structs by their tags, and reports every
// mistake at once with its place: unknown and duplicate keys, wrong kinds,
// values out of range, missing values and references.
//
// Tags of a field (every exported field has a yaml tag; "-" leaves it out, and
// an embedded struct's fields count as the outer struct's):
//
//	yaml:"name"        the key
//	default:"5s"       value when the key is absent, in YAML's own words;
//	                   comma separated for a list
//	enum:"a,b"         the only values allowed (each one, for a list)
//	min:"1" max:"10"   bounds of a number, unit.Duration or unit.Size
//	required:"true"    must be there and not empty
//
// A type with UnmarshalText is written as a scalar; if it is a struct, the
// scalar is its short form and a map its long one. A type with a method
// Validate(*problem.List) is checked after it was decoded without a problem.
// Scalars may have ${NAME} and ${NAME:-default}; see References.
//
// It refuses to know what any config means. config and plugin tests call it.
package strict

import (
	"errors"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// Validator is a config type that checks what tags cannot say.
type Validator interface {
	// Validate notes what is wrong, by keys below the value itself.
	Validate(p *problem.List)
}

// Option changes how a Decoder works.
type Option func(*Decoder)

// References resolves ${NAME} by env and the file: form of unit.Secret by
// file, which gets the path as written. Without this option every reference is
// a problem.
func References(env func(name string) (string, bool), file func(path string) ([]byte, error)) Option {
	return func(d *Decoder) { d.env, d.file = env, file }
}

// IgnoreKeys leaves out keys of the outermost map that begin with prefix: a
// place for anchors.
func IgnoreKeys(prefix string) Option {
	return func(d *Decoder) { d.ignore = prefix }
}

// Files says from which file a node and all below it come.
func Files(name string, of map[*yaml.Node]string) Option {
	return func(d *Decoder) { d.from, d.files = name, of }
}

// Hook decodes values of type T by fn instead of by reflection.
func Hook[T any](fn func(d *Decoder, n *yaml.Node, out *T)) Option {
	return func(d *Decoder) {
		d.hooks[reflect.TypeFor[T]()] = func(n *yaml.Node, out reflect.Value) {
			fn(d, n, out.Addr().Interface().(*T))
		}
	}
}

// Decode fills out, a pointer, from n and notes every problem. It never stops
// at the first, and never panics for what a user can write; a config type with
// wrong tags makes it panic.
func Decode(n *yaml.Node, out any, p *problem.List, opts ...Option) {
	d := &Decoder{
		p:     p,
		hooks: make(map[reflect.Type]func(*yaml.Node, reflect.Value)),
		types: make(map[reflect.Type]*typeInfo),
		open:  make(map[*yaml.Node]bool),
	}
	for _, o := range opts {
		o(d)
	}
	v := reflect.ValueOf(out)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic("BUG: strict.Decode needs a pointer")
	}
	if n.Kind == yaml.DocumentNode {
		if len(n.Content) == 0 {
			n = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1, Column: 1}
		} else {
			n = n.Content[0]
		}
	}
	d.value(n, v.Elem(), nil)
}

// Unmarshal parses and decodes one document. The error has every problem, one
// a line: "line:column: path: message". It is meant for tests of config types.
func Unmarshal(data []byte, out any, opts ...Option) error {
	var p problem.List
	n := Parse(data, "", &p)
	if n == nil {
		return p.Err()
	}
	Decode(n, out, &p, opts...)
	all := p.All()
	if len(all) == 0 {
		return nil
	}
	where := NewPositions(n, "", nil)
	lines := make([]string, len(all))
	for i := range all {
		if !all[i].At.Known() {
			all[i].At = where.Find(all[i].Path)
		}
	}
	problem.Sort(all)
	for i := range all {
		lines[i] = all[i].String()
	}
	return errors.New(strings.Join(slices.Compact(lines), "\n"))
}
