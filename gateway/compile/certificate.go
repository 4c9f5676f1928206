package compile

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/gateway/snapshot"
	"github.com/gatehouse-proxy/gatehouse/gateway/tlsterm"
	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

// CertificateStatus is what operators are shown of one certificate.
type CertificateStatus struct {
	Name string `json:"name"`
	// Source is "file" or "acme".
	Source string   `json:"source"`
	Hosts  []string `json:"hosts"`
	// State is "ok", "failing" (what is in use is good, but a newer one cannot
	// be had), "expiring" (less than 14 days and a third of its time left), "expired", "not_yet_valid" or "missing".
	State     string    `json:"state"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	// OCSPUntil is how long the OCSP response shown with it is valid; zero: none
	// is shown.
	OCSPUntil time.Time `json:"ocsp_until,omitzero"`
	// DaysLeft is rounded down and negative after the end; 0 while there is none.
	DaysLeft int `json:"days_left"`
	// Error is why the newest one is not in use, ErrorAt since when.
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
	// Next is when the authority is asked again: a renewal, or after a failure
	// another try. Zero for files, which are followed all the time.
	Next time.Time `json:"next,omitzero"`
}

// CertificatesStatus is the state of all certificates of a snapshot, by name.
func CertificatesStatus(s *snapshot.Snapshot) []CertificateStatus {
	out := []CertificateStatus{}
	now := time.Now()
	for _, c := range sources(s.Units) {
		out = append(out, certificateStatus(c.Stats(), now))
	}
	slices.SortFunc(out, func(a, b CertificateStatus) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func certificateStatus(s tlsterm.Stats, now time.Time) CertificateStatus {
	c := CertificateStatus{
		Name: s.Name, Source: s.Source, Hosts: s.Hosts, State: "ok", NotBefore: s.NotBefore, NotAfter: s.NotAfter,
		OCSPUntil: s.OCSPUntil, Error: s.Fault, ErrorAt: s.FaultSince, Next: s.Next,
	}
	switch {
	case s.NotAfter.IsZero():
		c.State = "missing"
		return c
	case now.After(s.NotAfter):
		c.State = "expired"
	case now.Before(s.NotBefore):
		c.State = "not_yet_valid"
	case s.Fault != "":
		c.State = "failing"
	case s.NotAfter.Sub(now) < min(tlsterm.ExpiresSoon, s.NotAfter.Sub(s.NotBefore)/3):
		c.State = "expiring"
	}
	c.DaysLeft = int(math.Floor(s.NotAfter.Sub(now).Hours() / 24))
	return c
}

func sources(units *snapshot.Units) (list []tlsterm.CertSource) {
	units.Each(func(_ string, u snapshot.Unit) {
		if c, ok := u.(tlsterm.CertSource); ok {
			list = append(list, c)
		}
	})
	return list
}

// watchCertificates makes the certificates of the running snapshot visible.
func (c *Compiler) watchCertificates(units *snapshot.Units) {
	list := sources(units)
	c.settings.Metrics.Certificates(func() []metrics.Certificate {
		out := make([]metrics.Certificate, len(list))
		for i, cert := range list {
			s := cert.Stats()
			out[i] = metrics.Certificate{
				Name: s.Name, NotAfter: s.NotAfter, OCSP: s.OCSP, OCSPUntil: s.OCSPUntil, Loaded: s.Loaded, Failed: s.Failed,
				Ordered: s.Ordered, Next: s.Next, Orders: s.Orders,
			}
		}
		return out
	})
}
