package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// The registry is a hash of data by ID, a sorted set of IDs by the time they
// end, and a stream of changes whose entries are numbered from 1. An epoch tells
// the numbers of one life of the registry from those of the next, and a mark in
// each entry tells it from one of the same number that a failover has lost.

func (s *Store) leaseKeys() []string {
	return []string{s.key("leases", "data"), s.key("leases", "ends"), s.key("leases", "changes"), s.key("leases", "epoch")}
}

// maxChanges is how many changes the stream keeps, about.
const maxChanges = 20000

// note is the part of the scripts that takes a change down. Where no number can
// follow, since somebody else has written a huge one or removed the last, a new
// life of the registry begins: everybody reads all of it.
var note = `
local function note(op, id)
  if redis.call('EXISTS', KEYS[4]) == 0 then redis.call('SET', KEYS[4], ARGV[2]); redis.call('DEL', KEYS[3]) end
  local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
  local n = 0
  if last then n = tonumber(string.match(last[1], '^%d+')) end
  local entry = {op, id, 'mark', ARGV[2]}
  local added = redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ` + strconv.Itoa(maxChanges) + `, string.format('%.0f-0', n + 1), unpack(entry))
  if added.err then
    redis.call('SET', KEYS[4], ARGV[2])
    redis.call('DEL', KEYS[3])
    redis.call('XADD', KEYS[3], '1-0', unpack(entry))
  end
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
	// replace: ID, data, ttl in ms, mode (none, same), old data.
	replace = newScript(note + `
local now = redis.call('HGET', KEYS[1], ARGV[3])
if ARGV[6] == 'none' and now then return 0 end
if ARGV[6] == 'same' and now ~= ARGV[7] then return 0 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
if ARGV[5] ~= '0' or not redis.call('ZSCORE', KEYS[2], ARGV[3]) then redis.call('ZADD', KEYS[2], ms() + ARGV[5], ARGV[3]) end
note('+', ARGV[3])
redis.call('PUBLISH', ARGV[1], 'leases')
return 1`)
	// renew: IDs and ttls in ms, in turns. It returns those that are not there.
	renew = newScript(note + `
local now, missing = ms(), {}
for i = 3, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then redis.call('ZADD', KEYS[2], now + ARGV[i + 1], ARGV[i])
  else missing[#missing + 1] = ARGV[i] end
end
return missing`)
	// cancel: ID.
	cancel = newScript(note + `
redis.call('ZREM', KEYS[2], ARGV[3])
if redis.call('HDEL', KEYS[1], ARGV[3]) == 0 then return 0 end
note('-', ARGV[3])
redis.call('PUBLISH', ARGV[1], 'leases')
return 1`)
	// expire: limit.
	expire = newScript(note + `
local now, all = ms(), redis.call('HLEN', KEYS[1])
local overdue = redis.call('ZCOUNT', KEYS[2], '-inf', now)
local gone = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[3])
for _, id in ipairs(gone) do
  redis.call('ZREM', KEYS[2], id)
  if redis.call('HDEL', KEYS[1], id) == 1 then note('-', id) end
end
if #gone > 0 then redis.call('PUBLISH', ARGV[1], 'leases') end
return {overdue, all}`)
)

func (s *Store) leaseScript(ctx context.Context, x script, args ...any) *redis.Cmd {
	return x.run(ctx, s.client, s.leaseKeys(), append([]any{s.channel, rand.Text()}, args...)...)
}

func (s *Store) lease(ctx context.Context, x script, doing string, args ...any) (int, error) {
	n, err := s.leaseScript(ctx, x, args...).Int()
	return n, s.fail(doing, err)
}

func milliseconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds() * 1000)) }

// Register implements store.Leases.
func (s *Store) Register(ctx context.Context, id string, data []byte, ttl time.Duration) error {
	_, err := s.lease(ctx, register, "register "+id, id, data, milliseconds(ttl))
	return err
}

// Replace implements store.Leases.
func (s *Store) Replace(ctx context.Context, id string, old, data []byte, ttl time.Duration) error {
	mode := "same"
	if old == nil {
		mode = "none"
	}
	n, err := s.lease(ctx, replace, "replace "+id, id, data, milliseconds(ttl), mode, old)
	if err == nil && n == 0 {
		return store.ErrConflict
	}
	return err
}

// Lease implements store.Leases.
func (s *Store) Lease(ctx context.Context, id string) (*store.Lease, error) {
	keys := s.leaseKeys()
	var data *redis.StringCmd
	var end *redis.FloatCmd
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		data, end = p.HGet(ctx, keys[0], id), p.ZScore(ctx, keys[1], id)
		return nil
	})
	if err != nil {
		return nil, s.fail("read lease "+id, err)
	}
	return &store.Lease{ID: id, Data: []byte(data.Val()), Expires: time.UnixMilli(int64(end.Val()))}, nil
}

// Renew implements store.Leases.
func (s *Store) Renew(ctx context.Context, id string, ttl time.Duration) error {
	missing, err := s.RenewAll(ctx, []store.Renewal{{ID: id, TTL: ttl}})
	if err == nil && len(missing) > 0 {
		return store.ErrNotFound
	}
	return err
}

// renewals is how many leases one script renews: it holds up nobody for longer
// than a millisecond.
const renewals = 500

// RenewAll implements store.Leases.
func (s *Store) RenewAll(ctx context.Context, list []store.Renewal) (missing []string, err error) {
	for part := range slices.Chunk(list, renewals) {
		args := make([]any, 0, 2*len(part))
		for _, r := range part {
			args = append(args, r.ID, milliseconds(r.TTL))
		}
		gone, err := s.leaseScript(ctx, renew, args...).StringSlice()
		if err != nil {
			return missing, s.fail("renew leases", err)
		}
		missing = append(missing, gone...)
	}
	return missing, nil
}

// Cancel implements store.Leases.
func (s *Store) Cancel(ctx context.Context, id string) error {
	_, err := s.lease(ctx, cancel, "cancel "+id, id)
	return err
}

// Expire implements store.Leases.
func (s *Store) Expire(ctx context.Context, limit int) (overdue, all int, err error) {
	n, err := s.leaseScript(ctx, expire, limit).Int64Slice()
	if err == nil && len(n) != 2 {
		err = errors.New("MALFORMED answer of the script")
	}
	if err != nil {
		return 0, 0, s.fail("expire leases", err)
	}
	return int(n[0]), int(n[1]), nil
}

// defaultMaxLeases is more than a registry may be set to have.
const defaultMaxLeases = 1 << 20

// countable asks how many leases there are, before all are read.
func (s *Store) countable(ctx context.Context, keys []string) error {
	var counts [2]*redis.IntCmd
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		counts[0], counts[1] = p.HLen(ctx, keys[0]), p.ZCard(ctx, keys[1])
		return nil
	})
	if err != nil {
		return s.fail("count the leases", err)
	}
	for i, n := range counts {
		if n.Val() > s.maxLeases {
			return fmt.Errorf("%w: %s has %d entries, more than the %d that are read", store.ErrMalformed, keys[i], n.Val(), s.maxLeases)
		}
	}
	return nil
}

// Snapshot implements store.Leases.
func (s *Store) Snapshot(ctx context.Context) ([]store.Lease, store.Position, error) {
	keys := s.leaseKeys()
	if err := s.countable(ctx, keys); err != nil {
		return nil, "", err
	}
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
		n, err := sequence(m[0].ID)
		if err != nil {
			return nil, "", err
		}
		at = place(n, m[0])
	}
	return list, store.Position(epoch.Val() + "." + at), nil
}

// place is the part of a position behind the epoch.
func place(n uint64, m redis.XMessage) string {
	mark, _ := m.Values["mark"].(string)
	return strconv.FormatUint(n, 10) + "." + mark
}

// Changes implements store.Leases. A lease that has changed several times comes
// once, as it is now. What is more than the stream is to have comes next time.
func (s *Store) Changes(ctx context.Context, since store.Position) ([]store.Change, store.Position, error) {
	epoch, at, _ := strings.Cut(string(since), ".")
	text, _, _ := strings.Cut(at, ".")
	from, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, "", store.ErrGap
	}
	keys := s.leaseKeys()
	var entries *redis.XMessageSliceCmd
	var now *redis.StringCmd
	_, err = s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		now = p.Get(ctx, keys[3])
		entries = p.XRangeN(ctx, keys[2], strconv.FormatUint(from, 10), "+", 2*maxChanges)
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, "", s.fail("read the changes of leases", err)
	}
	if now.Val() != epoch {
		return nil, "", store.ErrGap
	}
	list := entries.Val()
	if from > 0 { // the change the position was taken at must still be there, and be the same
		if len(list) == 0 {
			return nil, "", store.ErrGap
		}
		if n, err := sequence(list[0].ID); err != nil || n != from || place(n, list[0]) != at {
			return nil, "", store.ErrGap
		}
		list = list[1:]
	}
	if len(list) == 0 {
		return nil, since, nil
	}
	if n, err := sequence(list[0].ID); err != nil || n != from+1 {
		return nil, "", store.ErrGap
	}
	end := list[len(list)-1]
	last, err := sequence(end.ID)
	if err != nil {
		return nil, "", err
	}
	changes, err := s.current(ctx, list)
	if err != nil {
		return nil, "", err
	}
	return changes, store.Position(epoch + "." + place(last, end)), nil
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
		for _, op := range []string{"+", "-"} {
			if id, ok := m.Values[op].(string); ok && !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	if len(ids) == 0 {
		return nil, nil // somebody else writes into our stream
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
