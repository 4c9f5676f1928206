package strict

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

var (
	secretType = reflect.TypeFor[unit.Secret]()
	prefixType = reflect.TypeFor[netip.Prefix]()
	addrType   = reflect.TypeFor[netip.Addr]()
)

// scalar decodes text, numbers and bools.
func (d *Decoder) scalar(n *yaml.Node, v reflect.Value, r *rules) {
	want := wanted(v.Type())
	if n.Kind != yaml.ScalarNode {
		d.Add(n, "", "must be %s, got %s", want, Describe(n))
		return
	}
	if isNull(n) {
		d.Add(n, "", "must be %s, got nothing; remove the key for its default", want)
		return
	}
	if v.Type() == secretType {
		d.secret(n, v)
		return
	}
	text, ok := d.expand(n)
	if !ok {
		return
	}
	tag, referred := n.Tag, text != n.Value
	if referred {
		tag = typeOf(text) // quotes or not: within {} and [] a reference needs them
	}
	if !fits(tag, v.Kind(), referred) {
		hint := ""
		if referred {
			d.Add(n, "", "must be %s, and %s is none", want, Describe(n))
			return
		}
		if v.Kind() == reflect.String {
			hint = `; put it in quotes: "` + n.Value + `"`
		} else if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
			hint = "; write it without quotes"
		}
		d.Add(n, "", "must be %s, got %s%s", want, Describe(n), hint)
		return
	}
	d.text(text, n.Value, v, r, n)
}

// fits says if a scalar of a YAML type may be written for a Go kind. What came
// out of a reference has no type of its own for text.
func fits(tag string, k reflect.Kind, referred bool) bool {
	switch k {
	case reflect.String:
		return referred || tag == "!!str" || tag == "!!timestamp"
	case reflect.Bool:
		return tag == "!!bool"
	case reflect.Float32, reflect.Float64:
		return tag == "!!int" || tag == "!!float"
	default:
		return tag == "!!int"
	}
}

// secret decodes a unit.Secret: in place, by ${NAME}, or from file:PATH. What
// it holds never gets into a message.
func (d *Decoder) secret(n *yaml.Node, v reflect.Value) {
	if n.Tag != "!!str" {
		d.Add(n, "", "must be text; put it in quotes")
		return
	}
	text, ok := d.expand(n)
	if !ok {
		return
	}
	path, isFile := strings.CutPrefix(text, "file:")
	if !isFile || !strings.HasPrefix(n.Value, "file:") {
		v.SetString(text)
		return
	}
	if d.file == nil {
		d.Add(n, "", "file:%s cannot be read here", path)
		return
	}
	data, err := d.file(path)
	if err != nil {
		d.Add(n, "", "file:%s: %v", path, errors.Unwrap(wrap(err)))
		return
	}
	data = []byte(strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"))
	if len(data) == 0 {
		d.Add(n, "", "file:%s is empty", path)
		return
	}
	v.SetString(string(data))
}

// wrap makes sure there is something to unwrap: an *fs.PathError repeats the path.
func wrap(err error) error {
	if errors.Unwrap(err) != nil {
		return err
	}
	return fmt.Errorf("%w", err)
}

// text sets v from text. raw is how the user wrote it, which messages show,
// so that the value of a reference stays out of logs.
func (d *Decoder) text(text, raw string, v reflect.Value, r *rules, n *yaml.Node) {
	msg := setText(text, v)
	if msg == "" {
		msg = r.check(v, shown(text, raw))
	}
	if msg == "" {
		return
	}
	if text != raw {
		msg = strings.ReplaceAll(msg, strconv.Quote(text), strconv.Quote(raw))
	}
	d.Add(n, "", "%s", msg)
}

func shown(text, raw string) string {
	if text != raw {
		return raw
	}
	return text
}

// setText reads text into v and says what is wrong with it, or "".
func setText(text string, v reflect.Value) string {
	switch v.Type() {
	case prefixType:
		return setPrefix(text, v.Addr().Interface().(*netip.Prefix))
	case addrType:
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Sprintf("must be an IP address, got %q", text)
		}
		v.Set(reflect.ValueOf(a))
		return ""
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return err.Error()
		}
		return ""
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Sprintf("must be true or false, got %q", text)
		}
		v.SetBool(text == "true")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil || !decimal.MatchString(text) {
			return badNumber(err, text)
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if strings.HasPrefix(text, "-") {
			return "must be 0 or more, got " + text
		}
		i, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil || !decimal.MatchString(text) {
			return badNumber(err, text)
		}
		v.SetUint(i)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, v.Type().Bits())
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Sprintf("must be a number, got %q", text)
		}
		v.SetFloat(f)
	default:
		panic(fmt.Sprintf("BUG: package strict cannot decode a %s", v.Type()))
	}
	return ""
}

// decimal leaves out 0x10, 1_000 and 010, which other readers of YAML see differently.
var decimal = regexp.MustCompile(`^[-+]?(0|[1-9][0-9]*)$`)

func badNumber(err error, text string) string {
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Sprintf("is out of range, got %s", text)
	}
	return fmt.Sprintf("must be a whole number in decimal digits, got %q", text)
}

// setPrefix reads a CIDR; a bare address stands for itself alone. IPv4 written
// as IPv6 becomes IPv4: clients' addresses do, and would not be found in it.
func setPrefix(text string, out *netip.Prefix) string {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		*out = netip.PrefixFrom(a, a.BitLen())
		return ""
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return fmt.Sprintf("must be a CIDR such as 10.0.0.0/8 or 2001:db8::/32, got %q", text)
	}
	if p.Masked() != p {
		return fmt.Sprintf("has bits set after /%d; write %s, got %q", p.Bits(), p.Masked(), text)
	}
	if a := p.Addr(); a.Is4In6() { // and so all bits up to /96 are given
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	*out = p
	return ""
}

// wanted names a type in a message.
func wanted(t reflect.Type) string {
	switch t {
	case prefixType:
		return "a CIDR such as 10.0.0.0/8"
	case addrType:
		return "an IP address"
	case reflect.TypeFor[unit.Duration]():
		return "a duration such as 5s"
	case reflect.TypeFor[unit.Size]():
		return "a size such as 8MiB"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.String, reflect.Struct:
		return "text"
	default:
		if t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64 {
			return "a whole number"
		}
		return "text"
	}
}

// resolved is the YAML type of text that came out of a reference: quoted text
// stays text, the rest is read as if it had been written there.
func resolved(n *yaml.Node, text string) string {
	if text == n.Value {
		return n.Tag
	}
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		return "!!str"
	}
	return typeOf(text)
}

// typeOf is the YAML type of plain text, as far as package strict knows types.
func typeOf(text string) string {
	if text == "true" || text == "false" {
		return "!!bool"
	}
	if decimal.MatchString(text) {
		return "!!int"
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return "!!float"
	}
	return "!!str"
}
