package dns

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// resolver asks for records.
type resolver interface {
	// addresses finds a name's: sorted, without repeats, at least one. IPv4
	// addresses if there are any, else IPv6: an instance with both must not count
	// twice, and a network without IPv6 must not lose half its requests.
	addresses(ctx context.Context, name string) (addresses, error)
	// services finds a name's SRV records, at least one.
	services(ctx context.Context, name string) (services, error)
}

// addresses of a name. ttl is 0 where it is not known.
type addresses struct {
	list []netip.Addr
	ttl  time.Duration
}

// absent is an error that says for sure that there is nothing.
type absent struct{ error }

func isAbsent(err error) bool {
	var none absent
	var system *net.DNSError
	return errors.As(err, &none) || errors.As(err, &system) && system.IsNotFound
}

func newResolver(server string) resolver {
	if server == "" {
		return systemResolver{}
	}
	return serverResolver{server: server}
}

// systemResolver asks as the system is set up to.
type systemResolver struct{}

func (systemResolver) addresses(ctx context.Context, name string) (addresses, error) {
	var r net.Resolver
	addrs, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return addresses{}, err
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
	return addresses{list: tidy(v4)}, nil
}

func (systemResolver) services(ctx context.Context, name string) (services, error) {
	var r net.Resolver
	_, records, err := r.LookupSRV(ctx, "", "", name)
	if err != nil {
		return services{}, err
	}
	var s services
	for _, v := range records {
		s.list = append(s.list, service{target: v.Target, port: v.Port, priority: v.Priority, weight: v.Weight})
	}
	return s, nil
}

// serverResolver asks one DNS server.
type serverResolver struct{ server string }

func (r serverResolver) addresses(ctx context.Context, name string) (addresses, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return addresses{list: []netip.Addr{a.Unmap()}}, nil
	}
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m, err := r.ask(ctx, name, kind)
		if err != nil {
			return addresses{}, err
		}
		found := addresses{ttl: ttlOf(m.Answer)}
		for _, record := range m.Answer {
			if a, ok := addressOf(record); ok {
				found.list = append(found.list, a)
			}
		}
		if found.list = tidy(found.list); len(found.list) > 0 {
			return found, nil
		}
	}
	return addresses{}, absent{fmt.Errorf("%s has neither A nor AAAA records for %s", r.server, name)}
}

func (r serverResolver) services(ctx context.Context, name string) (services, error) {
	m, err := r.ask(ctx, name, dns.TypeSRV)
	if err != nil {
		return services{}, err
	}
	found := services{ttl: ttlOf(m.Answer)}
	for _, record := range m.Answer {
		if v, ok := record.(*dns.SRV); ok {
			found.list = append(found.list, service{target: v.Target, port: v.Port, priority: v.Priority, weight: v.Weight})
		}
	}
	if len(found.list) == 0 {
		return services{}, absent{fmt.Errorf("%s has no SRV records for %s", r.server, name)}
	}
	found.known = along(m)
	return found, nil
}

// along are the addresses that came with the answer: of a name the IPv4
// addresses if there are any.
func along(m *dns.Msg) map[string]addresses {
	known := map[string]addresses{}
	for _, want4 := range []bool{true, false} {
		for _, record := range m.Extra {
			a, ok := addressOf(record)
			name := canonical(record.Header().Name)
			at := known[name]
			if !ok || a.Is4() != want4 || !want4 && len(at.list) > 0 && at.list[0].Is4() {
				continue
			}
			ttl := time.Duration(record.Header().Ttl) * time.Second
			if len(at.list) > 0 {
				ttl = min(ttl, at.ttl)
			}
			known[name] = addresses{list: append(at.list, a), ttl: ttl}
		}
	}
	for name, at := range known {
		known[name] = addresses{list: tidy(at.list), ttl: at.ttl}
	}
	return known
}

func (r serverResolver) ask(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	question := new(dns.Msg)
	question.SetQuestion(dns.Fqdn(name), kind)
	question.SetEdns0(1232, false)
	answer, err := exchange(ctx, question, r.server)
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", r.server, err)
	}
	if answer.Rcode == dns.RcodeSuccess {
		return answer, nil
	}
	err = fmt.Errorf("%s answered %s for %s", r.server, dns.RcodeToString[answer.Rcode], name)
	if answer.Rcode == dns.RcodeNameError {
		err = absent{err}
	}
	return nil, err
}

// ttlOf is for how long all records are good; aliases on the way count too.
func ttlOf(records []dns.RR) time.Duration {
	ttl := uint32(math.MaxUint32)
	for _, record := range records {
		ttl = min(ttl, record.Header().Ttl)
	}
	return time.Duration(ttl) * time.Second
}

func addressOf(record dns.RR) (netip.Addr, bool) {
	var ip net.IP
	switch v := record.(type) {
	case *dns.A:
		ip = v.A
	case *dns.AAAA:
		ip = v.AAAA
	}
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
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
