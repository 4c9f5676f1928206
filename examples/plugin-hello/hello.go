// Package hello is an example of a plugin that lives outside Gatehouse's own
// repository. It greets clients in a reply header and turns some away.
//
// Build a gateway that has it:
//
//	gatehouse build --with example.com/plugin-hello=./examples/plugin-hello -o ./my-gatehouse
package hello

import (
	"bytes"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Config is what users write under "hello".
type Config struct {
	// What to say.
	Greeting string `yaml:"greeting" default:"hello"`
	// Clients whose User-Agent contains one of these are refused.
	Unwelcome []string `yaml:"unwelcome"`
}

// Validate says what tags cannot.
func (c *Config) Validate(p *problem.List) {
	p.Check(len(c.Greeting) <= 100, "greeting", "must be at most 100 bytes, has %d", len(c.Greeting))
	for _, u := range c.Unwelcome {
		p.Check(u != "", "unwelcome", "must not have an empty text: everybody has that")
	}
}

// Factory is what `gatehouse build` looks for.
func Factory() plugins.Factory {
	return plugins.Define("hello", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		// Everything that does not depend on the request is done here, once.
		greeting := []byte(c.Greeting)
		greeted := s.Counter("gatehouse_hello_greetings_total", "Clients greeted.", "route").WithLabelValues(s.Route.Name)
		var unwelcome [][]byte
		for _, u := range c.Unwelcome {
			unwelcome = append(unwelcome, []byte(u))
		}
		return plugins.Stateless(func(f *fiber.Ctx) error {
			agent := f.Request().Header.UserAgent()
			for _, u := range unwelcome {
				if bytes.Contains(agent, u) {
					return reason.Forbidden.Because("user agent %q is not welcome", agent)
				}
			}
			err := f.Next() // the rest of the chain, and the upstream
			f.Response().Header.SetBytesV("X-Hello", greeting)
			greeted.Inc()
			return err
		}), nil
	})
}
