package waf_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestLargeRequestsAreRefusedWhenTooManyAreInspected(t *testing.T) {
	pol := defaultPolicy()
	pol.FailOpen = true // a flood of large requests must not switch the firewall off
	synctest.Test(t, func(t *testing.T) {
		p := newInstance(t, pol)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for ok := true; ok; { // takes every turn there is
			_, ok = p.pool.Turn(gone)
		}
		large := "a=" + strings.Repeat("x", 16<<10)
		r := plugintest.Do(t, plugintest.Request{Raw: post("application/x-www-form-urlencoded", large)}, p.Handle, echo)
		refused(t, r, reason.Overloaded)
		r = plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: c=" + large + "\r\n\r\n"}, p.Handle, echo)
		refused(t, r, reason.Overloaded)
		r = plugintest.Do(t, plugintest.Request{Raw: post("application/x-www-form-urlencoded", "a=small")}, p.Handle, echo)
		passes(t, r)
	})
}
