package config

import (
	"encoding"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Print writes c as one YAML document with every default filled in, in a
// stable order. References stay as they were written, secrets are hidden, and
// what is neither set nor has a default is left out. Read in the same place it
// gives the same config again, but for the hidden secrets.
func Print(w io.Writer, c *Config, s *Source) error {
	pr := printer{}
	root := pr.structure(reflect.ValueOf(c).Elem(), s.Positions().Node(""))
	if c.Node.Config == "store" && len(root.Content) > 2 {
		root.Content = root.Content[:2] // node, the first field: nothing else may stand beside it
	}
	out, err := yaml.Dump(root, yaml.WithLineWidth(-1))
	if err != nil {
		return fmt.Errorf("printing the config: %w", err)
	}
	_, err = w.Write(out)
	return err
}

// printer turns values into nodes beside the nodes they were read from.
type printer struct{}

var (
	pluginType = reflect.TypeFor[Plugin]()
	secretType = reflect.TypeFor[unit.Secret]()
)

// value is v as YAML; n, which may be nil, is where it was read. The result is
// nil if there is nothing to say.
func (pr printer) value(v reflect.Value, n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if v.Type() == secretType {
		return pr.secret(v.String(), n)
	}
	if n != nil && n.Kind == yaml.ScalarNode && strict.HasReference(n.Value) && v.Type() != pluginType {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: n.Value, Style: n.Style & (yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle)}
	}
	if v.Type() == pluginType {
		return pr.plugin(v.Interface().(Plugin), n)
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		if x := pr.value(v.Elem(), n); x != nil {
			return x
		}
		return mapping()
	case reflect.Struct:
		if m, ok := v.Interface().(encoding.TextMarshaler); ok {
			return marshaled(m)
		}
		return pr.structure(v, n)
	case reflect.Map:
		return pr.mapping(v, n)
	case reflect.Slice:
		return pr.list(v, n)
	default:
		return scalar(v)
	}
}

func (pr printer) structure(v reflect.Value, n *yaml.Node) *yaml.Node {
	out := mapping()
	for _, f := range strict.Fields(v.Type()) {
		fv := v.FieldByIndex(f.Index)
		if !f.HasDefault && fv.IsZero() && (fv.Kind() != reflect.Struct || strict.IsText(fv.Type())) {
			continue
		}
		x := pr.value(fv, child(n, f.Name))
		if x == nil || fv.Kind() == reflect.Struct && x.Kind == yaml.MappingNode && len(x.Content) == 0 {
			continue
		}
		out.Content = append(out.Content, text(f.Name), x)
	}
	return out
}

func (pr printer) mapping(v reflect.Value, n *yaml.Node) *yaml.Node {
	if v.IsNil() {
		return nil
	}
	out := mapping()
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	of := children(n)
	for _, k := range keys {
		name := fmt.Sprint(k)
		x := pr.value(v.MapIndex(k), of(name))
		if x == nil {
			x = null()
		}
		out.Content = append(out.Content, text(name), x)
	}
	return out
}

func (pr printer) list(v reflect.Value, n *yaml.Node) *yaml.Node {
	if v.IsNil() {
		return nil
	}
	out := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for i := range v.Len() {
		var c *yaml.Node
		if n != nil && n.Kind == yaml.SequenceNode && i < len(n.Content) {
			c = n.Content[i]
		}
		x := pr.value(v.Index(i), c)
		if x == nil {
			x = null()
		}
		out.Content = append(out.Content, x)
	}
	return out
}

func (pr printer) plugin(p Plugin, n *yaml.Node) *yaml.Node {
	out := mapping()
	x := pr.value(reflect.ValueOf(p.Config), child(n, p.Name))
	out.Content = append(out.Content, text(p.Name), x)
	return out
}

// secret shows where a secret comes from, if from elsewhere, and never what it
// is: not even a reference's default.
func (pr printer) secret(value string, n *yaml.Node) *yaml.Node {
	if value == "" {
		return nil
	}
	shown := unit.Hidden
	if n != nil && n.Kind == yaml.ScalarNode {
		if strings.HasPrefix(n.Value, "file:") {
			return quoted(n.Value)
		}
		refs := 0
		rest := strict.Expand(n.Value, func(name, _ string, hasFallback bool) string {
			refs++
			shown = "${" + name + "}"
			if hasFallback {
				shown = "${" + name + ":-" + unit.Hidden + "}"
			}
			return ""
		})
		if refs != 1 || rest != "" {
			shown = unit.Hidden
		}
	}
	return quoted(shown)
}

// child is the value of a key of the map n; a key written there wins over a
// merged one.
func child(n *yaml.Node, key string) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil {
		return nil
	}
	return strict.NewPositions(n, "", nil).Child(key)
}

// children is child for many keys of one map, as ten thousand routes are.
func children(n *yaml.Node) func(key string) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || n.Kind != yaml.MappingNode {
		return func(string) *yaml.Node { return nil }
	}
	own := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := len(n.Content) - 2; i >= 0; i -= 2 { // the first of a repeated key stays
		if k := n.Content[i]; k.Tag != "!!merge" {
			own[k.Value] = n.Content[i+1]
		}
	}
	return func(key string) *yaml.Node {
		if x, ok := own[key]; ok {
			return x
		}
		return child(n, key)
	}
}

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }

func null() *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"} }

// text is a string that reads back as itself.
func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	if !printable(s) || ambiguous[strings.ToLower(s)] {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// ambiguous are texts that other readers of YAML take for a bool.
var ambiguous = map[string]bool{"y": true, "n": true, "yes": true, "no": true, "on": true, "off": true}

func quoted(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: yaml.DoubleQuotedStyle}
}

func printable(s string) bool {
	for _, r := range s {
		if r != '\n' && !strconv.IsPrint(r) {
			return false
		}
	}
	return true
}

func marshaled(m encoding.TextMarshaler) *yaml.Node {
	if z, ok := m.(unit.Size); ok && z == 0 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: "0"}
	}
	b, err := m.MarshalText()
	if err != nil {
		panic("BUG: config value without text: " + err.Error())
	}
	return text(string(b))
}

// scalar is a text, number or bool.
func scalar(v reflect.Value) *yaml.Node {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		return marshaled(m)
	}
	plain := func(tag, value string) *yaml.Node {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
	}
	switch v.Kind() {
	case reflect.Bool:
		return plain("!!bool", strconv.FormatBool(v.Bool()))
	case reflect.Float32, reflect.Float64:
		return plain("!!float", strconv.FormatFloat(v.Float(), 'f', -1, 64))
	case reflect.String:
		s := v.String()
		if strict.HasReference(s) {
			s = strict.Escape(s)
		}
		return text(s)
	default:
		return plain("!!int", fmt.Sprint(v))
	}
}
