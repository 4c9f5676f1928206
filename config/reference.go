package config

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Reference is the description of every key of a config with plugins of these
// kinds, in Markdown.
func Reference(kinds Kinds) []byte {
	r := reference{kinds: kinds, done: make(map[reflect.Type]string)}
	r.line("# Configuration reference\n")
	r.line("<!-- Generated from the code by `make gen`; do not edit. -->\n")
	r.line("One YAML file, or a folder of `*.yaml` and `*.yml` files merged in the order of their names.")
	r.line("Unknown keys are errors. Durations are written `250ms`, `5s`, `1h30m` or `7d`; sizes `512`, `64KiB` or `8MiB`.")
	r.line("`${NAME}` and `${NAME:-default}` are replaced by the environment (`$${` is a plain `${`); a secret may be")
	r.line("`file:PATH`, relative to the config. Top-level keys that begin with `%s` are ignored: a place for anchors.", ignoredKeys)
	r.line("`gatehouse check --print` shows a config with every default filled in.\n")
	r.line("Kinds: a *section* is a map with the keys shown; *map of* X is keyed by names of your own.\n")
	r.section("Top level", reflect.TypeFor[Config](), 2)
	r.line("## Plugins\n")
	r.line("%s\n", docOf(pluginType, ""))
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		r.section("`"+name+"`", reflect.TypeOf(kinds[name]()).Elem(), 3)
	}
	return []byte(r.b.String())
}

type reference struct {
	b     strings.Builder
	kinds Kinds
	done  map[reflect.Type]string // under which title
}

func (r *reference) line(format string, args ...any) {
	fmt.Fprintf(&r.b, format+"\n", args...)
}

// section describes one struct as a table, then the structs in it.
func (r *reference) section(title string, t reflect.Type, level int) {
	r.line("%s %s\n", strings.Repeat("#", level), title)
	if other := r.done[t]; other != "" {
		r.line("The same keys as %s.\n", other)
		return
	}
	if t.Name() != "" {
		r.done[t] = title
	}
	if doc := docOf(t, ""); doc != "" {
		r.line("%s\n", doc)
	}
	fields := strict.Fields(t)
	if len(fields) == 0 {
		r.line("It has no settings.\n")
		return
	}
	r.line("| key | kind | default | meaning |\n|---|---|---|---|")
	for _, f := range fields {
		r.line("| `%s` | %s | %s | %s |", f.Name, kindOf(f), defaultText(f), cell(docOf(f.In, f.Go)))
	}
	r.line("")
	for _, f := range fields {
		inner := f.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice || inner.Kind() == reflect.Map {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner != pluginType && (!strict.IsText(inner) || hasFields(inner)) {
			base := strings.Trim(title, "`")
			if base == "Top level" {
				base = ""
			} else {
				base += "."
			}
			r.section("`"+base+f.Name+suffix(f.Type)+"`", inner, min(level+1, 6))
		}
	}
}

// hasFields is true for a struct with a long form.
func hasFields(t reflect.Type) bool {
	return t.PkgPath() != "net/netip" && t.NumField() > 0 && t.Field(0).Tag.Get("yaml") != ""
}

func suffix(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Map:
		return ".NAME"
	case reflect.Slice:
		return "[]"
	default:
		return ""
	}
}

func defaultText(f strict.Field) string {
	switch {
	case f.Required:
		return "**required**"
	case f.HasDefault:
		return "`" + f.Default + "`"
	default:
		return ""
	}
}

// kindOf names a field's type with its rules.
func kindOf(f strict.Field) string {
	s := typeName(f.Type)
	if len(f.Enum) > 0 {
		s += ": `" + strings.Join(f.Enum, "`, `") + "`"
	}
	switch {
	case f.Min != "" && f.Max != "":
		s += ", " + f.Min + " to " + f.Max
	case f.Min != "":
		s += ", from " + f.Min
	case f.Max != "":
		s += ", up to " + f.Max
	}
	return s
}

func typeName(t reflect.Type) string {
	switch t {
	case pluginType:
		return "plugin"
	case secretType:
		return "secret"
	case reflect.TypeFor[unit.Duration]():
		return "duration"
	case reflect.TypeFor[unit.Size]():
		return "size"
	case reflect.TypeFor[netip.Prefix]():
		return "CIDR"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "map of " + typeName(t.Elem())
	case reflect.Struct:
		switch {
		case !strict.IsText(t):
			return "section"
		case hasFields(t):
			return "text or section"
		default:
			return "text"
		}
	case reflect.Bool:
		return "bool"
	case reflect.String:
		return "text"
	case reflect.Interface:
		return "anything"
	case reflect.Float32, reflect.Float64:
		return "number"
	default:
		if strict.IsText(t) {
			return "text"
		}
		return "whole number"
	}
}

// cell makes a comment fit for one line of a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}
