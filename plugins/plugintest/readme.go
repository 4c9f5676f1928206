package plugintest

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
)

// headings every plugin's README has, in this order.
var headings = []string{"## Name", "## Description", "## Syntax", "## Examples", "## Metrics"}

func (s *suite) readmeText(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.o.Dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (s *suite) readme(t *testing.T) {
	text := s.readmeText(t)
	at := make([]int, len(headings))
	for i, h := range headings {
		at[i] = strings.Index(text, h+"\n")
		if at[i] < 0 || i > 0 && at[i] < at[i-1] {
			t.Fatalf("README.md: %q is missing or out of order", h)
		}
	}
	if !strings.HasPrefix(text, "# "+s.f.Name+"\n") {
		t.Errorf("README.md does not begin with %q", "# "+s.f.Name)
	}
	syntax, examples := text[at[2]:at[3]], text[at[3]:at[4]]
	for _, fd := range strict.Fields(reflect.TypeOf(s.f.Config()).Elem()) {
		if !strings.Contains(syntax, "`"+fd.Name+"`") && !strings.Contains(syntax, fd.Name+":") {
			t.Errorf("README.md: the key %q is not under Syntax", fd.Name)
		}
	}
	used := 0
	for _, block := range yamlBlocks(examples) {
		var p problem.List
		n := strict.Parse([]byte(block), "README.md", &p)
		if n == nil {
			t.Errorf("README.md: %v in\n%s", p.Err(), block)
			continue
		}
		s.uses(n, func(c *yaml.Node) {
			used++
			config := s.f.Config()
			strict.Decode(c, config, &p)
			if err := p.Err(); err != nil {
				t.Errorf("README.md: %v in\n%s", err, block)
			}
		})
	}
	if used == 0 {
		t.Errorf("README.md: no yaml block under Examples uses %s", s.f.Name)
	}
}

func yamlBlocks(text string) (out []string) {
	for {
		_, rest, ok := strings.Cut(text, "```yaml\n")
		if !ok {
			return out
		}
		block, after, _ := strings.Cut(rest, "```")
		out, text = append(out, block), after
	}
}

// uses finds every place below n where the plugin stands in a list "plugins".
func (s *suite) uses(n *yaml.Node, do func(config *yaml.Node)) {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "plugins" && n.Content[i+1].Kind == yaml.SequenceNode {
				for _, p := range n.Content[i+1].Content {
					if p.Kind == yaml.MappingNode && len(p.Content) == 2 && p.Content[0].Value == s.f.Name {
						do(p.Content[1])
					}
				}
			}
		}
	}
	for _, c := range n.Content {
		s.uses(c, do)
	}
}
