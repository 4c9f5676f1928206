// Command gatehouse is an API gateway, web application firewall and load
// balancer in one process.
package main

import (
	"os"

	"github.com/gatehouse-proxy/gatehouse/cmd"
)

// version is set by the linker for a release.
var version string

func main() { os.Exit(cmd.Main(version, os.Args[1:])) }
