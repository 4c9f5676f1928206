package expression

import (
	"net/url"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/gateway/target"
)

// query is a query string; of a repeated parameter the first counts.
type query string

func (q query) find(key string) (any, bool) {
	encoded, ok := target.Query(string(q), key)
	if !ok {
		return nil, false
	}
	return string(target.AppendDecoded(nil, encoded)), true
}

func (q query) all() map[string]any {
	m := make(map[string]any)
	for part := range strings.SplitSeq(string(q), "&") {
		name, _, _ := strings.Cut(part, "=")
		decoded, err := url.QueryUnescape(name)
		if err != nil {
			decoded = name
		}
		if _, seen := m[decoded]; seen || part == "" {
			continue
		}
		if v, ok := q.find(decoded); ok {
			m[decoded] = v
		}
	}
	return m
}
