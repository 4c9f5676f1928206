package grpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestCodes(t *testing.T) {
	for in, want := range map[string]struct {
		c  Code
		ok bool
	}{
		"0": {OK, true}, "14": {Unavailable, true}, "16": {Unauthenticated, true}, "007": {PermissionDenied, true},
		"17": {Unknown, true}, "999999999": {Unknown, true}, "9999999999": {Unknown, false},
		"": {Unknown, false}, "-1": {Unknown, false}, "1.": {Unknown, false}, "OK": {Unknown, false}, " 1": {Unknown, false},
	} {
		if c, ok := ParseCode([]byte(in)); c != want.c || ok != want.ok {
			t.Errorf("%q: got %v, %v", in, c, ok)
		}
	}
	for c := range Code(Codes) {
		if got, ok := ParseCode(AppendCode(nil, c)); got != c || !ok || c.String() == "" {
			t.Errorf("%d: got %v, %v", c, got, ok)
		}
	}
	if Code(99).String() != "UNKNOWN" {
		t.Error("a code that does not exist has a name")
	}
}

// The table is that of the gRPC project; what it does not list is UNKNOWN.
func TestFromHTTP(t *testing.T) {
	for status, want := range map[int]Code{
		400: Internal, 401: Unauthenticated, 403: PermissionDenied, 404: Unimplemented,
		429: Unavailable, 502: Unavailable, 503: Unavailable, 504: Unavailable,
		200: Unknown, 302: Unknown, 418: Unknown, 500: Unknown,
	} {
		if got := FromHTTP(status); got != want {
			t.Errorf("%d: got %v, want %v", status, got, want)
		}
	}
}

func TestForRefusalNeverSaysOK(t *testing.T) {
	for status := range 700 {
		if ForRefusal(status) == OK {
			t.Errorf("%d: OK", status)
		}
	}
}

func TestKinds(t *testing.T) {
	for in, want := range map[string]struct {
		k      Kind
		format string
	}{
		"application/grpc":                       {Native, ""},
		"application/grpc+proto":                 {Native, "+proto"},
		"Application/GRPC+JSON; charset=utf-8":   {Native, "+JSON"},
		"application/grpc ; x":                   {Native, ""},
		"application/grpc-web":                   {Web, ""},
		"application/grpc-web+proto":             {Web, "+proto"},
		"application/grpc-web-text":              {WebText, ""},
		"application/grpc-web-text+thrift;a=b":   {WebText, "+thrift"},
		"application/grpc-websocket":             {None, ""},
		"application/grpc-web-texts":             {None, ""},
		"application/grpcx":                      {None, ""},
		"application/grp":                        {None, ""},
		"text/plain, application/grpc":           {None, ""},
		"":                                       {None, ""},
		"application/grpc, application/grpc-web": {None, ""},
	} {
		k, format := KindOf([]byte(in))
		if k != want.k || string(format) != want.format {
			t.Errorf("%q: got %v %q", in, k, format)
		}
		if k == None {
			continue
		}
		if again, f := KindOf(AppendType(nil, k, format)); again != k || !bytes.Equal(f, format) {
			t.Errorf("%q: AppendType is read as %v %q", in, again, f)
		}
	}
}

func TestTimeouts(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"1n": 1, "20u": 20 * time.Microsecond, "300m": 300 * time.Millisecond, "4S": 4 * time.Second,
		"5M": 5 * time.Minute, "6H": 6 * time.Hour, "0S": 0, "00000001S": time.Second,
		"99999999H": MaxTimeout, "99999999M": 99999999 * time.Minute,
	} {
		if d, ok := ParseTimeout([]byte(in)); !ok || d != want {
			t.Errorf("%q: got %v, %v", in, d, ok)
		}
	}
	for _, in := range []string{"", "S", "1", "1s", "1 S", " 1S", "1S ", "+1S", "-1S", "1.5S", "0x1S", "123456789S", "1SS", "1h", "١S"} {
		if d, ok := ParseTimeout([]byte(in)); ok {
			t.Errorf("%q: accepted as %v", in, d)
		}
	}
	for in, want := range map[time.Duration]string{
		-time.Second: "1n", 0: "1n", 1: "1n", 99999999: "99999999n", 100_000_000: "100000u",
		100_000_001: "100001u", 99_999_999_001: "100000m", time.Hour: "3600000m",
		30 * 24 * time.Hour: "2592000S", MaxTimeout: "2562048H",
	} {
		if got := string(AppendTimeout(nil, in)); got != want {
			t.Errorf("%d: got %q, want %q", in, got, want)
		}
	}
}

func FuzzTimeout(f *testing.F) {
	for _, s := range []string{"1S", "99999999H", "0n", "12345678u", "x", "1.0S"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, ok := ParseTimeout([]byte(s))
		if !ok {
			return
		}
		if d < 0 {
			t.Fatalf("%q: %v", s, d)
		}
		told := AppendTimeout(nil, d)
		again, ok := ParseTimeout(told)
		if !ok || len(told) > 9 {
			t.Fatalf("%q is told as %q", s, told)
		}
		if again < d || d > 0 && d < 99999999 && again != d {
			t.Fatalf("%q: %v is told as %v", s, d, again)
		}
	})
}

func TestMessages(t *testing.T) {
	for text, want := range map[string]string{
		"":                   "",
		"plain ~ text":       "plain ~ text",
		"100 %":              "100 %25",
		"line\nbreak\r\n\t":  "line%0Abreak%0D%0A%09",
		"\u00e9\U0001F600":   "%C3%A9%F0%9F%98%80",
		"\x00\x7f":           "%00%7F",
		"a\xffb":             "a%FFb",
		"Not found: %41 \"x": "Not found: %2541 \"x",
	} {
		got := AppendMessage(nil, text)
		if string(got) != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
		if back := AppendText(nil, got); string(back) != text {
			t.Errorf("%q comes back as %q", text, back)
		}
	}
	for in, want := range map[string]string{"%": "%", "%4": "%4", "%zz": "%zz", "%4g%41": "%4gA", "%e2%82%ac": "\u20ac"} {
		if got := string(AppendText(nil, []byte(in))); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add("a%b\n\u00e9\xff")
	f.Fuzz(func(t *testing.T, s string) {
		m := AppendMessage(nil, s)
		for _, c := range m {
			if c < ' ' || c > '~' {
				t.Fatalf("%q: %q", s, m)
			}
		}
		if back := AppendText(nil, m); string(back) != s {
			t.Fatalf("%q comes back as %q", s, back)
		}
		_ = AppendText(nil, []byte(s))
	})
}

// message is one frame.
func message(flags byte, payload string) string {
	b := append([]byte{flags}, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	return string(b) + payload
}

func TestScanner(t *testing.T) {
	two := message(0, "hello") + message(1, "") + message(0, strings.Repeat("x", 300))
	for _, step := range []int{1, 2, 3, 7, 1000} {
		var s Scanner
		for rest := []byte(two); len(rest) > 0; rest = rest[min(step, len(rest)):] {
			if err := s.Scan(rest[:min(step, len(rest))]); err != nil {
				t.Fatalf("in steps of %d: %v", step, err)
			}
		}
		if err := s.End(); err != nil {
			t.Errorf("in steps of %d: %v", step, err)
		}
	}
	for in, want := range map[string]error{
		"":                          nil,
		`{"a":1}`:                   ErrFlags,
		message(2, "x"):             ErrFlags,
		message(0x80, "x"):          ErrFlags,
		message(0, "abc")[:7]:       ErrCut,
		"\x00\x00":                  ErrCut,
		message(0, "eleven byte"):   ErrTooLong,
		message(0, "ten bytes."):    nil,
		message(0, "a") + "q=attac": ErrFlags,
	} {
		s := Scanner{Max: 10}
		err := s.Scan([]byte(in))
		if end := s.End(); err == nil {
			err = end
		}
		if !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", in, err, want)
		}
	}
}

func FuzzScannerDoesNotDependOnThePieces(f *testing.F) {
	f.Add([]byte(message(0, "hello")+message(1, "x")), 3)
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1}, 1)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		step = max(1, min(step, 4096))
		whole, pieces := Scanner{Max: 1000}, Scanner{Max: 1000}
		_ = whole.Scan(in)
		for rest := in; len(rest) > 0; rest = rest[min(step, len(rest)):] {
			_ = pieces.Scan(rest[:min(step, len(rest))])
		}
		if a, b := whole.End(), pieces.End(); !errors.Is(a, b) {
			t.Fatalf("%v at once, %v in pieces of %d", a, b, step)
		}
	})
}

func TestStatusFrame(t *testing.T) {
	got := AppendStatusFrame([]byte("before"), ResourceExhausted, "slow down, 100 %")
	want := "before\x80\x00\x00\x00\x36grpc-status:8\r\ngrpc-message:slow down, 100 %25\r\n"
	want = strings.Replace(want, "\x36", string(rune(len(want)-len("before")-PrefixLen)), 1)
	if string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNothingAllocates(t *testing.T) {
	dst := make([]byte, 0, 256)
	kind, timeout, body := []byte("application/grpc+proto"), []byte("300m"), []byte(message(0, "hello"))
	if n := testing.AllocsPerRun(100, func() {
		k, format := KindOf(kind)
		d, _ := ParseTimeout(timeout)
		b := AppendType(dst[:0], k, format)
		b = AppendTimeout(b, d)
		b = AppendMessage(b, "Too many requests.")
		_ = AppendText(b, b)
		var s Scanner
		_ = s.Scan(body)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestTextStaysValid(t *testing.T) {
	if !utf8.Valid(AppendText(nil, AppendMessage(nil, "\u20ac"))) {
		t.Error("not UTF-8")
	}
}
