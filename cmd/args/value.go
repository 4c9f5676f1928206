package args

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

var duration = reflect.TypeFor[time.Duration]()

// takes reports whether set knows the type.
func (v *value) takes() bool {
	switch t := v.field.Type(); t.Kind() {
	case reflect.Bool, reflect.String, reflect.Int, reflect.Uint64:
		return true
	case reflect.Int64:
		return t == duration
	case reflect.Slice:
		return t.Elem().Kind() == reflect.String
	case reflect.Map:
		return t.Key().Kind() == reflect.String && t.Elem().Kind() == reflect.String
	default:
		return false
	}
}

func (v *value) isBool() bool  { return v.field.Kind() == reflect.Bool }
func (v *value) isSlice() bool { return v.field.Kind() == reflect.Slice }

// label is how messages call the value.
func (v *value) label() string {
	if v.argument {
		return "<" + v.name + ">"
	}
	return "--" + v.name
}

// set takes what stands on the command line.
func (v *value) set(text string) error {
	v.given = true
	if len(v.enum) > 0 && !slices.Contains(v.enum, text) {
		return fmt.Errorf(`%s must be one of "%s" but got %q`, v.label(), strings.Join(v.enum, `","`), text)
	}
	want := ""
	switch f := v.field; {
	case f.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			want = "true or false"
		}
		f.SetBool(b)
	case f.Kind() == reflect.String:
		f.SetString(text)
	case f.Kind() == reflect.Int:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			want = "a whole number"
		}
		f.SetInt(n)
	case f.Kind() == reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			want = "a whole number from 0"
		}
		f.SetUint(n)
	case f.Type() == duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			want = "a duration such as 30s"
		}
		f.SetInt(int64(d))
	case f.Kind() == reflect.Slice:
		f.Set(reflect.Append(f, reflect.ValueOf(text)))
	default:
		key, val, ok := strings.Cut(text, "=")
		if !ok {
			want = "KEY=VALUE"
			break
		}
		if f.IsNil() {
			f.Set(reflect.MakeMap(f.Type()))
		}
		f.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf(val))
	}
	if want != "" {
		return fmt.Errorf("%s: expected %s but got %q", v.label(), want, text)
	}
	return v.within(text)
}

// within checks what was set against the bounds.
func (v *value) within(text string) error {
	low, high := v.min != "" && v.compare(v.min) < 0, v.max != "" && v.compare(v.max) > 0
	switch {
	case !low && !high:
		return nil
	case v.max == "":
		return fmt.Errorf("%s must be at least %s but got %s", v.label(), v.min, text)
	case v.min == "":
		return fmt.Errorf("%s must be at most %s but got %s", v.label(), v.max, text)
	default:
		return fmt.Errorf("%s must be from %s to %s but got %s", v.label(), v.min, v.max, text)
	}
}

// compare says on which side of a bound the value is.
func (v *value) compare(bound string) (side int) {
	var err error
	switch f := v.field; {
	case bound == "":
	case f.Kind() == reflect.Int:
		var n int64
		n, err = strconv.ParseInt(bound, 10, 64)
		side = cmp.Compare(f.Int(), n)
	case f.Kind() == reflect.Uint64:
		var n uint64
		n, err = strconv.ParseUint(bound, 10, 64)
		side = cmp.Compare(f.Uint(), n)
	case f.Type() == duration:
		var d time.Duration
		d, err = time.ParseDuration(bound)
		side = cmp.Compare(f.Int(), int64(d))
	default:
		err = errors.New("it is neither a number nor a duration")
	}
	if err != nil {
		panic(fmt.Sprintf("BUG: bound %q of %s: %v", bound, v.label(), err))
	}
	return side
}

// settle fills in what was not given.
func (v *value) settle() error {
	if v.given {
		return nil
	}
	if v.env != "" && os.Getenv(v.env) != "" {
		return v.set(os.Getenv(v.env))
	}
	if v.def != "" {
		return v.set(v.def)
	}
	return nil
}
