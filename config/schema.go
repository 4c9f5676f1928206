package config

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Schema is the JSON schema (draft 2020-12) of a config with plugins of these
// kinds, for editors. It says what the types and tags say; names that refer to
// each other and the like are checked by Validate alone.
func Schema(kinds Kinds) []byte {
	b := schemaBuilder{kinds: kinds, defs: map[string]any{
		"reference": object{
			"type": "string", "pattern": `\$\{[A-Z_][A-Z0-9_]*(:-[^}]*)?\}`,
			"description": "A value from the environment: ${NAME} or ${NAME:-default}.",
		},
	}}
	root := b.structure(reflect.TypeFor[Config]())
	root["type"] = "object"
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["$id"] = "https://gatehouse-proxy.github.io/schema/config.json"
	root["title"] = "Gatehouse config"
	root["patternProperties"] = object{"^" + ignoredKeys: object{}}
	root["$defs"] = b.defs
	out, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("BUG: schema: " + err.Error())
	}
	return append(out, '\n')
}

type object = map[string]any

type schemaBuilder struct {
	kinds Kinds
	defs  map[string]any
}

// field is the schema of a value in a field; f's rules hold for a scalar or
// for the elements of a list or map.
func (b *schemaBuilder) field(f strict.Field) object {
	s := b.value(f.Type, f)
	if doc := docOf(f.In, f.Go); doc != "" {
		s["description"] = doc
	}
	if f.HasDefault {
		s["default"] = defaultValue(f)
	}
	return s
}

func (b *schemaBuilder) value(t reflect.Type, f strict.Field) object {
	switch t {
	case pluginType:
		return b.plugin()
	case secretType:
		return object{"type": "string", "minLength": 1}
	case reflect.TypeFor[unit.Duration]():
		return object{"type": "string", "pattern": `^([0-9]+d|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$|\$\{`}
	case reflect.TypeFor[unit.Size]():
		return object{"anyOf": []any{
			object{"type": "integer", "minimum": 0},
			object{"type": "string", "pattern": `^[0-9]+ ?(B|kB|MB|GB|TB|KiB|MiB|GiB|TiB)?$|\$\{`},
		}}
	case reflect.TypeFor[netip.Prefix](), reflect.TypeFor[netip.Addr]():
		return object{"type": "string", "minLength": 1}
	}
	switch t.Kind() {
	case reflect.Pointer:
		s := b.value(t.Elem(), f)
		if s["type"] != nil && t.Elem().Kind() == reflect.Struct {
			s["type"] = "object"
		}
		return s
	case reflect.Struct:
		return b.ref(t)
	case reflect.Slice:
		return object{"type": []string{"array", "null"}, "items": b.value(t.Elem(), f)}
	case reflect.Map:
		s := object{"type": []string{"object", "null"}, "additionalProperties": b.value(t.Elem(), f)}
		if k := t.Key().Kind(); k >= reflect.Int && k <= reflect.Uint64 {
			s["propertyNames"] = object{"pattern": "^-?[0-9]+$"}
		}
		return s
	case reflect.Interface:
		return object{}
	default:
		return b.scalar(t, f)
	}
}

func (b *schemaBuilder) scalar(t reflect.Type, f strict.Field) object {
	if strict.IsText(t) {
		return object{"type": []string{"string", "number", "boolean"}}
	}
	reference := object{"$ref": "#/$defs/reference"}
	s := object{}
	switch k := t.Kind(); {
	case k == reflect.String:
		s["type"] = "string"
		if f.Required {
			s["minLength"] = 1
		}
		if len(f.Enum) == 0 {
			return s
		}
		delete(s, "type")
		s["enum"] = f.Enum
	case k == reflect.Bool:
		s["type"] = "boolean"
	case k == reflect.Float32 || k == reflect.Float64:
		s["type"] = "number"
		bounds(s, f)
	default:
		s["type"] = "integer"
		bounds(s, f)
		if len(f.Enum) > 0 {
			delete(s, "type")
			s["enum"] = numbers(f.Enum)
		}
	}
	return object{"anyOf": []any{s, reference}}
}

func bounds(s object, f strict.Field) {
	for key, text := range map[string]string{"minimum": f.Min, "maximum": f.Max} {
		if text != "" {
			s[key] = json.Number(text)
		}
	}
}

func numbers(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = json.Number(s)
	}
	return out
}

// ref puts a struct among the definitions, once, and refers to it.
func (b *schemaBuilder) ref(t reflect.Type) object {
	name := defName(t)
	if name == "" {
		return b.sectioned(t)
	}
	if _, done := b.defs[name]; !done {
		b.defs[name] = nil // for types that contain themselves
		b.defs[name] = b.sectioned(t)
	}
	return object{"$ref": "#/$defs/" + name}
}

// sectioned is a struct where it may also be left empty, or be short.
func (b *schemaBuilder) sectioned(t reflect.Type) object {
	s := b.structure(t)
	if s["type"] = "object"; s["required"] == nil {
		s["type"] = []string{"object", "null"}
	}
	if strict.IsText(t) {
		short := object{"type": []string{"string", "number", "boolean"}}
		if doc := docOf(t, ""); doc != "" {
			short["description"] = doc
		}
		return object{"anyOf": []any{short, s}}
	}
	return s
}

func (b *schemaBuilder) structure(t reflect.Type) object {
	properties := object{}
	var required []string
	for _, f := range strict.Fields(t) {
		properties[f.Name] = b.field(f)
		if f.Required {
			required = append(required, f.Name)
		}
	}
	s := object{"properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	if doc := docOf(t, ""); doc != "" {
		s["description"] = doc
	}
	return s
}

// plugin is a map with one key, the plugin's name.
func (b *schemaBuilder) plugin() object {
	const name = "Plugin"
	if _, done := b.defs[name]; !done {
		b.defs[name] = nil
		properties := object{}
		for kind := range b.kinds {
			properties[kind] = b.ref(reflect.TypeOf(b.kinds[kind]()).Elem())
		}
		b.defs[name] = object{
			"type": "object", "minProperties": 1, "maxProperties": 1,
			"additionalProperties": false, "properties": properties,
			"description": docOf(pluginType, ""),
		}
	}
	return object{"$ref": "#/$defs/" + name}
}

// defName is unique for each named type: "Listener", "ratelimit.Config".
func defName(t reflect.Type) string {
	if t.Name() == "" {
		return ""
	}
	if t.PkgPath() == pluginType.PkgPath() {
		return t.Name()
	}
	return strings.NewReplacer("/", ".", "~", "-", "[", "_", "]", "_").Replace(shortPath(t) + "." + t.Name())
}

// defaultValue is a default as JSON would have it.
func defaultValue(f strict.Field) any {
	t := f.Type
	if t.Kind() == reflect.Slice && !strict.IsText(t) {
		return strings.Split(f.Default, ",")
	}
	switch k := t.Kind(); {
	case strict.IsText(t):
		return f.Default
	case k == reflect.Bool:
		return f.Default == "true"
	case k >= reflect.Int && k <= reflect.Float64:
		return json.Number(f.Default)
	}
	return f.Default
}

const modulePath = "github.com/gatehouse-proxy/gatehouse/"

// shortPath is a type's package as docs_gen.go names it.
func shortPath(t reflect.Type) string { return strings.TrimPrefix(t.PkgPath(), modulePath) }

// docOf is the doc comment of a type's field, or of the type itself.
func docOf(t reflect.Type, field string) string {
	key := shortPath(t) + "." + t.Name()
	if field != "" {
		key += "." + field
	}
	return docs[key]
}
