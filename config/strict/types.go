package strict

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// Field is one key of a struct as its tags describe it.
type Field struct {
	// Name is the key.
	Name string
	// Go is the field's name in Go, for its doc comment, and In the struct
	// that declares it.
	Go string
	In reflect.Type
	// Type is the field's type; Index finds it with reflect.Value.FieldByIndex.
	Type  reflect.Type
	Index []int
	// Default is the text of the default tag; HasDefault tells "" from none.
	Default    string
	HasDefault bool
	// Enum is what may be written; empty: anything.
	Enum []string
	// Min and Max are the texts of the bounds, "" for none.
	Min, Max string
	Required bool
}

// Fields describes the keys of a struct type in order. It panics if tags are
// missing or wrong, since that is a bug and no user's mistake.
func Fields(t reflect.Type) []Field {
	var out []Field
	for i := range t.NumField() {
		f := t.Field(i)
		tag, tagged := f.Tag.Lookup("yaml")
		name, options, _ := strings.Cut(tag, ",")
		if tag == "-" || (!f.IsExported() && !f.Anonymous) {
			continue
		}
		if (f.Anonymous && name == "") || options == "inline" {
			if f.Type.Kind() != reflect.Struct {
				panic(fmt.Sprintf("BUG: %s.%s: only a struct can be inline", t, f.Name))
			}
			for _, in := range Fields(f.Type) {
				in.Index = append([]int{i}, in.Index...)
				out = append(out, in)
			}
			continue
		}
		if !tagged || name == "" {
			panic(fmt.Sprintf("BUG: %s.%s has no yaml tag", t, f.Name))
		}
		if f.Type == reflect.TypeFor[time.Duration]() {
			panic(fmt.Sprintf("BUG: %s.%s: durations are unit.Duration", t, f.Name))
		}
		def, hasDefault := f.Tag.Lookup("default")
		field := Field{
			Name: name, Go: f.Name, In: t, Type: f.Type, Index: []int{i},
			Default: def, HasDefault: hasDefault,
			Min: f.Tag.Get("min"), Max: f.Tag.Get("max"),
			Required: f.Tag.Get("required") == "true",
		}
		if enum := f.Tag.Get("enum"); enum != "" {
			field.Enum = strings.Split(enum, ",")
		}
		out = append(out, field)
	}
	return out
}

// IsText is true if a value of type t can be written as one scalar because the
// type reads text by itself.
func IsText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// typeInfo is what the decoder needs to know of a type, worked out once per Decode.
type typeInfo struct {
	fields    []fieldInfo
	byName    map[string]int
	names     []string
	text      bool // has UnmarshalText
	validates bool // has Validate
	mayDeflt  bool // a zero value may differ from the value of an empty map
}

type fieldInfo struct {
	Field
	rules *rules
	deflt reflect.Value // invalid: no default
}

func (d *Decoder) typeOf(t reflect.Type) *typeInfo {
	if ti := d.types[t]; ti != nil {
		return ti
	}
	ti := &typeInfo{
		text:      IsText(t),
		validates: reflect.PointerTo(t).Implements(reflect.TypeFor[Validator]()),
	}
	d.types[t] = ti // before the fields, for types that contain themselves
	if t.Kind() != reflect.Struct || d.hooks[t] != nil || (ti.text && !hasTags(t)) {
		return ti
	}
	ti.byName = make(map[string]int)
	for i, f := range Fields(t) {
		if _, twice := ti.byName[f.Name]; twice {
			panic(fmt.Sprintf("BUG: %s has two fields with the key %q", t, f.Name))
		}
		ti.byName[f.Name] = i
		ti.names = append(ti.names, f.Name)
		fi := fieldInfo{Field: f, rules: newRules(f)}
		if f.HasDefault {
			fi.deflt = d.defaultOf(f)
			ti.mayDeflt = true
		}
		if f.Type.Kind() == reflect.Struct && !ti.mayDeflt {
			ti.mayDeflt = d.typeOf(f.Type).mayDeflt
		}
		ti.fields = append(ti.fields, fi)
	}
	return ti
}

// hasTags is true for a struct that may be written as a map.
func hasTags(t reflect.Type) bool {
	for i := range t.NumField() {
		if _, ok := t.Field(i).Tag.Lookup("yaml"); ok {
			return true
		}
	}
	return false
}

// defaultOf reads a default tag through the same code as a user's value.
func (d *Decoder) defaultOf(f Field) reflect.Value {
	var p problem.List
	sub := &Decoder{p: &p, types: d.types, hooks: d.hooks}
	v := reflect.New(f.Type).Elem()
	texts := []string{f.Default}
	target := v
	if f.Type.Kind() == reflect.Slice && !IsText(f.Type) {
		texts = strings.Split(f.Default, ",")
		v.Set(reflect.MakeSlice(f.Type, len(texts), len(texts)))
	}
	for i, text := range texts {
		if f.Type.Kind() == reflect.Slice && !IsText(f.Type) {
			target = v.Index(i)
		}
		sub.text(text, text, target, newRules(f), noNode)
	}
	if err := p.Err(); err != nil {
		panic(fmt.Sprintf("BUG: %s.%s: default %q: %v", f.In, f.Go, f.Default, err))
	}
	return v
}

// fill gives v, a new struct, its defaults, those of structs inside it included.
func (d *Decoder) fill(v reflect.Value, ti *typeInfo) {
	if !ti.mayDeflt {
		return
	}
	for i := range ti.fields {
		d.fillField(v, &ti.fields[i])
	}
}

func (d *Decoder) fillField(v reflect.Value, f *fieldInfo) {
	switch {
	case f.deflt.IsValid():
		f.set(v.FieldByIndex(f.Index))
	case f.Type.Kind() == reflect.Struct:
		d.fill(v.FieldByIndex(f.Index), d.typeOf(f.Type))
	}
}

// set copies the default; a list's default must not be shared.
func (f *fieldInfo) set(v reflect.Value) {
	if f.Type.Kind() != reflect.Slice {
		v.Set(f.deflt)
		return
	}
	v.Set(reflect.AppendSlice(reflect.MakeSlice(f.Type, 0, f.deflt.Len()), f.deflt))
}
