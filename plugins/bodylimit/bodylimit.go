package bodylimit

import (
	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Factory makes body_limit instances.
func Factory() plugins.Factory {
	return plugins.Define("body_limit", func(c *Config, s plugins.Settings) (plugins.Instance, error) {
		limit := int64(c.Max)
		refused := s.Counter("gatehouse_body_limit_refused_total", "Requests refused for the length their body announces.", "route").
			WithLabelValues(s.Route.Name)
		return plugins.Stateless(func(c *fiber.Ctx) error {
			e := exchange.From(c)
			if !e.Front.HasBody() {
				return c.Next()
			}
			if e.Messages() {
				// A stream of messages may go on for as long as it likes.
				if err := exchange.FollowMessages(c.Context(), max(limit, 1)); err != nil {
					return err
				}
				return c.Next()
			}
			// What announces too much need not be read; what announces nothing
			// is cut off where it grows too long, whoever reads it.
			if n := c.Request().Header.ContentLength(); int64(n) > limit {
				refused.Inc()
				return reason.BodyTooLarge.Because("Content-Length %d, limit %d", n, limit)
			}
			e.Front.LimitBody(limit)
			return c.Next()
		}), nil
	})
}
