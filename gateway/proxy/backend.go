package proxy

import (
	"errors"
	"math/rand/v2"
	"unsafe"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// backend is a Backend made ready: weights are cumulative.
type backend struct {
	up     *upstream.Upstream
	upTo   uint64
	hashOn Key
	sticky *sticky
}

func newBackend(b Backend) (backend, error) {
	made := backend{up: b.Upstream, hashOn: b.HashOn}
	if b.Upstream == nil {
		return made, errors.New("the upstream is missing")
	}
	if b.Weight < 0 {
		return made, errors.New("weight: must not be negative")
	}
	if b.Sticky != nil {
		s, err := newSticky(*b.Sticky)
		if err != nil {
			return made, err
		}
		made.sticky = s
	}
	return made, nil
}

// choose takes a backend by weight.
func (p *Proxy) choose() *backend {
	if len(p.backends) == 1 {
		return &p.backends[0]
	}
	n := rand.Uint64N(p.total)
	for i := range p.backends {
		if n < p.backends[i].upTo {
			return &p.backends[i]
		}
	}
	return &p.backends[len(p.backends)-1]
}

// preparePick fills in what the choice of an endpoint depends on.
func (f *forward) preparePick() {
	b := f.backend
	f.pick = upstream.PickRequest{}
	if b.hashOn != nil {
		f.scratch = b.hashOn(f.scratch[:0], f.ctx, f.e)
		if len(f.scratch) > 0 {
			f.pick.Hash, f.pick.HasHash = upstream.Hash(borrow(f.scratch)), true
		}
	}
	if b.sticky != nil {
		f.pick.Prefer = b.sticky.endpoint(f.ctx.Request.Header.Cookie(b.sticky.settings.Cookie))
	}
}

// borrow is b as a string, for as long as b does not change.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
