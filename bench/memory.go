package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"syscall"
	"time"
)

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

const idleConnections = 5000

// memory prints resident sizes. The kernel gives pages back late, so each
// figure is taken after a pause.
func memory(ctx context.Context, r *run) error {
	g, err := r.gateway(ctx, "gatehouse", gatewayPlain)
	if err != nil {
		return err
	}
	defer r.stop(g)
	time.Sleep(2 * time.Second)
	idle := g.rss()
	fmt.Printf("idle, without WAF: %.1f MB\n", mb(idle))
	conns, err := holdOpen(g.address, idleConnections)
	if err != nil {
		return err
	}
	time.Sleep(12 * time.Second)
	fmt.Printf("%d idle keep-alive connections, one request each: %.1f KiB a connection\n",
		idleConnections, float64(g.rss()-idle)/1024/idleConnections)
	for _, c := range conns {
		_ = c.Close() // the measurement is over
	}
	before := g.rss()
	for i := range 100 {
		if _, err := r.file("gatehouse.yaml", reloadText(r, g, i)); err != nil {
			return err
		}
		_ = g.cmd.Process.Signal(syscall.SIGHUP)
		time.Sleep(50 * time.Millisecond)
	}
	time.Sleep(2 * time.Second)
	fmt.Printf("before and after 100 reloads: %.1f MB, %.1f MB\n", mb(before), mb(g.rss()))
	w, err := r.gateway(ctx, "gatehouse-waf", gatewayWAF)
	if err != nil {
		return err
	}
	defer r.stop(w)
	time.Sleep(2 * time.Second)
	fmt.Printf("idle, with CRS: %.1f MB\n", mb(w.rss()))
	return nil
}

func mb(b int64) float64 { return float64(b) / 1e6 }

// holdOpen opens n connections and gets one reply on each.
func holdOpen(address string, n int) ([]net.Conn, error) {
	conns := make([]net.Conn, 0, n)
	for range n {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
		if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: bench\r\n\r\n")); err != nil {
			return conns, err
		}
		if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			return conns, err
		}
	}
	return conns, nil
}
