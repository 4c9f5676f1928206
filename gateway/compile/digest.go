package compile

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"math"
	"reflect"
	"slices"
	"strings"
)

// digest identifies values by content: equal digests mean that a unit built
// from one serves as well for the other. It reads every exported field,
// secrets included, which text encodings hide; it never leaves the process.
// It is "" for values whose content cannot be told: such units are made anew.
func digest(values ...any) string { return new(digester).digest(values...) }

// digest is the function, for who asks many times: the memory is used again.
func (d *digester) digest(values ...any) string {
	d.all, d.opaque = d.all[:0], false
	for _, v := range values {
		d.write(reflect.ValueOf(v))
	}
	if d.opaque {
		return ""
	}
	sum := sha256.Sum256(d.all)
	return string(sum[:])
}

// digester writes values down one after the other, each so that its end is clear.
type digester struct {
	all    []byte
	opaque bool // something could not be read
	// fields of the struct types met so far: reflect makes them anew each time.
	fields map[reflect.Type][]reflect.StructField
}

func (d *digester) fieldsOf(t reflect.Type) []reflect.StructField {
	if f, ok := d.fields[t]; ok {
		return f
	}
	if d.fields == nil {
		d.fields = map[reflect.Type][]reflect.StructField{}
	}
	f := make([]reflect.StructField, t.NumField())
	for i := range f {
		f[i] = t.Field(i)
	}
	d.fields[t] = f
	return f
}

func (d *digester) write(v reflect.Value) {
	if !v.IsValid() {
		d.number(0)
		return
	}
	d.number(uint64(v.Kind()) + 1)
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			d.number(0)
			return
		}
		d.text(v.Elem().Type().String())
		d.write(v.Elem())
	case reflect.Struct:
		d.writeStruct(v)
	case reflect.Map:
		d.writeMap(v)
	case reflect.Slice, reflect.Array:
		d.number(uint64(v.Len()))
		for i := range v.Len() {
			d.write(v.Index(i))
		}
	case reflect.String:
		d.text(v.String())
	case reflect.Bool:
		if v.Bool() {
			d.number(1)
		} else {
			d.number(0)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		d.number(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		d.number(v.Uint())
	case reflect.Float32, reflect.Float64:
		d.number(math.Float64bits(v.Float()))
	default: // a function, a channel
		d.opaque = true
	}
}

func (d *digester) writeMap(v reflect.Value) {
	keys := v.MapKeys()
	if v.Type().Key().Kind() != reflect.String {
		d.opaque = true // there is no order to read it in
		return
	}
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	d.number(uint64(len(keys)))
	for _, k := range keys {
		d.text(k.String())
		d.write(v.MapIndex(k))
	}
}

// writeStruct reads the exported fields. A type that hides some tells its
// content as text (netip.Prefix, time.Time).
func (d *digester) writeStruct(v reflect.Value) {
	hides := false
	for i, f := range d.fieldsOf(v.Type()) {
		if !f.IsExported() {
			hides = true
			continue
		}
		d.text(f.Name)
		d.write(v.Field(i))
	}
	if !hides {
		return
	}
	m, ok := v.Interface().(encoding.TextMarshaler)
	if !ok && v.CanAddr() {
		m, ok = v.Addr().Interface().(encoding.TextMarshaler)
	}
	if !ok {
		d.opaque = true
		return
	}
	t, err := m.MarshalText()
	d.opaque = d.opaque || err != nil
	d.text(string(t))
}

func (d *digester) text(s string) {
	d.number(uint64(len(s)))
	d.all = append(d.all, s...)
}

func (d *digester) number(n uint64) { d.all = binary.AppendUvarint(d.all, n) }
