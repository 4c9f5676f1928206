package repo_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/cmd"
	"github.com/gatehouse-proxy/gatehouse/config"
	"github.com/gatehouse-proxy/gatehouse/config/unit"
)

const minimal = `
listeners: { web: { address: ":8080" } }
upstreams: { app: { endpoints: ["127.0.0.1:3000"] } }
routes: { everything: { match: { path: / }, backends: [{ upstream: app }] } }
waf: { policies: { default: {} } }
`

// leaves lists the scalars of a config by path, with * for names of the user's own.
func leaves(v reflect.Value, path string, out map[string]reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			leaves(v.Elem(), path, out)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			key := v.Type().Field(i).Tag.Get("yaml")
			if key != "" && key != "-" {
				leaves(v.Field(i), strings.TrimPrefix(path+"."+key, "."), out)
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			leaves(v.MapIndex(k), path+".*", out)
		}
	default:
		out[path] = v
	}
}

var number = regexp.MustCompile(`^([0-9][0-9 .]*)(KiB|MiB|ms|s|m|%)?(?:[ ,].*)?$`)

// says reads a cell of the table as a value of v's type; "" if it cannot.
func says(cell string, v reflect.Value) string {
	if v.Kind() == reflect.String {
		word := strings.ReplaceAll(cell, " ", "_")
		if s := v.String(); s != "" && strings.HasPrefix(word, s) {
			return s
		}
		return word
	}
	m := number.FindStringSubmatch(cell)
	if m == nil {
		if _, ok := v.Interface().(bool); ok && (cell == "on" || cell == "off") {
			return fmt.Sprint(cell == "on")
		}
		if cell == "none" {
			return fmt.Sprint(reflect.Zero(v.Type()).Interface())
		}
		return ""
	}
	digits := strings.ReplaceAll(m[1], " ", "")
	switch v.Interface().(type) {
	case unit.Duration:
		var d unit.Duration
		if d.UnmarshalText([]byte(digits+m[2])) == nil {
			return fmt.Sprint(d)
		}
	case unit.Size:
		var s unit.Size
		if s.UnmarshalText([]byte(digits+m[2])) == nil {
			return fmt.Sprint(s)
		}
	case float64:
		f, err := strconv.ParseFloat(digits, 64)
		if m[2] == "%" {
			f /= 100
		}
		if err == nil {
			return fmt.Sprint(f)
		}
	case int:
		return digits
	}
	return ""
}

func TestRationaleTellsTheRealDefaults(t *testing.T) {
	c, _, err := config.Parse([]byte(minimal), "minimal.yaml", cmd.Kinds(), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]reflect.Value{}
	leaves(reflect.ValueOf(c), "", all)
	text, err := os.ReadFile(root + "/docs/rationale.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z0-9_.*]+)` \\| ([^|]+) \\|")
	compared := 0
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		for path, v := range all {
			if path != m[1] && !strings.HasSuffix(path, "."+m[1]) {
				continue
			}
			compared++
			if got := says(m[2], v); got != fmt.Sprint(v.Interface()) {
				t.Errorf("docs/rationale.md: %s is %q, in the code it is %v", m[1], m[2], v)
			}
		}
	}
	if compared < 10 {
		t.Errorf("only %d rows of docs/rationale.md could be compared", compared)
	}
}
