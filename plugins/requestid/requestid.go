package requestid

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// longest ID that is accepted from outside.
const longest = 128

// Factory makes request_id instances.
func Factory() plugins.Factory {
	return plugins.Define("request_id", func(c *Config, _ plugins.Settings) (plugins.Instance, error) {
		p := &plugin{header: c.Header, trust: c.Trust, reply: c.Reply, generate: uuid7}
		if c.Generator == "hex" {
			p.generate = random
		}
		return plugins.Stateless(p.handle), nil
	})
}

type plugin struct {
	header, trust string
	reply         bool
	generate      func() string
}

func (p *plugin) handle(c *fiber.Ctx) error {
	e := exchange.From(c)
	q := &c.Request().Header
	if e.RequestID == "" { // else this plugin is in the chain twice
		e.RequestID = p.incoming(e, q.PeekAll(p.header))
		if e.RequestID == "" {
			e.RequestID = p.generate()
		}
	}
	id := e.RequestID
	q.Del(p.header)
	q.Set(p.header, id)
	err := c.Next()
	if p.reply {
		h := &c.Response().Header
		h.Del(p.header) // an upstream's own would stand beside ours
		h.Set(p.header, id)
	}
	return err
}

// incoming is the ID a believed sender has given, "" otherwise. It is cloned:
// later plugins may change the header it came from.
func (p *plugin) incoming(e *exchange.Exchange, sent [][]byte) string {
	if len(sent) != 1 || p.trust == "never" || p.trust != "always" && !e.Trusted || !valid(sent[0]) {
		return ""
	}
	return string(sent[0])
}

// valid allows what UUIDs, hex, base64 and trace IDs are made of, so that an
// ID never needs escaping.
func valid(id []byte) bool {
	if len(id) == 0 || len(id) > longest {
		return false
	}
	for _, c := range id {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-' || c == '_' || c == '.' || c == ':' || c == '/' || c == '+' || c == '=' || c == '@' || c == '~':
		default:
			return false
		}
	}
	return true
}

// uuid7 makes a UUID version 7 (RFC 9562). An ID has to be unique, not secret,
// so the runtime's random numbers do.
func uuid7() string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(time.Now().UnixMilli())<<16|rand.Uint64()&0xfff|0x7000)
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()&(1<<62-1)|1<<63)
	var text [36]byte
	hex.Encode(text[0:], id[:4])
	text[8] = '-'
	hex.Encode(text[9:], id[4:6])
	text[13] = '-'
	hex.Encode(text[14:], id[6:8])
	text[18] = '-'
	hex.Encode(text[19:], id[8:10])
	text[23] = '-'
	hex.Encode(text[24:], id[10:])
	return string(text[:])
}

func random() string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	var text [32]byte
	hex.Encode(text[:], id[:])
	return string(text[:])
}
