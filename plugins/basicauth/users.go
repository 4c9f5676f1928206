package basicauth

import (
	"fmt"
	"sync/atomic"

	"github.com/gatehouse-proxy/gatehouse/gateway/exchange"
	"github.com/gatehouse-proxy/gatehouse/plugins"
)

// user is somebody who may sign in.
type user struct {
	consumer *exchange.Consumer
	hash     *hash
	// verified is the credential that was last right, so that it need not be
	// hashed again: at most one for each user, which bounds the memory.
	verified atomic.Pointer[verified]
}

// verified is a digest of a user name and password, keyed with a secret of
// this process, and until when it counts (nanoseconds of the plugin's clock).
type verified struct {
	digest [32]byte
	until  int64
}

// users is everybody who may sign in, and a decoy for everybody else. It does
// not change but for what is verified.
type users struct {
	byName map[string]*user
	decoy  *hash
}

// fromConsumers takes the consumers that have a password.
func fromConsumers(d *plugins.Directory) ([]*plugins.Consumer, []*hash, error) {
	var (
		list   []*plugins.Consumer
		hashes []*hash
		err    error
	)
	if d == nil {
		return nil, nil, nil
	}
	d.Each(func(c *plugins.Consumer) {
		if c.PasswordHash == "" || err != nil {
			return
		}
		h, e := parseHash(c.PasswordHash)
		if e != nil {
			err = fmt.Errorf("consumers.%s.basic_auth.password_hash: %w", c.Name, e)
			return
		}
		list, hashes = append(list, c), append(hashes, h)
	})
	return list, hashes, err
}

// merge makes users of consumers and a file. A user of the file is a consumer
// of that name without groups; it must not pass for a configured one.
func merge(d *plugins.Directory, list []*plugins.Consumer, hashes []*hash, file []entry) (*users, error) {
	u := &users{byName: make(map[string]*user, len(list)+len(file))}
	slowest := &hash{}
	note := func(h *hash) {
		if h.work > slowest.work {
			slowest = h
		}
	}
	for i, c := range list {
		u.byName[c.Username] = &user{consumer: &c.Consumer, hash: hashes[i]}
		note(hashes[i])
	}
	for _, f := range file {
		if u.byName[f.name] != nil || d != nil && d.ByName(f.name) != nil {
			return nil, fmt.Errorf("user %q is a configured consumer or its user name", f.name)
		}
		u.byName[f.name] = &user{consumer: &exchange.Consumer{Name: f.name}, hash: f.hash}
		note(f.hash)
	}
	if len(u.byName) == 0 {
		h, err := parseHash(standIn)
		if err != nil {
			return nil, err
		}
		slowest = h
	}
	u.decoy = slowest.decoy()
	return u, nil
}
