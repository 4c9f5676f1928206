package e2e

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// liar answers on raw connections: by the path asked for, its script writes
// what it likes. The connection is closed when the script returns false.
type liar struct {
	addr string
	wg   sync.WaitGroup
}

type script func(c net.Conn, r *bufio.Reader) (keep bool)

func startLiar(t *testing.T, scripts map[string]script) *liar {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{addr: ln.Addr().String()}
	done := make(chan struct{})
	l.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() {
				defer c.Close()
				go func() { // a hanging script ends with the test
					<-done
					c.Close()
				}()
				r := bufio.NewReader(c)
				for {
					path, err := readHead(r)
					if err != nil {
						return
					}
					if s := scripts[path]; s == nil || !s(c, r) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		close(done)
		ln.Close()
		l.wg.Wait()
	})
	return l
}

// readHead reads a request head and returns its path.
func readHead(r *bufio.Reader) (path string, err error) {
	for first := true; ; first = false {
		line, err := r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if first {
			_, path, _ = strings.Cut(line, " ")
			path, _, _ = strings.Cut(path, " ")
		}
		if line == "\r\n" {
			return path, nil
		}
	}
}

// says writes text and closes.
func says(text string) script {
	return func(c net.Conn, _ *bufio.Reader) bool {
		_, _ = io.WriteString(c, text) // the gateway may have had enough
		return false
	}
}

// hangs writes text and then waits until the gateway goes.
func hangs(text string) script {
	return func(c net.Conn, r *bufio.Reader) bool {
		if _, err := io.WriteString(c, text); err == nil {
			_, _ = io.Copy(io.Discard, r)
		}
		return false
	}
}

// drips writes text one byte at a time, for ever if it is repeated.
func drips(first, text string, forEver bool) script {
	return func(c net.Conn, _ *bufio.Reader) bool {
		_, err := io.WriteString(c, first)
		for err == nil {
			for i := range text {
				if _, err = io.WriteString(c, text[i:i+1]); err != nil {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			if !forEver {
				return true
			}
		}
		return false
	}
}
