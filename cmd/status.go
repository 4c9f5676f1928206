package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

type statusCommand struct {
	Server  string `env:"GATEHOUSE_SERVER" help:"The node's admin address, HOST:PORT or a URL. Default: that of --config, else 127.0.0.1:9901." placeholder:"ADDRESS"`
	Token   string `env:"GATEHOUSE_TOKEN" help:"The node's admin token. Default: what is in DATA_DIR/admin.token." placeholder:"TOKEN"`
	Config  string `short:"c" help:"Config of the node, to find its admin address and data folder." placeholder:"FILE"`
	DataDir string `help:"The node's data folder. Default: that of --config, else ./data." placeholder:"DATA_DIR"`
	Output  string `short:"o" enum:"text,json" default:"text" help:"text for people, json for programs."`
}

// Help is what is shown besides the flags.
func (*statusCommand) Help() string {
	return `Exit code 0: all is well. 1: the node cannot be reached, or something is wrong:
the newest config was refused, a route is broken, an upstream has no endpoint
that can be used, or a certificate is missing, out of date or cannot be renewed.`
}

const (
	statusTimeout = 10 * time.Second
	// maxStatus bounds what a node may answer: about a KiB for each endpoint.
	maxStatus = 64 << 20
)

// Run asks a node and prints what it says.
func (c *statusCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	body, err := c.fetch()
	if err != nil {
		return err
	}
	var s status
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("%s answers something else than a node's status: %w", c.Server, err)
	}
	wrong := s.wrong(time.Now())
	if c.Output == "json" {
		if _, err := env.out.Write(body); err != nil {
			return err
		}
	} else {
		s.print(env.out, wrong, time.Now())
	}
	if len(wrong) > 0 {
		return errSilent
	}
	return nil
}

// complete finds what was not given.
func (c *statusCommand) complete(env *environment) error {
	if c.Config != "" {
		cfg, _, err := loadConfig([]string{c.Config}, env.plugins)
		if err != nil {
			return &usageError{err}
		}
		if c.DataDir == "" {
			c.DataDir = cfg.Node.DataDir
		}
		if c.Server == "" {
			if cfg.Node.Admin.Address == "off" {
				return &usageError{fmt.Errorf("gatehouse: the node of %s has no admin address (node.admin.address is off)", c.Config)}
			}
			c.Server = reachable(cfg.Node.Admin.Address)
		}
	}
	if c.DataDir == "" {
		c.DataDir = "data"
	}
	if c.Server == "" {
		c.Server = "127.0.0.1:9901"
	}
	if !strings.Contains(c.Server, "://") {
		c.Server = "http://" + c.Server
	}
	if u, err := url.Parse(c.Server); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return &usageError{fmt.Errorf("gatehouse: --server %q: must be HOST:PORT or a URL", c.Server)}
	}
	if c.Token != "" {
		return nil
	}
	path := filepath.Join(c.DataDir, "admin.token")
	token, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("no admin token: %w; name the node's data folder with --data-dir, its config with --config, or give --token", err)
	}
	c.Token = strings.TrimSpace(string(token))
	return nil
}

// reachable is an address to connect to for one to listen on.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (c *statusCommand) fetch() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.Server, "/")+"/api/v1/status", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	client := &http.Client{
		// The token is for this address only.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // its text repeats the address
		}
		return nil, fmt.Errorf("the node cannot be reached at %s: %w", c.Server, err)
	}
	defer resp.Body.Close() //nolint:errcheck // nothing was written
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		return nil, fmt.Errorf("%s does not accept the token: it belongs to another node, or the node's data folder was replaced", c.Server)
	default:
		return nil, fmt.Errorf("%s answers %s: is that a node's admin address?", c.Server, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus))
	if err != nil {
		return nil, fmt.Errorf("the node's answer: %w", err)
	}
	return body, nil
}
