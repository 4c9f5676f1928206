package dns

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream"
)

// service is one SRV record.
type service struct {
	target           string
	port             uint16
	priority, weight uint16
}

// services are what SRV records name, with the addresses that came along.
type services struct {
	list  []service
	known map[string]addresses // by lower-case target
	ttl   time.Duration
}

// lookups is how many targets are looked up at once.
const lookups = 8

// services resolves the name's SRV records and their targets. A target without
// an address is left out; one whose address cannot be asked for fails all: a
// part of the list could be the wrong part.
func (s *Source) services(ctx context.Context) (answer, error) {
	found, err := s.resolve.services(ctx, s.s.Name)
	if err != nil {
		return answer{}, err
	}
	if len(found.list) == 1 && strings.Trim(found.list[0].target, ".") == "" {
		return answer{}, fmt.Errorf("%s says that there is no such service (its SRV record is \".\")", s.s.Name) // RFC 2782
	}
	known, err := s.targets(ctx, &found)
	if err != nil {
		return answer{}, err
	}
	a := answer{ttl: found.ttl}
	ranks := rank(found.list)
	var missing []string
	for _, r := range found.list {
		at := known[canonical(r.target)]
		if at.ttl > 0 {
			a.ttl = min(a.ttl, at.ttl)
		}
		if len(at.list) == 0 {
			missing = append(missing, r.target)
		}
		for _, ip := range at.list {
			a.endpoints = append(a.endpoints, upstream.EndpointSettings{
				Address: join(ip, r.port), Weight: int(r.weight), Priority: ranks[r.priority],
			})
		}
	}
	if len(missing) > 0 {
		a.note = fmt.Sprintf("%d of %d targets have no address: %.100q", len(missing), len(found.list), missing[0])
	}
	return a, nil
}

// targets looks up what did not come along.
func (s *Source) targets(ctx context.Context, found *services) (map[string]addresses, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu    sync.Mutex // guards known and failed
		fails error
		wg    sync.WaitGroup
		slots = make(chan struct{}, lookups)
	)
	known := found.known
	if known == nil {
		known = map[string]addresses{}
	}
	var unknown []string
	for _, r := range found.list {
		name := canonical(r.target)
		if _, ok := known[name]; !ok {
			known[name] = addresses{}
			unknown = append(unknown, name)
		}
	}
	for _, name := range unknown {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			at, err := s.resolve.addresses(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				known[name] = at
			case !isAbsent(err) && fails == nil:
				fails = err
				cancel() // the others would be asked for nothing
			}
		})
	}
	wg.Wait()
	return known, fails
}

// rank numbers the priorities in use from 0 on: an upstream has fewer than SRV.
func rank(list []service) map[uint16]int {
	var used []uint16
	for _, r := range list {
		used = append(used, r.priority)
	}
	slices.Sort(used)
	ranks := make(map[uint16]int)
	for i, p := range slices.Compact(used) {
		ranks[p] = i
	}
	return ranks
}

func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
