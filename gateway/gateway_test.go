package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/gatehouse-proxy/gatehouse/gateway"
	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/socket/sockettest"
)

// unit counts its life.
type unit struct{ started, closed, retired atomic.Int32 }

func (u *unit) Start(context.Context) error { u.started.Add(1); return nil }
func (u *unit) Close(context.Context) error { u.closed.Add(1); return nil }
func (u *unit) Retire()                     { u.retired.Add(1) }

// owning makes a snapshot of one listener that owns a unit, and shares another
// with prev.
func owning(t testing.TB, name string, prev *snapshot.Snapshot, own, shared *unit) *snapshot.Snapshot {
	t.Helper()
	web := listener(t, "web", at("", "/", chain(name, func(c *fiber.Ctx) error {
		if own.closed.Load()+shared.closed.Load() > 0 {
			return errors.New("a unit was closed while a request used it")
		}
		time.Sleep(time.Duration(time.Now().UnixNano() % 300_000)) // so that swaps meet requests
		return c.SendString(name)
	})))
	s := snap(web)
	s.Units.Add("own", name, own)
	if prev == nil {
		s.Units.Add("shared", "1", shared)
	} else if _, ok := s.Units.Reuse(prev.Units, "shared", "1"); !ok {
		t.Error("the shared unit was not taken over")
	}
	s.Units.Start(context.Background())
	return s
}

func TestSwapUnderLoadLosesNoRequestAndNoSnapshot(t *testing.T) {
	n := newNode(t)
	shared := new(unit)
	var prev *snapshot.Snapshot
	var all []*snapshot.Snapshot
	var units []*unit
	next := func() {
		own := new(unit)
		s := owning(t, fmt.Sprint(len(all)), prev, own, shared)
		n.swap(t, s)
		prev, all, units = s, append(all, s), append(units, own)
	}
	next()
	url := n.url(t, "web")
	stop := make(chan struct{})
	var done sync.WaitGroup
	var served atomic.Int64
	for range 4 {
		done.Go(func() {
			tr := &http.Transport{MaxIdleConnsPerHost: 1}
			defer tr.CloseIdleConnections()
			c := &http.Client{Transport: tr, Timeout: time.Minute}
			for {
				select {
				case <-stop:
					return
				default:
				}
				r, err := c.Get(url)
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(r.Body)
				r.Body.Close()
				if r.StatusCode != 200 || err != nil {
					t.Errorf("%d %s %v", r.StatusCode, b, err)
					return
				}
				served.Add(1)
			}
		})
	}
	for range 60 {
		at := served.Load()
		next()
		for served.Load() == at && !t.Failed() { // every snapshot sees traffic
			time.Sleep(100 * time.Microsecond)
		}
	}
	close(stop)
	done.Wait()
	if err := n.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		<-s.Retired()
		if u := units[i]; u.started.Load() != 1 || u.closed.Load() != 1 {
			t.Errorf("unit of snapshot %d: started %d, closed %d times", i, u.started.Load(), u.closed.Load())
		}
		if want := int32(1); i < len(all)-1 && units[i].retired.Load() != want {
			t.Errorf("unit of snapshot %d was told %d times that it is replaced", i, units[i].retired.Load())
		}
	}
	if shared.started.Load() != 1 || shared.closed.Load() != 1 || shared.retired.Load() != 0 {
		t.Errorf("shared unit: started %d, closed %d, retired %d", shared.started.Load(), shared.closed.Load(), shared.retired.Load())
	}
	if v := n.metric(t, "gatehouse_route_requests_in_flight"); v != "0" {
		t.Errorf("%s requests are counted as in flight", v)
	}
}

// conn is one client connection that is kept.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, url string) *conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &conn{c, bufio.NewReader(c)}
}

func (c *conn) send(t testing.TB, path string) {
	t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a.test\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
}

func (c *conn) receive(t testing.TB) (status int, body string, closes bool) {
	t.Helper()
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b), r.Close
}

func (c *conn) get(t testing.TB, path string) string {
	t.Helper()
	c.send(t, path)
	_, body, _ := c.receive(t)
	return body
}

func plain(name string) fiber.Handler {
	return func(c *fiber.Ctx) error { return c.SendString(name) }
}

func TestAnAddressThatStaysKeepsItsSocketAndConnections(t *testing.T) {
	n := newNode(t)
	n.swap(t, snap(listener(t, "web", at("", "/", chain("r", plain("old"))))))
	before := n.Addresses()["web"].String()
	c := dial(t, n.url(t, "web"))
	if got := c.get(t, "/"); got != "old" {
		t.Fatalf("got %q", got)
	}
	n.swap(t, snap(listener(t, "web", at("", "/", chain("r", plain("new")))), listener(t, "more")))
	if got := c.get(t, "/"); got != "new" {
		t.Errorf("on the connection from before: got %q", got)
	}
	if after := n.Addresses()["web"].String(); after != before {
		t.Errorf("the socket moved from %s to %s", before, after)
	}
	if len(n.Addresses()) != 2 {
		t.Errorf("addresses: %v", n.Addresses())
	}
}

func TestLimitsOfAListenerFollowTheSnapshot(t *testing.T) {
	n := newNode(t)
	n.swap(t, snap(listener(t, "web", at("", "/", chain("r", plain("ok"))))))
	small := listener(t, "web", at("", "/", chain("r", plain("ok"))))
	small.Server.URIBytes = 64
	small.Server.MaxConnections = 1
	n.swap(t, snap(small))
	long := "GET /" + strings.Repeat("x", 100) + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	if got := raw(t, n.url(t, "web"), long); !strings.HasPrefix(got, "HTTP/1.1 414") {
		t.Errorf("got %s", got)
	}
}

func TestARemovedListenerStopsAcceptingAndLetsRequestsFinish(t *testing.T) {
	n := newNode(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	old := listener(t, "old", at("", "/slow", chain("slow", func(c *fiber.Ctx) error {
		close(inside)
		<-goOn
		return c.SendString("finished")
	})), at("", "/", chain("fast", plain("fast"))))
	old.Address = sockettest.Reserve(t) // or somebody else may listen there next
	n.swap(t, snap(old, listener(t, "web")))
	url := n.url(t, "old")
	idle, busy := dial(t, url), dial(t, url)
	idle.get(t, "/")
	busy.send(t, "/slow")
	<-inside
	n.swap(t, snap(listener(t, "web")))
	if _, err := idle.r.ReadByte(); err != io.EOF {
		t.Errorf("an idle connection: %v, want its end", err)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://")); err == nil {
		c.Close()
		t.Error("the socket still accepts")
	}
	if n.Addresses()["old"] != nil {
		t.Error("it is still listed")
	}
	close(goOn)
	if status, body, closes := busy.receive(t); status != 200 || body != "finished" || !closes {
		t.Errorf("got %d %q, close %v", status, body, closes)
	}
}

func TestAnAddressThatCannotBeBoundChangesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	n := newNode(t)
	n.swap(t, snap(listener(t, "web", at("", "/", chain("r", plain("old"))))))
	bad := listener(t, "bad")
	bad.Address = taken.Addr().String()
	worse := listener(t, "worse")
	worse.Address = "192.0.2.1:1"
	own := new(unit)
	next := snap(listener(t, "web", at("", "/", chain("r", plain("new")))), listener(t, "fine"), bad, worse)
	next.Units.Add("own", "1", own)
	err = n.Swap(context.Background(), next, time.Minute)
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"listeners.bad.address", bad.Address, "listeners.worse.address"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %s", err, want)
		}
	}
	if got := dial(t, n.url(t, "web")).get(t, "/"); got != "old" || len(n.Addresses()) != 1 {
		t.Errorf("got %q, addresses %v", got, n.Addresses())
	}
	if own.closed.Load() != 0 {
		t.Error("the snapshot is not the caller's any more")
	}
	next.Release()
	<-next.Retired()
	if own.closed.Load() != 1 {
		t.Error("releasing it closed nothing")
	}
}

func TestDrainWaitsForRequestsAndIsFinal(t *testing.T) {
	n := newNode(t)
	inside, goOn := make(chan struct{}), make(chan struct{})
	own := new(unit)
	s := snap(listener(t, "web", at("", "/", chain("slow", func(c *fiber.Ctx) error {
		close(inside)
		<-goOn
		return c.SendString(fmt.Sprint("closed: ", own.closed.Load()))
	}))))
	s.Units.Add("own", "1", own)
	n.swap(t, s)
	c := dial(t, n.url(t, "web"))
	c.send(t, "/")
	<-inside
	if open, _, _ := n.Connections(); open != 1 {
		t.Errorf("%d connections are open", open)
	}
	drained := make(chan error)
	go func() { drained <- n.Drain(context.Background()) }()
	for len(n.Addresses()) > 0 {
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-drained:
		t.Fatalf("Drain did not wait: %v", err)
	default:
	}
	if open, _, _ := n.Connections(); open != 1 {
		t.Errorf("%d connections are open while draining", open)
	}
	close(goOn)
	if _, body, closes := c.receive(t); body != "closed: 0" || !closes {
		t.Errorf("got %q, close %v", body, closes)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if err := n.Drain(context.Background()); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if own.closed.Load() != 1 {
		t.Errorf("the unit was closed %d times", own.closed.Load())
	}
	late := snap(listener(t, "web"))
	if err := n.Swap(context.Background(), late, time.Minute); err == nil || len(n.Addresses()) != 0 {
		t.Errorf("a gateway that has gone was opened again: %v, %v", err, n.Addresses())
	}
	late.Release()
	<-late.Retired()
}

func TestDrainCutsWhatIsLeftAtItsEnd(t *testing.T) {
	n := newNode(t)
	inside := make(chan struct{})
	n.swap(t, snap(listener(t, "web", at("", "/", chain("slow", func(c *fiber.Ctx) error {
		close(inside)
		_, err := io.ReadAll(c.Context().RequestBodyStream())
		return err
	})))))
	c := dial(t, n.url(t, "web"))
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf"); err != nil {
		t.Fatal(err)
	}
	<-inside
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := n.Drain(ctx); err != nil {
		t.Error(err)
	}
	if _, err := c.r.ReadByte(); err == nil {
		t.Error("the connection was not cut")
	}
	if !strings.Contains(n.log.String(), "connections were cut") {
		t.Errorf("the log does not say so:\n%s", n.log)
	}
}

func TestDrainSaysWhenAUnitHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		n := &node{log: &logbook{}, metrics: newMetrics()}
		n.Gateway = gateway.New(gateway.Settings{Metrics: n.metrics})
		s := snap()
		s.Units.Add("hanging", "1", hanging{hang})
		n.swap(t, s)
		if err := n.Drain(context.Background()); err == nil {
			t.Error("nobody was told")
		}
		if err := n.Drain(context.Background()); err != nil {
			t.Errorf("a second time: %v", err)
		}
	})
}

type hanging struct{ until chan struct{} }

func (h hanging) Start(context.Context) error { return nil }
func (h hanging) Close(context.Context) error { <-h.until; return nil }

func TestBeforeTheFirstSnapshot(t *testing.T) {
	g := gateway.New(gateway.Settings{Metrics: newMetrics()})
	if g.Current() != nil || len(g.Addresses()) != 0 {
		t.Errorf("got %v, %v", g.Current(), g.Addresses())
	}
	if open, idle, tunnels := g.Connections(); open+idle+tunnels != 0 {
		t.Error("connections out of nowhere")
	}
	if err := g.Drain(context.Background()); err != nil {
		t.Error(err)
	}
}
