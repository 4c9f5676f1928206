package cmd

import (
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// Kinds are the config types of the standard binary's plugins, for tools that
// describe them.
func Kinds() config.Kinds { return kinds(Plugins()) }

// Plugins are those of the standard binary, for tools that compile configs.
// Each call gives new ones.
func Plugins() []plugins.Factory { return allPlugins(nil) }
