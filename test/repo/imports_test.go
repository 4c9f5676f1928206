// Package repo_test holds the repository to its own rules: layers, package
// comments, file sizes, plugin folders, and that every YAML block in the
// documentation is a valid config.
package repo_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/gatehouse-proxy/gatehouse/"

// pkg is what `go list` tells of a package; test files do not count.
type pkg struct {
	ImportPath, Doc string
	Imports         []string
	GoFiles         []string
	Dir             string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,GoFiles,Dir", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		all = append(all, p)
	}
}

// layers are the folders from the top down. A package may import its own
// folder and those below it, never those above.
var layers = [][]string{
	{"cmd", "bench", "docs", "test"},
	{"admin"},
	{"mesh"},
	{"control"},
	{"gateway/compile"},
	{"gateway"}, // the package itself, not what is below it
	{"gateway/snapshot", "gateway/listener"},
	{"gateway/proxy"},
	{"plugins", "waf", "discovery"},
	{"gateway/h1", "gateway/h2", "gateway/bridge", "gateway/h3", "gateway/l4", "gateway/udp", "gateway/tlsterm", "gateway/acme"},
	{"gateway/pipeline", "gateway/upstream", "gateway/action"},
	{"gateway/attribute"},
	{"gateway/exchange", "gateway/route", "gateway/target"},
	{"gateway/wire", "gateway/proxyproto", "gateway/splice"},
	{"gateway/reason", "gateway/h2/frames", "gateway/live", "gateway/clientaddr", "gateway/filewatch", "gateway/seal", "gateway/socket", "ratelimit", "telemetry", "config"},
	{"gateway/grpc", "test/leak"},
}

// layerOf finds a package's place; the longest folder wins.
func layerOf(path string) int {
	best, at := -1, -1
	for i, folders := range layers {
		for _, f := range folders {
			inside := path == f || strings.HasPrefix(path, f+"/") && f != "gateway"
			if inside && len(f) > best {
				best, at = len(f), i
			}
		}
	}
	return at
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		from := layerOf(p.ImportPath)
		if from < 0 {
			t.Errorf("%s has no place in the list of layers", p.ImportPath)
			continue
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, module)
			if ours && layerOf(to) < from {
				t.Errorf("%s imports %s, which is above it", p.ImportPath, to)
			}
		}
	}
}

// vocabulary are the parts of config that plain data may use.
var vocabulary = []string{"config/unit", "config/problem"}

func TestDataPlaneKnowsNoConfig(t *testing.T) {
	forbidden := []string{"go.yaml.in/yaml/v4", "encoding/json", "reflect"}
	for _, p := range packages(t) {
		path := p.ImportPath
		gateway := strings.HasPrefix(path, "gateway") && path != "gateway/compile"
		data := gateway || slices.ContainsFunc([]string{"plugins", "waf", "ratelimit"}, func(f string) bool {
			return path == f || strings.HasPrefix(path, f+"/")
		})
		if !data || strings.HasSuffix(path, "test") { // what tests use
			continue
		}
		for _, i := range p.Imports {
			to, ours := strings.CutPrefix(i, module)
			if ours && strings.HasPrefix(to, "config") && !slices.Contains(vocabulary, to) {
				t.Errorf("%s imports %s", path, to)
			}
			if gateway && slices.Contains(forbidden, i) {
				t.Errorf("%s imports %s", path, i)
			}
		}
	}
}

func TestLeavesKnowNobody(t *testing.T) {
	for _, p := range packages(t) {
		for _, leaf := range []string{"config", "telemetry"} {
			if p.ImportPath != leaf && !strings.HasPrefix(p.ImportPath, leaf+"/") {
				continue
			}
			for _, i := range p.Imports {
				to, ours := strings.CutPrefix(i, module)
				if ours && to != leaf && !strings.HasPrefix(to, leaf+"/") {
					t.Errorf("%s imports %s", p.ImportPath, to)
				}
			}
		}
	}
}

func TestPluginsShareThroughTheExchangeOnly(t *testing.T) {
	shared := []string{"plugins", "plugins/plugintest", "plugins/internal"}
	for _, p := range packages(t) {
		if !strings.HasPrefix(p.ImportPath, "plugins/") {
			continue
		}
		for _, i := range p.Imports {
			to, _ := strings.CutPrefix(i, module)
			known := slices.ContainsFunc(shared, func(s string) bool {
				return to == s || s == "plugins/internal" && strings.HasPrefix(to, s+"/")
			})
			if strings.HasPrefix(to, "plugins/") && !known && !strings.HasPrefix(to, p.ImportPath+"/") {
				t.Errorf("%s imports %s", p.ImportPath, to)
			}
		}
	}
}
