package cmd

import "github.com/gatehouse-proxy/gatehouse/config"

// Kinds are the config types of the standard binary's plugins, for tools that
// describe them.
func Kinds() config.Kinds { return kinds(allPlugins(nil)) }
