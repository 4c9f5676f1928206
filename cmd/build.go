package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

const modulePath = "github.com/gatehouse-proxy/gatehouse"

// replacements must stand in the go.mod of every binary built from this
// module, because replace lines of dependencies do not count.
var replacements = []string{"github.com/molecule-man/go-brrr => github.com/molecule-man/go-brrr v1.0.1"}

type buildCommand struct {
	With   []string `required:"" sep:"none" help:"Go module of a plugin, with optional version or local folder: MODULE[@VERSION][=FOLDER]; may be repeated. Its package must have func Factory() plugins.Factory." placeholder:"MODULE"`
	Output string   `short:"o" default:"./gatehouse" help:"Where to write the binary."`
	Source string   `help:"Folder with Gatehouse's own source, instead of the published module." placeholder:"FOLDER"`
	At     string   `help:"Version of Gatehouse to build; default: this binary's." placeholder:"VERSION"`
}

// extension is one --with: a module and where it comes from.
type extension struct{ module, version, folder string }

var moduleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~/-]*$`)

func parseExtension(s string) (extension, error) {
	rest, folder, local := strings.Cut(s, "=")
	module, version, _ := strings.Cut(rest, "@")
	if !moduleName.MatchString(module) || local && folder == "" {
		return extension{}, &usageError{fmt.Errorf("gatehouse: --with %q: must be MODULE[@VERSION][=FOLDER]", s)}
	}
	if folder != "" {
		abs, err := filepath.Abs(folder)
		if err != nil {
			return extension{}, fmt.Errorf("--with %q: %w", s, err)
		}
		if _, err := os.Stat(filepath.Join(abs, "go.mod")); err != nil {
			return extension{}, &usageError{fmt.Errorf("gatehouse: --with %q: the folder has no go.mod", s)}
		}
		folder = abs
	}
	return extension{module, version, folder}, nil
}

// buildTags are those of the Makefile.
const buildTags = "no_fs_access,grpcnotrace,coraza.disabled_operators.validateSchema"

// Run writes a small main module to a temporary folder and builds it with the
// Go toolchain on the PATH.
func (b *buildCommand) Run(env *environment) error {
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("building needs the Go toolchain, and there is no go on the PATH")
	}
	var list []extension
	for _, w := range b.With {
		x, err := parseExtension(w)
		if err != nil {
			return err
		}
		list = append(list, x)
	}
	folder, err := os.MkdirTemp("", "gatehouse-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := b.write(folder, list, env); err != nil {
		return err
	}
	output, err := filepath.Abs(b.Output)
	if err != nil {
		return err
	}
	steps := [][]string{{"mod", "tidy"}}
	for _, x := range list {
		if x.version != "" && x.folder == "" {
			steps = append([][]string{{"get", x.module + "@" + x.version}}, steps...)
		}
	}
	steps = append(steps, []string{"build", "-trimpath", "-tags", buildTags, "-o", output, "."})
	for _, args := range steps {
		c := exec.CommandContext(context.Background(), "go", args...)
		c.Dir, c.Stdout, c.Stderr = folder, env.err, env.err
		if err := c.Run(); err != nil {
			return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
		}
	}
	fmt.Fprintln(env.out, output)
	return nil
}

func (b *buildCommand) write(folder string, list []extension, env *environment) error {
	var mod, main strings.Builder
	fmt.Fprintf(&mod, "module gatehouse-custom\n\ngo 1.26.0\n\n")
	for _, r := range replacements {
		fmt.Fprintf(&mod, "replace %s\n", r)
	}
	if b.Source != "" {
		source, err := filepath.Abs(b.Source)
		if err != nil {
			return err
		}
		fmt.Fprintf(&mod, "replace %s => %s\n", modulePath, source)
		fmt.Fprintf(&mod, "require %s v0.0.0\n", modulePath)
	} else {
		version := b.At
		if version == "" {
			version = env.version
		}
		if !strings.HasPrefix(version, "v") {
			return &usageError{fmt.Errorf("gatehouse: this binary has no released version (%s): name one with --at, or the source with --source", version)}
		}
		fmt.Fprintf(&mod, "require %s %s\n", modulePath, version)
	}
	fmt.Fprintf(&main, "package main\n\nimport (\n\t\"os\"\n\n\t%q\n", modulePath+"/cmd")
	for i, x := range list {
		fmt.Fprintf(&main, "\tp%d %q\n", i, x.module)
		if x.folder != "" {
			fmt.Fprintf(&mod, "replace %s => %s\nrequire %s v0.0.0\n", x.module, x.folder, x.module)
		}
	}
	fmt.Fprintf(&main, ")\n\nfunc main() {\n\tos.Exit(cmd.Main(%q, os.Args[1:]", env.version+"-custom")
	for i := range list {
		fmt.Fprintf(&main, ", p%d.Factory()", i)
	}
	fmt.Fprintf(&main, "))\n}\n")
	if err := os.WriteFile(filepath.Join(folder, "go.mod"), []byte(mod.String()), 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "main.go"), []byte(main.String()), 0o600)
}
