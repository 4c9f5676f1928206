package eureka

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// Eureka's defaults (LeaseInfo).
const (
	defaultRenewal  = 30
	defaultDuration = 90
)

// details are what Eureka's clients want back besides what the registry knows.
type details struct {
	HostName       string            `json:"host_name,omitempty"`
	IPAddr         string            `json:"ip_addr,omitempty"`
	AppGroup       string            `json:"app_group,omitempty"`
	SID            string            `json:"sid,omitempty"`
	ASG            string            `json:"asg,omitempty"`
	Port           int               `json:"port,omitempty"` // also if it is not enabled
	SecurePort     int               `json:"secure_port,omitempty"`
	CountryID      int               `json:"country_id,omitempty"`
	Center         string            `json:"center,omitempty"`
	CenterClass    string            `json:"center_class,omitempty"`
	CenterMetadata map[string]string `json:"center_metadata,omitempty"`
	Renewal        int               `json:"renewal,omitempty"` // seconds
	HomePage       string            `json:"home_page,omitempty"`
	StatusPage     string            `json:"status_page,omitempty"`
	Health         string            `json:"health,omitempty"`
	SecureHealth   string            `json:"secure_health,omitempty"`
	VIP            string            `json:"vip,omitempty"`
	SecureVIP      string            `json:"secure_vip,omitempty"`
	Unknown        bool              `json:"unknown,omitempty"` // it says UNKNOWN of itself
	LastDirty      int64             `json:"last_dirty,omitempty"`
	ServiceUp      int64             `json:"service_up,omitempty"`
}

// statuses are Eureka's words for ours.
var statuses = map[string]registry.Status{
	"UP": registry.Up, "DOWN": registry.Down, "STARTING": registry.Starting, "OUT_OF_SERVICE": registry.OutOfService,
	"UNKNOWN": registry.Starting,
}

// wrongError is a request that cannot be understood.
type wrongError struct{ why string }

// Error implements error.
func (e *wrongError) Error() string { return e.why }

func wrong(format string, args ...any) error { return &wrongError{fmt.Sprintf(format, args...)} }

// reader takes values out of an element and keeps the first mistake.
type reader struct {
	e   *element
	err error
}

func (r *reader) fail(name, format string, args ...any) {
	if r.err == nil {
		r.err = wrong("%s %s", name, fmt.Sprintf(format, args...))
	}
}

func (r *reader) text(name string) string {
	k := r.e.kid(name)
	if k == nil {
		return ""
	}
	if len(k.kids) > 0 {
		r.fail(name, "must be text")
	}
	return k.text
}

func (r *reader) number(name string, bits int) int64 {
	text := r.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, bits)
	if err != nil || n < 0 {
		r.fail(name, "must be a number, got %.40q", text)
		return 0
	}
	return n
}

// port reads a number that may be switched off.
func (r *reader) port(name string, enabled bool) (port int, on bool) {
	port = int(r.number(name, 32))
	if port > 65535 {
		r.fail(name, "must be a port, got %d", port)
		return 0, false
	}
	if k := r.e.kid(name); k != nil && k.attrs["enabled"] != "" {
		var err error
		if enabled, err = strconv.ParseBool(k.attrs["enabled"]); err != nil {
			r.fail(name, "must be enabled true or false, got %.40q", k.attrs["enabled"])
		}
	}
	return port, enabled && port > 0
}

func (r *reader) in(name string) *reader { return &reader{e: r.e.kid(name)} }

// strings reads an object of texts.
func (r *reader) strings(name string) map[string]string {
	k := r.e.kid(name)
	if k == nil || len(k.kids) == 0 {
		return nil
	}
	m := make(map[string]string, len(k.kids))
	for _, x := range k.kids {
		if len(x.kids) > 0 {
			r.fail(name+"."+x.name, "must be text")
		}
		m[x.name] = x.text
	}
	return m
}

// read makes an instance of what a client registers for an app.
func read(root *element, app string) (registry.Instance, error) {
	if root.name != "instance" {
		return registry.Instance{}, wrong("must be an instance, is %.40q", root.name)
	}
	r := &reader{e: root}
	d := details{
		HostName: r.text("hostName"), IPAddr: r.text("ipAddr"), AppGroup: r.text("appGroupName"), SID: r.text("sid"), ASG: r.text("asgName"),
		CountryID: int(r.number("countryId", 32)), HomePage: r.text("homePageUrl"), StatusPage: r.text("statusPageUrl"),
		Health: r.text("healthCheckUrl"), SecureHealth: r.text("secureHealthCheckUrl"), VIP: r.text("vipAddress"), SecureVIP: r.text("secureVipAddress"),
		LastDirty: r.number("lastDirtyTimestamp", 64),
	}
	i := registry.Instance{Service: strings.ToLower(app), ID: r.text("instanceId"), Origin: origin, Metadata: r.strings("metadata")}
	if name := r.text("app"); name != "" && !strings.EqualFold(name, app) {
		r.fail("app", "is %.120q, the path says %.120q", name, app)
	}
	center, lease := r.in("dataCenterInfo"), r.in("leaseInfo")
	if d.Center = center.text("name"); center.e != nil {
		d.CenterClass, d.CenterMetadata = center.e.attrs["class"], center.strings("metadata")
	}
	if i.ID == "" {
		if i.ID = d.CenterMetadata["instance-id"]; i.ID == "" {
			i.ID = d.HostName
		}
	}
	d.Renewal = int(lease.number("renewalIntervalInSecs", 32))
	duration := lease.number("durationInSecs", 32)
	if duration == 0 {
		duration = defaultDuration
	}
	i.TTL = unit.Duration(time.Duration(duration) * time.Second)
	d.ServiceUp = lease.number("serviceUpTimestamp", 64)
	var plain, secure bool
	if d.Port, plain = r.port("port", true); plain {
		i.Port = d.Port
	}
	if d.SecurePort, secure = r.port("securePort", false); secure {
		i.SecurePort = d.SecurePort
	}
	if i.Host = d.HostName; i.Host == "" {
		i.Host = d.IPAddr
	}
	status := r.text("status")
	if status == "" {
		status = "UP"
	}
	known := false
	if i.Status, known = statuses[status]; !known {
		r.fail("status", "must be UP, DOWN, STARTING, OUT_OF_SERVICE or UNKNOWN, got %.40q", status)
	}
	d.Unknown = status == "UNKNOWN"
	for _, x := range []*reader{r, center, lease} {
		if x.err != nil {
			return i, x.err
		}
	}
	i.Zone, i.Weight = zoneAndWeight(i.Metadata, d.CenterMetadata)
	var err error
	i.Details, err = json.Marshal(d)
	return i, err
}

// zoneAndWeight are where Spring and Amazon put them.
func zoneAndWeight(metadata, center map[string]string) (zone string, weight int) {
	if zone = metadata["zone"]; zone == "" {
		zone = center["availability-zone"]
	}
	if registry.CheckNames("x", zone) != nil || len(zone) > 100 {
		zone = ""
	}
	weight, err := strconv.Atoi(metadata["weight"])
	if err != nil || weight < 0 || weight > registry.MaxWeight {
		weight = 0
	}
	return zone, weight
}

// origin marks instances that came this way.
const origin = "eureka"
