package cmd

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/admin"
)

type statusCommand struct {
	adminClient
	Node   string `short:"c" help:"Config of the node that is asked, to find its admin address and data folder." placeholder:"FILE"`
	Config string `help:"The same as --node." placeholder:"FILE"`
	Ready  bool   `help:"Only tell whether the node may get traffic, as /readyz does; needs no token."`
}

// Help is what is shown besides the flags.
func (*statusCommand) Help() string {
	return `Exit code 0: all is well. 1: the node cannot be reached, or something is wrong:
the newest config was refused, a route is broken, an upstream has no endpoint
that can be used, or a certificate is missing, out of date or cannot be renewed. Of a fleet: the
store is away or cannot be written to; a node refuses the newest revision, has been
behind it for ten seconds, or runs one from its disk; a node fell silent in the last
hour and has not said that it stops; two nodes have one name; the nodes are of
different versions; or the store has something that no node wrote.`
}

// Run asks a node and prints what it says.
func (c *statusCommand) Run(env *environment) error {
	if c.Ready {
		return c.ready(env)
	}
	if err := c.complete(env, cmp.Or(c.Node, c.Config)); err != nil {
		return err
	}
	var body json.RawMessage
	if err := c.get("/api/v1/status", &body); err != nil {
		return err
	}
	var s status
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("%s answers something else than a node's status: %w", c.Server, err)
	}
	var unknown string // why the others are not known
	if s.Announced {
		var f admin.Fleet
		if err := c.get("/api/v1/fleet", &f); err != nil {
			unknown = err.Error()
		}
		s.Nodes, s.Alerts = f.Nodes, f.Alerts
	}
	wrong := s.wrong(time.Now())
	if unknown != "" && (s.Fleet == nil || s.Fleet.Store.Up) {
		wrong = append(wrong, visible("fleet: the other nodes cannot be listed: "+unknown))
	}
	if c.Output == "json" {
		if err := printStatus(env, body, &s, wrong); err != nil {
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

// ready asks what a health check wants to know, which is no secret.
func (c *statusCommand) ready(env *environment) error {
	if c.Token == "" {
		c.Token = "none" // or one is looked for
	}
	if err := c.complete(env, cmp.Or(c.Node, c.Config)); err != nil {
		return err
	}
	client := &http.Client{Timeout: clientTimeout}
	defer client.CloseIdleConnections()
	resp, err := client.Get(strings.TrimSuffix(c.Server, "/") + "/readyz")
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close() //nolint:errcheck // what was sent has been answered
	var answer struct {
		Ready  bool
		Reason string
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&answer); err != nil {
		return c.stranger(resp)
	}
	if !answer.Ready {
		return fmt.Errorf("not ready: %s", visible(answer.Reason))
	}
	_, err = fmt.Fprintln(env.out, "ready")
	return err
}

// printStatus prints what the node said, with the nodes of its fleet, and what is
// wrong as it is told to people.
func printStatus(env *environment, body []byte, s *status, wrong []string) error {
	all := map[string]json.RawMessage{}
	err := json.Unmarshal(body, &all)
	for key, value := range map[string]any{"nodes": s.Nodes, "alerts": s.Alerts, "wrong": wrong} {
		text, e := json.Marshal(value)
		err = errors.Join(err, e)
		if string(text) != "null" {
			all[key] = text
		}
	}
	if err != nil {
		return err
	}
	return env.json(all)
}
