package redis

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// take charges the buckets of one key. The value is the times, in microseconds,
// at which each bucket is full; a value of another number of buckets is void.
// KEYS: bucket; ARGV: cost, at least, then interval and depth of each bucket in
// microseconds. It returns what was taken, and the time until each is full.
var take = newScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local full = {}
for x in string.gmatch(redis.call('GET', KEYS[1]) or '', '%S+') do full[#full + 1] = tonumber(x) end
local n = (#ARGV - 2) / 2
if #full ~= n then full = {} end
local cost, least = tonumber(ARGV[1]), tonumber(ARGV[2])
local got = cost
for i = 1, n do
  local interval, depth = tonumber(ARGV[2*i+1]), tonumber(ARGV[2*i+2])
  full[i] = math.max(full[i] or 0, now)
  got = math.min(got, math.floor((depth - (full[i] - now)) / interval + 0.000001))
end
if got < cost and (least == 0 or got < least) then got = 0 end
local out, text, longest = {got}, {}, 0
for i = 1, n do
  full[i] = full[i] + got * ARGV[2*i+1]
  local used = full[i] - now
  out[i+1] = math.ceil(used)
  longest = math.max(longest, used)
  text[i] = string.format('%.3f', full[i])
end
if got > 0 then redis.call('SET', KEYS[1], table.concat(text, ' '), 'PX', math.ceil(longest / 1000) + 1) end
return out`)

// Take implements store.Limits.
func (s *Store) Take(ctx context.Context, takes []store.Take) ([]store.Taken, error) {
	cmds := make([]*redis.Cmd, len(takes))
	send := func(how func(redis.Pipeliner, []string, ...any) *redis.Cmd) error {
		_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range takes {
				cmds[i] = how(p, []string{s.key("limit:"+takes[i].Key, "full")}, takeArgs(&takes[i])...)
			}
			return nil
		})
		return err
	}
	err := send(func(p redis.Pipeliner, keys []string, args ...any) *redis.Cmd {
		return take.s.EvalSha(ctx, p, keys, args...)
	})
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		// Those that were done, on the servers of a Cluster that know the script,
		// must not be done twice.
		err = s.again(ctx, takes, cmds)
	}
	if err != nil {
		return nil, s.fail("take from limits", err)
	}
	out := make([]store.Taken, len(takes))
	for i, c := range cmds {
		list, err := c.Int64Slice()
		if err != nil || len(list) != 1+len(takes[i].Buckets) {
			return nil, fmt.Errorf("%w: a limit answered %v: %w", store.ErrMalformed, c.Val(), err)
		}
		out[i].Got, out[i].Used = list[0], make([]time.Duration, len(list)-1)
		for j, us := range list[1:] {
			out[i].Used[j] = time.Duration(us) * time.Microsecond
		}
	}
	return out, nil
}

// again does those takes of which the server did not know the script.
func (s *Store) again(ctx context.Context, takes []store.Take, cmds []*redis.Cmd) error {
	for i, c := range cmds {
		if !redis.HasErrorPrefix(c.Err(), "NOSCRIPT") {
			continue
		}
		cmds[i] = take.s.Eval(ctx, s.client, []string{s.key("limit:"+takes[i].Key, "full")}, takeArgs(&takes[i])...)
		if err := cmds[i].Err(); err != nil {
			return err
		}
	}
	return nil
}

func takeArgs(t *store.Take) []any {
	args := make([]any, 2, 2+2*len(t.Buckets))
	args[0], args[1] = t.Cost, t.AtLeast
	for _, b := range t.Buckets {
		us := float64(b.Interval) / float64(time.Microsecond)
		args = append(args, us, us*float64(b.Burst))
	}
	return args
}

// count adds to a counter. KEYS: counter; ARGV: n, limit, end in ms.
var count = newScript(`
local sum = tonumber(redis.call('GET', KEYS[1]) or '0')
if not sum then return redis.error_reply('MALFORMED ' .. KEYS[1]) end
local n, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
if limit > 0 and sum + n > limit then return {sum, 0} end
sum = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
return {sum, 1}`)

// Count implements store.Limits.
func (s *Store) Count(ctx context.Context, key string, n, limit int64, end time.Time) (sum int64, added bool, err error) {
	list, err := count.run(ctx, s.client, []string{s.key("count:"+key, "sum")}, n, limit, end.UnixMilli()).Int64Slice()
	if err != nil {
		return 0, false, s.fail("count", err)
	}
	if len(list) != 2 {
		return 0, false, fmt.Errorf("%w: a counter answered %v", store.ErrMalformed, list)
	}
	return list[0], list[1] == 1, nil
}
