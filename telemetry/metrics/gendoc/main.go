// Command gendoc writes docs/metrics.md. Run it from the repository's root.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

func main() {
	var b bytes.Buffer
	err := metrics.Document(&b)
	if err == nil {
		err = os.WriteFile("docs/metrics.md", b.Bytes(), 0o644) //nolint:gosec // documentation is for everybody
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gendoc:", err)
		os.Exit(1)
	}
}
