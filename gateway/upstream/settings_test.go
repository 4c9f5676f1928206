package upstream

import (
	"strings"
	"testing"
)

func TestNewRefusesWhatCannotBe(t *testing.T) {
	ok := equal(1)
	f := func(s Settings, want ...string) {
		t.Helper()
		s.Name = "users"
		_, err := New(s, nil)
		if err == nil {
			t.Fatalf("accepted, want %q", want)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), "upstreams.users."+w) {
				t.Errorf("got  %v\nwant %s", err, w)
			}
		}
	}
	f(Settings{}, "endpoints: exactly one of endpoints and a source of them is needed")
	f(Settings{Endpoints: ok, Source: newLists()}, "endpoints: exactly one")
	f(Settings{Endpoints: ok, Algorithm: "best"}, `load_balancer.algorithm: "best" is not known`)
	f(Settings{Endpoints: ok, PanicThreshold: 101}, "load_balancer.panic_threshold: must be 0 to 100, got 101")
	f(Settings{Endpoints: append(equal(1), equal(1)...)}, `endpoints[1].address: "10.0.0.0:80" is given twice`)
	f(Settings{Endpoints: weighted(1001)}, "endpoints[0].weight: must be 1 to 1000, got 1001")
	f(Settings{Endpoints: []EndpointSettings{{Address: "a", Priority: 16}, {Address: ":80"}, {Address: "a:0"}, {Address: "a:http"}}},
		`endpoints[0].address: "a": must be HOST:PORT`, "endpoints[0].priority: must be 0 to 15, got 16",
		`endpoints[1].address: ":80": the host is missing`, `endpoints[2].address: "a:0": port "0" must be 1 to 65535`,
		`endpoints[3].address: "a:http": port "http"`)
	f(Settings{Endpoints: ok, HealthCheck: &HealthSettings{Type: "udp"}}, `health_check: type "udp" is not http, tcp or grpc`)
	f(Settings{Endpoints: equal(MaxEndpoints + 1)}, "endpoints: at most 32768, got 32769")
}
