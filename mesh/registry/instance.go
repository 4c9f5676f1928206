package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

// Status is what an instance may be used for. The values are the API's words.
type Status string

// The statuses. Only Up gets requests.
const (
	Up Status = "up"
	// Starting: it will be up soon.
	Starting Status = "starting"
	// Drain: it finishes what it has and gets nothing new.
	Drain Status = "drain"
	// Down: it has failed its own checks.
	Down Status = "down"
	// OutOfService: somebody has taken it out.
	OutOfService Status = "out_of_service"
)

// Statuses lists them all.
var Statuses = []Status{Up, Starting, Drain, Down, OutOfService}

// Bounds of what is kept for one instance.
const (
	maxService  = 100
	maxID       = 200
	maxHost     = 253 // RFC 1035
	maxMetadata = 128
	maxKey      = 200
	maxSize     = 64 << 10
	// MinTTL and MaxTTL bound how long a lease lasts without a heartbeat.
	MinTTL = time.Second
	MaxTTL = 24 * time.Hour
	// MaxWeight as an endpoint's in the config.
	MaxWeight = 1000
)

// Instance is one copy of a service.
type Instance struct {
	// Service is its name in lower case, ID unique among its instances.
	Service string `json:"service"`
	ID      string `json:"id"`
	// Host is a name or an address.
	Host string `json:"host"`
	// Port for plain text, SecurePort for TLS; 0: there is none.
	Port       int    `json:"port,omitempty"`
	SecurePort int    `json:"secure_port,omitempty"`
	Zone       string `json:"zone,omitempty"`
	// Weight is its share in proportion to the others, 1 to 1000; 0 means 1.
	Weight   int               `json:"weight,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Status is what the instance says of itself. Override, if there is one, is
	// what somebody else has decided; it ends with the entry.
	Status   Status `json:"status"`
	Override Status `json:"override,omitempty"`
	// TTL is how long the entry stays without a heartbeat; 0: it is static.
	TTL unit.Duration `json:"ttl,omitempty"`
	// Origin is how it was registered: api or eureka. Details are what that wants
	// back and nobody else looks at.
	Origin  string          `json:"origin,omitempty"`
	Details json.RawMessage `json:"details,omitempty"`
	// Registered and Changed are for people: times of whichever node wrote them.
	Registered time.Time `json:"registered,omitzero"`
	Changed    time.Time `json:"changed,omitzero"`
}

// Effective is the status that counts.
func (i *Instance) Effective() Status {
	if i.Override != "" {
		return i.Override
	}
	return i.Status
}

// Static says that no heartbeats are expected.
func (i *Instance) Static() bool { return i.TTL == 0 }

// Address is HOST:PORT to connect to, for TLS or not; "" if there is none.
func (i *Instance) Address(secure bool) string {
	port := i.Port
	if secure && i.SecurePort > 0 {
		port = i.SecurePort
	}
	if port == 0 {
		return ""
	}
	return net.JoinHostPort(i.Host, strconv.Itoa(port))
}

// InvalidError says what is wrong with an instance: the key, and what would be
// right.
type InvalidError struct{ Key, Why string }

// Error implements error.
func (e *InvalidError) Error() string { return e.Key + " " + e.Why }

func invalid(key, format string, args ...any) error {
	return &InvalidError{key, fmt.Sprintf(format, args...)}
}

// CheckNames says what is wrong with the name of a service or the ID of an
// instance; nil: nothing.
func CheckNames(service, id string) error {
	if !isService(service) {
		return invalid("service", "must be 1 to %d lower-case letters, digits, _, - and ., beginning with a letter or digit, got %.120q", maxService, service)
	}
	if !isID(id) {
		return invalid("id", "must be 1 to %d letters, digits and ._:@~+=[]-, got %.220q", maxID, id)
	}
	return nil
}

func isService(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !alnum(c) && (i == 0 || strings.IndexByte("_-.", c) < 0) || c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return s != "" && len(s) <= maxService
}

func isID(s string) bool {
	for i := range len(s) {
		if !alnum(s[i]) && strings.IndexByte("._:@~+=[]-", s[i]) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= maxID && s != "." && s != ".." // a part of a path
}

func alnum(c byte) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
}

// isHost is true for an address without brackets or zone, or a name of letters,
// digits, - and _. Link-local addresses are none of services: at 169.254.169.254
// clouds tell machines their credentials.
func isHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		a = a.Unmap()
		return a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
	}
	if s == "" || len(s) > maxHost || strings.ContainsRune(s, ':') {
		return false
	}
	numeric := true
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		numeric = true
		for i := range len(label) {
			if !alnum(label[i]) && label[i] != '-' && label[i] != '_' {
				return false
			}
			numeric = numeric && label[i] >= '0' && label[i] <= '9'
		}
	}
	return !numeric // 10.0.0.256 is a failed address, not a name
}

// Validate says what is wrong with an instance, as an *InvalidError.
func (i *Instance) Validate() error {
	if err := CheckNames(i.Service, i.ID); err != nil {
		return err
	}
	switch {
	case !isHost(i.Host):
		return invalid("host", "must be a host name or an IP address to connect to, got %.260q", i.Host)
	case i.Port < 0 || i.Port > 65535:
		return invalid("port", "must be from 1 to 65535, got %d", i.Port)
	case i.SecurePort < 0 || i.SecurePort > 65535:
		return invalid("secure_port", "must be from 1 to 65535, got %d", i.SecurePort)
	case i.Port == 0 && i.SecurePort == 0:
		return invalid("port", "or secure_port is required")
	case i.Zone != "" && (!isID(i.Zone) || len(i.Zone) > maxService):
		return invalid("zone", "must be up to %d letters, digits and ._:@~+=[]-, got %.120q", maxService, i.Zone)
	case i.Weight < 0 || i.Weight > MaxWeight:
		return invalid("weight", "must be from 1 to %d, got %d", MaxWeight, i.Weight)
	case !slices.Contains(Statuses, i.Status):
		return invalid("status", "must be %s, got %.40q", words(), i.Status)
	case i.Override != "" && !slices.Contains(Statuses, i.Override):
		return invalid("override", "must be %s, got %.40q", words(), i.Override)
	case i.TTL != 0 && (i.TTL.D() < MinTTL || i.TTL.D() > MaxTTL):
		return invalid("ttl", "must be from %s to %s, got %s", unit.Duration(MinTTL), unit.Duration(MaxTTL), i.TTL)
	}
	return checkMetadata(i.Metadata)
}

func checkMetadata(m map[string]string) error {
	if len(m) > maxMetadata {
		return invalid("metadata", "may have %d entries, got %d", maxMetadata, len(m))
	}
	for k, v := range m {
		if k == "" || len(k) > maxKey || !printable(k) {
			return invalid("metadata", "needs keys of 1 to %d printable characters, got %.220q", maxKey, k)
		}
		if !printable(v) {
			return invalid("metadata."+k, "must be printable text")
		}
	}
	return nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' && r != '\n' || r == 0x7f || r == 0xfffe || r == 0xffff }) < 0
}

func words() string {
	var b strings.Builder
	for i, s := range Statuses {
		switch {
		case i == len(Statuses)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(string(s))
	}
	return b.String()
}

// key is the ID of an instance's lease.
func key(service, id string) string { return service + "/" + id }

func (i *Instance) key() string { return key(i.Service, i.ID) }

// encode is the form in the store.
func (i *Instance) encode() ([]byte, error) {
	b, err := json.Marshal(i)
	if err == nil && len(b) > maxSize {
		err = invalid("metadata", "is too large: an entry may have %d bytes, got %d", maxSize, len(b))
	}
	return b, err
}

// staticName is the name of the value of a static entry: names have fewer
// letters than IDs.
func staticName(k string) string {
	sum := sha256.Sum256([]byte(k))
	return hex.EncodeToString(sum[:])
}

// place is where the entry is in the store: the ID of a lease or the name of a
// value.
func (i *Instance) place() string {
	if i.Static() {
		return staticName(i.key())
	}
	return i.key()
}

// decode reads what encode wrote, and nothing else.
func decode(data []byte) (*Instance, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("has %d bytes, more than an entry may have", len(data))
	}
	d := json.NewDecoder(bytes.NewReader(data))
	i := new(Instance)
	if err := d.Decode(i); err != nil {
		return nil, fmt.Errorf("is no entry: %w", err)
	}
	if d.More() {
		return nil, errors.New("is no entry: there is more behind it")
	}
	if err := i.Validate(); err != nil {
		return nil, err
	}
	return i, nil
}

// tag is a short text that stands for what an entry holds.
func tag(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}
