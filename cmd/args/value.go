package args

import (
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
	return nil
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
