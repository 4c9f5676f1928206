package cmd

import (
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/apikey"
	"github.com/gatehouse-proxy/gatehouse/plugins/concurrencylimit"
	"github.com/gatehouse-proxy/gatehouse/plugins/headers"
	"github.com/gatehouse-proxy/gatehouse/plugins/ratelimit"
	"github.com/gatehouse-proxy/gatehouse/plugins/requestid"
	wafplugin "github.com/gatehouse-proxy/gatehouse/plugins/waf"
	"github.com/gatehouse-proxy/gatehouse/waf"
)

// builtin is every plugin of the standard binary.
func builtin(engines *waf.Pool, sink waf.Sink) []plugins.Factory {
	return []plugins.Factory{requestid.Factory(), headers.Factory(), concurrencylimit.Factory(), ratelimit.Factory(), apikey.Factory().NeedsConsumers(), wafplugin.Factory(engines, sink).NeedsWAF()}
}

// allPlugins is the standard plugins and those of a custom binary, for
// commands that run no traffic.
func allPlugins(extra []plugins.Factory) []plugins.Factory {
	return append(builtin(waf.NewPool(), nil), extra...)
}
