// Package remote is the HTTP client of the sources that ask a registry. It
// follows no redirects, bounds what it reads, tells errors in a few words, and
// never shows what it authenticates with.
package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/gatehouse-proxy/gatehouse/gateway/upstream/dial"
)

// Settings of a Client.
type Settings struct {
	// Servers are base URLs, http or https; one that fails gives way to the next.
	Servers []string
	// TLS is for https; the zero value trusts the system's authorities.
	TLS dial.TLSSettings
	// Header gives what is sent with every request, such as credentials. May be nil.
	Header func() (http.Header, error)
	// UserAgent of the requests.
	UserAgent string
}

// Client asks one of several servers that know the same. It is for one
// goroutine, between Start and Close.
type Client struct {
	s       Settings
	servers []*url.URL
	at      int // in servers: the one to ask
	dialer  *dial.Dialer
	http    *http.Client
}

// connectTimeout is for a connection, TLS included.
const connectTimeout = 4 * time.Second

// New makes a client; it opens nothing.
func New(s Settings) (*Client, error) {
	if len(s.Servers) == 0 {
		return nil, errors.New("no server is given")
	}
	c := &Client{s: s}
	for _, text := range s.Servers {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		c.servers = append(c.servers, u)
	}
	var err error
	if c.dialer, err = dial.New(dial.Settings{Timeout: connectTimeout, TLS: &s.TLS, Protocols: []string{"http/1.1"}}); err != nil {
		return nil, err
	}
	plain, err := dial.New(dial.Settings{Timeout: connectTimeout})
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext: plain.Dial, DialTLSContext: c.dialer.Dial, MaxIdleConnsPerHost: 2,
			IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// Start reads and follows the CA file, if there is one. What is wrong with it is
// said by every request.
func (c *Client) Start(ctx context.Context) {
	_ = c.dialer.Load()
	_ = c.dialer.Start(ctx) // never fails
}

// Close lets go of connections and files.
func (c *Client) Close() {
	_ = c.dialer.Close(context.Background()) // never fails
	c.http.CloseIdleConnections()
}

// Request is what to ask for.
type Request struct {
	// Path is appended to the server's.
	Path  string
	Query url.Values
	// Timeout for everything, the body too; 0: until ctx ends.
	Timeout time.Duration
	// Limit is the most bytes of the body.
	Limit int64
}

// Answer is a good one, with status 200.
type Answer struct {
	Header http.Header
	// Body is to be closed. It fails where it gets too long.
	Body io.ReadCloser
}

// StatusError is an answer with another status.
type StatusError struct {
	Server string
	Status int
	// Text is what the body says, fit to be shown.
	Text string
}

// Error implements error.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s answered %d", e.Server, e.Status)
	if e.Text != "" {
		text += ": " + e.Text
	}
	return text
}

// Get asks the server whose turn it is. After an error it is the next one's.
func (c *Client) Get(ctx context.Context, r Request) (*Answer, error) {
	server := c.servers[c.at%len(c.servers)]
	a, err := c.get(ctx, server, r)
	if err != nil {
		c.Next()
	}
	return a, err
}

// Next gives another server its turn, where an answer was of no use.
func (c *Client) Next() { c.at++ }

func (c *Client) get(ctx context.Context, server *url.URL, r Request) (*Answer, error) {
	var cancel context.CancelFunc
	if r.Timeout > 0 {
		ctx, cancel = context.WithTimeoutCause(ctx, r.Timeout, errTimeout)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	u := *server
	u.Path = strings.TrimSuffix(u.Path, "/") + r.Path
	u.RawQuery = r.Query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err == nil && c.s.Header != nil {
		var h http.Header
		if h, err = c.s.Header(); err == nil && h != nil {
			req.Header = h
		}
	}
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.s.UserAgent)
	resp, err := c.http.Do(req)
	if err != nil {
		err = brief(ctx, server.Host, err)
		cancel()
		return nil, err
	}
	b := &body{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, server: server.Host, limit: r.Limit, left: r.Limit}
	if resp.StatusCode != http.StatusOK {
		start, _ := io.ReadAll(io.LimitReader(b, 4<<10)) // whatever there is helps
		b.Close()
		return nil, &StatusError{Server: server.Host, Status: resp.StatusCode, Text: told(start)}
	}
	return &Answer{Header: resp.Header, Body: b}, nil
}

var errTimeout = errors.New("no answer in time")

// brief leaves out the URL, which is long and known.
func brief(ctx context.Context, server string, err error) error {
	if u := new(url.Error); errors.As(err, &u) {
		err = u.Err
	}
	if cause := context.Cause(ctx); cause == errTimeout || errors.Is(err, os.ErrDeadlineExceeded) {
		err = errTimeout
	}
	if text := err.Error(); strings.Contains(text, server) { // as errors of connecting do
		return err
	}
	return fmt.Errorf("%s: %w", server, err)
}

// told is the message of an answer that is a JSON object with one, as those of
// Kubernetes are, which say whom they refuse what; otherwise how it begins.
func told(b []byte) string {
	var status struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(b, &status) == nil && status.Message != "" {
		return shown([]byte(status.Message[:min(len(status.Message), 600)]))
	}
	return shown(b[:min(len(b), 200)])
}

// shown is foreign text fit for a terminal, in one line.
func shown(b []byte) string {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(b), "?"))
	return strings.Join(strings.Fields(text), " ")
}

// Unreadable says in a few words what is wrong with an answer's JSON.
func Unreadable(err error) error {
	var t *json.UnmarshalTypeError
	if !errors.As(err, &t) {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	article := "a "
	if strings.HasPrefix(t.Value, "a") || strings.HasPrefix(t.Value, "o") {
		article = "an "
	}
	if field := strings.Trim(t.Field, "."); field != "" {
		return fmt.Errorf("the answer cannot be read: %.100s is %s%.30s in it", field, article, t.Value)
	}
	return fmt.Errorf("the answer cannot be read: it is %s%.30s", article, t.Value)
}

// End checks that nothing follows what was decoded, and that the answer did not
// break off.
func End(d *json.Decoder) error {
	switch _, err := d.Token(); {
	case err == io.EOF:
		return nil
	case err == nil:
		return errors.New("something follows the answer")
	default:
		return fmt.Errorf("the answer breaks off: %w", err)
	}
}

// body is bounded.
type body struct {
	io.ReadCloser
	ctx         context.Context
	cancel      func()
	server      string
	limit, left int64
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%s: the answer has more than %d bytes", b.server, b.limit)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if err != nil && err != io.EOF {
		err = brief(b.ctx, b.server, err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// Extend has the limit of a stream's body begin anew: it is then a limit of
// each part of it.
func (a *Answer) Extend() {
	if b, ok := a.Body.(*body); ok {
		b.left = b.limit
	}
}
