package ftw

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// header is a list of fields in the order of the file.
type header [][2]string

func (h header) get(name string) (string, bool) {
	for _, f := range h {
		if strings.EqualFold(f[0], name) {
			return f[1], true
		}
	}
	return "", false
}

// set changes a field that is there.
func (h header) set(name, value string) {
	for i := range h {
		if strings.EqualFold(h[i][0], name) {
			h[i][1] = value
		}
	}
}

// repeated is the one template function that tests use: {{ "x" | repeat 100 }}.
var repeated = regexp.MustCompile(`\{\{\s*"([^"]*)"\s*\|\s*repeat\s+(\d{1,6})\s*\}\}`)

func expand(body string) string {
	return repeated.ReplaceAllStringFunc(body, func(m string) string {
		part := repeated.FindStringSubmatch(m)
		n, err := strconv.Atoi(part[2])
		if err != nil {
			return m
		}
		return strings.Repeat(part[1], n)
	})
}

// fields reads a map of headers, or a list of {name, value} maps.
func fields(n *yaml.Node) (header, error) {
	var out header
	switch n.Kind {
	case 0:
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			v := n.Content[i+1]
			value := v.Value
			if v.Tag == "!!null" {
				value = ""
			}
			out = append(out, [2]string{n.Content[i].Value, value})
		}
	case yaml.SequenceNode:
		for _, item := range n.Content {
			var f struct{ Name, Value string }
			if err := item.Decode(&f); err != nil {
				return nil, fmt.Errorf("headers: %w", err)
			}
			out = append(out, [2]string{f.Name, f.Value})
		}
	default:
		return nil, fmt.Errorf("headers: line %d: neither a map nor a list", n.Line)
	}
	return out, nil
}

// complete adds the fields a client adds by itself. The tests write forms
// without encoding; a form is encoded here unless it is already.
func complete(method string, h header, body string) (header, string) {
	const form = "application/x-www-form-urlencoded"
	if body != "" {
		kind, ok := h.get("Content-Type")
		if !ok {
			h, kind = append(h, [2]string{"Content-Type", form}), form
		}
		if kind == form {
			body = encodeForm(body)
		}
	}
	if _, ok := h.get("Connection"); !ok {
		h = append(h, [2]string{"Connection", "close"})
	}
	if _, ok := h.get("Content-Length"); !ok && (body != "" || strings.Contains("POST PUT PATCH DELETE", method)) {
		h = append(h, [2]string{"Content-Length", strconv.Itoa(len(body))})
	}
	return h, body
}

func encodeForm(body string) string {
	if plain, err := url.QueryUnescape(body); err != nil || plain != body {
		return body
	}
	parts := strings.Split(body, "&")
	for i, p := range parts {
		k, v, pair := strings.Cut(p, "=")
		parts[i] = url.QueryEscape(k)
		if pair {
			parts[i] += "=" + url.QueryEscape(v)
		}
	}
	return strings.TrimSuffix(strings.Join(parts, "&"), "&")
}
