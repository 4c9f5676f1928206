package cmd

import (
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/apikey"
	"github.com/gatehouse-proxy/gatehouse/plugins/authorize"
	"github.com/gatehouse-proxy/gatehouse/plugins/basicauth"
	"github.com/gatehouse-proxy/gatehouse/plugins/bodylimit"
	"github.com/gatehouse-proxy/gatehouse/plugins/clientcert"
	"github.com/gatehouse-proxy/gatehouse/plugins/compress"
	"github.com/gatehouse-proxy/gatehouse/plugins/concurrencylimit"
	"github.com/gatehouse-proxy/gatehouse/plugins/cors"
	"github.com/gatehouse-proxy/gatehouse/plugins/csrf"
	"github.com/gatehouse-proxy/gatehouse/plugins/errorpages"
	"github.com/gatehouse-proxy/gatehouse/plugins/forwardauth"
	"github.com/gatehouse-proxy/gatehouse/plugins/grpcweb"
	"github.com/gatehouse-proxy/gatehouse/plugins/headers"
	"github.com/gatehouse-proxy/gatehouse/plugins/ipfilter"
	"github.com/gatehouse-proxy/gatehouse/plugins/jwt"
	"github.com/gatehouse-proxy/gatehouse/plugins/maintenance"
	"github.com/gatehouse-proxy/gatehouse/plugins/quota"
	ratelimitplugin "github.com/gatehouse-proxy/gatehouse/plugins/ratelimit"
	"github.com/gatehouse-proxy/gatehouse/plugins/requestid"
	wafplugin "github.com/gatehouse-proxy/gatehouse/plugins/waf"
	"github.com/gatehouse-proxy/gatehouse/ratelimit"
	"github.com/gatehouse-proxy/gatehouse/waf"
)

// builtin is every plugin of the standard binary.
func builtin(engines *waf.Pool, sink waf.Sink, fleet ratelimit.Fleet) []plugins.Factory {
	return []plugins.Factory{
		requestid.Factory(),
		headers.Factory(),
		cors.Factory(),
		csrf.Factory(),
		grpcweb.Factory(),
		ipfilter.Factory(),
		bodylimit.Factory(),
		concurrencylimit.Factory(fleet),
		ratelimitplugin.Factory(fleet),
		quota.Factory(fleet),
		apikey.Factory().NeedsConsumers(),
		basicauth.Factory().NeedsConsumers(),
		jwt.Factory().NeedsConsumers(),
		clientcert.Factory(),
		authorize.Factory(),
		forwardauth.Factory().NeedsConsumers(),
		compress.Factory(),
		errorpages.Factory(),
		maintenance.Factory(),
		wafplugin.Factory(engines, sink).NeedsWAF(),
	}
}

// allPlugins is the standard plugins and those of a custom binary, for
// commands that run no traffic.
func allPlugins(extra []plugins.Factory) []plugins.Factory {
	return append(builtin(waf.NewPool(), nil, nil), extra...)
}
