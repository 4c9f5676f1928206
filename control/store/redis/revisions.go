package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gatehouse-proxy/gatehouse/control/squeeze"
	"github.com/gatehouse-proxy/gatehouse/control/store"
)

const revisions = "revisions"

func (s *Store) latestKey() string { return s.key(revisions, "latest") }

func (s *Store) revisionKey(n uint64) string { return s.key(revisions, strconv.FormatUint(n, 10)) }

// publish appends. KEYS: latest, revision; ARGV: number, head, data, channel, topic.
var publish = newScript(`
local latest = redis.call('GET', KEYS[1]) or '0'
if not string.match(latest, '^%d+$') then return redis.error_reply('MALFORMED ' .. KEYS[1]) end
if tonumber(ARGV[1]) ~= tonumber(latest) + 1 then return 0 end
redis.call('HSET', KEYS[2], 'head', ARGV[2], 'data', ARGV[3])
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1`)

// replicated is how long a published revision may take to get to a replica.
const replicated = time.Second

// Publish implements store.Revisions. Where the primary has replicas, it waits
// until one has the revision, so that the revision survives the primary.
func (s *Store) Publish(ctx context.Context, r *store.Revision) error {
	head, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c, err := s.primary(ctx, s.latestKey())
	if err != nil {
		return s.fail("publish", err)
	}
	ok, err := publish.run(ctx, c, []string{s.latestKey(), s.revisionKey(r.Number)}, r.Number, head, squeeze.Compress(r.Data), s.channel, store.TopicRevisions).Int()
	if err != nil {
		return s.fail("publish", err)
	}
	if ok == 0 {
		return store.ErrConflict
	}
	s.settle(ctx, c)
	return nil
}

// primary is the server that has a key.
func (s *Store) primary(ctx context.Context, key string) (redis.Cmdable, error) {
	if c, ok := s.client.(*redis.ClusterClient); ok {
		return c.MasterForKey(ctx, key)
	}
	return s.client, nil
}

// settle waits for a replica, if there is one. It is no error if none answers:
// the revision is published, and the nodes that run it can restore it.
func (s *Store) settle(ctx context.Context, c redis.Cmdable) {
	info, err := c.Info(ctx, "replication").Result()
	if err != nil || strings.Contains(info, "connected_slaves:0\r") {
		return
	}
	// WAIT counts what its own connection has written; a write of no meaning
	// makes that be behind the revision.
	_, _ = c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.Set(ctx, s.key(revisions, "settled"), 1, time.Minute)
		p.Do(ctx, "WAIT", 1, replicated.Milliseconds())
		return nil
	})
}

// maxNumber is from where on the numbers of Redis' scripts are no longer exact:
// nothing could be published after such a revision.
const maxNumber = 1 << 53

// Latest implements store.Revisions.
func (s *Store) Latest(ctx context.Context) (uint64, error) {
	text, err := s.client.Get(ctx, s.latestKey()).Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, s.fail("read the latest revision's number", err)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n >= maxNumber {
		return 0, fmt.Errorf("%w: %s is %.40q", store.ErrMalformed, s.latestKey(), text)
	}
	return n, nil
}

// maxHead is how large all but the data of a revision may be, in bytes.
const maxHead = 64 << 10

// Revision implements store.Revisions. Its size is asked for first: what somebody
// else has written there must not fill this node's memory.
func (s *Store) Revision(ctx context.Context, n uint64) (*store.Revision, error) {
	key := s.revisionKey(n)
	var sizes [2]*redis.Cmd
	_, err := s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		sizes[0], sizes[1] = p.Do(ctx, "HSTRLEN", key, "head"), p.Do(ctx, "HSTRLEN", key, "data")
		return nil
	})
	if err != nil {
		return nil, s.fail("read a revision", err)
	}
	for i, most := range []int{maxHead, store.MaxRevision} {
		if size, err := sizes[i].Int(); err != nil || size > most {
			return nil, fmt.Errorf("%w: %s has %d bytes, which is no revision: %w", store.ErrMalformed, key, size, err)
		}
	}
	m, err := s.client.HMGet(ctx, key, "head", "data").Result()
	if err != nil {
		return nil, s.fail("read a revision", err)
	}
	if m[0] == nil && m[1] == nil {
		return nil, store.ErrNotFound
	}
	r, err := s.read(n, m[0])
	if err != nil {
		return nil, err
	}
	data, ok := m[1].(string)
	if !ok {
		return nil, fmt.Errorf("%w: %s has no data", store.ErrMalformed, key)
	}
	if r.Data, err = squeeze.Decompress([]byte(data), store.MaxRevision); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", store.ErrMalformed, key, err)
	}
	return r, nil
}

func (s *Store) read(n uint64, head any) (*store.Revision, error) {
	text, _ := head.(string)
	r := new(store.Revision)
	if err := json.Unmarshal([]byte(text), r); err != nil || r.Number != n {
		return nil, fmt.Errorf("%w: %s is no revision", store.ErrMalformed, s.revisionKey(n))
	}
	return r, nil
}

// History implements store.Revisions.
func (s *Store) History(ctx context.Context, before uint64, limit int) ([]store.Revision, error) {
	n, err := s.Latest(ctx)
	if err != nil {
		return nil, err
	}
	if before > 0 {
		n = min(n, before-1)
	}
	var heads []*redis.StringCmd
	_, err = s.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := n; i > 0 && len(heads) < limit; i-- {
			heads = append(heads, p.HGet(ctx, s.revisionKey(i), "head"))
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, s.fail("read the history", err)
	}
	list := make([]store.Revision, 0, len(heads))
	for i, head := range heads {
		if errors.Is(head.Err(), redis.Nil) {
			break // what is older was restored without
		}
		r, err := s.read(n-uint64(i), head.Val())
		if err != nil {
			return nil, err
		}
		list = append(list, *r)
	}
	return list, nil
}

// restore writes revisions back. KEYS: latest, revisions; ARGV: last number,
// channel, topic, then head and data of each.
var restore = newScript(`
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for i = 2, #KEYS do redis.call('HSET', KEYS[i], 'head', ARGV[2*i], 'data', ARGV[2*i+1]) end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1`)

// Restore implements store.Revisions.
func (s *Store) Restore(ctx context.Context, list []*store.Revision) error {
	if err := store.CheckRestore(list); err != nil {
		return err
	}
	keys := []string{s.latestKey()}
	args := []any{list[len(list)-1].Number, s.channel, store.TopicRevisions}
	for _, r := range list {
		head, err := json.Marshal(r)
		if err != nil {
			return err
		}
		keys, args = append(keys, s.revisionKey(r.Number)), append(args, head, squeeze.Compress(r.Data))
	}
	ok, err := restore.run(ctx, s.client, keys, args...).Int()
	if err != nil {
		return s.fail("restore revisions", err)
	}
	if ok == 0 {
		return store.ErrConflict
	}
	return nil
}

// pruned is how many revisions are looked for, and removed, at once.
const pruned = 128

// Prune implements store.Revisions. The oldest go first, so that one that is cut
// short leaves no hole.
func (s *Store) Prune(ctx context.Context, oldest uint64) (removed int, err error) {
	n, err := s.Latest(ctx)
	if err != nil {
		return 0, err
	}
	oldest = min(oldest, n)
	first := oldest // of those that are there
	for first > 1 {
		keys := s.revisionKeys(first-min(pruned, first-1), first)
		there, err := s.client.Exists(ctx, keys...).Result()
		if err != nil {
			return 0, s.fail("look for old revisions", err)
		}
		first -= uint64(there)
		if int(there) < len(keys) {
			break
		}
	}
	for first < oldest {
		next := min(first+pruned, oldest)
		gone, err := s.client.Unlink(ctx, s.revisionKeys(first, next)...).Result()
		if err != nil {
			return removed, s.fail("remove old revisions", err)
		}
		removed += int(gone)
		first = next
	}
	return removed, nil
}

// revisionKeys are those from first to before end.
func (s *Store) revisionKeys(first, end uint64) []string {
	var keys []string
	for n := first; n < end; n++ {
		keys = append(keys, s.revisionKey(n))
	}
	return keys
}
