//go:build !linux

package http2

import (
	"net"
	"time"
)

// limitSilence does nothing where TCP cannot be told.
func limitSilence(net.Conn, time.Duration) {}
