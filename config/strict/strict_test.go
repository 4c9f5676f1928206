package strict_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
	"github.com/gatehouse-proxy/gatehouse/config/strict"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

type inner struct {
	Level string        `yaml:"level" enum:"low,high" default:"low"`
	Wait  unit.Duration `yaml:"wait" default:"5s" min:"1s" max:"1m"`
}

type common struct {
	Comment string `yaml:"comment"`
}

type place struct {
	Address string `yaml:"address" required:"true"`
	Weight  int    `yaml:"weight" default:"1" min:"1" max:"10"`
}

func (p *place) UnmarshalText(text []byte) error {
	p.Address = string(text)
	return nil
}

type sample struct {
	common
	Name    string            `yaml:"name"`
	On      bool              `yaml:"on" default:"true"`
	Count   int               `yaml:"count" default:"3" min:"0" max:"9"`
	Port    uint16            `yaml:"port"`
	Share   float64           `yaml:"share" default:"0.5" min:"0" max:"1"`
	Code    int               `yaml:"code" enum:"301,302"`
	Size    unit.Size         `yaml:"size" default:"64KiB" max:"1MiB"`
	List    []string          `yaml:"list" default:"a,b"`
	Methods []string          `yaml:"methods" enum:"GET,POST"`
	Map     map[string]string `yaml:"map"`
	Codes   map[int]string    `yaml:"codes"`
	Inner   inner             `yaml:"inner"`
	Maybe   *inner            `yaml:"maybe"`
	Flag    *bool             `yaml:"flag"`
	Places  []place           `yaml:"places"`
	Nets    []netip.Prefix    `yaml:"nets"`
	IP      netip.Addr        `yaml:"ip"`
	Secret  unit.Secret       `yaml:"secret"`
	Free    any               `yaml:"free"`
	Hidden  int               `yaml:"-"`
}

func (s *sample) Validate(p *problem.List) {
	p.Check(s.Name != "bad", "name", "must not be bad")
	p.Check(len(s.Places) != 3, "places[2]", "three is one too many")
}

func defaults() sample {
	return sample{
		On: true, Count: 3, Share: 0.5, Size: 64 << 10, List: []string{"a", "b"},
		Inner: inner{Level: "low", Wait: unit.Duration(5e9)},
	}
}

func lookups() strict.Option {
	env := map[string]string{"NAME": "ann", "EMPTY": "", "N": "7", "YES": "true", "HOST": "h:1", "DIR": "d", "LIST": "[x]"}
	files := map[string]string{"d/key": "hush\n", "void": "\n"}
	return strict.References(
		func(n string) (string, bool) { v, ok := env[n]; return v, ok },
		func(p string) ([]byte, error) {
			if v, ok := files[p]; ok {
				return []byte(v), nil
			}
			return nil, errors.New("no such file")
		})
}

func TestDecodeGood(t *testing.T) {
	f := func(name, yaml string, change func(s *sample)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			want := defaults()
			change(&want)
			var got sample
			if err := strict.Unmarshal([]byte(yaml), &got, lookups(), strict.IgnoreKeys("x-")); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, cmp.AllowUnexported(sample{}), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); d != "" {
				t.Fatalf("want -, got +:\n%s", d)
			}
		})
	}
	f("nothing", "", func(*sample) {})
	f("empty map", "{}", func(*sample) {})
	f("only comments", "# x\n", func(*sample) {})
	f("BOM and CRLF", "\ufeffname: x\r\ncount: 1\r\n", func(s *sample) { s.Name, s.Count = "x", 1 })
	f("text", "name: no\ncomment: 2024-01-01", func(s *sample) { s.Name, s.Comment = "no", "2024-01-01" })
	f("numbers", "count: 9\nshare: 1\nport: 65535\ncode: 301", func(s *sample) { s.Count, s.Share, s.Port, s.Code = 9, 1, 65535, 301 })
	f("size as a number", "size: 100", func(s *sample) { s.Size = 100 })
	f("empty list replaces default", "list: []", func(s *sample) { s.List = []string{} })
	f("null section is its defaults", "inner:\nmap:\nlist:", func(*sample) {})
	f("pointer section", "maybe: {}", func(s *sample) { s.Maybe = &inner{Level: "low", Wait: unit.Duration(5e9)} })
	f("pointer scalar", "flag: false", func(s *sample) { s.Flag = new(bool) })
	f("short and long form", "places: ['a:1', {address: 'b:2', weight: 3}]", func(s *sample) {
		s.Places = []place{{"a:1", 1}, {"b:2", 3}}
	})
	f("networks", "nets: [10.0.0.0/8, 192.0.2.1, '::1']\nip: ::1", func(s *sample) {
		s.Nets = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("::1/128")}
		s.IP = netip.MustParseAddr("::1")
	})
	f("IPv4 written as IPv6", "nets: ['::ffff:10.0.0.0/104', '::ffff:192.0.2.1', '::ffff:0:0/96']", func(s *sample) {
		s.Nets = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("0.0.0.0/0")}
	})
	f("number keys", "codes: {404: a, 500: b}\nmap: {404: a}", func(s *sample) {
		s.Codes, s.Map = map[int]string{404: "a", 500: "b"}, map[string]string{"404": "a"}
	})
	f("anchors and merge keys", "x-base: &b {level: high, wait: 9s}\ninner: {<<: *b, wait: 2s}\nmaybe: *b", func(s *sample) {
		s.Inner = inner{"high", unit.Duration(2e9)}
		s.Maybe = &inner{"high", unit.Duration(9e9)}
	})
	f("merge of a list of maps", "x-a: &a {level: high}\nx-b: &b {level: low, wait: 2s}\ninner: {<<: [*a, *b]}", func(s *sample) {
		s.Inner = inner{"high", unit.Duration(2e9)}
	})
	f("references", "name: \"${NAME}!\"\ncount: ${N}\non: '${YES}'\nsize: ${NONE:-2KiB}\nplaces: ['${HOST}']\ncomment: ${EMPTY:-e}", func(s *sample) {
		s.Name, s.Count, s.Size, s.Places, s.Comment = "ann!", 7, 2048, []place{{"h:1", 1}}, "e"
	})
	f("not references", "map: {a: '${claim.x}', b: '$${NAME}', c: '$NAME ${', d: '${EMPTY}', e: '${Name}${}', f: '${claim.${NAME}}'}", func(s *sample) {
		s.Map = map[string]string{"a": "${claim.x}", "b": "${NAME}", "c": "$NAME ${", "d": "", "e": "${Name}${}", "f": "${claim.ann}"}
	})
	f("a reference never becomes structure", "name: ${LIST}", func(s *sample) { s.Name = "[x]" })
	f("secret in place", "secret: abc", func(s *sample) { s.Secret = "abc" })
	f("secret from file", "secret: file:${DIR}/key", func(s *sample) { s.Secret = "hush" })
	f("secret from environment", "secret: ${NAME}", func(s *sample) { s.Secret = "ann" })
	f("any", "free:\n  a: [1, 2.5, true, null, x]\n  b:\n    c: '${N}'\n    d: ${N}", func(s *sample) {
		s.Free = map[string]any{"a": []any{1, 2.5, true, nil, "x"}, "b": map[string]any{"c": "7", "d": 7}}
	})
}

func TestDecodeBad(t *testing.T) {
	f := func(name, yaml string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			var got sample
			err := strict.Unmarshal([]byte(yaml), &got, lookups())
			if err == nil {
				t.Fatalf("no error, want %q", want)
			}
			if d := cmp.Diff(strings.Join(want, "\n"), err.Error()); d != "" {
				t.Fatalf("want -, got +:\n%s", d)
			}
		})
	}
	const keys = "code, codes, comment, count, flag, free, inner, ip, list, map, maybe, methods, name, nets, on, places, port, secret, share, size"
	f("unknown key", "nmae: x", `1:1: nmae: unknown key "nmae" (did you mean "name"?); known: `+keys)
	f("unknown key far from all", "\ninner:\n  zzzzzz: x", `3:3: inner.zzzzzz: unknown key "zzzzzz"; known: level, wait`)
	f("x- keys only where allowed", "x-a: 1", `1:1: x-a: unknown key "x-a"; known: `+keys)
	f("duplicate", "name: a\ncount: 1\nname: b", `3:1: name: duplicate key "name"; first on line 1`)
	f("duplicate among many", "map: {a: x, b: x, c: x, d: x, e: x, f: x, g: x, h: x, i: x, j: x, k: x, l: x, m: x, n: x, a: y}",
		`1:91: map.a: duplicate key "a"; first on line 1`)
	f("kinds", "name: [a]\ncount: {}\nlist: {a: b}\nmap: [a]\ninner: 5\nplaces: x\nmaybe: []\nsize: []\nnets: [[]]",
		"1:7: name: must be text, got a list",
		"2:8: count: must be a whole number, got a map",
		"3:7: list: must be a list, got a map",
		"4:6: map: must be a map, got a list",
		"5:8: inner: must be a map, got the number 5; its keys: level, wait",
		`6:9: places: must be a list, got "x"`,
		"7:8: maybe: must be a map, got a list",
		"8:7: size: must be a size such as 8MiB, got a list",
		"9:8: nets[0]: must be a CIDR such as 10.0.0.0/8, got a list")
	f("root is a list", "- a", "1:1: must be a map, got a list")
	f("root is text", "hello", `1:1: must be a map, got "hello"`)
	f("short form neither", "places: [[a]]", "1:10: places[0]: must be text or a map, got a list")
	f("short form empty", "places: ['', null, {weight: 2}]",
		"1:10: places[0].address: must not be empty",
		"1:14: places[1].address: is required",
		"1:20: places[2].address: is required")
	f("nulls", "name:\ncount: ~\nmaybe:\nflag: null\nsize:\nsecret:",
		"1:6: name: must be text, got nothing; remove the key for its default",
		"2:8: count: must be a whole number, got nothing; remove the key for its default",
		"3:7: maybe: is empty; write {} for all defaults or remove the key",
		"4:7: flag: is empty; write {} for all defaults or remove the key",
		"5:6: size: must be a size such as 8MiB, got nothing; remove the key for its default",
		"6:8: secret: must be text, got nothing; remove the key for its default")
	f("text or number", "name: 5\ncomment: true\ncount: '5'\non: 'true'\nlist: [1]\nshare: x",
		`1:7: name: must be text, got the number 5; put it in quotes: "5"`,
		`2:10: comment: must be text, got true; put it in quotes: "true"`,
		`3:8: count: must be a whole number, got "5"; write it without quotes`,
		`4:5: on: must be true or false, got "true"; write it without quotes`,
		`5:8: list[0]: must be text, got the number 1; put it in quotes: "1"`,
		`6:8: share: must be a number, got "x"`)
	f("bools", "on: yes", `1:5: on: must be true or false, got "yes"`)
	f("capital bool", "on: TRUE", `1:5: on: must be true or false, got "TRUE"`)
	f("number forms", "count: 0x5", `1:8: count: must be a whole number in decimal digits, got "0x5"`)
	f("octal", "count: 010", `1:8: count: must be a whole number in decimal digits, got "010"`)
	f("fraction", "count: 1.5", `1:8: count: must be a whole number, got the number 1.5`)
	f("too big for its type", "port: 70000", `1:7: port: is out of range, got 70000`)
	f("negative", "port: -1", `1:7: port: must be 0 or more, got -1`)
	f("not a number", "share: .nan", `1:8: share: must be a number, got ".nan"`)
	f("bounds", "count: 10\nshare: 1.1\nsize: 2MiB\ninner: {wait: 2m}\nmaybe: {wait: 1ms}",
		"1:8: count: must be from 0 to 9, got 10",
		"2:8: share: must be from 0 to 1, got 1.1",
		"3:7: size: must be at most 1MiB, got 2MiB",
		"4:15: inner.wait: must be from 1s to 1m, got 2m",
		"5:15: maybe.wait: must be from 1s to 1m, got 1ms")
	f("enums", "inner: {level: mid}\ncode: 300\nmethods: [GET, PUT]",
		`1:16: inner.level: must be low or high, got "mid"`,
		`2:7: code: must be 301 or 302, got "300"`,
		`3:16: methods[1]: must be GET or POST, got "PUT"`)
	f("units", "inner: {wait: 5}\nsize: 8Mb",
		`1:15: inner.wait: must be a duration such as 250ms, 5s, 1h or 7d, got "5"`,
		`2:7: size: must be a size such as 512, 64KiB or 8MiB, got "8Mb"`)
	f("networks", "nets: [a, 10.0.0.1/8, 10.0.0.0/40]\nip: x",
		`1:8: nets[0]: must be a CIDR such as 10.0.0.0/8 or 2001:db8::/32, got "a"`,
		`1:11: nets[1]: has bits set after /8; write 10.0.0.0/8, got "10.0.0.1/8"`,
		`1:23: nets[2]: must be a CIDR such as 10.0.0.0/8 or 2001:db8::/32, got "10.0.0.0/40"`,
		`2:5: ip: must be an IP address, got "x"`)
	f("keys", "map: {~: a, [x]: b}\ncodes: {x: a}",
		"1:7: map: a key must be text, got nothing",
		"1:13: map: a key must be text, got a list",
		`2:9: codes.x: must be a whole number in decimal digits, got "x"`)
	f("references", "name: ${NOPE}\ncount: ${NAME}\ninner: {level: '${NAME}'}\nsize: ${NAME}\nsecret: file:nope",
		"1:7: name: environment variable NOPE is not set; write ${NOPE:-default} to allow that",
		`2:8: count: must be a whole number, and "${NAME}" is none`,
		`3:16: inner.level: must be low or high, got "${NAME}"`,
		`4:7: size: must be a size such as 512, 64KiB or 8MiB, got "${NAME}"`,
		"5:9: secret: file:nope: no such file")
	f("empty secret file", "secret: file:void", "1:9: secret: file:void is empty")
	f("secret as a number", "secret: 12345", "1:9: secret: must be text; put it in quotes")
	f("tags", "name: !!binary aGk=\ncount: !int 5",
		"1:7: name: the tag !!binary is not supported",
		"2:8: count: the tag !int is not supported")
	f("alias of itself", "free: &a [*a]", "1:11: free[0][0]: the alias *a contains itself")
	f("merge of itself", "free: &a {<<: *a}", "1:15: free.<<: the alias *a contains itself")
	f("merge of text", "inner: {<<: x}", `1:13: inner.<<: must be a map or an alias of one, got "x"`)
	f("validate has the path", "name: bad\nplaces: [a, b, c]", "1:7: name: must not be bad", "2:16: places[2]: three is one too many")
	f("validate waits for a clean decode", "name: bad\ncount: x", `2:8: count: must be a whole number, got "x"`)
	f("all at once", "zz: 1\ncount: x\non: 1",
		`1:1: zz: unknown key "zz"; known: `+keys,
		`2:8: count: must be a whole number, got "x"`,
		`3:5: on: must be true or false, got the number 1`)
	f("syntax", "a: [1,\nb: 2\n", "3:1: is not YAML: while parsing a flow sequence: did not find expected ',' or ']' (it began on line 1)")
	f("tab", "inner:\n\tlevel: x", "2:1: a tab cannot indent; use spaces")
	f("two documents", "a: 1\n---\nb: 2", "2:1: has a second document (---); write one document a file")
	f("not UTF-8", "name: x\n  \xff", "2:3: is not UTF-8 text")
	f("NUL", "name: \x00", "1:7: is not UTF-8 text")
	f("unknown anchor", "name: *x", "1:7: is not YAML: unknown anchor 'x' referenced")
	f("deep", strings.Repeat("[", 200), "1:101: is not YAML: while increasing flow level: exceeded max depth of 100")
}

func TestAliasBombIsRefusedQuickly(t *testing.T) {
	var b strings.Builder
	b.WriteString("free:\n  a: &a [x, x, x, x, x, x, x, x, x]\n")
	for c := 'b'; c <= 'z'; c++ {
		b.WriteString("  " + string(c) + ": &" + string(c) + " [")
		b.WriteString(strings.Repeat("*"+string(c-1)+", ", 9))
		b.WriteString("]\n")
	}
	var s sample
	err := strict.Unmarshal([]byte(b.String()), &s)
	if err == nil || !strings.Contains(err.Error(), "aliases repeat too much") || strings.Count(err.Error(), "\n") > 0 {
		t.Fatalf("got %.200v", err)
	}
}

func TestMergeBombIsRefusedQuickly(t *testing.T) {
	var b strings.Builder
	b.WriteString("free:\n  a: &a {k: v}\n")
	for c := 'b'; c <= 'z'; c++ {
		b.WriteString("  " + string(c) + ": &" + string(c) + " {<<: [")
		b.WriteString(strings.Repeat("*"+string(c-1)+", ", 9))
		b.WriteString("]}\n")
	}
	var s sample
	if err := strict.Unmarshal([]byte(b.String()), &s); err == nil || !strings.Contains(err.Error(), "aliases repeat too much") {
		t.Fatalf("got %.200v", err)
	}
}

func TestSecretValueIsNotInMessages(t *testing.T) {
	type c struct {
		Level string `yaml:"level" enum:"a,b"`
	}
	env := strict.References(func(string) (string, bool) { return "s3cr3t", true }, nil)
	err := strict.Unmarshal([]byte("level: ${PASSWORD}"), &c{}, env)
	if err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Fatalf("got %v", err)
	}
}

func TestWrongTagsPanic(t *testing.T) {
	f := func(name string, out any) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			defer func() {
				if v, _ := recover().(string); !strings.HasPrefix(v, "BUG: ") {
					t.Fatalf("recovered %v", v)
				}
			}()
			_ = strict.Unmarshal([]byte("{}"), out)
		})
	}
	f("no tag", &struct{ A int }{})
	f("bad default", &struct {
		A int `yaml:"a" default:"x"`
	}{})
	f("default out of bounds", &struct {
		A int `yaml:"a" default:"5" max:"3"`
	}{})
	f("bound of text", &struct {
		A string `yaml:"a" min:"3"`
	}{})
	f("duration of the standard library", &struct {
		A time.Duration `yaml:"a"`
	}{})
	f("same key twice", &struct {
		A int `yaml:"a"`
		B int `yaml:"a"`
	}{})
}

func TestDefaultListIsNotShared(t *testing.T) {
	var l struct {
		S []struct {
			L []string `yaml:"l" default:"a,b"`
		} `yaml:"s"`
	}
	if err := strict.Unmarshal([]byte("s: [{}, {}]"), &l); err != nil {
		t.Fatal(err)
	}
	l.S[0].L[0] = "changed"
	if l.S[1].L[0] != "a" {
		t.Fatal("two values share one default list")
	}
}
