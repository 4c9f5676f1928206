package secrets

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
)

// keptSecrets is how many secrets are honoured besides the current one, as by a
// tlsterm.Rotation.
const keptSecrets = 2

// ticketSet is what the nodes share behind session tickets. It never changes.
type ticketSet struct {
	// Generation counts up with every change.
	Generation uint64 `json:"generation"`
	// Secrets, the current one first.
	Secrets []tlsterm.TicketSecret `json:"secrets"`
	// Made is when the current one was; for people only.
	Made time.Time `json:"made"`
}

func newTicketSet(generation uint64) *ticketSet {
	s := &ticketSet{Generation: generation, Secrets: make([]tlsterm.TicketSecret, 1), Made: time.Now().UTC().Truncate(time.Second)}
	rand.Read(s.Secrets[0][:])
	return s
}

// next is the set that follows s.
func (s *ticketSet) next(generation uint64) *ticketSet {
	n := newTicketSet(generation)
	n.Secrets = append(n.Secrets, s.Secrets[:min(len(s.Secrets), keptSecrets)]...)
	return n
}

func (s *ticketSet) equal(o *ticketSet) bool {
	return s.Generation == o.Generation && slices.Equal(s.Secrets, o.Secrets)
}

func (s *ticketSet) encode() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}

var errTicketSet = errors.New("is no set of secrets for session tickets")

func parseTicketSet(b []byte) (*ticketSet, error) {
	s := new(ticketSet)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, errTicketSet // the cause might quote a secret
	}
	zero := slices.ContainsFunc(s.Secrets, func(x tlsterm.TicketSecret) bool { return x == tlsterm.TicketSecret{} })
	if s.Generation == 0 || len(s.Secrets) == 0 || len(s.Secrets) > 1+keptSecrets || zero {
		return nil, errTicketSet
	}
	return s, nil
}

// parseMark reads which generation is wanted.
func parseMark(b []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(b), 10, 64)
	return n, err == nil && n > 0 && bytes.Equal(strconv.AppendUint(nil, n, 10), b)
}
