package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/admin"
	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// adminClient is how a command finds a node and talks to it.
type adminClient struct {
	Server  string `env:"GATEHOUSE_SERVER" help:"The node's admin address, HOST:PORT or a URL. Default: that of the node's config, else 127.0.0.1:9901." placeholder:"ADDRESS"`
	Token   string `env:"GATEHOUSE_TOKEN" help:"The node's admin token. Default: what is in DATA_DIR/admin.token." placeholder:"TOKEN"`
	DataDir string `help:"The node's data folder. Default: that of the node's config, else ./data." placeholder:"DATA_DIR"`
	Output  string `short:"o" enum:"text,json" default:"text" help:"text for people, json for programs."`
}

const (
	clientTimeout = 10 * time.Second
	// maxAnswer bounds what a node may answer: about a KiB for each endpoint, or
	// a config in base64.
	maxAnswer = 256 << 20
)

// complete finds what was not given; node is the node's config, if there is one.
func (c *adminClient) complete(env *environment, node string) error {
	if node != "" {
		cfg, _, err := loadConfig([]string{node}, env.plugins)
		if err != nil {
			return &usageError{err}
		}
		if c.DataDir == "" {
			c.DataDir = cfg.Node.DataDir
		}
		if c.Server == "" {
			if cfg.Node.Admin.Address == "off" {
				return &usageError{fmt.Errorf("gatehouse: the node of %s has no admin address (node.admin.address is off)", node)}
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
	if whole, err := filepath.Abs(path); err == nil {
		path = whole // data_dir is relative to where the node was started, which need not be here
	}
	token, err := readFile(path)
	if err != nil {
		return fmt.Errorf("no admin token: %w; %s", err, whichToken)
	}
	if c.Token = strings.TrimSpace(string(token)); c.Token == "" {
		return fmt.Errorf("no admin token: %s is empty; %s", path, whichToken)
	}
	return nil
}

// What a user can do about a node that is not found, and one that is another.
const (
	whichNode  = "name another with --server, or its config with --node"
	whichToken = "name the node's data folder with --data-dir, its config with --node, or give --token"
)

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

// call is one request to a node.
type call struct {
	method, path string
	body         []byte
	ifMatch      string
	timeout      time.Duration // 0: clientTimeout
}

// refusedError is a node's answer that says no.
type refusedError struct{ admin.Problem }

// Error implements error: one line for each place that is wrong.
func (e *refusedError) Error() string {
	if len(e.Problems) == 0 {
		return visible(e.Detail)
	}
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = located(p).String()
	}
	return strings.Join(lines, "\n")
}

// located is a place that a node has found, as it is where one is found here.
func located(p admin.Place) problem.Problem {
	at := problem.Position{File: p.File, Line: p.Line, Column: p.Column}
	return problem.Problem{Path: p.Path, Message: p.Message, At: at}
}

// do asks a node. The error is a *refusedError if the node says no.
func (c *adminClient) do(q call) ([]byte, error) {
	if q.timeout == 0 {
		q.timeout = clientTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), q.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, q.method, strings.TrimSuffix(c.Server, "/")+q.path, bytes.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if q.ifMatch != "" {
		req.Header.Set("If-Match", q.ifMatch)
	}
	if len(q.body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	client := &http.Client{
		// The token is for this address only.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer resp.Body.Close() //nolint:errcheck // what was sent has been answered
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("%s does not accept the token: it belongs to another node, or the node's data folder was replaced; %s", c.Server, whichToken)
	case resp.Header.Get("Content-Type") == "application/problem+json":
		e := new(refusedError)
		if err := json.Unmarshal(body, &e.Problem); err == nil {
			return nil, e
		}
		fallthrough
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusMethodNotAllowed:
		path, _, _ := strings.Cut(q.path, "?")
		return nil, fmt.Errorf("%s answers %s to %s %s: that is no node's admin address, or the node is of an older version than this command; %s", c.Server, resp.Status, q.method, path, whichNode)
	case resp.StatusCode/100 != 2:
		return nil, c.stranger(resp)
	case err != nil:
		return nil, fmt.Errorf("the node's answer: %w", err)
	}
	return body, nil
}

// unreachable says why there is no answer.
func (c *adminClient) unreachable(err error) error {
	if u := new(url.Error); errors.As(err, &u) {
		err = u.Err // its text repeats the address
	}
	return fmt.Errorf("the node cannot be reached at %s: %w; %s", c.Server, err, whichNode)
}

// stranger says that an answer is none of a node's.
func (c *adminClient) stranger(resp *http.Response) error {
	return fmt.Errorf("%s answers %s, and not as a node's admin address does; %s", c.Server, resp.Status, whichNode)
}

// get reads JSON into out.
func (c *adminClient) get(path string, out any) error {
	return c.ask(call{method: http.MethodGet, path: path}, out)
}

// ask is do for an answer in JSON.
func (c *adminClient) ask(q call, out any) error {
	body, err := c.do(q)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s answers something that is not understood here (%w): that is no node's admin address, or the node is of another version; %s", c.Server, err, whichNode)
	}
	return nil
}

// json prints for programs.
func (env *environment) json(v any) error {
	enc := json.NewEncoder(env.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
