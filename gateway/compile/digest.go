package compile

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"math"
	"reflect"
	"slices"
	"strings"
)

// digest identifies values by content: equal digests mean that a unit built
// from one serves as well for the other. It reads every exported field,
// secrets included, which text encodings hide; it never leaves the process.
func digest(values ...any) string {
	h := sha256.New()
	for _, v := range values {
		write(h, reflect.ValueOf(v))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func write(h hash.Hash, v reflect.Value) {
	if !v.IsValid() {
		h.Write([]byte{0})
		return
	}
	h.Write([]byte{byte(v.Kind()) + 1})
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			h.Write([]byte{0})
			return
		}
		text(h, v.Elem().Type().String())
		write(h, v.Elem())
	case reflect.Struct:
		writeStruct(h, v)
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		number(h, uint64(len(keys)))
		for _, k := range keys {
			write(h, k)
			write(h, v.MapIndex(k))
		}
	case reflect.Slice, reflect.Array:
		number(h, uint64(v.Len()))
		for i := range v.Len() {
			write(h, v.Index(i))
		}
	case reflect.String:
		text(h, v.String())
	case reflect.Bool:
		if v.Bool() {
			h.Write([]byte{1})
		} else {
			h.Write([]byte{0})
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		number(h, uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		number(h, v.Uint())
	case reflect.Float32, reflect.Float64:
		number(h, math.Float64bits(v.Float()))
	default: // functions, channels: not part of a config
	}
}

// writeStruct reads the exported fields; a type without any (netip.Prefix,
// time.Time) tells its content as text.
func writeStruct(h hash.Hash, v reflect.Value) {
	exported := 0
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		exported++
		text(h, f.Name)
		write(h, v.Field(i))
	}
	if exported > 0 {
		return
	}
	if s, ok := v.Interface().(interface{ String() string }); ok {
		text(h, s.String())
	}
}

func text(h hash.Hash, s string) {
	number(h, uint64(len(s)))
	h.Write([]byte(s))
}

func number(h hash.Hash, n uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	h.Write(b[:])
}
