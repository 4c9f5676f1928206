package errorpages

import (
	"errors"
	"html"
	"strconv"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/gateway/attribute"
	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
)

// text is a page's template: what attributes know of the request, and three
// words about the error.
type text []piece

type piece struct {
	own      string // "status", "reason" or "title"
	template *attribute.Template
}

var ownWords = [...]string{"status", "reason", "title"}

func parse(s string) (text, error) {
	var out text
	column := 0
	for {
		at, word := find(s)
		before := s
		if at >= 0 {
			before = s[:at]
		}
		if before != "" {
			t, err := attribute.ParseTemplate(before)
			if err != nil {
				var te *attribute.TemplateError
				if errors.As(err, &te) {
					te.Column += column
				}
				return nil, err
			}
			out = append(out, piece{template: t})
		}
		if at < 0 {
			return out, nil
		}
		out = append(out, piece{own: word})
		n := at + len(word) + len("${}")
		column, s = column+n, s[n:]
	}
}

// find is the place of the first own word that is not escaped by a second dollar.
func find(s string) (at int, word string) {
	at = -1
	for _, w := range ownWords {
		mark := "${" + w + "}"
		for from := 0; ; {
			i := strings.Index(s[from:], mark)
			if i < 0 {
				break
			}
			i += from
			if i > 0 && s[i-1] == '$' {
				from = i + len(mark)
				continue
			}
			if at < 0 || i < at {
				at, word = i, w
			}
			break
		}
	}
	return at, word
}

// append appends the page for this error.
func (t text) append(dst []byte, e *exchange.Exchange, status int, name, title string, esc attribute.Escape) []byte {
	for i := range t {
		switch t[i].own {
		case "":
			dst = t[i].template.AppendEscaped(dst, e.Ctx, e, esc)
		case "status":
			dst = strconv.AppendInt(dst, int64(status), 10)
		case "reason":
			dst = append(dst, name...)
		case "title":
			if esc == attribute.HTML {
				title = html.EscapeString(title)
			}
			dst = append(dst, title...) // has nothing that JSON needs escaped
		}
	}
	return dst
}
