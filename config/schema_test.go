package config_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(config.Schema(kinds())))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("config.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("config.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// toJSON is what an editor makes of YAML: aliases and merge keys carried out,
// references left as they are. ok is false if it is no YAML document at all.
func toJSON(t *testing.T, data []byte) (v any, ok bool) {
	t.Helper()
	var p problem.List
	n := strict.Parse(data, "", &p)
	if n == nil {
		return nil, false
	}
	return plain(n.Content[0]), true
}

func plain(n *yaml.Node) any {
	switch n.Kind {
	case yaml.AliasNode:
		return plain(n.Alias)
	case yaml.SequenceNode:
		out := []any{}
		for _, c := range n.Content {
			out = append(out, plain(c))
		}
		return out
	case yaml.MappingNode:
		out := map[string]any{}
		for i := 0; i < len(n.Content); i += 2 {
			if n.Content[i].Tag == "!!merge" {
				merge(out, plain(n.Content[i+1]))
			}
		}
		for i := 0; i < len(n.Content); i += 2 {
			if n.Content[i].Tag != "!!merge" {
				out[n.Content[i].Value] = plain(n.Content[i+1])
			}
		}
		return out
	}
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		return n.Value == "true"
	case "!!int", "!!float":
		if _, err := strconv.ParseFloat(n.Value, 64); err == nil {
			return json.Number(n.Value)
		}
	}
	return n.Value
}

func merge(out map[string]any, from any) {
	switch x := from.(type) {
	case map[string]any:
		for k, v := range x {
			if _, have := out[k]; !have {
				out[k] = v
			}
		}
	case []any:
		for _, m := range x {
			merge(out, m)
		}
	}
}

// documents are the YAML files of an archive that are read as config.
func documents(a *txtar.Archive) map[string][]byte {
	out := make(map[string][]byte)
	for _, f := range a.Files {
		ext := filepath.Ext(f.Name)
		if f.Name == "want.print" || (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(filepath.Base(f.Name), ".") {
			out[f.Name] = f.Data
		}
	}
	return out
}

func TestSchemaAcceptsGoodCorpus(t *testing.T) {
	s := compileSchema(t)
	for name, a := range archives(t, "testdata/good/*.txtar", 9) {
		for file, data := range documents(a) {
			v, ok := toJSON(t, data)
			if !ok {
				t.Fatalf("%s: %s is no YAML", name, file)
			}
			if err := s.Validate(v); err != nil {
				t.Errorf("%s: %s: %v", name, file, err)
			}
		}
	}
}

// structural are parts of messages about what a schema can see. Every bad
// config with such a message must be bad for the schema too.
var structural = []string{
	"unknown key", "unknown plugin", "is required", "must be a map", "must be a list", "must be text, got",
	"must be a whole number, got", "must be true or false", "must be a number", "must be a duration", "must be a size",
	"must be from ", "must be json or console", "must be debug, info", "must be round_robin", "must be 301, 302",
}

func TestSchemaRefusesStructurallyBadConfigs(t *testing.T) {
	s := compileSchema(t)
	checked := 0
	for name, a := range archives(t, "testdata/bad/*.txtar", 90) {
		want := ""
		for _, f := range a.Files {
			if f.Name == "want.err" {
				want = string(f.Data)
			}
		}
		for file, data := range documents(a) {
			if !mentions(want, file) {
				continue
			}
			v, ok := toJSON(t, data)
			if !ok {
				continue
			}
			checked++
			if err := s.Validate(v); err == nil {
				t.Errorf("%s: the schema accepts %s:\n%s", filepath.Base(name), file, want)
			}
		}
	}
	if checked < 30 {
		t.Fatalf("only %d configs checked", checked)
	}
}

// beyond is in structural messages of which JSON Schema knows nothing: bounds
// of durations and sizes, references, merge keys, Go's largest integer, and
// keys that another key's value requires.
var beyond = []string{"iB", "${", "<<", "99999999999999999999", "is required by"}

// mentions is true if a line about the file has a structural message.
func mentions(want, file string) bool {
	for line := range strings.Lines(want) {
		skip := func(part string) bool { return strings.Contains(line, part) }
		if !strings.HasPrefix(line, file+":") || slices.ContainsFunc(beyond, skip) {
			continue
		}
		for _, m := range structural {
			if strings.Contains(line, ": "+m) {
				return true
			}
		}
	}
	return false
}

func TestSchemaIsStable(t *testing.T) {
	if !bytes.Equal(config.Schema(kinds()), config.Schema(kinds())) {
		t.Fatal("two schemas of the same kinds differ")
	}
}

// Every key is explained, since the reference and editors show nothing else.
func TestEveryKeyIsDescribed(t *testing.T) {
	var schema map[string]any
	if err := json.Unmarshal(config.Schema(config.Kinds{}), &schema); err != nil {
		t.Fatal(err)
	}
	seen := 0
	var walk func(path string, v any)
	walk = func(path string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		if properties, ok := m["properties"].(map[string]any); ok {
			for key, p := range properties {
				seen++
				if d, _ := p.(map[string]any)["description"].(string); len(d) < 5 {
					t.Errorf("%s.%s has no description", path, key)
				}
				walk(path+"."+key, p)
			}
		}
		for key, sub := range m {
			if key != "properties" {
				walk(path+"/"+key, sub)
			}
		}
		if list, ok := m["anyOf"].([]any); ok {
			for _, sub := range list {
				walk(path, sub)
			}
		}
	}
	walk("", schema)
	if seen < 120 {
		t.Fatalf("only %d keys", seen)
	}
}

func TestReferenceNamesEveryKey(t *testing.T) {
	text := string(config.Reference(kinds()))
	for _, want := range []string{
		"## Top level", "### `listeners.NAME`", "| `address` | text | **required** |", "| `head` | size, 1KiB to 1MiB | `64KiB` |",
		"### `rate_limit`", "| `per` | duration, from 1ms | `1s` |", "### `request_id`\n\nIt has no settings.",
		"| `algorithm` | text: `round_robin`, `random`, `least_request`, `peak_ewma`, `ring_hash`, `maglev` | `least_request` |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the reference lacks %q", want)
		}
	}
	for _, f := range strict.Fields(reflect.TypeFor[config.Route]()) {
		if !strings.Contains(text, "| `"+f.Name+"` |") {
			t.Errorf("the reference lacks the key %s", f.Name)
		}
	}
}
