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
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/gatehouse-proxy/gatehouse/admin"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// servicesCommand is what is done with the service registry.
type servicesCommand struct {
	List       servicesListCommand       `cmd:"" default:"withargs" help:"List services and their instances."`
	Register   servicesRegisterCommand   `cmd:"" help:"Register an instance: for ever, or for as long as this command runs."`
	Deregister servicesDeregisterCommand `cmd:"" help:"Take an instance out of the registry."`
	Drain      servicesDrainCommand      `cmd:"" help:"Give an instance no new requests; it stays registered."`
	Status     servicesStatusCommand     `cmd:"" help:"Decide an instance's status, or leave it to the instance again."`
}

// registryClient is an adminClient of commands about services.
type registryClient struct {
	adminClient
	Node string `help:"Config of the node that is asked, to find its admin address and data folder." placeholder:"FILE"`
}

func (c *registryClient) complete(env *environment) error {
	return c.adminClient.complete(env, c.Node)
}

// instanceArgs name one instance.
type instanceArgs struct {
	Service string `arg:"" help:"Name of the service."`
	ID      string `arg:"" name:"id" help:"ID of the instance."`
}

func (a *instanceArgs) path(more ...string) string {
	p := "/api/v1/services/" + url.PathEscape(a.Service) + "/" + url.PathEscape(a.ID)
	return strings.Join(append([]string{p}, more...), "/")
}

type servicesListCommand struct {
	registryClient
	Service string `arg:"" optional:"" help:"Only this service."`
}

// Run prints what a node knows.
func (c *servicesListCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	var all admin.Services
	if c.Service == "" {
		if err := c.get("/api/v1/services", &all); err != nil {
			return err
		}
	} else {
		var one admin.Service
		if err := c.get("/api/v1/services/"+url.PathEscape(c.Service), &one); err != nil {
			return err
		}
		all.Services = []admin.Service{one}
	}
	switch {
	case c.Output != "json":
		printServices(env.out, &all, time.Now())
		return nil
	case c.Service != "":
		return env.json(all.Services[0])
	}
	return env.json(all)
}

func printServices(w io.Writer, all *admin.Services, now time.Time) {
	if len(all.Services) == 0 {
		fmt.Fprintln(w, "no service is registered")
	} else {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "SERVICE\tINSTANCE\tADDRESS\tSTATUS\tZONE\tWEIGHT\tLEASE\tCHANGED")
		for _, s := range all.Services {
			for _, i := range s.Instances {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", oneLine(s.Service), oneLine(i.ID), oneLine(addressOf(&i.Instance)),
					statusOf(&i), orDash(i.Zone), max(1, i.Weight), leaseOf(&i), ago(i.Changed, now))
			}
		}
		_ = t.Flush() // nobody is left to tell
	}
	s := status{Registry: &all.Registry}
	s.wrongRegistry(func(format string, args ...any) { fmt.Fprintln(w, visible(fmt.Sprintf(format, args...))) }, now)
}

func addressOf(i *registry.Instance) string {
	if i.Port > 0 {
		return i.Address(false)
	}
	return i.Address(true) + " (TLS)"
}

func statusOf(i *admin.Instance) string {
	if i.Override != "" && i.Override != i.Status {
		return fmt.Sprintf("%s, says %s", i.Override, i.Status)
	}
	return string(i.Effective)
}

func leaseOf(i *admin.Instance) string {
	switch {
	case !i.Missing.IsZero():
		return "lost"
	case i.Static():
		return "static"
	}
	return i.TTL.String()
}

type servicesRegisterCommand struct {
	registryClient
	Service  string            `arg:"" help:"Name of the service."`
	Address  string            `arg:"" help:"HOST:PORT to connect to."`
	ID       string            `help:"ID of the instance. Default: the address." placeholder:"ID"`
	TLSPort  int               `name:"tls-port" help:"Port that speaks TLS, besides the other one." placeholder:"PORT"`
	Zone     string            `help:"Zone it runs in." placeholder:"ZONE"`
	Weight   int               `default:"1" help:"Its share of requests in proportion to the others."`
	Metadata map[string]string `help:"KEY=VALUE of your own; may be repeated." placeholder:"KEY=VALUE"`
	TTL      time.Duration     `name:"ttl" help:"Stay, renew the lease of this length, and deregister when stopped. Absent: register for ever, and end." placeholder:"30s"`
}

// Run registers an instance.
func (c *servicesRegisterCommand) Run(env *environment) error {
	host, text, err := net.SplitHostPort(c.Address)
	port, errPort := strconv.Atoi(text)
	if err != nil || errPort != nil || host == "" || port < 1 || port > 65535 {
		return &usageError{fmt.Errorf("gatehouse: <address> must be HOST:PORT, such as 10.0.0.7:8080 or [2001:db8::7]:8080, got %q", c.Address)}
	}
	if c.TTL != 0 && c.TTL < registry.MinTTL {
		return &usageError{fmt.Errorf("gatehouse: --ttl must be at least %v, got %v", registry.MinTTL, c.TTL)}
	}
	if err := c.complete(env); err != nil {
		return err
	}
	if c.ID == "" {
		c.ID = c.Address
	}
	body, err := json.Marshal(admin.Registration{
		Host: host, Port: port, SecurePort: c.TLSPort, Zone: c.Zone, Weight: c.Weight, Metadata: c.Metadata, TTL: unit.Duration(c.TTL),
	})
	if err != nil {
		return err
	}
	who := &instanceArgs{c.Service, c.ID}
	var i admin.Instance
	if err := c.ask(call{method: http.MethodPut, path: who.path(), body: body}, &i); err != nil {
		return refused(err)
	}
	if err := env.instance(c.Output, &i); err != nil {
		return err
	}
	if c.TTL > 0 {
		return c.stay(env, who, body)
	}
	return nil
}

// stay renews the lease until the command is stopped, however long the node is
// away.
func (c *servicesRegisterCommand) stay(env *environment, who *instanceArgs, body []byte) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	tick := time.NewTicker(c.TTL / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_, err := c.do(call{method: http.MethodDelete, path: who.path()})
			return err
		case <-tick.C:
		}
		_, err := c.do(call{method: http.MethodPost, path: who.path("heartbeat")})
		if r := new(refusedError); errors.As(err, &r) && r.Status == http.StatusNotFound {
			_, err = c.do(call{method: http.MethodPut, path: who.path(), body: body})
		}
		if err != nil {
			fmt.Fprintln(env.err, "gatehouse: the lease was not renewed:", err)
		}
	}
}

// instance prints what has become of one.
func (env *environment) instance(output string, i *admin.Instance) error {
	if output == "json" {
		return env.json(i)
	}
	_, err := fmt.Fprintf(env.out, "%s %s at %s is %s\n", oneLine(i.Service), oneLine(i.ID), oneLine(addressOf(&i.Instance)), statusOf(i))
	return err
}

type servicesDeregisterCommand struct {
	registryClient
	instanceArgs
}

// Run removes an instance.
func (c *servicesDeregisterCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	if _, err := c.do(call{method: http.MethodDelete, path: c.path()}); err != nil {
		return refused(err)
	}
	if c.Output == "json" {
		return env.json(map[string]string{"service": c.Service, "id": c.ID})
	}
	_, err := fmt.Fprintf(env.out, "%s %s is deregistered\n", oneLine(c.Service), oneLine(c.ID))
	return err
}

type servicesDrainCommand struct {
	registryClient
	instanceArgs
}

// Run drains an instance.
func (c *servicesDrainCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	var i admin.Instance
	if err := c.ask(call{method: http.MethodPost, path: c.path("drain")}, &i); err != nil {
		return refused(err)
	}
	return env.instance(c.Output, &i)
}

type servicesStatusCommand struct {
	registryClient
	instanceArgs
	Status string `arg:"" enum:"up,starting,drain,down,out_of_service,own" help:"up, starting, drain, down or out_of_service; own: what the instance says of itself."`
}

// Run decides a status.
func (c *servicesStatusCommand) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	q := call{method: http.MethodDelete, path: c.path("status")}
	if c.Status != "own" {
		q.method, q.body = http.MethodPut, fmt.Appendf(nil, `{"status":%q}`, c.Status)
	}
	var i admin.Instance
	if err := c.ask(q, &i); err != nil {
		return refused(err)
	}
	return env.instance(c.Output, &i)
}
