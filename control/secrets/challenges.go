package secrets

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/control/store"
)

// challengeLife is when a challenge is forgotten that nobody has taken back: no
// order takes longer.
const challengeLife = 10 * time.Minute

// Announce implements acme.Exchange. It waits until every live node has said that
// it answers, but not for longer than Settings.Spread: one that is in trouble
// must not keep the others from their certificate.
func (s *Shared) Announce(ctx context.Context, list map[string][]byte) (func(), error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	withdraw := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.s.Patience)
		defer cancel()
		for name := range list {
			_ = s.ask(ctx, func(ctx context.Context) error { return s.s.Store.Delete(ctx, challengeFolder, name) }) // else it ends by itself
		}
	}
	names := make([]string, 0, len(list))
	for name, sealed := range list {
		err := s.ask(ctx, func(ctx context.Context) error {
			return s.s.Store.Put(ctx, challengeFolder, name, sealed, challengeLife)
		})
		if err != nil {
			withdraw()
			return nil, err
		}
		names = append(names, name)
	}
	s.waitForAnswers(ctx, names)
	return withdraw, nil
}

func (s *Shared) waitForAnswers(ctx context.Context, names []string) {
	ctx, cancel := context.WithTimeout(ctx, s.s.Spread)
	defer cancel()
	began := time.Now()
	for ctx.Err() == nil {
		heard := s.moved.heard()
		missing, known := s.silent(ctx, names)
		if known && len(missing) == 0 || !known && time.Since(began) > poll*3/2 {
			return // all have, or all have had the time to look
		}
		sleep(ctx, poll/4, heard)
		if ctx.Err() != nil && len(missing) > 0 {
			s.s.Log.Warn("nodes have not said that they answer a challenge; the authority is asked all the same",
				"nodes", strings.Join(missing, ", "), "waited", time.Since(began).Round(time.Millisecond))
		}
	}
}

// silent are the live nodes that have not said they answer all these challenges.
// known is false if nobody can say who is live: this node itself is not listed.
func (s *Shared) silent(ctx context.Context, names []string) (missing []string, known bool) {
	if s.s.Live == nil {
		return nil, false
	}
	live, err := s.s.Live(ctx)
	if err != nil || !slices.Contains(live, s.s.Node) {
		return nil, false
	}
	var list []store.Value
	err = s.ask(ctx, func(ctx context.Context) (err error) {
		list, err = s.s.Store.List(ctx, seenFolder)
		return err
	})
	if err != nil {
		return nil, false
	}
	answers := map[string][]string{}
	for _, v := range list {
		var seen []string
		if json.Unmarshal(v.Data, &seen) == nil {
			answers[v.Name] = seen
		}
	}
	for _, node := range live {
		seen := answers[seenName(node)]
		if node != s.s.Node && slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(seen, n) }) {
			missing = append(missing, node)
		}
	}
	return missing, true
}

// seenName is where a node says what it answers; its own name need not be one
// for the store.
func seenName(node string) string {
	sum := sha256.Sum256([]byte(node))
	return hex.EncodeToString(sum[:16])
}

// listChallenges hands what is pending to those who answer, and says so.
func (s *Shared) listChallenges(ctx context.Context) {
	var list []store.Value
	err := s.try(ctx, func(ctx context.Context) (err error) {
		list, err = s.s.Store.List(ctx, challengeFolder)
		return err
	})
	if err != nil || len(list) == 0 && !s.pending {
		return
	}
	s.pending = len(list) > 0
	byName := make(map[string][]byte, len(list))
	for _, v := range list {
		byName[v.Name] = v.Data
	}
	answered := s.certs.Challenged(byName)
	if len(answered) == 0 {
		s.announced = ""
		return
	}
	text, err := json.Marshal(answered)
	if err != nil || string(text) == s.announced {
		return
	}
	err = s.try(ctx, func(ctx context.Context) error {
		return s.s.Store.Put(ctx, seenFolder, seenName(s.s.Node), text, challengeLife)
	})
	if err == nil {
		s.announced = string(text)
	}
}
