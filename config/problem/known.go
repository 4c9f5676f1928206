package problem

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	maxKnown   = 20  // names listed in one message
	maxNearest = 100 // problems after which no nearest name is looked for
	maxName    = 64  // bytes of a name that take part in the comparison
)

// Undefined notes that got, at key, names nothing: `"pg" is not a known
// upstream (did you mean "pgsql"?); known: pgsql, users`.
func (l *List) Undefined(key, kind, got string, known []string) {
	l.Add(key, "%q is not a known %s%s", got, kind, l.Suggest(got, known))
}

// Suggest is the end of a message about a name that is not among known: the
// nearest one, and the list. It is cheap even for a thousand such problems,
// because then nobody reads the suggestions.
func (l *List) Suggest(got string, known []string) string {
	if l.Len() > maxNearest {
		return "; known: " + strconv.Itoa(len(known)) + " others"
	}
	return Suggest(got, known)
}

// Suggest is List.Suggest without a list: ` (did you mean "x"?); known: x, y`.
func Suggest(got string, known []string) string {
	if len(known) == 0 {
		return "; known: none"
	}
	sorted := slices.Sorted(slices.Values(known))
	var b strings.Builder
	if near := Nearest(got, sorted); near != "" {
		fmt.Fprintf(&b, " (did you mean %q?)", near)
	}
	b.WriteString("; known: ")
	rest := len(sorted) - maxKnown
	if rest > 0 {
		sorted = sorted[:maxKnown]
	}
	b.WriteString(strings.Join(sorted, ", "))
	if rest > 0 {
		fmt.Fprintf(&b, " and %d more", rest)
	}
	return b.String()
}

// Nearest is the name in known that got was most likely meant to be, or "".
func Nearest(got string, known []string) string {
	got = strings.ToLower(clip(got))
	best, bestAt := "", len(got)/3+1 // more changes than this are another word
	for _, k := range known {
		name := strings.ToLower(clip(k))
		if d := len(name) - len(got); d > bestAt || -d > bestAt {
			continue
		}
		if at := distance(got, name, bestAt); at < bestAt || (at == bestAt && best == "") {
			best, bestAt = k, at
		}
	}
	return best
}

func clip(s string) string {
	if len(s) > maxName {
		return s[:maxName]
	}
	return s
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b; above limit any number above limit may be given.
func distance(a, b string, limit int) int {
	var rows [3][maxName + 1]int
	prev2, prev, cur := &rows[0], &rows[1], &rows[2]
	for j := 0; j <= len(b); j++ {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
			least = min(least, cur[j])
		}
		if least > limit {
			return least
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
