package secrets_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store/redis/redistest"
	"github.com/gatehouse-proxy/gatehouse/gateway/acme"
)

// What needs one server only that nobody stops.
func TestCertificatesOfAFleet(t *testing.T) {
	server := redistest.Start(t)
	for name, f := range map[string]func(*town){
		"one order for three nodes, by http-01":     func(w *town) { oneOrder(w, acme.HTTP01) },
		"one order for three nodes, by tls-alpn-01": func(w *town) { oneOrder(w, acme.TLSALPN01) },
		"a node that joins later":                   joinsLater,
		"a holder that dies":                        holderDies,
		"another secret":                            wrongSecret,
		"wrong data":                                wrongData,
		"two wishes under one name":                 twoWishes,
		"an authority that refuses":                 refusedOnce,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(newTown(t, server))
		})
	}
}

// Three nodes want the same certificate, and the authority looks at one that may
// not have ordered it.
func oneOrder(w *town, kind acme.Kind) {
	for range 3 {
		w.join(options{kind: kind})
	}
	w.ca.Reach(w.nodes[2].web, w.nodes[2].secure)
	w.nodes[0].source.Live()
	eventually(w.t, "the first orders", func() error {
		if w.ca.Orders() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	w.nodes[1].source.Live()
	w.nodes[2].source.Live()
	w.has(w.nodes...)
	w.orders(1)
	eventually(w.t, "nothing is left", func() error {
		if len(w.entries(w.nodes[0], "challenges")) > 0 || len(w.entries(w.nodes[0], "order-locks")) > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	for _, folder := range []string{"secrets", "challenges-seen"} {
		for name, data := range w.entries(w.nodes[0], folder) {
			for _, plain := range []string{"PRIVATE KEY", "-----BEGIN ", "shop.test", secret} {
				if bytes.Contains(data, []byte(plain)) {
					w.t.Errorf("%s can be read", name)
				}
			}
		}
	}
	for _, n := range w.nodes {
		if strings.Contains(n.log.String(), "have not said that they answer") {
			w.t.Error("the ordering node waited in vain for another one")
		}
	}
}

func joinsLater(w *town) {
	a := w.join(options{})
	w.ca.Reach(a.web, a.secure)
	a.source.Live()
	leaf := w.has(a)
	eventually(w.t, "it is shared", func() error {
		if len(w.entries(a, "secrets")) < 4 {
			return errors.New("not yet")
		}
		return nil
	})
	b := w.join(options{})
	if c := b.source.Current(); c == nil || !c.Leaf.Equal(leaf) {
		w.t.Fatal("the certificate is not there at the start")
	}
	b.source.Live()
	// Without the store it starts from its own copy.
	b.leave()
	cut := w.redis
	w.redis = &redistest.Server{Address: "127.0.0.1:1"}
	c := w.join(options{dir: b.dir})
	w.redis = cut
	if x := c.source.Current(); x == nil || !x.Leaf.Equal(leaf) {
		w.t.Fatal("the copy on disk is not in use")
	}
	c.source.Live()
	c.says("the store is away")
	w.orders(1)
}

// The node that orders loses its way to the store; another takes over.
func holderDies(w *town) {
	w.lease, w.spread = 2*time.Second, time.Second // the dead one takes up nothing
	a, b := w.join(options{}), w.join(options{})
	w.ca.Reach(b.web, b.secure)
	release := make(chan struct{})
	first := make(chan struct{}, 1)
	first <- struct{}{}
	w.ca.Filter(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/order-plz") {
			select {
			case <-first:
				select {
				case <-release:
				case <-r.Context().Done():
				}
				panic(http.ErrAbortHandler)
			default:
			}
		}
		return false
	})
	a.source.Live()
	eventually(w.t, "the first orders", func() error {
		if w.ca.Orders() == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	b.source.Live()
	a.cable.cut.Store(true)
	w.has(b)
	a.says("its order is given up")
	close(release)
	w.certificate(b)
	orders := w.ca.Orders()
	a.cable.cut.Store(false)
	w.has(a, b)
	w.orders(orders)
	eventually(w.t, "all is well", func() error {
		if s := a.source.Stats(); s.Fault != "" || a.shared.Status().Error != "" {
			return errors.New(s.Fault)
		}
		return nil
	})
}

func wrongSecret(w *town) {
	a := w.join(options{})
	w.ca.Reach(a.web, a.secure)
	a.source.Live()
	w.has(a)
	_, before := w.certificate(a)
	b := w.join(options{secret: otherSecret})
	b.source.Live()
	b.says("node.secret_key is not that of the other nodes")
	eventually(w.t, "it says why there is no certificate", func() error {
		if s := b.source.Stats(); !strings.Contains(s.Fault, "node.secret_key") || s.Orders["store_away"] == 0 {
			return errors.New(s.Fault)
		}
		return nil
	})
	if s := b.shared.Status(); !strings.Contains(s.Error, "node.secret_key") {
		w.t.Errorf("%+v", s)
	}
	tickets := b.shared.Tickets(time.Hour)
	if err := tickets.Start(w.t.Context()); err != nil || tickets.Secrets() == nil {
		w.t.Error(err)
	}
	if err := tickets.Close(w.t.Context()); err != nil {
		w.t.Error(err)
	}
	if _, after := w.certificate(a); !bytes.Equal(before, after) || b.source.Current() != nil {
		w.t.Error("what the others have was overwritten, or read")
	}
	w.orders(1)
}

// Whatever somebody writes under our names, the nodes put back what is right.
func wrongData(w *town) {
	a, b := w.join(options{}), w.join(options{})
	w.ca.Reach(a.web, a.secure)
	a.source.Live()
	b.source.Live()
	leaf := w.has(a, b)
	name, good := w.certificate(a)
	var account []byte
	for name, data := range w.entries(a, "secrets") {
		if strings.HasPrefix(name, "account-") {
			account = data
		}
	}
	ctx := w.t.Context()
	for what, data := range map[string][]byte{
		"nothing": nil, "empty": {}, "garbage": []byte("garbage"), "cut": good[:len(good)/2], "swapped": account,
	} {
		var err error
		if data == nil {
			err = a.cable.Delete(ctx, "secrets", name)
		} else {
			err = a.cable.Put(ctx, "secrets", name, data, 0)
		}
		if err = errors.Join(err, a.cable.Put(ctx, "secrets", "version", []byte(what), 0)); err != nil {
			w.t.Fatal(err)
		}
		eventually(w.t, what+" is replaced", func() error {
			now, err := a.cable.Get(ctx, "secrets", name)
			if err != nil || bytes.Equal(now, data) {
				return errors.New("not yet")
			}
			return nil
		})
		c := w.join(options{})
		if x := c.source.Current(); x == nil || !x.Leaf.Equal(leaf) {
			w.t.Errorf("%s: it was not put back", what)
		}
	}
	// Things of other kinds hold nobody up either.
	for _, folder := range []string{"challenges", "challenges-seen", "order-locks"} {
		if err := a.cable.Put(ctx, folder, "x", []byte("\x00{"), time.Minute); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := a.cable.Put(ctx, "secrets", "key", []byte("x"), 0); err != nil {
		w.t.Fatal(err)
	}
	a.says("a challenge that another node announces cannot be answered here")
	if got := a.source.Current(); !got.Leaf.Equal(leaf) {
		w.t.Error("another certificate")
	}
	w.orders(1)
}

// Nodes that want different certificates under one name leave each other alone.
func twoWishes(w *town) {
	a, b := w.join(options{}), w.join(options{hosts: []string{"shop.test"}})
	w.ca.Reach(a.web, a.secure)
	a.source.Live()
	w.has(a)
	w.ca.Reach(b.web, b.secure)
	b.source.Live()
	w.has(b)
	c := w.join(options{})
	c.source.Live()
	w.has(a, c)
	if a.source.Current().Leaf.Equal(b.source.Current().Leaf) {
		w.t.Error("they have the same one")
	}
	w.orders(2)
}

// After one node's failure the others do not try what has just failed.
func refusedOnce(w *town) {
	a := w.join(options{})
	w.ca.Reach("", "")
	a.source.Live()
	eventually(w.t, "a failure", func() error {
		if a.source.Stats().Fault == "" {
			return errors.New("not yet")
		}
		return nil
	})
	b := w.join(options{})
	b.source.Live()
	eventually(w.t, "the other one hears of it", func() error {
		if s := b.source.Stats(); !strings.Contains(s.Fault, "another node has failed: http-01") || time.Until(s.Next) < time.Minute/2 {
			return errors.New(s.Fault)
		}
		return nil
	})
	w.orders(1)
}
