package waf

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	coreruleset "github.com/corazawaf/coraza-coreruleset/v4"
	"github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental"
	"github.com/corazawaf/coraza/v3/types"
	"github.com/google/go-cmp/cmp"
)

// observe builds a program and returns the phases of the rules Coraza has.
func observe(t testing.TB, p *program) map[int]int {
	t.Helper()
	out := map[int]int{}
	root, err := fs.Sub(coreruleset.FS, crsDir)
	if err != nil {
		t.Fatal(err)
	}
	c := coraza.NewWAFConfig().WithRootFS(root).WithDirectives(p.text())
	w, err := coraza.NewWAF(experimental.WAFConfigWithRuleObserver(c, func(r types.RuleMetadata) {
		if r.SecMark() == "" {
			out[r.ID()] = int(r.Phase())
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := closeWAF(w); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestScan(t *testing.T) {
	got, err := scan("# comment\n\n SecMarker  X \nSecRule ARGS \\\n# inside\n\n  \"@rx a\" \\\n\t\"id:1\"\r\nSecDataset d `\nword\n`\nSecAction")
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	var text []string
	for _, d := range got {
		lines = append(lines, d.line)
		text = append(text, d.name+"|"+d.args)
	}
	if d := cmp.Diff([]int{3, 4, 9, 12}, lines); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"secmarker|X", `secrule|ARGS "@rx a" "id:1"`, "secdataset|d `\nword\n`", "secaction|"}, text); d != "" {
		t.Error(d)
	}
}

func TestParseVariables(t *testing.T) {
	got := parseVariables(`ARGS|!ARGS:/^a|b\/c$/|&Tx:n|REQUEST_HEADERS:'/x|y/'|XML:/*|!REQUEST_COOKIES:__utm`)
	want := []variable{
		{name: "ARGS"},
		{name: "ARGS", key: `/^a|b\/c$/`, exclude: true},
		{name: "TX", key: "n", count: true},
		{name: "REQUEST_HEADERS", key: "'/x|y/'"},
		{name: "XML", key: "/*"},
		{name: "REQUEST_COOKIES", key: "__utm", exclude: true},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

func TestParseActions(t *testing.T) {
	got := parseActions(`id:1, Phase:2,msg:'a, b:c',t:none,pass,ctl:'ruleRemoveTargetById=1;ARGS:/a,b/',logdata:'it\'s, so'`)
	want := []action{
		{"id", "1"},
		{"phase", "2"},
		{"msg", "a, b:c"},
		{"t", "none"},
		{"pass", ""},
		{"ctl", "ruleRemoveTargetById=1;ARGS:/a,b/"},
		{"logdata", `it\'s, so`},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

// FuzzVet: whatever a user writes either is refused with its place, or Coraza
// reads the same directives from it, and nothing forbidden gets through.
func FuzzVet(f *testing.F) {
	f.Add("SecRule ARGS \"@rx a\" \"id:1,phase:1,deny\"")
	f.Add("SecAction \"id:1,phase:1,pass,exec:/bin/sh\"")
	f.Add("SecRule ARGS \\\n# x\n\"@pm a b\" \\\n\"id:1,phase:2,chain,deny\"\nSecRule ARGS:b \"!@inspectFile x\" \"t:none\"")
	f.Add("SecDataset d `\nx\n`\nSecMarker E\nSecAction 'id:2'")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := vet("origin", text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "origin: line ") {
				t.Fatalf("no place: %v", err)
			}
			return
		}
		again := ""
		for _, d := range list {
			if !slices.Contains(allowed, d.name) {
				t.Fatalf("%q got through", d.name)
			}
			again += d.raw
		}
		twice, err := vet("origin", again)
		if err != nil || len(twice) != len(list) {
			t.Fatalf("%d directives, read again %d, %v", len(list), len(twice), err)
		}
		for i := range list {
			if list[i].name != twice[i].name || list[i].args != twice[i].args {
				t.Fatalf("%+v is read again as %+v", list[i], twice[i])
			}
		}
	})
}
