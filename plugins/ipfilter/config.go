// Package ipfilter is the plugin ip_filter: it lets in or keeps out addresses
// and networks.
package ipfilter

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/gatehouse-proxy/gatehouse/config/problem"
)

// Network is a network in CIDR notation, or one address.
type Network netip.Prefix

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Network) UnmarshalText(text []byte) error {
	p, err := parse(string(text))
	*n = Network(p)
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (n Network) MarshalText() ([]byte, error) { return netip.Prefix(n).MarshalText() }

// parse reads "10.0.0.0/8" or "10.1.2.3". IPv4 in IPv6 form is IPv4, as it is
// in requests.
func parse(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("must be an address or a network such as 10.0.0.0/8, got %q", s)
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("must be an address or a network such as 10.0.0.0/8, got %q", s)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("mixes IPv4 and IPv6: %q", s)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("has bits set after its length: %q; did you mean %s?", s, p.Masked())
	}
	return p, nil
}

// Config of the plugin ip_filter.
type Config struct {
	// If there are any here or in allow_file, only these pass.
	Allow []Network `yaml:"allow"`
	// These do not pass, whatever allow says.
	Deny []Network `yaml:"deny"`
	// A file with more of allow: one address or network a line, # begins a
	// comment. Changes take effect within seconds.
	AllowFile string `yaml:"allow_file"`
	// The same for deny.
	DenyFile string `yaml:"deny_file"`
	// Whose address counts: the client's, or that of the other end of the
	// connection (a balancer in front, perhaps).
	Address string `yaml:"address" enum:"client,peer" default:"client"`
}

// Validate implements strict.Validator.
func (c *Config) Validate(p *problem.List) {
	p.Check(len(c.Allow)+len(c.Deny) > 0 || c.AllowFile != "" || c.DenyFile != "", "allow",
		"must have a network, here or in deny, allow_file or deny_file")
}
