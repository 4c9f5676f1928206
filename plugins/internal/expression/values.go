package expression

import (
	"encoding/json"
	"fmt"
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// Scene is the request as one evaluation sees it. It is made for each request
// and makes values when they are asked for.
type Scene struct {
	ctx *fasthttp.RequestCtx
	e   *exchange.Exchange
	// Missing says that something was asked for that is not there.
	Missing bool
}

// NewScene is for one evaluation after the other, not for several at once.
func NewScene(ctx *fasthttp.RequestCtx, e *exchange.Exchange) *Scene { return &Scene{ctx: ctx, e: e} }

// Parent implements cel.Activation.
func (*Scene) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation.
func (s *Scene) ResolveName(name string) (any, bool) {
	e := s.e
	switch name {
	case "request.method":
		return string(s.ctx.Request.Header.Method()), true
	case "request.path":
		return e.Path, true
	case "request.host":
		return e.Host, true
	case "request.scheme":
		return e.Scheme, true
	case "request.client_ip":
		if !e.Client.IsValid() {
			return "", true
		}
		return e.Client.Unmap().String(), true
	case "request.headers":
		return &object{scene: s, source: headers{&s.ctx.Request.Header}}, true
	case "request.query":
		return &object{scene: s, source: query(e.Query)}, true
	case "tls.version", "tls.server_name", "tls.client.subject", "tls.client.spiffe_id", "tls.client.fingerprint":
		return ofTLS(e.TLS, name), true
	case "consumer.name":
		if e.Identity.Consumer == nil {
			return "", true
		}
		return e.Identity.Consumer.Name, true
	case "consumer.groups":
		if e.Identity.Consumer == nil {
			return []string(nil), true
		}
		return e.Identity.Consumer.Groups, true
	case "claims":
		return &object{scene: s, source: claims(e.Identity.Claims)}, true
	case "scopes":
		return e.Identity.Scopes, true
	case "subject":
		return e.Identity.Subject, true
	case "route":
		if e.Route == nil {
			return "", true
		}
		return e.Route.Name, true
	}
	return nil, false
}

// ofTLS is what expressions see of a connection: "" where it is in plain text,
// or the client showed no certificate.
func ofTLS(t *exchange.TLS, name string) string {
	if t == nil {
		return ""
	}
	switch name {
	case "tls.version":
		return t.Version
	case "tls.server_name":
		return t.ServerName
	case "tls.client.subject":
		return t.Subject
	case "tls.client.spiffe_id":
		return t.SPIFFEID
	default:
		return t.Fingerprint
	}
}

// source is where the fields of an object come from.
type source interface {
	find(key string) (any, bool)
	// all is everything, for the rare expression that goes over it.
	all() map[string]any
}

// object is a map in expressions. Unlike CEL's own maps it answers null for a
// field that is not there, so that comparing it is false and not an error;
// has() and in tell whether it is there.
type object struct {
	scene  *Scene
	source source
}

var (
	_ traits.Indexer     = (*object)(nil)
	_ traits.FieldTester = (*object)(nil)
	_ traits.Container   = (*object)(nil)
	_ traits.Sizer       = (*object)(nil)
	_ traits.Iterable    = (*object)(nil)
)

// Get implements traits.Indexer.
func (o *object) Get(index ref.Val) ref.Val {
	key, ok := index.Value().(string)
	if !ok {
		return types.NewErr("a field's name must be a string, got %s", index.Type().TypeName())
	}
	v, ok := o.source.find(key)
	if !ok {
		o.scene.Missing = true
		return types.NullValue
	}
	return o.scene.value(v)
}

// IsSet implements traits.FieldTester.
func (o *object) IsSet(field ref.Val) ref.Val { return o.Contains(field) }

// Contains implements traits.Container.
func (o *object) Contains(index ref.Val) ref.Val {
	key, ok := index.Value().(string)
	if !ok {
		return types.False
	}
	_, ok = o.source.find(key)
	return types.Bool(ok)
}

// Size implements traits.Sizer.
func (o *object) Size() ref.Val { return types.Int(len(o.source.all())) }

// Iterator implements traits.Iterable; it goes over the names.
func (o *object) Iterator() traits.Iterator { return o.plain().Iterator() }

func (o *object) plain() traits.Mapper {
	return types.NewStringInterfaceMap(types.DefaultTypeAdapter, o.source.all())
}

// ConvertToNative implements ref.Val.
func (o *object) ConvertToNative(t reflect.Type) (any, error) { return o.plain().ConvertToNative(t) }

// ConvertToType implements ref.Val.
func (o *object) ConvertToType(t ref.Type) ref.Val { return o.plain().ConvertToType(t) }

// Equal implements ref.Val.
func (o *object) Equal(other ref.Val) ref.Val {
	if x, ok := other.(*object); ok {
		other = x.plain()
	}
	return o.plain().Equal(other)
}

// Type implements ref.Val.
func (*object) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (o *object) Value() any { return o.source.all() }

// value makes a value of a claim, wherever in the token it is.
func (s *Scene) value(v any) ref.Val {
	switch v := v.(type) {
	case map[string]any:
		return &object{scene: s, source: claims(v)}
	case []any:
		return types.NewDynamicList(listAdapter{s}, v)
	case json.Number: // an integer beyond 64 bits: CEL would round it
		return types.String(v)
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

// listAdapter makes the objects in a list objects too.
type listAdapter struct{ scene *Scene }

// NativeToValue implements types.Adapter.
func (a listAdapter) NativeToValue(v any) ref.Val { return a.scene.value(v) }

// adapter is the environment's: values that are values already stay.
type adapter struct{ types.Adapter }

// NativeToValue implements types.Adapter.
func (a adapter) NativeToValue(v any) ref.Val {
	if v, ok := v.(ref.Val); ok {
		return v
	}
	return a.Adapter.NativeToValue(v)
}

type claims map[string]any

func (c claims) find(key string) (any, bool) { v, ok := c[key]; return v, ok && v != nil }
func (c claims) all() map[string]any         { return c }

// headers are found by name in any case; several lines are one value.
type headers struct{ h *fasthttp.RequestHeader }

func (h headers) find(key string) (any, bool) {
	lines := h.h.PeekAll(key)
	switch len(lines) {
	case 0:
		return nil, false
	case 1:
		return string(lines[0]), true
	}
	joined := append([]byte(nil), lines[0]...)
	for _, l := range lines[1:] {
		joined = append(append(joined, ", "...), l...)
	}
	return string(joined), true
}

func (h headers) all() map[string]any {
	m := make(map[string]any)
	for k, v := range h.h.All() {
		name := string(lower(k))
		if old, ok := m[name]; ok {
			m[name] = fmt.Sprintf("%s, %s", old, v)
		} else {
			m[name] = string(v)
		}
	}
	return m
}

func lower(b []byte) []byte {
	out := append([]byte(nil), b...)
	for i, c := range out {
		if c >= 'A' && c <= 'Z' {
			out[i] = c | 0x20
		}
	}
	return out
}
