package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// The registry is a hash of data by ID, a sorted set of IDs by the time they
// end, and a stream of changes whose entries are numbered from 1. An epoch tells
// the numbers of one life of the registry from those of the next.

func (s *Store) leaseKeys() []string {
	return []string{s.key("leases", "data"), s.key("leases", "ends"), s.key("leases", "changes"), s.key("leases", "epoch")}
}

// maxChanges is how many changes the stream keeps, about.
const maxChanges = 20000

// note is the part of the scripts that takes a change down.
var note = `
local function note(op, id)
  if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('SET', KEYS[4], ARGV[2]); redis.call('DEL', KEYS[3]) end
  local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
  local n = 0
  if last then n = tonumber(string.match(last[1], '^%d+')) end
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ` + strconv.Itoa(maxChanges) + `, string.format('%.0f-0', n + 1), op, id)
end
local function ms() local t = redis.call('TIME'); return t[1] * 1000 + math.floor(t[2] / 1000) end
`

// The scripts have KEYS as in leaseKeys; ARGV begins with the channel and an
// epoch for a registry that has none.
var (
	// register: ID, data, ttl in ms.
	register = newScript(note + `
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
redis.call('ZADD', KEYS[2], ms() + ARGV[5], ARGV[3])
note('+', ARGV[3])
redis.call('PUBLISH', ARGV[1], 'leases')
return 1`)
	// renew: ID, ttl in ms.
	renew = newScript(note + `
if redis.call('HEXISTS', KEYS[1], ARGV[3]) == 0 then return 0 end
redis.call('ZADD', KEYS[2], ms() + ARGV[4], ARGV[3])
return 1`)
	// cancel: ID.
	cancel = newScript(note + `
redis.call('ZREM', KEYS[2], ARGV[3])
if redis.call('HDEL', KEYS[1], ARGV[3]) == 0 then return 0 end
note('-', ARGV[3])
redis.call('PUBLISH', ARGV[1], 'leases')
return 1`)
	// expire: limit.
	expire = newScript(note + `
local now = ms()
local overdue = redis.call('ZCOUNT', KEYS[2], '-inf', now)
local gone = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[3])
for _, id in ipairs(gone) do
  redis.call('ZREM', KEYS[2], id)
  if redis.call('HDEL', KEYS[1], id) == 1 then note('-', id) end
end
if #gone > 0 then redis.call('PUBLISH', ARGV[1], 'leases') end
return overdue`)
)

func (s *Store) lease(ctx context.Context, x script, doing string, args ...any) (int, error) {
	n, err := x.run(ctx, s.client, s.leaseKeys(), append([]any{s.channel, rand.Text()}, args...)...).Int()
	return n, s.fail(doing, err)
}

func milliseconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds() * 1000)) }

// Register implements store.Leases.
func (s *Store) Register(ctx context.Context, id string, data []byte, ttl time.Duration) error {
	_, err := s.lease(ctx, register, "register "+id, id, data, milliseconds(ttl))
	return err
}

// Renew implements store.Leases.
func (s *Store) Renew(ctx context.Context, id string, ttl time.Duration) error {
	n, err := s.lease(ctx, renew, "renew "+id, id, milliseconds(ttl))
	if err == nil && n == 0 {
		return store.ErrNotFound
	}
	return err
}

// Cancel implements store.Leases.
func (s *Store) Cancel(ctx context.Context, id string) error {
	_, err := s.lease(ctx, cancel, "cancel "+id, id)
	return err
}

// Expire implements store.Leases.
func (s *Store) Expire(ctx context.Context, limit int) (overdue int, err error) {
	return s.lease(ctx, expire, "expire leases", limit)
}

// Snapshot implements store.Leases.
func (s *Store) Snapshot(ctx context.Context) ([]store.Lease, store.Position, error) {
	keys := s.leaseKeys()
	var data *redis.MapStringStringCmd
	var ends *redis.ZSliceCmd
	var last *redis.XMessageSliceCmd
	var epoch *redis.StringCmd
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		data, ends = p.HGetAll(ctx, keys[0]), p.ZRangeWithScores(ctx, keys[1], 0, -1)
		last, epoch = p.XRevRangeN(ctx, keys[2], "+", "-", 1), p.Get(ctx, keys[3])
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, "", s.fail("read the leases", err)
	}
	list := make([]store.Lease, 0, len(ends.Val()))
	for _, z := range ends.Val() {
		id, _ := z.Member.(string)
		if text, ok := data.Val()[id]; ok {
			list = append(list, store.Lease{ID: id, Data: []byte(text), Expires: time.UnixMilli(int64(z.Score))})
		}
	}
	at := "0"
	if m := last.Val(); len(m) > 0 {
		at, _, _ = strings.Cut(m[0].ID, "-")
	}
	return list, store.Position(epoch.Val() + "." + at), nil
}

// Changes implements store.Leases. A lease that has changed several times comes
// once, as it is now.
func (s *Store) Changes(ctx context.Context, since store.Position) ([]store.Change, store.Position, error) {
	epoch, text, _ := strings.Cut(string(since), ".")
	from, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, "", store.ErrGap
	}
	keys := s.leaseKeys()
	var entries, first *redis.XMessageSliceCmd
	var now *redis.StringCmd
	_, err = s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		now = p.Get(ctx, keys[3])
		first = p.XRangeN(ctx, keys[2], "-", "+", 1)
		entries = p.XRange(ctx, keys[2], strconv.FormatUint(from+1, 10), "+")
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, "", s.fail("read the changes of leases", err)
	}
	if now.Val() != epoch {
		return nil, "", store.ErrGap
	}
	if f := first.Val(); len(f) > 0 {
		if n, err := sequence(f[0].ID); err != nil || n > from+1 {
			return nil, "", store.ErrGap
		}
	}
	list := entries.Val()
	if len(list) == 0 {
		return nil, since, nil
	}
	last, err := sequence(list[len(list)-1].ID)
	if err != nil {
		return nil, "", err
	}
	changes, err := s.current(ctx, list)
	if err != nil {
		return nil, "", err
	}
	return changes, store.Position(epoch + "." + strconv.FormatUint(last, 10)), nil
}

func sequence(id string) (uint64, error) {
	text, _, _ := strings.Cut(id, "-")
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: a change has the ID %.40q", store.ErrMalformed, id)
	}
	return n, nil
}

// current reads what has become of the leases that entries name.
func (s *Store) current(ctx context.Context, entries []redis.XMessage) ([]store.Change, error) {
	var ids []string
	seen := map[string]bool{}
	for _, m := range entries {
		for _, v := range m.Values {
			if id, ok := v.(string); ok && !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	keys := s.leaseKeys()
	var data *redis.SliceCmd
	var ends *redis.FloatSliceCmd
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		data, ends = p.HMGet(ctx, keys[0], ids...), p.ZMScore(ctx, keys[1], ids...)
		return nil
	})
	if err != nil {
		return nil, s.fail("read the changed leases", err)
	}
	out := make([]store.Change, len(ids))
	for i, id := range ids {
		out[i].Lease.ID = id
		text, ok := data.Val()[i].(string)
		if out[i].Removed = !ok; ok {
			out[i].Lease.Data, out[i].Lease.Expires = []byte(text), time.UnixMilli(int64(ends.Val()[i]))
		}
	}
	return out, nil
}
