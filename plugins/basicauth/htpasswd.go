package basicauth

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxHtpasswd bounds the file: some 100 000 users.
const maxHtpasswd = 8 << 20

// entry is one line of an htpasswd file.
type entry struct {
	name string
	hash *hash
}

// parseHtpasswd reads NAME:HASH lines; empty lines and lines beginning with #
// are comments. Every bad line is reported, by number and never by content.
func parseHtpasswd(content []byte) ([]entry, error) {
	var (
		list []entry
		errs []error
		seen = map[string]int{}
		n    int
	)
	for line := range strings.SplitSeq(string(content), "\n") {
		n++
		line = strings.TrimSuffix(line, "\r")
		if strings.TrimSpace(line) == "" || line[0] == '#' {
			continue
		}
		name, text, ok := strings.Cut(line, ":")
		if err := checkName(name); !ok || err != nil {
			if !ok {
				err = errors.New("want NAME:HASH")
			}
			errs = append(errs, fmt.Errorf("line %d: %w", n, err))
			continue
		}
		if first := seen[name]; first > 0 {
			errs = append(errs, fmt.Errorf("line %d: user %q is on line %d already", n, name, first))
			continue
		}
		seen[name] = n
		h, err := parseHash(strings.TrimRight(text, " \t"))
		if err != nil {
			errs = append(errs, fmt.Errorf("line %d: user %q: %w", n, name, err))
			continue
		}
		list = append(list, entry{name, h})
	}
	return list, firstErrors(errs)
}

// firstErrors keeps a message readable if the whole file is wrong.
func firstErrors(errs []error) error {
	const most = 10
	if n := len(errs); n > most {
		errs = append(errs[:most:most], fmt.Errorf("and %d more", n-most))
	}
	return errors.Join(errs...)
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("empty user name")
	case len(name) > 255:
		return errors.New("user name of more than 255 bytes")
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return errors.New("user name with control characters or broken UTF-8")
	}
	return nil
}
