package cmd

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/control/fleet"
	"github.com/gatehouse-proxy/gatehouse/control/revision"
)

// member is what a node has whose config comes from the store.
type member struct {
	follower  *fleet.Follower
	publisher *fleet.Publisher
	key       string // public key of the control role; empty: none
}

// openFleet makes the node a member of its fleet, and puts the config it is to
// start with in the place of its own file's. It changes nothing for a node
// whose config is its file.
func (n *node) openFleet(ctx context.Context, s *nodeSettings) error {
	c := s.config.Node
	if c.Config != "store" {
		return nil
	}
	m := &member{}
	n.fleet = m
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("node.data_dir: %w", err)
	}
	key, ring, err := n.keys(c, s.source.Dir)
	if err != nil {
		return err
	}
	if err := n.openStoreFile(); err != nil {
		return fmt.Errorf("node.data_dir: %w", err)
	}
	own, dir := s.config.Node, s.source.Dir
	parse := func(files []config.File) (*config.Config, *config.Source, error) {
		return parseShared(files, *s, &own, dir)
	}
	role := "gateway"
	if key != nil {
		role, m.key = "control", key.Public().String()
	}
	m.follower, err = fleet.New(fleet.Settings{
		Store: n.store, Trusted: ring, Control: key != nil, Dir: c.DataDir,
		Self:  fleet.Member{Node: nodeName(c), Zone: c.Zone, Role: role, Version: s.version},
		Parse: parse, Metrics: n.metrics, Log: n.log,
		Incomplete: func() bool { s := n.loop.Status(); return !s.Whole() },
	})
	if err != nil {
		return err
	}
	m.publisher = fleet.NewPublisher(fleet.PublisherSettings{
		Store: n.store, Key: key, Follower: m.follower, Parse: parse, Log: n.log,
		Keep: uint64(c.Control.History),
		Check: func(_ context.Context, cfg *config.Config, src *config.Source) error {
			if _, err := dryRun(&environment{version: s.version, plugins: s.plugins}, cfg, src); err != nil {
				return err
			}
			return checkPolicies(cfg, src)
		},
		Advise: func(cfg *config.Config, src *config.Source) config.Problems { return advise(cfg, src, s.plugins) },
	})
	if cfg, src := m.follower.Begin(ctx); cfg != nil {
		s.config, s.source = cfg, src
	}
	return nil
}

// parseShared reads a config of the fleet as this node has to.
func parseShared(files []config.File, s nodeSettings, own *config.Node, dir string) (*config.Config, *config.Source, error) {
	cfg, src, err := config.ParseFiles(files, kinds(allPlugins(s.plugins)), config.Options{Node: own, Dir: dir})
	if err != nil {
		return nil, nil, err
	}
	if len(cfg.Listeners) == 0 {
		return nil, nil, config.Problems{{Path: "listeners", Message: noListener, At: problem.Position{File: files[0].Name}}}
	}
	return cfg, src, nil
}

// keys are the key of the control role, if the node has that, and all keys it
// trusts.
func (n *node) keys(c config.Node, dir string) (*revision.Key, revision.Keyring, error) {
	var ring revision.Keyring
	for _, text := range c.Control.TrustedKeys {
		p, err := revision.ParsePublicKey(text)
		if err != nil {
			return nil, nil, fmt.Errorf("node.control.trusted_keys: %w", err)
		}
		ring = append(ring, p)
	}
	if !c.Control.Enabled {
		return nil, ring, nil
	}
	path := filepath.Join(c.DataDir, "control.key")
	if c.Control.KeyFile != "" {
		path = below(dir, c.Control.KeyFile)
	}
	key, created, err := revision.LoadOrCreateKey(path)
	if err != nil {
		return nil, nil, fmt.Errorf("node.control.key_file: %w", err)
	}
	if created {
		n.log.Info("made a key to sign revisions with; other nodes need its public half in node.control.trusted_keys", "key", key.Public().String(), "file", path)
	}
	return key, append(ring, key.Public()), nil
}

// below is path as the config means it, relative to its folder.
func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// close ends the membership; safe on a half-built one.
func (m *member) close() {
	if m.publisher != nil {
		m.publisher.Close()
	}
	if m.follower != nil {
		m.follower.Close()
	}
}

// fleetStatus is what `gatehouse status` shows of the fleet's config.
func (n *node) fleetStatus() *fleet.Status {
	if n.fleet == nil {
		return nil
	}
	s := n.fleet.follower.Status()
	s.Key = cmp.Or(s.Key, n.fleet.key)
	return &s
}

// reload reads the config anew, from wherever it comes.
func (n *node) reload(why string) {
	if n.fleet != nil {
		_ = n.fleet.follower.Reload(context.Background(), why) // it is in the log and the status
		return
	}
	_ = n.loop.Reload(context.Background(), why) // Reload reports its own failure
}
