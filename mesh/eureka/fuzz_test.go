package eureka

import (
	"encoding/xml"
	"strings"
	"testing"

	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
)

func fuzz(f *testing.F, parse func([]byte) (*element, error), asJSON bool) {
	f.Fuzz(func(t *testing.T, body []byte) {
		root, err := parse(body)
		if err != nil {
			return
		}
		i, err := read(root, "app")
		if err != nil || i.Validate() != nil {
			return
		}
		e := &registry.Entry{Instance: &i}
		for _, v := range []any{
			show(e, registry.Added), newApplication(i.Service, []*registry.Entry{e}),
			newApplications(&registry.View{Services: map[string][]*registry.Entry{i.Service: {e}}}, false, nil),
		} {
			out, err := encode(v, asJSON)
			if err != nil {
				t.Fatal(err)
			}
			if asJSON {
				_, err = parseJSON(out)
			} else {
				err = xml.Unmarshal(out, new(struct{}))
			}
			if err != nil && asJSON {
				t.Fatalf("%v in %s", err, out)
			}
		}
		// What is shown can be registered again, as the same.
		out, err := encode(show(e, registry.Added), asJSON)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(out)
		if err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		j, err := read(again, "app")
		if err != nil || j.Host != i.Host || j.Port != i.Port || j.SecurePort != i.SecurePort || j.ID != i.ID || j.Status != i.Status {
			t.Fatalf("%+v became %+v, %v", i, j, err)
		}
	})
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"instance":{"instanceId":"i","hostName":"h","port":{"$":80,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"status":"UP","metadata":{"@class":"x","a":"b"}}}`))
	f.Add([]byte(`{"instance":[{"hostName":"h","port":80,"dataCenterInfo":{"@class":"c","name":"Amazon","metadata":{"instance-id":"i"}},"leaseInfo":{"durationInSecs":30}}]}`))
	f.Add([]byte(`{"instance":{"a":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}}`))
	fuzz(f, parseJSON, true)
}

func FuzzXML(f *testing.F) {
	f.Add([]byte(`<instance><instanceId>i</instanceId><hostName>h</hostName><port enabled="true">80</port><status>DOWN</status><metadata class="x"><a>1 &lt; 2</a></metadata></instance>`))
	f.Add([]byte(`<?xml version="1.0"?><instance><hostName>h</hostName><securePort enabled="true">443</securePort><dataCenterInfo class="c"><name>Amazon</name></dataCenterInfo></instance>`))
	f.Add([]byte(`<!DOCTYPE x [<!ENTITY a "b">]><instance>&a;</instance>`))
	fuzz(f, parseXML, false)
}

// TestTextInPieces: comments cut a text into pieces, of which there may be many.
func TestTextInPieces(t *testing.T) {
	const pieces = 30_000
	e, err := parseXML([]byte("<i> <a> " + strings.Repeat("x<!---->", pieces) + "<![CDATA[y]]> </a> </i>"))
	if err != nil || e.kid("a").text != strings.Repeat("x", pieces)+"y" {
		t.Errorf("%v", err)
	}
}
