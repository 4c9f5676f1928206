package proxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// StickySettings keep a client on its endpoint by a signed cookie.
type StickySettings struct {
	// Cookie is its name.
	Cookie string
	// TTL is how long it holds; 0: until the browser is closed.
	TTL time.Duration
	// Secret signs it; at least 16 bytes, the same on every node.
	Secret []byte
	// Secure has it sent over TLS only.
	Secure bool
}

// macBytes is how much of the HMAC-SHA256 is sent: 128 bits.
const macBytes = 16

// sticky writes and reads cookies "ENDPOINT.EXPIRY.MAC": the endpoint's ID,
// the expiry in Unix seconds (0: none), and a MAC of both and the name.
type sticky struct {
	settings StickySettings
	macs     sync.Pool
}

// maced is a keyed hash with room for its result.
type maced struct {
	hash.Hash
	text []byte
	sum  [sha256.Size]byte
}

func newSticky(s StickySettings) (*sticky, error) {
	if s.Cookie == "" {
		return nil, errors.New("sticky.cookie: is missing")
	}
	if len(s.Secret) < 16 {
		return nil, errors.New("sticky.secret: must have at least 16 bytes")
	}
	k := &sticky{settings: s}
	k.macs.New = func() any { return &maced{Hash: hmac.New(sha256.New, s.Secret)} }
	return k, nil
}

// mac appends the MAC of payload ("ENDPOINT.EXPIRY") to dst.
func (k *sticky) mac(dst, payload []byte) []byte {
	m := k.macs.Get().(*maced)
	m.text = append(append(append(m.text[:0], k.settings.Cookie...), 0), payload...)
	m.Reset()
	_, _ = m.Write(m.text) // a hash never fails
	sum := m.Sum(m.sum[:0])
	dst = base64.RawURLEncoding.AppendEncode(dst, sum[:macBytes])
	k.macs.Put(m)
	return dst
}

// endpoint is the ID in a cookie's value, borrowed, or "" if the value is not
// one of ours or has expired.
func (k *sticky) endpoint(value []byte) string {
	if len(value) == 0 || len(value) > 128 {
		return ""
	}
	first, second := -1, -1
	for i, c := range value {
		if c != '.' {
			continue
		}
		if first < 0 {
			first = i
		} else if second < 0 {
			second = i
		} else {
			return ""
		}
	}
	if second < 0 {
		return ""
	}
	var room [32]byte
	if !hmac.Equal(k.mac(room[:0], value[:second]), value[second+1:]) {
		return ""
	}
	expiry, err := strconv.ParseInt(borrow(value[first+1:second]), 10, 64)
	if err != nil || expiry != 0 && expiry < time.Now().Unix() {
		return ""
	}
	return borrow(value[:first])
}

// remember puts the cookie for ep on the reply.
func (k *sticky) remember(ctx *fasthttp.RequestCtx, ep *upstream.Endpoint) {
	s := &k.settings
	expiry := int64(0)
	if s.TTL > 0 {
		expiry = time.Now().Add(s.TTL).Unix()
	}
	var room [192]byte
	value := append(room[:0], ep.ID()...)
	value = append(value, '.')
	value = strconv.AppendInt(value, expiry, 10)
	value = k.mac(append(value, '.'), value)
	c := fasthttp.AcquireCookie()
	c.SetKey(s.Cookie)
	c.SetValueBytes(value)
	c.SetPath("/")
	c.SetHTTPOnly(true)
	c.SetSameSite(fasthttp.CookieSameSiteLaxMode)
	c.SetSecure(s.Secure)
	if s.TTL > 0 {
		c.SetMaxAge(int(s.TTL / time.Second))
	}
	ctx.Response.Header.SetCookie(c)
	fasthttp.ReleaseCookie(c)
}
