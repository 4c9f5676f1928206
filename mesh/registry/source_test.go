package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

func TestInstancesAreEndpoints(t *testing.T) {
	s := newMoody(t)
	r := open(t, registry.Settings{Store: s})
	one, two, three := instance("users", "u1"), instance("users", "u2"), instance("users", "u3")
	one.Weight, one.Zone = 7, "z1"
	two.Host, two.SecurePort = "u2.internal", 8443
	three.Port, three.SecurePort = 0, 8443
	for _, i := range []registry.Instance{one, two, three} {
		register(t, r, i)
	}
	follow := func(secure bool) (next func(want string)) {
		ctx, cancel := context.WithCancel(t.Context())
		reports, done := make(chan upstream.Report, 100), make(chan struct{})
		go func() {
			defer close(done)
			src := r.Source("Users", secure)
			if kind, target := src.Name(); kind != "mesh" || target != "users" {
				t.Errorf("it is %s %s", kind, target)
			}
			src.Run(ctx, func(x upstream.Report) { reports <- x })
		}()
		t.Cleanup(func() { cancel(); <-done })
		return func(want string) {
			t.Helper()
			var got string
			for end := time.After(time.Minute); got != want; {
				select {
				case x := <-reports:
					var list []string
					for _, e := range x.Endpoints {
						list = append(list, fmt.Sprintf("%s w%d %s", e.Address, e.Weight, e.Zone))
					}
					got = strings.TrimSpace(strings.Join(list, ", ")) + "; " + x.Note
					if x.Err != nil {
						got += "; " + x.Err.Error()
					}
				case <-end:
					t.Fatalf("got %q, want %q", got, want)
				}
			}
		}
	}
	plain, secure := follow(false), follow(true)
	plain("10.0.0.1:8080 w7 z1, u2.internal:8080 w1; 1 instances have no port for what this upstream speaks")
	secure("10.0.0.1:8080 w7 z1, u2.internal:8443 w1 , 10.0.0.1:8443 w1; ")
	if _, err := r.Override(t.Context(), "users", "u1", registry.Drain, registry.Expect{}); err != nil {
		t.Fatal(err)
	}
	secure("u2.internal:8443 w1 , 10.0.0.1:8443 w1; ")
	for _, id := range []string{"u1", "u2"} {
		if err := r.Deregister(t.Context(), "users", id, registry.Expect{}); err != nil {
			t.Fatal(err)
		}
	}
	plain("; 1 instances have no port for what this upstream speaks")
	if _, err := r.SetStatus(t.Context(), "users", "u3", registry.Starting, registry.Expect{}); err != nil {
		t.Fatal(err)
	}
	secure("; of 1 instances none is up")
	s.set(errors.New("the store is away"))
	secure("; of 1 instances none is up; the store is away")
}
