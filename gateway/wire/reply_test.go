package wire_test

import (
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/wire"
)

func TestBodilessLength(t *testing.T) {
	for _, c := range []struct {
		status, announced, length int
		streamed                  bool
		want                      int
	}{
		{status: 204, announced: 5, length: 5, want: -1},
		{status: 304, want: -1},
		{status: 304, announced: 7, want: 7},
		{status: 304, announced: -1, streamed: true, want: -1},
		{status: 200, announced: 5, length: 5, want: 5},
		{status: 200, want: 0},
		{status: 200, announced: 7, want: 7},                 // a HEAD's, from the upstream
		{status: 200, announced: 7, streamed: true, want: 7}, // the same, of a GET
		{status: 200, announced: -1, streamed: true, want: -1},
		{status: 200, streamed: true, want: 0},
	} {
		var resp fasthttp.Response
		resp.Header.SetContentLength(c.announced) // first: fasthttp knows what 304 is
		resp.SetStatusCode(c.status)
		if got := wire.BodilessLength(&resp, c.length, c.streamed); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

func TestCutLine(t *testing.T) {
	for lines, want := range map[string][]string{
		"":                            nil,
		"A: b\r\n":                    {"A", "b"},
		"A:\t b c\r\nD:e\r\nF: \r\n":  {"A", "b c", "D", "e", "F", ""},
		"A: b\r\nno colon\r\nC: d":    {"A", "b"},
		"A: b\r\nC: not to its end":   {"A", "b"},
		"A: b\r\nC: d\r":              {"A", "b", "C", "d"},
		": no name\r\nA: : colons:\r": {"", "no name", "A", ": colons:"},
	} {
		var got []string
		rest := []byte(lines)
		for {
			name, value, next, ok := wire.CutLine(rest)
			if !ok {
				break
			}
			got, rest = append(got, string(name), string(value)), next
		}
		if len(got) != len(want) {
			t.Errorf("%q: got %q", lines, got)
			continue
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%q: got %q, want %q", lines, got, want)
			}
		}
	}
}
