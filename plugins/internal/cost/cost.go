// Package cost is what a request costs where a limit counts units: always the
// same, or what a header or an expression says.
package cost

import (
	"math"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/plugins/internal/expression"
)

// From is where the cost of a request comes from. What is there and is no number,
// or is not there, costs the default; what is too little or too much the least or
// the most.
type From struct {
	// A request header with a whole number. Take care that clients cannot set it
	// themselves, or that min is what a request costs at least.
	Header string `yaml:"header"`
	// Or an expression (CEL, with the names that authorize has) that is a number;
	// fractions are rounded up.
	Expression string `yaml:"expression"`
	// What costs that cannot be told are, if that is not less than min.
	Default uint32 `yaml:"default" default:"1" max:"1000000"`
	// The least a request costs.
	Min uint32 `yaml:"min" default:"1" max:"1000000"`
	// The most it costs. Default: the smallest burst, or limit.
	Max uint32 `yaml:"max" default:"0" max:"1000000"`
}

// limit of what evaluating one expression may cost, as authorize's default.
const limit = 10000

// Validate reports what tags cannot. most is what can be granted at all.
func (f *From) Validate(p *problem.List, most int64) {
	p.Check((f.Header == "") != (f.Expression == ""), "", "needs either header or expression")
	if f.Expression != "" {
		if _, err := expression.Number(f.Expression, limit); err != nil {
			p.Add("expression", "%v", err)
		}
	}
	p.Check(f.Header == "" || isToken(f.Header), "header", "%q cannot be the name of a header", f.Header)
	top := f.most(most)
	p.Check(int64(f.Max) <= most, "max", "%d can never be granted; at most %d can", f.Max, most)
	p.Check(int64(f.Min) <= top, "min", "must be at most max (%d), got %d", top, f.Min)
	p.Check(int64(f.Default) <= top, "default", "must be at most max (%d), got %d", top, f.Default)
}

// most is the cap that applies.
func (f *From) most(possible int64) int64 {
	if f.Max > 0 {
		return int64(f.Max)
	}
	return min(possible, 1_000_000)
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// Cost tells what requests cost. It never changes.
type Cost struct {
	fixed    uint32 // unless one of the following is there
	header   string
	program  cel.Program
	fallback uint32
	min, max int64
}

// New returns what always costs fixed, or, with from, what that says. most is
// what can be granted at all.
func New(fixed uint32, from *From, most int64) (*Cost, error) {
	if from == nil {
		return &Cost{fixed: fixed}, nil
	}
	c := &Cost{header: string(fasthttp.AppendNormalizedHeaderKey(nil, from.Header)), fallback: max(from.Default, from.Min), min: int64(from.Min), max: from.most(most)}
	if from.Expression != "" {
		var err error
		if c.program, err = expression.Number(from.Expression, limit); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Of is what a request costs. It allocates only to evaluate an expression.
func (c *Cost) Of(ctx *fasthttp.RequestCtx, e *exchange.Exchange) uint32 {
	switch {
	case c.program != nil:
		v, _, err := c.program.Eval(expression.NewScene(ctx, e))
		if err != nil {
			return c.fallback
		}
		switch n := v.(type) {
		case types.Int:
			return c.clamp(float64(n))
		case types.Uint:
			return c.clamp(float64(n))
		case types.Double:
			return c.clamp(float64(n))
		}
		return c.fallback
	case c.header != "":
		return c.parse(ctx.Request.Header.Peek(c.header))
	}
	return c.fixed
}

// parse reads a whole number of any length.
func (c *Cost) parse(text []byte) uint32 {
	if len(text) == 0 {
		return c.fallback
	}
	n := int64(0)
	for _, b := range text {
		if b < '0' || b > '9' {
			return c.fallback
		}
		n = min(n*10+int64(b-'0'), c.max+1)
	}
	return uint32(max(c.min, min(n, c.max)))
}

func (c *Cost) clamp(n float64) uint32 {
	if math.IsNaN(n) || n < 0 {
		return c.fallback
	}
	return uint32(max(float64(c.min), min(math.Ceil(n), float64(c.max))))
}
