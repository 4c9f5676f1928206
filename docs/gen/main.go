// Command gen writes docs/configuration.md from the config types of the
// standard binary. Run it by go generate, after config/gen.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/config"
)

//go:generate go run . ../..

// target is the file that is written.
const target = "docs/configuration.md"

func main() {
	root := "."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	if err := os.WriteFile(filepath.Join(root, target), config.Reference(cmd.Kinds()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}
