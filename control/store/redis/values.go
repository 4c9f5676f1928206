package redis

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// A folder is a sorted set of names by the time they end, and a key for each
// value, which ends by itself. The set may name what has ended already.

func (s *Store) indexKey(folder string) string { return s.key("values:"+folder, "names") }

func (s *Store) valueKey(folder, name string) string { return s.key("values:"+folder, "value:"+name) }

// swap writes or removes a value. KEYS: names, value; ARGV: name, mode (any,
// none, same), old, "put" or "del", data, ttl in ms (0: none), channel, folder.
var swap = newScript(`
local now = redis.call('GET', KEYS[2])
if ARGV[2] == 'none' and now then return 0 end
if ARGV[2] == 'same' and now ~= ARGV[3] then return 0 end
if ARGV[4] == 'del' then
  redis.call('DEL', KEYS[2])
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  local t = redis.call('TIME')
  local ms = t[1] * 1000 + math.floor(t[2] / 1000)
  if ARGV[6] == '0' then
    redis.call('SET', KEYS[2], ARGV[5])
    redis.call('ZADD', KEYS[1], '+inf', ARGV[1])
  else
    redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[6])
    redis.call('ZADD', KEYS[1], ms + ARGV[6], ARGV[1])
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ms - 1000)
end
redis.call('PUBLISH', ARGV[7], ARGV[8])
return 1`)

func (s *Store) swap(ctx context.Context, folder, name, mode string, old, data []byte, ttl time.Duration) error {
	if err := store.CheckNames(folder, name); err != nil {
		return err
	}
	op := "put"
	if data == nil {
		op = "del"
	}
	ms := int64(math.Ceil(float64(ttl) / float64(time.Millisecond)))
	ok, err := swap.run(ctx, s.client, []string{s.indexKey(folder), s.valueKey(folder, name)},
		name, mode, old, op, data, ms, s.channel, folder).Int()
	if err != nil {
		return s.fail("write "+folder+"/"+name, err)
	}
	if ok == 0 {
		return store.ErrConflict
	}
	return nil
}

// Get implements store.Values.
func (s *Store) Get(ctx context.Context, folder, name string) ([]byte, error) {
	if err := store.CheckNames(folder, name); err != nil {
		return nil, err
	}
	key := s.valueKey(folder, name)
	text, err := s.client.GetRange(ctx, key, 0, store.MaxValue).Result()
	switch {
	case err != nil:
		return nil, s.fail("read "+folder+"/"+name, err)
	case len(text) > store.MaxValue:
		return nil, fmt.Errorf("%w: %s has more than %d bytes", store.ErrMalformed, key, store.MaxValue)
	case text != "":
		return []byte(text), nil
	}
	b, err := s.client.Get(ctx, key).Bytes() // empty, or not there
	if err != nil {
		return nil, s.fail("read "+folder+"/"+name, err)
	}
	return b, nil
}

// Put implements store.Values.
func (s *Store) Put(ctx context.Context, folder, name string, data []byte, ttl time.Duration) error {
	return s.swap(ctx, folder, name, "any", nil, full(data), ttl)
}

// full tells an empty value from none.
func full(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// Swap implements store.Values.
func (s *Store) Swap(ctx context.Context, folder, name string, old, data []byte, ttl time.Duration) error {
	mode := "same"
	if old == nil {
		mode = "none"
	}
	return s.swap(ctx, folder, name, mode, old, data, ttl)
}

// Delete implements store.Values.
func (s *Store) Delete(ctx context.Context, folder, name string) error {
	return s.swap(ctx, folder, name, "any", nil, nil, 0)
}

// List implements store.Values.
func (s *Store) List(ctx context.Context, folder string) ([]store.Value, error) {
	if err := store.CheckNames(folder); err != nil {
		return nil, err
	}
	names, err := s.client.ZRange(ctx, s.indexKey(folder), 0, -1).Result()
	if err != nil {
		return nil, s.fail("list "+folder, err)
	}
	slices.Sort(names)
	list := make([]store.Value, 0, len(names))
	all := int64(0)
	for part := range slices.Chunk(names, 256) {
		keys := make([]string, len(part))
		for i, name := range part {
			keys[i] = s.valueKey(folder, name)
		}
		large, size, err := s.tooLarge(ctx, keys)
		if err != nil {
			return nil, err
		}
		if all += size; all > s.maxAnswer {
			return nil, fmt.Errorf("%w: the values of %s have more than %d bytes", store.ErrMalformed, folder, s.maxAnswer)
		}
		for i := range large {
			keys[i] = s.indexKey(folder) // which is no value, and may be read by all who list
		}
		found, err := s.client.MGet(ctx, keys...).Result()
		if err != nil {
			return nil, s.fail("list "+folder, err)
		}
		for i, v := range found {
			if text, ok := v.(string); ok || large[i] {
				list = append(list, store.Value{Name: part[i], Data: []byte(text)})
			}
		}
	}
	return list, nil
}

// tooLarge are the indices of values that are not ours for their size; all is
// that of the others together.
func (s *Store) tooLarge(ctx context.Context, keys []string) (list map[int]bool, all int64, err error) {
	sizes := make([]*redis.IntCmd, len(keys))
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			sizes[i] = p.StrLen(ctx, key)
		}
		return nil
	})
	if err != nil && !redis.HasErrorPrefix(err, "WRONGTYPE") { // such a one is left out by MGET
		return nil, 0, s.fail("look at values", err)
	}
	for i, size := range sizes {
		if size.Val() <= store.MaxValue {
			all += size.Val()
			continue
		}
		if list == nil {
			list = map[int]bool{}
		}
		list[i] = true
	}
	return list, all, nil
}
