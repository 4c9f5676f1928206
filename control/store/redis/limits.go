package redis

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// take charges the buckets of one key. The value is the times, in microseconds,
// at which each bucket is full; a value of another number of buckets is void,
// and so is anything that is no value of ours. A bucket that seems to be emptier
// than empty has seen another clock, of a server that failed over: it is empty.
// KEYS: bucket; ARGV: cost, at least, then interval and depth of each bucket in
// microseconds. It returns what was taken, and the time until each is full.
var take = newScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local full, old = {}, redis.pcall('GET', KEYS[1])
if type(old) ~= 'string' then old = '' end
for x in string.gmatch(old, '%S+') do full[#full + 1] = tonumber(x) end
local n = (#ARGV - 2) / 2
if #full ~= n then full = {} end
local cost, least = tonumber(ARGV[1]), tonumber(ARGV[2])
local got, wrong = cost, false
for i = 1, n do
  local interval, depth = tonumber(ARGV[2*i+1]), tonumber(ARGV[2*i+2])
  if full[i] == nil or full[i] ~= full[i] or full[i] < now then full[i] = now end
  if full[i] > now + depth then
    full[i] = now + depth
    wrong = true
  end
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
if got > 0 or wrong then redis.call('SET', KEYS[1], table.concat(text, ' '), 'PX', math.ceil(longest / 1000) + 1) end
return out`)

// Take implements store.Limits.
func (s *Store) Take(ctx context.Context, takes []store.Take) ([]store.Taken, error) {
	lists, err := s.several(ctx, take, "take from limits", len(takes), func(i int) (string, []any, int) {
		return s.key("limit:"+takes[i].Key, "full"), takeArgs(&takes[i]), 1 + len(takes[i].Buckets)
	})
	if err != nil {
		return nil, err
	}
	out := make([]store.Taken, len(takes))
	for i, list := range lists {
		out[i].Got, out[i].Used = list[0], make([]time.Duration, len(list)-1)
		for j, us := range list[1:] {
			out[i].Used[j] = time.Duration(us) * time.Microsecond
		}
	}
	return out, nil
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

// several runs one script once for each of n questions, each with its key,
// arguments and the length of its answer, in one round trip.
func (s *Store) several(ctx context.Context, x script, doing string, n int, ask func(i int) (key string, args []any, answer int)) ([][]int64, error) {
	cmds, lengths := make([]*redis.Cmd, n), make([]int, n)
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range cmds {
			key, args, answer := ask(i)
			cmds[i], lengths[i] = x.s.EvalSha(ctx, p, []string{key}, args...), answer
		}
		return nil
	})
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		// Those that were done, on the servers of a Cluster that know the script,
		// must not be done twice.
		err = nil
		for i := 0; i < n && err == nil; i++ {
			if redis.HasErrorPrefix(cmds[i].Err(), "NOSCRIPT") {
				key, args, _ := ask(i)
				cmds[i] = x.s.Eval(ctx, s.client, []string{key}, args...)
				err = cmds[i].Err()
			}
		}
	}
	if err != nil {
		return nil, s.fail(doing, err)
	}
	out := make([][]int64, n)
	for i, c := range cmds {
		list, err := c.Int64Slice()
		if err != nil || len(list) != lengths[i] {
			return nil, fmt.Errorf("%w: %s: the answer is %v: %w", store.ErrMalformed, doing, c.Val(), err)
		}
		out[i] = list
	}
	return out, nil
}

// count adds to a counter. KEYS: counter; ARGV: n, limit, at least, end in ms.
var count = newScript(`
local sum = redis.pcall('GET', KEYS[1])
sum = type(sum) == 'string' and string.match(sum, '^%d+$') and #sum < 16 and tonumber(sum) or 0
local n, limit, least = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if n < 0 then n = math.max(n, -sum) end
if n > 0 and limit > 0 and sum + n > limit then
  local left = limit - sum
  if least > 0 and left >= least then n = left else n = 0 end
end
if n ~= 0 then redis.call('SET', KEYS[1], string.format('%d', sum + n), 'PXAT', ARGV[4]) end
return {sum + n, n}`)

// Count implements store.Limits.
func (s *Store) Count(ctx context.Context, counts []store.Count) ([]store.Counted, error) {
	lists, err := s.several(ctx, count, "count", len(counts), func(i int) (string, []any, int) {
		c := &counts[i]
		return s.key("count:"+c.Key, "sum"), []any{c.N, c.Limit, c.AtLeast, c.End.UnixMilli()}, 2
	})
	if err != nil {
		return nil, err
	}
	out := make([]store.Counted, len(counts))
	for i, list := range lists {
		out[i] = store.Counted{Sum: list[0], Added: list[1]}
	}
	return out, nil
}

// hold keeps a hash of owners, each with its places, when they end in ms and the
// number of its latest question. What ends later than it could has seen another
// clock. KEYS: places; ARGV: owner, number, want, limit, ttl in ms.
var hold = newScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local seq, want, limit, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local all, others, own = redis.pcall('HGETALL', KEYS[1]), 0, nil
if all.err then
  redis.call('DEL', KEYS[1])
  all = {}
end
for i = 1, #all, 2 do
  local n, ends, number = string.match(all[i+1], '^(%d+) (%d+) (%d+)$')
  n, ends, number = tonumber(n), tonumber(ends), tonumber(number)
  if not n or n > 1e9 or ends <= now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif all[i] == ARGV[1] then
    if number > seq then own = n end
  else
    others = others + n
    if ends > now + ttl then redis.call('HSET', KEYS[1], all[i], string.format('%d %d %d', n, now + ttl, number)) end
  end
end
if own then return {own, others} end
local got = math.max(0, math.min(want, limit - others))
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %d %d', got, now + ttl, seq))
redis.call('PEXPIRE', KEYS[1], ttl)
return {got, others}`)

// Hold implements store.Limits.
func (s *Store) Hold(ctx context.Context, holds []store.Hold) ([]store.Held, error) {
	lists, err := s.several(ctx, hold, "hold places", len(holds), func(i int) (string, []any, int) {
		h := &holds[i]
		return s.key("hold:"+h.Key, "owners"), []any{h.Owner, h.Seq, h.Want, h.Limit, max(1, h.TTL.Milliseconds())}, 2
	})
	if err != nil {
		return nil, err
	}
	out := make([]store.Held, len(holds))
	for i, list := range lists {
		out[i] = store.Held{Got: list[0], Others: list[1]}
	}
	return out, nil
}
