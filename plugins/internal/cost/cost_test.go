package cost

import (
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

func read(t testing.TB, yaml string, most int64) *Cost {
	t.Helper()
	f := new(From)
	if err := strict.Unmarshal([]byte(yaml), f); err != nil {
		t.Fatal(err)
	}
	c, err := New(7, f, most)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func of(c *Cost, value ...string) uint32 {
	ctx := new(fasthttp.RequestCtx)
	for _, v := range value {
		ctx.Request.Header.Add("x-cost", v)
	}
	return c.Of(ctx, &exchange.Exchange{Path: "/v1/abcd"})
}

func TestHeader(t *testing.T) {
	c := read(t, "{header: x-COST, default: 3, min: 2, max: 50}", 100)
	for value, want := range map[string]uint32{
		"5": 5, "2": 2, "1": 2, "0": 2, "50": 50, "51": 50, "99999999999999999999999999": 50, "007": 7,
		"": 3, "-1": 3, "+4": 3, "4.5": 3, "1e3": 3, "x": 3, "4,5": 3,
	} {
		if got := of(c, value); got != want {
			t.Errorf("%q costs %d, want %d", value, got, want)
		}
	}
	if got := of(c); got != 3 {
		t.Errorf("none costs %d", got)
	}
	// What a client sends instead of a number must not cost less than min.
	for _, value := range []string{"", "x", "-1", "5 "} {
		if got := of(read(t, "{header: X-Cost, min: 20}", 100), value); got != 20 {
			t.Errorf("%q costs %d, want the least, 20", value, got)
		}
	}
	if got := of(read(t, "{header: X-Cost}", 100), "5000"); got != 100 {
		t.Errorf("more than can be granted: %d", got)
	}
	if c, err := New(7, nil, 1); err != nil || of(c, "5") != 7 {
		t.Errorf("%v", err)
	}
}

func TestExpression(t *testing.T) {
	for expression, want := range map[string]uint32{
		`request.path.startsWith("/v1") ? 5 : 1`: 5, `size(request.path)`: 8, `2.1`: 3, `-4`: 9, `0`: 1, `1000000000000`: 100,
		`0.0 / 0.0`: 9, `1 / (size(request.path) - 8)`: 9, `claims.none`: 9, `int(request.headers["x-cost"]) * 2`: 24, `uint(6)`: 6,
		`1.0 / 0.0`: 100,
	} {
		c := read(t, `{default: 9, expression: '`+expression+`'}`, 100)
		if got := of(c, "12"); got != want {
			t.Errorf("%s is %d, want %d", expression, got, want)
		}
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	for yaml, want := range map[string]string{
		`{}`:                              "needs either header or expression",
		`{header: X, expression: '1'}`:    "needs either header or expression",
		`{header: "X Y"}`:                 `header: "X Y" cannot be`,
		`{expression: '"a"'}`:             "expression: must be a number, but is a string",
		`{expression: 'request.nope'}`:    "expression: column",
		`{header: X, max: 21}`:            "max: 21 can never be granted; at most 20 can",
		`{header: X, min: 30}`:            "min: must be at most max (20), got 30",
		`{header: X, max: 5, default: 6}`: "default: must be at most max (5), got 6",
	} {
		h := new(holder)
		if err := strict.Unmarshal([]byte("cost_from: "+yaml), h); err == nil || !strings.Contains(err.Error(), "cost_from.") && !strings.Contains(err.Error(), "cost_from:") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", yaml, err, want)
		}
	}
}

func FuzzHeader(f *testing.F) {
	c := read(f, "{header: X-Cost, default: 3, min: 2, max: 50}", 100)
	for _, s := range []string{"1", "", "-1", "99999999999999999999", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if got := c.parse([]byte(value)); got < 2 || got > 50 {
			t.Errorf("%q costs %d", value, got)
		}
	})
}

func TestNothingIsAllocated(t *testing.T) {
	c := read(t, "{header: X-Cost}", 100)
	ctx := new(fasthttp.RequestCtx)
	ctx.Request.Header.Set("X-Cost", "12")
	e := new(exchange.Exchange)
	if n := testing.AllocsPerRun(100, func() { c.Of(ctx, e) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// holder is a plugin's config with a cost of at most 20.
type holder struct {
	CostFrom *From `yaml:"cost_from"`
}

func (h *holder) Validate(p *problem.List) { h.CostFrom.Validate(p.Under("cost_from"), 20) }
