// Package cmd is the command line: what a person or a script asks of the
// binary. It assembles a node from the packages below it and holds the
// explicit list of plugins. A custom binary calls Main with more of them.
package cmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"

	"github.com/gatehouse-proxy/gatehouse/cmd/args"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Exit codes of every command.
const (
	exitFine   = 0
	exitFailed = 1 // the thing asked for failed
	exitUsage  = 2 // wrong usage or invalid config
)

type commands struct {
	Run          runCommand          `cmd:"" help:"Run a node."`
	Check        checkCommand        `cmd:"" help:"Check config files: every problem, with its place."`
	Status       statusCommand       `cmd:"" help:"Tell how a running node is: config, fleet, upstreams, certificates."`
	Plan         planCommand         `cmd:"" help:"Tell what publishing a config to a fleet would change."`
	Apply        applyCommand        `cmd:"" help:"Publish a config to a fleet and wait until every node runs it."`
	Rollback     rollbackCommand     `cmd:"" help:"Publish the config of an old revision again."`
	History      historyCommand      `cmd:"" help:"List the revisions of a fleet."`
	Show         showCommand         `cmd:"" help:"Print the config of a revision."`
	Diff         diffCommand         `cmd:"" help:"Print what is different between two revisions."`
	Explain      explainCommand      `cmd:"" help:"Tell which route, plugins and upstream a request would take, without sending it."`
	Services     servicesCommand     `cmd:"" help:"List the services in the registry; register, drain and deregister instances."`
	Quotas       quotasCommand       `cmd:"" help:"List what consumers have used of their quotas; reset it."`
	Demo         demoCommand         `cmd:"" help:"Start two sample upstreams and the gateway on loopback, and print commands to try."`
	Schema       schemaCommand       `cmd:"" help:"Print the JSON schema of the config, for editors."`
	Build        buildCommand        `cmd:"" help:"Build a custom binary with more plugins."`
	HashPassword hashPasswordCommand `cmd:"" help:"Read a password from standard input and print its hash for the config."`
	Version      versionCommand      `cmd:"" help:"Print the version."`
}

// environment is what a command may use of the process.
type environment struct {
	version string
	plugins []plugins.Factory
	in      io.Reader
	out     io.Writer
	err     io.Writer
}

// Main runs one command and returns the process's exit code. extra are plugins
// besides the built-in ones.
func Main(version string, args []string, extra ...plugins.Factory) int {
	env := &environment{version: versionOf(version), plugins: extra, in: os.Stdin, out: os.Stdout, err: os.Stderr}
	return env.main(args)
}

// command is what stands behind each name in commands.
type command interface{ Run(env *environment) error }

// main is Main for any surroundings.
func (env *environment) main(line []string) int {
	var c commands
	parser := args.New("gatehouse", "API gateway, web application firewall and load balancer in one process.", &c)
	choice, err := parser.Parse(habits(line))
	if mistake := (*args.Error)(nil); errors.As(err, &mistake) {
		fmt.Fprintf(env.err, "gatehouse: %v (see %s --help)\n", err, mistake.Path)
		return exitUsage
	}
	if choice.Help != "" {
		fmt.Fprint(env.out, choice.Help)
		if len(line) == 0 {
			return exitUsage
		}
		return exitFine
	}
	if err := choice.Command.(command).Run(env); err != nil {
		return env.fail(err)
	}
	return exitFine
}

// habits turns what people type at other programs into what is meant here.
func habits(args []string) []string {
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case args[0] == "--version":
		return []string{"version"}
	default:
		return args
	}
}

// fail says what went wrong, and how badly.
func (env *environment) fail(err error) int {
	var u *usageError
	if errors.As(err, &u) {
		fmt.Fprintln(env.err, u.Error())
		return exitUsage
	}
	if !errors.Is(err, errSilent) {
		fmt.Fprintln(env.err, "gatehouse: "+err.Error())
	}
	return exitFailed
}

// errSilent fails a command that has said all there is to say.
var errSilent = errors.New("failed")

// usageError is wrong usage or an invalid config: exit code 2.
type usageError struct{ error }

func (u *usageError) Unwrap() error { return u.error }

func versionOf(linked string) string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

type versionCommand struct{}

// Run prints the version and what it was built with.
func (versionCommand) Run(env *environment) error {
	fmt.Fprintf(env.out, "gatehouse %s\n", env.version)
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprintf(env.out, "built with %s\n", info.GoVersion)
	}
	return nil
}
