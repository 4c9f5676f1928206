package strict

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// rules are the enum, min and max of a field, ready to compare.
type rules struct {
	enum     []string
	min, max bound
}

// bound is a limit with the text it was written as.
type bound struct {
	text  string
	whole int64
	real  float64
}

func newRules(f Field) *rules {
	if f.Enum == nil && f.Min == "" && f.Max == "" {
		return nil
	}
	r := &rules{enum: f.Enum}
	r.min, r.max = newBound(f, f.Min), newBound(f, f.Max)
	return r
}

func newBound(f Field, text string) bound {
	if text == "" {
		return bound{}
	}
	b := bound{text: text}
	t := f.Type
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	var err error
	switch {
	case t == reflect.TypeFor[unit.Duration]():
		var v unit.Duration
		err = v.UnmarshalText([]byte(text))
		b.whole = int64(v)
	case t == reflect.TypeFor[unit.Size]():
		var v unit.Size
		err = v.UnmarshalText([]byte(text))
		b.whole = int64(v)
	case t.Kind() == reflect.Float64, t.Kind() == reflect.Float32:
		b.real, err = strconv.ParseFloat(text, 64)
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		b.whole, err = strconv.ParseInt(text, 10, 64)
	default:
		err = fmt.Errorf("a %s has no bounds", t)
	}
	if err != nil {
		panic(fmt.Sprintf("BUG: %s.%s: bound %q: %v", f.In, f.Go, text, err))
	}
	return b
}

// check says what is wrong with v, or "". got is how the user wrote it.
func (r *rules) check(v reflect.Value, got string) string {
	if r == nil {
		return ""
	}
	if r.enum != nil && !slices.Contains(r.enum, plain(v, got)) {
		return r.notInEnum(got)
	}
	low, high := false, false
	switch v.Kind() {
	case reflect.Float64, reflect.Float32:
		low = r.min.text != "" && v.Float() < r.min.real
		high = r.max.text != "" && v.Float() > r.max.real
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		low = r.min.text != "" && v.Int() < r.min.whole
		high = r.max.text != "" && v.Int() > r.max.whole
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		low = r.min.text != "" && r.min.whole > 0 && v.Uint() < uint64(r.min.whole)
		high = r.max.text != "" && v.Uint() > uint64(r.max.whole)
	default:
	}
	switch {
	case !low && !high:
		return ""
	case r.min.text != "" && r.max.text != "":
		return fmt.Sprintf("must be from %s to %s, got %s", r.min.text, r.max.text, got)
	case low:
		return fmt.Sprintf("must be at least %s, got %s", r.min.text, got)
	default:
		return fmt.Sprintf("must be at most %s, got %s", r.max.text, got)
	}
}

func plain(v reflect.Value, got string) string {
	switch v.Kind() {
	case reflect.String:
		return v.String()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if v.Type().PkgPath() == "" {
			return strconv.FormatInt(v.Int(), 10)
		}
	default:
	}
	return got
}

func (r *rules) notInEnum(got string) string {
	if len(r.enum) == 1 {
		return fmt.Sprintf("must be %s, got %q", r.enum[0], got)
	}
	last := len(r.enum) - 1
	return fmt.Sprintf("must be %s or %s, got %q", strings.Join(r.enum[:last], ", "), r.enum[last], got)
}
