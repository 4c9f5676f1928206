// Package redis keeps the store of a fleet in Redis 7 or later: a single
// server, a primary found by Sentinels, or a Cluster. Every operation that must
// be atomic is one script on keys of one hash slot.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// Settings say where Redis is. Only Addresses is required.
type Settings struct {
	// Addresses are HOST:PORT of the server, of the Sentinels, or of some nodes
	// of the Cluster.
	Addresses []string
	// Sentinel is the name of the primary that Sentinels watch; empty: none do.
	Sentinel string
	// Cluster says that the addresses are of a Redis Cluster.
	Cluster bool
	// Username and Password of the ACL user.
	Username, Password string
	// SentinelUsername and SentinelPassword, where Sentinels ask for them.
	SentinelUsername, SentinelPassword string
	// DB is the number of the database; a Cluster has only 0.
	DB int
	// TLS, if set, is spoken with every server.
	TLS *tls.Config
	// Prefix of all our keys; empty: "gatehouse".
	Prefix string
	// Timeout of connecting, and of each read and write; 0: 1 s. The context of
	// a call can make it shorter.
	Timeout time.Duration
	// MaxAnswer bounds what Redis may answer at once, in bytes, and MaxLeases how
	// many leases are read; 0: 512 MiB and 2^20. What is more was not written by
	// us, and is store.ErrMalformed.
	MaxAnswer, MaxLeases int64
}

// Store is a store.Store in Redis.
type Store struct {
	client  redis.UniversalClient
	prefix  string
	channel string

	maxAnswer, maxLeases int64
}

var _ store.Store = (*Store)(nil)

// New returns a store that has connected to nothing yet, so that a node can
// start without it.
func New(s Settings) *Store {
	if s.Timeout <= 0 {
		s.Timeout = time.Second
	}
	if s.Prefix == "" {
		s.Prefix = "gatehouse"
	}
	if s.MaxAnswer <= 0 {
		s.MaxAnswer = defaultMaxAnswer
	}
	if s.MaxLeases <= 0 {
		s.MaxLeases = defaultMaxLeases
	}
	o := &redis.UniversalOptions{
		Addrs: s.Addresses, MasterName: s.Sentinel, IsClusterMode: s.Cluster, DB: s.DB,
		Username: s.Username, Password: s.Password,
		SentinelUsername: s.SentinelUsername, SentinelPassword: s.SentinelPassword,
		TLSConfig: s.TLS, ClientName: "gatehouse",
		DialTimeout: s.Timeout, ReadTimeout: s.Timeout, WriteTimeout: s.Timeout,
		ContextTimeoutEnabled: true,
		// What is tried again by itself could be done twice.
		MaxRetries: -1,
		OnConnect:  checkVersion,
		Dialer:     dialer(&redis.Options{DialTimeout: s.Timeout, TLSConfig: s.TLS}, s.MaxAnswer),
	}
	return &Store{
		client: redis.NewUniversalClient(o), prefix: s.Prefix, channel: s.Prefix + ":changed",
		maxAnswer: s.MaxAnswer, maxLeases: s.MaxLeases,
	}
}

// oldest is the major version of Redis that is spoken with.
const oldest = 7

// checkVersion refuses a server that is too old, which would fail at some later
// time in some other way. A user who may not ask is believed.
func checkVersion(ctx context.Context, c *redis.Conn) error {
	info, err := c.Info(ctx, "server").Result()
	if err != nil {
		return nil //nolint:nilerr // the command that the connection is for fails as well, and says why
	}
	_, rest, _ := strings.Cut(info, "redis_version:")
	version, _, _ := strings.Cut(rest, "\r\n")
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n < oldest {
		return fmt.Errorf("this is Redis %s; version %d or later is needed", version, oldest)
	}
	return nil
}

// Close implements store.Store. It is never an error: every write was answered
// before, so how a connection ends, perhaps one that is broken, means nothing.
func (s *Store) Close() error {
	_ = s.client.Close()
	return nil
}

// key is a key of a group whose keys all lie in one hash slot.
func (s *Store) key(group, rest string) string { return s.prefix + ":{" + group + "}:" + rest }

// Ping implements store.Store. It writes, since a replica and a full server
// answer PING as well.
func (s *Store) Ping(ctx context.Context) error {
	return s.fail("ping", s.client.Set(ctx, s.key("ping", "at"), time.Now().Unix(), time.Minute).Err())
}

// fail says what was being done, and gives errors that mean something their names.
func (s *Store) fail(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redis.Nil):
		return store.ErrNotFound
	case redis.HasErrorPrefix(err, "WRONGTYPE"), redis.HasErrorPrefix(err, "MALFORMED"), errors.Is(err, errTooMuch):
		return fmt.Errorf("%w: %s: %w", store.ErrMalformed, doing, err)
	case redis.HasErrorPrefix(err, "NOAUTH"), redis.HasErrorPrefix(err, "WRONGPASS"):
		return fmt.Errorf("store: %s: Redis refuses the user or the password: %w", doing, err)
	case redis.HasErrorPrefix(err, "NOPERM"), strings.Contains(err.Error(), "The user executing the script can't"):
		return fmt.Errorf("store: %s: the ACL of the Redis user is too narrow: %w", doing, err)
	case redis.HasErrorPrefix(err, "OOM"):
		return fmt.Errorf("store: %s: Redis is out of memory: %w", doing, err)
	case redis.HasErrorPrefix(err, "READONLY"):
		return fmt.Errorf("store: %s: this Redis server is a replica: %w", doing, err)
	}
	if c, ok := s.client.(*redis.ClusterClient); ok && !errors.As(err, new(redis.Error)) {
		// The server may be dead. The library would go on asking it for up to a
		// minute though another has taken its place.
		c.ReloadState(context.Background())
	}
	return fmt.Errorf("store: %s: %w", doing, err)
}

// script is run by its digest, and sent where the server does not know it.
type script struct{ s *redis.Script }

func newScript(text string) script { return script{redis.NewScript(text)} }

func (x script) run(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd {
	return x.s.Run(ctx, c, keys, args...)
}

// pause between two tries to be told of changes.
const pause = 200 * time.Millisecond

// silence is how long the connection for notifications may be quiet before it is
// asked whether it is still alive, and how long it may take to answer.
const silence = time.Second

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, changed func(topic string)) error {
	first := true
	for ctx.Err() == nil {
		err := s.watch(ctx, func(topic string) {
			if topic != "" || !first {
				changed(topic)
			}
			first = false
		})
		if errors.Is(err, redis.ErrClosed) && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return ctx.Err()
}

// watch listens on one connection until that breaks. It tells "" once it is
// subscribed: what was published before may have been missed.
func (s *Store) watch(ctx context.Context, changed func(topic string)) error {
	sub := s.client.Subscribe(ctx, s.channel)
	defer sub.Close() //nolint:errcheck // it is broken or no longer wanted
	// Reading does not end with ctx by itself.
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })()
	asked := false
	for {
		m, err := sub.ReceiveTimeout(ctx, silence)
		if err != nil {
			if timeout(err) && !asked && ctx.Err() == nil {
				asked = true
				if err = sub.Ping(ctx); err == nil {
					continue
				}
			}
			return err
		}
		asked = false
		switch m := m.(type) {
		case *redis.Subscription:
			changed("")
		case *redis.Message:
			changed(m.Payload)
		}
	}
}

func timeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
