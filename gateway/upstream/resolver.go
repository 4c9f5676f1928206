package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// resolver finds a name's addresses: sorted, without repeats, at least one. IPv4
// addresses if there are any, else IPv6: an instance with both must not count
// twice, and a network without IPv6 must not lose half its requests.
// ttl is 0 where it is not known.
type resolver interface {
	lookup(ctx context.Context, name string) (addrs []netip.Addr, ttl time.Duration, err error)
}

func newResolver(server string) resolver {
	if server == "" {
		return systemResolver{}
	}
	return serverResolver{server: server}
}

// systemResolver asks as the system is set up to.
type systemResolver struct{}

func (systemResolver) lookup(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	var r net.Resolver
	addrs, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, 0, err
	}
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	if len(v4) == 0 {
		v4 = v6
	}
	return tidy(v4), 0, nil
}

// serverResolver asks one DNS server.
type serverResolver struct{ server string }

func (r serverResolver) lookup(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a.Unmap()}, 0, nil
	}
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		addrs, ttl, err := r.ask(ctx, name, kind)
		if err != nil {
			return nil, 0, err
		}
		if len(addrs) > 0 {
			return tidy(addrs), ttl, nil
		}
	}
	return nil, 0, fmt.Errorf("%s has neither A nor AAAA records for %s", r.server, name)
}

func (r serverResolver) ask(ctx context.Context, name string, kind uint16) ([]netip.Addr, time.Duration, error) {
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(name), kind)
	question.SetEdns0(1232, false)
	answer, err := exchange(ctx, question, r.server)
	if err != nil {
		return nil, 0, fmt.Errorf("asking %s: %w", r.server, err)
	}
	if answer.Rcode != dns.RcodeSuccess {
		return nil, 0, fmt.Errorf("%s answered %s for %s", r.server, dns.RcodeToString[answer.Rcode], name)
	}
	var addrs []netip.Addr
	ttl := maxTTL
	for _, record := range answer.Answer { // aliases on the way count for the TTL too
		ttl = min(ttl, time.Duration(record.Header().Ttl)*time.Second)
		var ip net.IP
		switch v := record.(type) {
		case *dns.A:
			ip = v.A
		case *dns.AAAA:
			ip = v.AAAA
		}
		if a, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs, ttl, nil
}

// exchange asks by UDP, twice, and by TCP what does not fit.
func exchange(ctx context.Context, question *dns.Msg, server string) (*dns.Msg, error) {
	answer, err := exchangeBy(ctx, "udp", question, server)
	if err != nil && ctx.Err() == nil { // datagrams get lost
		answer, err = exchangeBy(ctx, "udp", question, server)
	}
	if err == nil && answer.Truncated {
		answer, err = exchangeBy(ctx, "tcp", question, server)
	}
	return answer, err
}

func exchangeBy(ctx context.Context, network string, question *dns.Msg, server string) (*dns.Msg, error) {
	client := dns.Client{Net: network, Timeout: 2 * time.Second}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // the library waits for its timeout
	answer, _, err := client.ExchangeWithConnContext(ctx, question, conn)
	return answer, err
}

func tidy(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
