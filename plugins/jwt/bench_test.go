package jwt

import (
	"testing"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func BenchmarkRememberedToken(b *testing.B) {
	p := start(b, inline(b, "forward: true, ", "rsa"), "")
	b.ReportAllocs()
	plugintest.Do(b, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\n" + bearer(sign(b, pairs()["rsa"], claims(nil), nil)) + "\r\n"},
		func(c *fiber.Ctx) error {
			for b.Loop() {
				_ = c.Next()
			}
			return nil
		}, p.Handle, func(*fiber.Ctx) error { return nil })
}

func BenchmarkVerify(b *testing.B) {
	for _, name := range []string{"rsa", "ec", "ed"} {
		b.Run(name, func(b *testing.B) {
			p := start(b, inline(b, "", name), "")
			token := []byte(sign(b, pairs()[name], claims(nil), nil))
			keys := p.keys.Load()
			b.ReportAllocs()
			for b.Loop() {
				if _, f := verify(token, keys, p.algs, ""); f != nil {
					b.Fatal(f)
				}
			}
		})
	}
}
