package e2e

import (
	"debug/elf"
	"os"
	"strings"
	"testing"
)

// Whoever looks methods up by a name that the compiler cannot know makes the
// linker keep every exported method of every type: text/template does, and
// libraries that call methods by their names. The binary was 52 MB with them and
// is 36 MB without, and as idle pages count in whole windows, so does memory.
func TestWhatNobodyCallsIsNotLinked(t *testing.T) {
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range symbols {
		found = found || s.Name == "main.main"
		for _, unwanted := range []string{
			"text/template.(*state).evalField",                 // fills in templates
			"github.com/redis/go-redis/v9.(*Client).GeoRadius", // a command nobody sends
			"github.com/kaptinlin/jsonschema.NewCompiler",      // an operator that rules may not have
		} {
			if s.Name == unwanted {
				t.Errorf("%s is linked in; go build -ldflags=-dumpdep shows why, what is marked ReflectMethod first of all", s.Name)
			}
		}
	}
	if !found {
		t.Error("the symbols are not those of a program")
	}
}

// The tags stand in three places, as none can ask another.
func TestTagsAreTheSameEverywhere(t *testing.T) {
	for path, want := range map[string]string{"../../Makefile": "TAGS := " + buildTags + "\n", "../../cmd/build.go": `"` + buildTags + `"`} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s does not have the tags of the tests: %s", path, buildTags)
		}
	}
}
