package action

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

// RewriteSettings say how the path for the upstream is made: Prefix, or
// Pattern and With.
type RewriteSettings struct {
	// Prefix replaces Matched, at a segment boundary. "/" takes it away.
	Prefix string
	// Matched is the prefix that the route matches; "" is the root, so that
	// Prefix is put before the whole path.
	Matched string
	// Pattern is an RE2; everything it matches in the path is replaced by
	// With, where $1 and ${name} stand for its groups and $$ for a dollar.
	Pattern, With string
}

// Rewrite makes the path for the upstream. It never changes.
type Rewrite struct {
	prefix  prefix
	regex   *regexp.Regexp // nil: by prefix
	with    string
	slashes bool // the author's own text has encoded slashes
}

// NewRewrite checks s; errors name the knob ("prefix", "regex.pattern", "regex.with").
func NewRewrite(s RewriteSettings) (*Rewrite, error) {
	if (s.Prefix == "") == (s.Pattern == "") {
		return nil, errors.New("must have either prefix or regex")
	}
	if s.Prefix != "" {
		p, err := newPrefix("prefix", s.Matched, s.Prefix)
		return &Rewrite{prefix: p}, err
	}
	re, err := regexp.Compile(s.Pattern)
	if err != nil {
		return nil, fmt.Errorf("regex.pattern %q: %w", s.Pattern, err)
	}
	if err := checkWith(re, s.With); err != nil {
		return nil, fmt.Errorf("regex.with %q: %w", s.With, err)
	}
	return &Rewrite{regex: re, with: s.With, slashes: encodedSlash(s.With)}, nil
}

// reference is what regexp takes for a group: as long a name as possible.
var reference = regexp.MustCompile(`\$(\$|[A-Za-z0-9_]+|\{[^}]*\})?`)

// checkWith finds references to groups that do not exist, which regexp would
// silently leave out, and text that cannot stand in a path.
func checkWith(re *regexp.Regexp, with string) error {
	known := map[string]bool{}
	for i, name := range re.SubexpNames() {
		known[fmt.Sprint(i)], known[name] = true, true
	}
	delete(known, "")
	for _, m := range reference.FindAllStringSubmatch(with, -1) {
		name := strings.Trim(m[1], "{}")
		switch {
		case m[1] == "":
			return errors.New("a lone $; write $$ for a dollar")
		case name == "$" || known[name]:
		case m[1][0] != '{':
			return fmt.Errorf("$%s names no group of the pattern; write ${NAME} to end a name", name)
		default:
			return fmt.Errorf("${%s} names no group of the pattern", name)
		}
	}
	text := reference.ReplaceAllString(with, "x")
	if _, r := target.Normalize(nil, []byte("/x"+text+"x"), target.Rules{KeepEncodedSlashes: true, RefuseDotSegments: true}); r != nil {
		return errors.New("must be part of a path, unambiguous, without query and fragment")
	}
	return nil
}

func encodedSlash(s string) bool {
	for i := 0; i+2 < len(s); i++ {
		if s[i] == '%' && (s[i+1] == '2' && s[i+2]|0x20 == 'f' || s[i+1] == '5' && s[i+2]|0x20 == 'c') {
			return true
		}
	}
	return false
}

// AppendTarget appends the path and query to ask the upstream for. The query
// is the client's; a bare '?' stays. A nil Rewrite changes nothing. By prefix
// it does not allocate when dst has room; a regex does.
//
// The result is never ambiguous: where a regex would make a path that is (a
// dot segment put together of two parts, half an escape), the path stays as it
// was. Guard refuses such requests before they come here.
func (w *Rewrite) AppendTarget(dst []byte, _ *fasthttp.RequestCtx, e *exchange.Exchange) []byte {
	dst = w.appendPath(dst, e.Path)
	if e.Query != "" || e.Front != nil && bytes.IndexByte(e.Front.RawTarget(), '?') >= 0 {
		dst = append(append(dst, '?'), e.Query...)
	}
	return dst
}

func (w *Rewrite) appendPath(dst []byte, path string) []byte {
	if w == nil || path == "*" {
		return append(dst, path...)
	}
	if w.regex == nil {
		return w.prefix.append(dst, path)
	}
	if out, ok := w.replace(path); ok {
		return append(dst, out...)
	}
	return append(dst, path...)
}

// replace applies the regex. The result must be normal by the strictest rules
// that the path itself is: what it has none of, a rewrite does not make.
func (w *Rewrite) replace(path string) (out []byte, ok bool) {
	out = []byte("/" + w.regex.ReplaceAllString(path, w.with))
	for len(out) > 1 && out[1] == '/' {
		out = out[1:]
	}
	out, r := target.Normalize(nil, out, target.Rules{
		KeepEncodedSlashes: w.slashes || encodedSlash(path),
		MergeSlashes:       !strings.Contains(path, "//"),
		RefuseDotSegments:  true,
	})
	return out, r == nil
}

// Guard returns a handler that refuses, as reason.AmbiguousPath, requests
// whose path cannot be rewritten, and hands all others to next. It is next
// itself where that cannot happen.
func (w *Rewrite) Guard(next fiber.Handler) fiber.Handler {
	if w == nil || w.regex == nil {
		return next
	}
	return func(c *fiber.Ctx) error {
		e := exchange.From(c)
		if e.Path != "*" {
			if _, ok := w.replace(e.Path); !ok {
				return reason.AmbiguousPath.Because("rewriting %q by %s", e.Path, w.regex)
			}
		}
		return next(c)
	}
}
