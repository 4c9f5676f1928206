package args_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/cmd/args"
)

type shared struct {
	Server string `env:"ARGS_TEST_SERVER" help:"Address of the node." placeholder:"ADDRESS"`
	Output string `short:"o" enum:"text,json" default:"text" help:"text for people, json for programs."`
}

type runCommand struct {
	Config  []string `short:"c" required:"" help:"Config file; may be repeated." placeholder:"FILE"`
	NoWatch bool     `short:"w" help:"Do not reload when the file changes."`
	Quiet   bool     `short:"q" help:"Say nothing."`
	PIDFile string   `name:"pid-file" help:"Where to write the process ID, once all the listeners of the config are bound." placeholder:"FILE"`
}

func (*runCommand) Help() string {
	return "Signals: SIGTERM drains. This line is longer than help is wide at most, and so\nit is broken anew."
}

type setCommand struct {
	shared
	ID     string            `arg:"" help:"Which."`
	Value  string            `arg:"" optional:"" enum:"up,down" help:"What."`
	Weight int               `short:"n" default:"1" help:"Its share."`
	Before uint64            `min:"1" help:"Only older ones." placeholder:"N"`
	Wait   time.Duration     `default:"30s" min:"0s" max:"10m" help:"How long."`
	Share  int               `max:"100" help:"Of all." placeholder:"N"`
	Meta   map[string]string `help:"Of your own." placeholder:"KEY=VALUE"`
}

type listCommand struct {
	shared
	Name string `arg:"" optional:"" help:"Only this one."`
}

type commands struct {
	Run   runCommand `cmd:"" help:"Run a node."`
	Check struct {
		Files []string `arg:"" name:"file" help:"Files."`
	} `cmd:"" help:"Check files."`
	Services struct {
		List listCommand `cmd:"" default:"withargs" help:"List services."`
		Set  setCommand  `cmd:"" help:"Set one."`
	} `cmd:"" help:"Services and their instances."`
	Both struct {
		Why string `required:"" help:"Why." placeholder:"WHY"`
		ID  string `arg:"" help:"Which."`
	} `cmd:"" help:"Needs a flag and an argument."`
	HashIt struct{} `cmd:"" help:"Hash standard input."`
	Nested struct {
		Only struct{} `cmd:"" help:"Only this."`
	} `cmd:"" help:"Has one command."`
}

func parse(line ...string) (*commands, *args.Choice, error) {
	var c commands
	choice, err := args.New("prog", "Does things.", &c).Parse(line)
	return &c, choice, err
}

func TestValues(t *testing.T) {
	t.Setenv("ARGS_TEST_SERVER", "from-env")
	none := setCommand{shared: shared{Server: "from-env", Output: "text"}, Weight: 1, Wait: 30 * time.Second}
	with := func(change func(*setCommand)) setCommand { c := none; change(&c); return c }
	for line, want := range map[string]setCommand{
		"services set a":                                   with(func(c *setCommand) { c.ID = "a" }),
		"services set a up":                                with(func(c *setCommand) { c.ID, c.Value = "a", "up" }),
		"services set a -n5 --wait=1m":                     with(func(c *setCommand) { c.ID, c.Weight, c.Wait = "a", 5, time.Minute }),
		"services set a -n=5 --server==x":                  with(func(c *setCommand) { c.ID, c.Weight, c.Server = "a", 5, "=x" }),
		"services set a -n 5 --wait 1m":                    with(func(c *setCommand) { c.ID, c.Weight, c.Wait = "a", 5, time.Minute }),
		"services set --weight=-5 a --before 7":            with(func(c *setCommand) { c.ID, c.Weight, c.Before = "a", -5, 7 }),
		"services set -o json --server x a":                with(func(c *setCommand) { c.ID, c.Output, c.Server = "a", "json", "x" }),
		"services set --server= a":                         with(func(c *setCommand) { c.ID, c.Server = "a", "" }),
		"services set --meta a=1 --meta b=2=3 -- -a-":      with(func(c *setCommand) { c.ID, c.Meta = "-a-", map[string]string{"a": "1", "b": "2=3"} }),
		"services set a --before 1 --share 100 --wait 10m": with(func(c *setCommand) { c.ID, c.Before, c.Share, c.Wait = "a", 1, 100, 10*time.Minute }),
		"services set a --share=-3 --wait 0s":              with(func(c *setCommand) { c.ID, c.Share, c.Wait = "a", -3, 0 }),
		"services set -":                                   with(func(c *setCommand) { c.ID = "-" }),
		"services set --meta a=1 --meta a=;2 --server - x": with(func(c *setCommand) { c.ID, c.Meta, c.Server = "x", map[string]string{"a": ";2"}, "-" }),
	} {
		c, choice, err := parse(strings.Fields(line)...)
		if err != nil || choice.Command != any(&c.Services.Set) || !reflect.DeepEqual(c.Services.Set, want) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", line, err, c.Services.Set, want)
		}
	}
	if c, choice, err := parse("run", "-c", "a,b", "-wqcd", "--config=e", "--no-watch=false"); err != nil || choice.Command != any(&c.Run) ||
		!reflect.DeepEqual(c.Run, runCommand{Config: []string{"a,b", "d", "e"}, Quiet: true}) {
		t.Errorf("%v, %+v", err, c.Run)
	}
	if c, _, err := parse("check", "a", "--", "-b", "--help"); err != nil || !reflect.DeepEqual(c.Check.Files, []string{"a", "-b", "--help"}) {
		t.Errorf("%v, %+v", err, c.Check)
	}
}

func TestTheCommandThatIsMeant(t *testing.T) {
	for line, want := range map[string]string{"services": "", "services users": "users", "services -o json users": "users", "services -ojson users": "users", "services list users": "users"} {
		c, choice, err := parse(strings.Fields(line)...)
		if err != nil || choice.Command != any(&c.Services.List) || c.Services.List.Name != want {
			t.Errorf("%s: %v, %+v", line, err, c.Services.List)
		}
	}
}

func TestMistakes(t *testing.T) {
	for line, want := range map[string]string{
		"":                           `prog: expected one of run, check, services, both, hash-it, nested`,
		"nested":                     `prog nested: expected one of only`,
		"rum":                        `prog: unknown command rum, did you mean "run"?`,
		"nonsense":                   `prog: unknown command nonsense`,
		"hash-it x":                  `prog hash-it: unexpected argument x`,
		"services a b":               `prog services list: unexpected argument b`,
		"run":                        `prog run: missing --config=FILE`,
		"run --confg=x":              `prog run: unknown flag --confg, did you mean "--config"?`,
		"run -x":                     `prog run: unknown flag -x`,
		"run -qx":                    `prog run: unknown flag -x`,
		"run -config a":              `prog run: unknown flag -config, did you mean "--config"?`,
		"run -c a -config=b":         `prog run: unknown flag -config, did you mean "--config"?`,
		"services -output=json":      `prog services list: unknown flag -output, did you mean "--output"?`,
		"run -c a b":                 `prog run: unexpected argument b`,
		"both":                       `prog both: missing --why=WHY, <id>`,
		"run -c":                     `prog run: --config: missing value`,
		"run --pid-file --no-watch":  `prog run: --pid-file: missing value; one that begins with a dash is written --pid-file=--no-watch`,
		"run --no-watch=maybe":       `prog run: --no-watch: expected true or false but got "maybe"`,
		"services --output=xml":      `prog services list: --output must be one of "text","json" but got "xml"`,
		"services set":               `prog services set: missing <id>`,
		"services set a sideways":    `prog services set: <value> must be one of "up","down" but got "sideways"`,
		"services set a -n x":        `prog services set: --weight: expected a whole number but got "x"`,
		"services set a --before=-1": `prog services set: --before: expected a whole number from 0 but got "-1"`,
		"services set a --before 0":  `prog services set: --before must be at least 1 but got 0`,
		"services set a --wait=-1ns": `prog services set: --wait must be from 0s to 10m but got -1ns`,
		"services set a --wait 601s": `prog services set: --wait must be from 0s to 10m but got 601s`,
		"services set a --share 101": `prog services set: --share must be at most 100 but got 101`,
		"services set a --wait 5":    `prog services set: --wait: expected a duration such as 30s but got "5"`,
		"services set a --meta k":    `prog services set: --meta: expected KEY=VALUE but got "k"`,
		"services set a up down":     `prog services set: unexpected argument down`,
		"services set a --n=99999999999999999999": `prog services set: unknown flag --n`,
		"-é":       `prog: unknown flag -é`,
		"\xff":     `prog: unknown command "\xff"`,
		"--\x1b[m": `prog: unknown flag "--\x1b[m"`,
		"check":    `prog check: missing <file> ...`,
		"check --": `prog check: missing <file> ...`,
	} {
		_, _, err := parse(strings.Fields(line)...)
		var e *args.Error
		if !errors.As(err, &e) || e.Path+": "+e.Error() != want {
			t.Errorf("%q: %v\nwant %s", line, err, want)
		}
	}
}

var update = flag.Bool("update", false, "rewrite testdata")

func TestHelp(t *testing.T) {
	for name, line := range map[string][]string{
		"root": {"--help"}, "run": {"run", "--bogus", "-h"}, "group": {"services", "--help"},
		"list": {"services", "list", "-help"}, "set": {"--help", "services", "set"}, "check": {"check", "a", "--help"},
	} {
		_, choice, err := parse(line...)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".txt")
		if *update {
			if err := os.WriteFile(path, []byte(choice.Help), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || choice.Help != string(want) {
			t.Errorf("%v: %v\n%s", line, err, choice.Help)
		}
		for _, l := range strings.Split(choice.Help, "\n") {
			if len(l) > 80 {
				t.Errorf("%v: %d columns: %s", line, len(l), l)
			}
		}
	}
}

func TestATypeItDoesNotKnow(t *testing.T) {
	for _, flag := range []any{
		&struct{ Ratio float64 }{},
		&struct {
			Name string `min:"1"`
		}{},
		&struct {
			Wait time.Duration `max:"10"`
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a flag that could never be set is taken: %T", flag)
				}
			}()
			args.New("prog", "", flag)
		}()
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"run -c a", "services set a up -n5", "-h", "--", "services --meta==", "run -qwc=", "- -- --help"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		_, choice, err := parse(strings.Fields(line)...)
		if (choice == nil) == (err == nil) || choice != nil && (choice.Command == nil) == (choice.Help == "") {
			t.Errorf("%q: %+v, %v", line, choice, err)
		}
	})
}
