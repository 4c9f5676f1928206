package h1_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
)

// example is one entry of a corpus file; its syntax is told in hostile.txt.
type example struct{ name, want, raw string }

func readCorpus(t *testing.T, file string) (list []example) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimRight(string(text), "\n"), "\n") {
		if title, ok := strings.CutPrefix(line, "== "); ok {
			name, want, ok := strings.Cut(title, ": ")
			if !ok {
				t.Fatalf("%s:%d: no colon", file, i+1)
			}
			list = append(list, example{name: name, want: unescape(want)})
			continue
		}
		if len(list) == 0 {
			continue // the introduction
		}
		times := 1
		if rest, ok := strings.CutPrefix(line, "x"); ok {
			number, text, _ := strings.Cut(rest, " ")
			if times, err = strconv.Atoi(number); err != nil {
				t.Fatalf("%s:%d: %v", file, i+1, err)
			}
			line = text
		}
		list[len(list)-1].raw += strings.Repeat(unescape(line), times)
	}
	return list
}

func unescape(s string) string {
	var b strings.Builder
	for ; s != ""; s = s[1:] {
		if s[0] != '\\' {
			b.WriteByte(s[0])
			continue
		}
		s = s[1:]
		switch s[0] {
		case 'r':
			b.WriteByte('\r')
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 'x':
			n, err := strconv.ParseUint(s[1:3], 16, 8)
			if err != nil {
				panic(err)
			}
			b.WriteByte(byte(n))
			s = s[2:]
		default:
			b.WriteByte(s[0])
		}
	}
	return b.String()
}

// splits are the ways an example is cut into writes: whole, in two at every
// byte (long ones not at all of them), and byte by byte.
func splits(raw string) (ways [][]string) {
	ways = append(ways, []string{raw})
	for i := 1; i < len(raw); i++ {
		if i < 200 || i > len(raw)-100 || i%997 == 0 {
			ways = append(ways, []string{raw[:i], raw[i:]})
		}
	}
	if len(raw) < 500 {
		ways = append(ways, strings.Split(raw, ""))
	}
	return ways
}

// talk sends parts one by one, then half-closes, and returns all that comes back.
func talk(addr string, parts []string) (string, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	for i, p := range parts {
		if i > 0 {
			time.Sleep(20 * time.Microsecond) // lets the first part be read apart, mostly
		}
		if _, err := io.WriteString(nc, p); err != nil {
			break // refused already: the answer is there
		}
	}
	_ = nc.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(nc)
	return string(b), err
}

func replies(raw string) (status []int, bodies []string, last *http.Response, err error) {
	br := bufio.NewReader(strings.NewReader(raw))
	for {
		if _, err := br.Peek(1); err != nil {
			return status, bodies, last, nil
		}
		r, err := http.ReadResponse(br, nil)
		if err != nil {
			return status, bodies, last, err
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return status, bodies, last, err
		}
		if r.StatusCode >= 200 {
			status, bodies, last = append(status, r.StatusCode), append(bodies, string(b)), r
		}
	}
}

// eachWay runs check for every example sent in every way.
func eachWay(t *testing.T, file string, atLeast int, check func(x example, out string) error, addr string) {
	list := readCorpus(t, file)
	if len(list) < atLeast {
		t.Fatalf("%d examples", len(list))
	}
	var all sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, x := range list {
		all.Go(func() {
			for _, parts := range splits(x.raw) {
				slots <- struct{}{}
				out, err := talk(addr, parts)
				<-slots
				if err != nil {
					err = fmt.Errorf("reading the answer: %w, after %q", err, out)
				} else {
					err = check(x, out)
				}
				if err != nil {
					t.Errorf("%s: split behind %d bytes (%d parts): %v", x.name, len(parts[0]), len(parts), err)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestHostileRequestsAreRefused(t *testing.T) {
	var protocol refusals
	s := settings(func(ctx *fasthttp.RequestCtx, f exchange.Front) {
		if bytes.Contains(f.RawTarget(), []byte("smuggled")) {
			t.Errorf("the handler was reached by %s %s", ctx.Method(), f.RawTarget())
		}
		echo(ctx, f)
	})
	s.Refused = protocol.add
	addr, srv := start(t, s)
	byName := map[string]*reason.Reason{}
	for _, r := range reason.All() {
		byName[r.Name] = r
	}
	eachWay(t, "testdata/hostile.txt", 80, func(x example, out string) error {
		status, bodies, last, err := replies(out)
		switch {
		case err != nil:
			return fmt.Errorf("%w in %q", err, out)
		case len(status) != 1:
			return fmt.Errorf("%d replies: %q", len(status), out)
		case byName[x.want] == nil || status[0] != byName[x.want].Status || !strings.Contains(bodies[0], x.want):
			return fmt.Errorf("answered %d %q, want %s", status[0], bodies[0], x.want)
		case !last.Close:
			return errors.New("no Connection: close")
		}
		return nil
	}, addr)
	if protocol.String() == "" {
		t.Error("Refused was not told of anything")
	}
	eventually(t, "all connections closed", func() bool { return srv.Stats().Open == 0 })
}

func TestOddButValidRequestsAreServed(t *testing.T) {
	addr, srv := start(t, settings(echo))
	eachWay(t, "testdata/valid.txt", 20, func(x example, out string) error {
		status, bodies, _, err := replies(out)
		if err != nil {
			return fmt.Errorf("%w in %q", err, out)
		}
		for i, b := range bodies {
			if status[i] != 200 {
				return fmt.Errorf("answered %d %q", status[i], b)
			}
			bodies[i] = strings.TrimRight(b, " ")
		}
		if got := strings.Join(bodies, " | "); got != x.want {
			return fmt.Errorf("handled %q, want %q", got, x.want)
		}
		return nil
	}, addr)
	eventually(t, "all connections closed", func() bool { return srv.Stats().Open == 0 })
}
