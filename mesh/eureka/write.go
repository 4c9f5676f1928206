package eureka

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

// shown is an instance in the form of Eureka's JSON, in the order of its keys.
type shown struct {
	InstanceID   string            `json:"instanceId"`
	HostName     string            `json:"hostName"`
	App          string            `json:"app"`
	AppGroup     string            `json:"appGroupName,omitempty"`
	IPAddr       string            `json:"ipAddr"`
	SID          string            `json:"sid,omitempty"`
	Status       string            `json:"status"`
	Overridden   string            `json:"overriddenStatus"`
	Legacy       string            `json:"overriddenstatus"` // as clients before 1.9 read it
	Port         port              `json:"port"`
	SecurePort   port              `json:"securePort"`
	CountryID    int               `json:"countryId"`
	Center       center            `json:"dataCenterInfo"`
	Lease        lease             `json:"leaseInfo"`
	Metadata     map[string]string `json:"metadata"`
	HomePage     string            `json:"homePageUrl,omitempty"`
	StatusPage   string            `json:"statusPageUrl,omitempty"`
	Health       string            `json:"healthCheckUrl,omitempty"`
	SecureHealth string            `json:"secureHealthCheckUrl,omitempty"`
	VIP          string            `json:"vipAddress,omitempty"`
	SecureVIP    string            `json:"secureVipAddress,omitempty"`
	Coordinating string            `json:"isCoordinatingDiscoveryServer"`
	Updated      string            `json:"lastUpdatedTimestamp"`
	Dirty        string            `json:"lastDirtyTimestamp"`
	Action       string            `json:"actionType"`
	ASG          string            `json:"asgName,omitempty"`
}

type port struct {
	Number  int    `json:"$"`
	Enabled string `json:"@enabled"`
}

type center struct {
	Class    string            `json:"@class"`
	Name     string            `json:"name"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

type lease struct {
	Renewal    int   `json:"renewalIntervalInSecs"`
	Duration   int   `json:"durationInSecs"`
	Registered int64 `json:"registrationTimestamp"`
	Renewed    int64 `json:"lastRenewalTimestamp"`
	Evicted    int64 `json:"evictionTimestamp"`
	Up         int64 `json:"serviceUpTimestamp"`
}

// The classes of Eureka's data centers, and of a map that is empty.
const (
	ownCenter    = "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"
	amazonCenter = "com.netflix.appinfo.AmazonInfo"
	emptyMap     = "java.util.Collections$EmptyMap"
)

// word is Eureka's for a status.
func word(s registry.Status) string {
	if s == registry.Drain {
		return "OUT_OF_SERVICE"
	}
	return strings.ToUpper(string(s))
}

// show makes Eureka's form of an entry, whichever way it was registered.
func show(e *registry.Entry, action registry.Kind) *shown {
	var d details
	if e.Origin == origin {
		_ = json.Unmarshal(e.Details, &d) // what cannot be read is as by default
	}
	app := strings.ToUpper(e.Service)
	s := &shown{
		InstanceID: e.ID, HostName: or(d.HostName, e.Host), App: app, AppGroup: d.AppGroup, IPAddr: or(d.IPAddr, e.Host), SID: d.SID,
		Status: word(e.Effective()), Overridden: "UNKNOWN", CountryID: max(1, d.CountryID),
		Port:       port{max(d.Port, e.Port), strconv.FormatBool(e.Port > 0)},
		SecurePort: port{max(d.SecurePort, e.SecurePort), strconv.FormatBool(e.SecurePort > 0)},
		Center:     center{or(d.CenterClass, ownCenter), or(d.Center, "MyOwn"), d.CenterMetadata},
		Metadata:   e.Metadata, HomePage: d.HomePage, StatusPage: d.StatusPage, Health: d.Health, SecureHealth: d.SecureHealth,
		VIP: d.VIP, SecureVIP: d.SecureVIP, Coordinating: "false", Action: string(action), ASG: d.ASG,
		Updated: milliseconds(e.Changed), Dirty: milliseconds(e.Changed),
	}
	if e.Origin != origin {
		s.VIP, s.SecureVIP = e.Service, e.Service
	}
	switch {
	case e.Override != "":
		s.Overridden = s.Status
	case d.Unknown:
		s.Status = "UNKNOWN"
	}
	s.Legacy = s.Overridden
	if d.CenterClass == "" && d.Center == "Amazon" {
		s.Center.Class = amazonCenter
	}
	if d.LastDirty > 0 {
		s.Dirty = strconv.FormatInt(d.LastDirty, 10)
	}
	if len(s.Metadata) == 0 {
		s.Metadata = map[string]string{"@class": emptyMap}
	}
	s.Lease = lease{
		Renewal: d.Renewal, Duration: int(e.TTL.D() / time.Second), Registered: since(e.Registered), Renewed: since(e.Changed), Up: d.ServiceUp,
	}
	if s.Lease.Renewal == 0 {
		s.Lease.Renewal = defaultRenewal
	}
	if e.Static() {
		s.Lease.Duration = int(registry.MaxTTL / time.Second)
	}
	if s.Lease.Up == 0 {
		s.Lease.Up = s.Lease.Registered
	}
	return s
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// since is in milliseconds since 1970; 0 for no time.
func since(t time.Time) int64 { return max(0, t.UnixMilli()) }

func milliseconds(t time.Time) string { return strconv.FormatInt(since(t), 10) }

// application is a service in Eureka's form.
type application struct {
	Name      string   `json:"name"`
	Instances []*shown `json:"instance"`
}

// applications are many.
type applications struct {
	Version  string        `json:"versions__delta"`
	Hashcode string        `json:"apps__hashcode"`
	List     []application `json:"application"`
}

// hashcode is Eureka's checksum of a registry: how many there are of each
// status.
func hashcode(counts map[string]int) string {
	var b strings.Builder
	for _, status := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%s_%d_", status, counts[status])
	}
	return b.String()
}

// toJSON wraps v in an object under name.
func toJSON(name string, v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(map[string]any{name: v})
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), err
}

// writer writes XML as Eureka's server does.
type writer struct{ bytes.Buffer }

func (w *writer) text(name, text string) {
	w.WriteString("<" + name + ">")
	_ = xml.EscapeText(&w.Buffer, []byte(text)) // a buffer takes everything
	w.WriteString("</" + name + ">")
}

func (w *writer) some(name, text string) {
	if text != "" {
		w.text(name, text)
	}
}

func (w *writer) port(name string, p port) {
	fmt.Fprintf(w, `<%s enabled="%s">%d</%s>`, name, p.Enabled, p.Number, name)
}

// strings writes a map whose keys are names of elements; those that cannot be
// are left out.
func (w *writer) strings(m map[string]string) {
	w.WriteString("<metadata")
	if class := m["@class"]; class != "" {
		fmt.Fprintf(w, ` class="%s"`, class)
	}
	w.WriteString(">")
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if isXMLName(k) {
			w.text(k, m[k])
		}
	}
	w.WriteString("</metadata>")
}

// isXMLName is true for an ASCII name without a namespace.
func isXMLName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_'
		if !letter && (i == 0 || c != '-' && c != '.' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}

func (w *writer) instance(s *shown) {
	w.WriteString("<instance>")
	w.text("instanceId", s.InstanceID)
	w.text("hostName", s.HostName)
	w.text("app", s.App)
	w.some("appGroupName", s.AppGroup)
	w.text("ipAddr", s.IPAddr)
	w.some("sid", s.SID)
	w.text("status", s.Status)
	w.text("overriddenstatus", s.Overridden)
	w.port("port", s.Port)
	w.port("securePort", s.SecurePort)
	w.text("countryId", strconv.Itoa(s.CountryID))
	w.WriteString(`<dataCenterInfo class="`)
	_ = xml.EscapeText(&w.Buffer, []byte(s.Center.Class)) // a buffer takes everything
	w.WriteString(`">`)
	w.text("name", s.Center.Name)
	if len(s.Center.Metadata) > 0 {
		w.strings(s.Center.Metadata)
	}
	w.WriteString("</dataCenterInfo><leaseInfo>")
	w.text("renewalIntervalInSecs", strconv.Itoa(s.Lease.Renewal))
	w.text("durationInSecs", strconv.Itoa(s.Lease.Duration))
	for _, x := range []struct {
		name string
		ms   int64
	}{
		{"registrationTimestamp", s.Lease.Registered},
		{"lastRenewalTimestamp", s.Lease.Renewed},
		{"evictionTimestamp", s.Lease.Evicted},
		{"serviceUpTimestamp", s.Lease.Up},
	} {
		w.text(x.name, strconv.FormatInt(x.ms, 10))
	}
	w.WriteString("</leaseInfo>")
	w.strings(s.Metadata)
	w.some("homePageUrl", s.HomePage)
	w.some("statusPageUrl", s.StatusPage)
	w.some("healthCheckUrl", s.Health)
	w.some("secureHealthCheckUrl", s.SecureHealth)
	w.some("vipAddress", s.VIP)
	w.some("secureVipAddress", s.SecureVIP)
	w.text("isCoordinatingDiscoveryServer", s.Coordinating)
	w.text("lastUpdatedTimestamp", s.Updated)
	w.text("lastDirtyTimestamp", s.Dirty)
	w.text("actionType", s.Action)
	w.some("asgName", s.ASG)
	w.WriteString("</instance>")
}

func (w *writer) application(a *application) {
	w.WriteString("<application>")
	w.text("name", a.Name)
	for _, s := range a.Instances {
		w.instance(s)
	}
	w.WriteString("</application>")
}

func (w *writer) applications(a *applications) {
	w.WriteString("<applications>")
	w.text("versions__delta", a.Version)
	w.text("apps__hashcode", a.Hashcode)
	for i := range a.List {
		w.application(&a.List[i])
	}
	w.WriteString("</applications>")
}

// encode writes one of *applications, *application and *shown.
func encode(v any, asJSON bool) ([]byte, error) {
	var w writer
	switch v := v.(type) {
	case *applications:
		if asJSON {
			return toJSON("applications", v)
		}
		w.applications(v)
	case *application:
		if asJSON {
			return toJSON("application", v)
		}
		w.application(v)
	case *shown:
		if asJSON {
			return toJSON("instance", v)
		}
		w.instance(v)
	default:
		panic(fmt.Sprintf("BUG: %T", v))
	}
	return w.Bytes(), nil
}
