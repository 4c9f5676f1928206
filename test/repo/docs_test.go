package repo_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm/tlstest"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// block is a fenced piece of a document.
type block struct {
	name string // file:line
	text string
}

// blocks finds the YAML in the documents a user reads.
func blocks(t *testing.T) []block {
	t.Helper()
	var files []string
	for _, pattern := range []string{"README.md", "CONTRIBUTING.md", "docs/*.md", "docs/adr/*.md", "plugins/*/README.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	var out []block
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, blocksOf(t, strings.TrimPrefix(path, root+"/"), string(text))...)
	}
	return out
}

func blocksOf(t *testing.T, path, text string) (out []block) {
	t.Helper()
	var lines []string
	begin := 0
	for i, line := range strings.Split(text, "\n") {
		fence, info, _ := strings.Cut(line, "```")
		isFence := strings.TrimSpace(fence) == "" && strings.Contains(line, "```")
		switch {
		case isFence && begin > 0:
			if lines != nil {
				out = append(out, block{fmt.Sprintf("%s:%d", path, begin), strings.Join(lines, "\n")})
			}
			begin, lines = 0, nil
		case isFence:
			begin = i + 1
			switch lang := strings.TrimSpace(info); {
			case lang == "yaml":
				lines = []string{}
			case strings.HasPrefix(lang, "yaml"), lang == "yml":
				t.Errorf("%s:%d: write ```yaml and nothing behind it, so that the block is checked", path, i+1)
			}
		case lines != nil:
			lines = append(lines, line)
		}
	}
	return out
}

// complete makes a whole config of a block that shows only what matters: it
// adds a listener, a route, what routes answer with, and the upstreams they name.
func complete(t *testing.T, b block) []byte {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(b.text), &doc); err != nil {
		t.Fatalf("%s: %v", b.name, err)
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		t.Fatalf("%s: not a map", b.name)
	}
	if node := value(top, "node"); node != nil && value(node, "config") != nil && value(node, "config").Value == "store" {
		return []byte(b.text) // nothing else may be there
	}
	ensure(t, top, "listeners", `{web: {address: "127.0.0.1:0"}}`)
	routes := ensure(t, top, "routes", `{everything: {match: {path: /}}}`)
	upstreams := ensure(t, top, "upstreams", `{}`)
	for i := 1; i < len(routes.Content); i += 2 {
		r := routes.Content[i]
		if value(r, "backends") == nil && value(r, "redirect") == nil && value(r, "respond") == nil {
			ensure(t, r, "backends", `[{upstream: app}]`)
			ensure(t, upstreams, "app", `{endpoints: ["127.0.0.1:3000"]}`)
		}
		for _, bk := range list(value(r, "backends")) {
			ensure(t, upstreams, value(bk, "upstream").Value, `{endpoints: ["127.0.0.1:3000"]}`)
		}
	}
	text, err := yaml.Marshal(&doc)
	if err != nil {
		t.Fatalf("%s: %v", b.name, err)
	}
	return text
}

func list(n *yaml.Node) []*yaml.Node {
	if n == nil {
		return nil
	}
	return n.Content
}

// value finds a key of a map; nil if it is not there.
func value(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

// ensure returns a key's value, which is text if the key was not there.
func ensure(t *testing.T, m *yaml.Node, key, text string) *yaml.Node {
	t.Helper()
	if v := value(m, key); v != nil {
		return v
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, doc.Content[0])
	return doc.Content[0]
}

// documented are the files that examples name.
var documented = map[string]string{
	"keys.json":   `{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`,
	"blocked.txt": "192.0.2.0/24 # an example\n",
}

// furnish writes the files that documents and examples name.
func furnish(t *testing.T, dir string) {
	t.Helper()
	for name, text := range documented {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca := tlstest.NewAuthority(t)
	ca.Issue(t, tlstest.Request{Names: []string{"localhost"}}).Write(t, filepath.Join(dir, "api.crt"), filepath.Join(dir, "api.key"))
	ca.Issue(t, tlstest.Request{Names: []string{"gateway"}}).Write(t, filepath.Join(dir, "gateway.crt"), filepath.Join(dir, "gateway.key"))
	tlstest.Write(t, filepath.Join(dir, "partners.pem"), ca.PEM())
	tlstest.Write(t, filepath.Join(dir, "internal-ca.pem"), ca.PEM())
}

// rehearse compiles a config as `gatehouse check` does.
func rehearse(c *config.Config, src *config.Source) error {
	compiler, err := compile.New(compile.Settings{
		Plugins: cmd.Plugins(), Log: slog.New(slog.DiscardHandler), Metrics: metrics.New(metrics.Settings{}),
	})
	if err != nil {
		return err
	}
	defer compiler.Close()
	result, err := compiler.Build(context.Background(), c, src, nil, compile.DryRun)
	if err != nil {
		return err
	}
	result.Snapshot.Release()
	<-result.Snapshot.Retired()
	return nil
}

// environment is what documents take for granted.
func environment(name string) (string, bool) {
	if name == "GATEHOUSE_SECRET" {
		return "0123456789abcdef0123456789abcdef", true
	}
	return "", false
}

func TestYAMLInDocumentsIsAValidConfig(t *testing.T) {
	dir := t.TempDir()
	furnish(t, dir)
	all := blocks(t)
	if len(all) < 30 {
		t.Fatalf("found only %d blocks", len(all))
	}
	for _, b := range all {
		t.Run(b.name, func(t *testing.T) {
			text := complete(t, b)
			c, src, err := config.Parse(text, b.name, cmd.Kinds(), config.Options{Dir: dir, Env: environment})
			if err != nil {
				t.Fatalf("%v\nas completed:\n%s", err, text)
			}
			if err := rehearse(c, src); err != nil {
				t.Fatalf("%v\nas completed:\n%s", err, text)
			}
		})
	}
}

func TestExamplesAreValidConfigs(t *testing.T) {
	files, err := filepath.Glob(root + "/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples found: %v", err)
	}
	dir := t.TempDir()
	furnish(t, dir)
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, src, err := config.Parse(text, path, cmd.Kinds(), config.Options{Dir: dir, Env: environment})
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Listeners) == 0 || len(c.Routes) == 0 {
				t.Error("an example is a whole config, with listeners and routes")
			}
			if err := rehearse(c, src); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The commands and flags that the documents tell people to type exist.
func TestCommandsInDocumentsExist(t *testing.T) {
	known := regexp.MustCompile(`^(run|check|explain|demo|schema|build|hash-password|version|status|plan|apply|rollback|history|show|diff|services|quotas)$`)
	used := regexp.MustCompile("(?m)(?:^|`|    |/)gatehouse ([a-z][a-z-]+)")
	for _, pattern := range []string{"README.md", "docs/*.md", "plugins/*/README.md", "examples/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range used.FindAllStringSubmatch(string(text), -1) {
				if !known.MatchString(m[1]) {
					t.Errorf("%s: there is no command %q", path, "gatehouse "+m[1])
				}
			}
		}
	}
}
