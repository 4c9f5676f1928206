package acme

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
)

// remote are the challenges that other nodes have announced.
type remote struct {
	mu       sync.Mutex          // guards what follows
	own      map[string]struct{} // announced by this node
	answered map[string]func()   // by name: what ends the answering
	refused  map[string]struct{} // could not be opened
}

// mine keeps this node from answering its own challenges twice.
func (r *remote) mine(list map[string][]byte) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own == nil {
		r.own = map[string]struct{}{}
	}
	for name := range list {
		r.own[name] = struct{}{}
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for name := range list {
			delete(r.own, name)
		}
	}
}

// Challenged tells which challenges are pending anywhere, sealed, by name: those
// that are new are answered from now on, those that are gone no longer. It
// returns the names of all that this node answers.
func (n *Node) Challenged(list map[string][]byte) (answered []string) {
	r := &n.remote
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answered == nil {
		r.answered, r.refused = map[string]func(){}, map[string]struct{}{}
	}
	for name, done := range r.answered {
		if _, there := list[name]; !there {
			done()
			delete(r.answered, name)
		}
	}
	maps.DeleteFunc(r.refused, func(name string, _ struct{}) bool { return list[name] == nil })
	for name, sealed := range list {
		_, own := r.own[name]
		_, known := r.answered[name]
		_, refused := r.refused[name]
		if own || known || refused {
			continue
		}
		p, err := n.openChallenge(name, sealed)
		if err != nil {
			r.refused[name] = struct{}{}
			n.s.Log.Error("a challenge that another node announces cannot be answered here", "challenge", name, "error", err)
			continue
		}
		r.answered[name] = n.challenges.add(p)
	}
	for name := range list {
		_, own := r.own[name]
		if _, known := r.answered[name]; own || known {
			answered = append(answered, name)
		}
	}
	slices.Sort(answered)
	return answered
}

// The form in which nodes tell each other of challenges.
const (
	challengeBlock = "ACME CHALLENGE"
	kindHeader     = "Kind"
	nameHeader     = "Name"
)

// sealChallenge adds p to a list under a new name.
func (n *Node) sealChallenge(list map[string][]byte, p pending) error {
	st, err := n.opened()
	if err != nil {
		return err
	}
	plain, err := p.encode()
	if err != nil {
		return err
	}
	name := "challenge-" + rand.Text()
	list[name] = st.key.Seal(name, plain)
	return nil
}

func (n *Node) openChallenge(name string, sealed []byte) (pending, error) {
	st, err := n.opened()
	if err != nil {
		return pending{}, err
	}
	plain, err := st.key.Open(name, sealed)
	if err != nil {
		return pending{}, err
	}
	return parsePending(plain)
}

func (p *pending) encode() ([]byte, error) {
	block := &pem.Block{Type: challengeBlock, Headers: map[string]string{kindHeader: string(p.kind), nameHeader: p.name}, Bytes: []byte(p.answer)}
	if p.kind == HTTP01 {
		return pem.EncodeToMemory(block), nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(p.cert.PrivateKey)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = errors.Join(pem.Encode(&b, block),
		pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Certificate[0]}))
	return b.Bytes(), err
}

func parsePending(plain []byte) (pending, error) {
	block, rest := pem.Decode(plain)
	if block == nil || block.Type != challengeBlock {
		return pending{}, errors.New("is no challenge")
	}
	p := pending{kind: Kind(block.Headers[kindHeader]), name: block.Headers[nameHeader], answer: string(block.Bytes)}
	switch p.kind {
	case HTTP01:
		if p.name == "" || p.answer == "" || strings.Contains(p.name, "/") {
			return pending{}, errors.New("is a challenge without a token, or without its answer")
		}
	case TLSALPN01:
		cert, err := tls.X509KeyPair(rest, rest)
		if err != nil {
			return pending{}, err
		}
		if p.name == "" || p.name != strings.ToLower(p.name) {
			return pending{}, errors.New("is a challenge without a host in lower case")
		}
		p.cert = &cert
	default:
		return pending{}, errors.New("is a challenge of an unknown kind")
	}
	return p, nil
}
