package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/gateway/compile"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
	"github.com/gatehouse-proxy/gatehouse/waf"
)

type checkCommand struct {
	Files []string `arg:"" name:"file" help:"Config files or folders; several make one config."`
	Print bool     `help:"Print the whole config with every default filled in. Secrets are hidden, references stay."`
	Quick bool     `help:"Check the text only; do not build plugins, rules and tokens."`
}

// Help is what is shown besides the flags.
func (*checkCommand) Help() string {
	return `Exit code 0: a node would take it; a line with "warning:" is about what it hardly
means. 2: it would not.`
}

// Run reports every problem, or that there is none.
func (c *checkCommand) Run(env *environment) error {
	cfg, src, err := loadConfig(c.Files, env.plugins)
	if err != nil {
		return &usageError{err}
	}
	if !c.Quick {
		if _, err := dryRun(env, cfg, src); err != nil {
			return &usageError{err}
		}
		if err := checkPolicies(cfg, src); err != nil {
			return &usageError{err}
		}
	}
	for _, warning := range advise(cfg, src, env.plugins) {
		env.warn(warning)
	}
	if c.Print {
		return config.Print(env.out, cfg, src)
	}
	if cfg.Node.Config == "store" {
		fmt.Fprintln(env.out, "fine: a node whose config comes from the store")
		return nil
	}
	fmt.Fprintf(env.out, "fine: %s, %s, %s\n", count(len(cfg.Listeners), "listener"), count(len(cfg.Routes), "route"), count(len(cfg.Upstreams), "upstream"))
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// dryRun builds everything a node would build, and starts nothing.
func dryRun(env *environment, cfg *config.Config, src *config.Source) (*compile.Result, error) {
	return dryRunAs(env, cfg, src, compile.DryRun)
}

func dryRunAs(env *environment, cfg *config.Config, src *config.Source, mode compile.Mode) (*compile.Result, error) {
	silent := slog.New(slog.DiscardHandler)
	compiler, err := compile.New(compile.Settings{
		Plugins: allPlugins(env.plugins), Log: silent,
		Metrics: metrics.New(metrics.Settings{Version: env.version, Reasons: reasonNames()}),
		Node:    cfg.Node.Name, Zone: cfg.Node.Zone,
	})
	if err != nil {
		return nil, err
	}
	defer compiler.Close()
	result, err := compiler.Build(context.Background(), cfg, src, nil, mode)
	if err != nil {
		return nil, err
	}
	result.Snapshot.Release()
	<-result.Snapshot.Retired()
	return result, nil
}

// checkPolicies compiles the rules of every WAF policy, those included that are
// off or that no route uses: they should not fail on the day they are needed.
func checkPolicies(cfg *config.Config, src *config.Source) error {
	pool := waf.NewPool()
	var p problem.List
	policies := compile.WAFPolicies(cfg)
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		if err := pool.Check(policies[name]); err != nil {
			p.Add("waf.policies."+name, "%v", err)
		}
	}
	if p.Len() == 0 {
		return nil
	}
	return src.Locate(p.All())
}

type schemaCommand struct{}

// Run prints the JSON schema.
func (schemaCommand) Run(env *environment) error {
	_, err := env.out.Write(config.Schema(kinds(allPlugins(env.plugins))))
	return err
}

// kinds tell the config what the plugins' settings look like.
func kinds(list []plugins.Factory) config.Kinds {
	k := config.Kinds{}
	for _, f := range list {
		k[f.Name] = f.Config
	}
	return k
}

// loadConfig reads and checks config files and folders. Its error lists every
// problem, a line each. A config without a listener is a mistake here, though
// its parts may be right: most likely an editor has just emptied the file, and
// a running node must not close its listeners for that.
func loadConfig(paths []string, extra []plugins.Factory) (*config.Config, *config.Source, error) {
	cfg, src, err := config.Load(paths, kinds(allPlugins(extra)), config.Options{})
	if err != nil {
		return nil, nil, err
	}
	if len(cfg.Listeners) == 0 && cfg.Node.Config != "store" {
		return nil, nil, fmt.Errorf("%s: listeners: %s", strings.Join(paths, ", "), noListener)
	}
	return cfg, src, nil
}

const noListener = "there is none, so nothing would be served"
