package eureka_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gatehouse-proxy/gatehouse/config/unit"
	"github.com/gatehouse-proxy/gatehouse/control/store/local"
	"github.com/gatehouse-proxy/gatehouse/mesh/eureka"
	"github.com/gatehouse-proxy/gatehouse/mesh/registry"
	"github.com/gatehouse-proxy/gatehouse/test/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }

// server is a server and what asks it.
type server struct {
	*eureka.Server
	t        *testing.T
	registry *registry.Registry
}

func start(t *testing.T, s eureka.Settings) *server {
	t.Helper()
	st := local.New(t.TempDir())
	r := registry.New(registry.Settings{Store: st, Log: slog.New(slog.DiscardHandler), MaxInstances: 3000})
	t.Cleanup(func() {
		r.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	s.Registry, s.Log = r, slog.New(slog.DiscardHandler)
	return &server{eureka.New(s), t, r}
}

// ask sends one request; header is names and values.
func (s *server) ask(method, path, body string, header ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, "/eureka"+path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

// wants is ask, and wants a status and a text in the answer.
func (s *server) wants(status int, part, method, path, body string, header ...string) string {
	s.t.Helper()
	w := s.ask(method, path, body, header...)
	if w.Code != status || !strings.Contains(w.Body.String(), part) {
		s.t.Errorf("%s %s %.80s: %d %.2000s, want %d %s", method, path, body, w.Code, w.Body, status, part)
	}
	return w.Body.String()
}

// spring is what a Spring client of Eureka sends, and header goes with it.
const spring = `{"instance":{"instanceId":"10.0.0.7:users:8080","hostName":"10.0.0.7","app":"USERS","ipAddr":"10.0.0.7","status":"UP","overriddenStatus":"UNKNOWN",` +
	`"port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,` +
	`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},` +
	`"leaseInfo":{"renewalIntervalInSecs":10,"durationInSecs":30,"registrationTimestamp":0,"lastRenewalTimestamp":0,"evictionTimestamp":0,"serviceUpTimestamp":0},` +
	`"metadata":{"management.port":"8080","zone":"eu-1a","weight":"3"},"homePageUrl":"http://10.0.0.7:8080/","statusPageUrl":"http://10.0.0.7:8080/actuator/info",` +
	`"healthCheckUrl":"http://10.0.0.7:8080/actuator/health","vipAddress":"users","secureVipAddress":"users","isCoordinatingDiscoveryServer":"false",` +
	`"lastUpdatedTimestamp":"1767225600000","lastDirtyTimestamp":"1767225600123"}}`

var asJSON = []string{"Content-Type", "application/json", "Accept", "application/json, application/*+json"}

// times are what differs from run to run.
var times = regexp.MustCompile(`(registrationTimestamp|lastRenewalTimestamp|serviceUpTimestamp|lastUpdatedTimestamp)(":"?|>)\d+`)

// In a bubble no answer takes long to make, after which it would stay as it is for
// a while.
func TestASpringClient(t *testing.T) { synctest.Test(t, aSpringClient) }

func aSpringClient(t *testing.T) {
	s := start(t, eureka.Settings{Open: true})
	const one = "/apps/USERS/10.0.0.7:users:8080"
	s.wants(200, `{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}`, "GET", "/apps/", "", asJSON...)
	s.wants(404, "", "PUT", one+"?status=UP&lastDirtyTimestamp=1767225600123", "", asJSON...)
	s.wants(204, "", "POST", "/apps/USERS", spring, asJSON...)
	s.wants(200, "", "PUT", one+"?status=UP&lastDirtyTimestamp=1767225600123", "", asJSON...)
	s.wants(200, "", "PUT", one+"?status=UP&lastDirtyTimestamp=1767225600100", "", asJSON...)
	s.wants(404, "", "PUT", one+"?status=UP&lastDirtyTimestamp=1767225600124", "", asJSON...) // it has changed: register again
	const want = `{"applications":{"versions__delta":"1","apps__hashcode":"UP_1_","application":[{"name":"USERS","instance":[` +
		`{"instanceId":"10.0.0.7:users:8080","hostName":"10.0.0.7","app":"USERS","ipAddr":"10.0.0.7","status":"UP","overriddenStatus":"UNKNOWN","overriddenstatus":"UNKNOWN",` +
		`"port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,` +
		`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},` +
		`"leaseInfo":{"renewalIntervalInSecs":10,"durationInSecs":30,"registrationTimestamp":N,"lastRenewalTimestamp":N,"evictionTimestamp":0,"serviceUpTimestamp":N},` +
		`"metadata":{"management.port":"8080","weight":"3","zone":"eu-1a"},"homePageUrl":"http://10.0.0.7:8080/","statusPageUrl":"http://10.0.0.7:8080/actuator/info",` +
		`"healthCheckUrl":"http://10.0.0.7:8080/actuator/health","vipAddress":"users","secureVipAddress":"users","isCoordinatingDiscoveryServer":"false",` +
		`"lastUpdatedTimestamp":"N","lastDirtyTimestamp":"1767225600123","actionType":"ADDED"}]}]}}`
	if got := times.ReplaceAllString(s.wants(200, "", "GET", "/apps/", "", asJSON...), "${1}${2}N"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	e := s.registry.Get("users", "10.0.0.7:users:8080")
	if e.Address(false) != "10.0.0.7:8080" || e.SecurePort != 0 || e.Zone != "eu-1a" || e.Weight != 3 || e.TTL.D() != 30*time.Second || e.Status != registry.Up {
		t.Errorf("the registry has %+v", e.Instance)
	}
	s.wants(200, `{"application":{"name":"USERS","instance":[{`, "GET", "/apps/users", "", asJSON...)
	s.wants(200, `{"instance":{"instanceId":"10.0.0.7:users:8080"`, "GET", one, "", asJSON...)
	s.wants(200, `{"instance":{"instanceId":"10.0.0.7:users:8080"`, "GET", "/instances/10.0.0.7:users:8080", "", asJSON...)
	s.wants(200, `"apps__hashcode":"UP_1_"`, "GET", "/vips/users", "", asJSON...)
	s.wants(200, `"apps__hashcode":"UP_1_"`, "GET", "/svips/USERS", "", asJSON...)
	for _, path := range []string{"/apps/nobody", "/apps/USERS/nobody", "/instances/nobody", "/vips/nobody", "/svips/nobody", "/nothing", "/apps/a/b/c"} {
		s.wants(404, "", "GET", path, "", asJSON...)
	}
	s.wants(200, "", "PUT", one+"/status?value=OUT_OF_SERVICE&lastDirtyTimestamp=1", "", asJSON...)
	s.wants(200, `"status":"OUT_OF_SERVICE","overriddenStatus":"OUT_OF_SERVICE"`, "GET", one, "", asJSON...)
	s.wants(204, "", "POST", "/apps/USERS", spring, asJSON...) // which does not end it
	s.wants(200, `"apps__hashcode":"OUT_OF_SERVICE_1_"`, "GET", "/apps/delta", "", asJSON...)
	s.wants(200, "", "DELETE", one+"/status?value=UP", "", asJSON...)
	s.wants(200, `"status":"UP","overriddenStatus":"UNKNOWN"`, "GET", one, "", asJSON...)
	s.wants(200, "", "PUT", one+"/metadata?version=2&zone=eu-1b", "", asJSON...)
	s.wants(200, `"version":"2"`, "GET", one, "", asJSON...)
	s.wants(200, `"actionType":"MODIFIED"`, "GET", "/apps/delta?regions=us-east-1", "", asJSON...)
	s.wants(200, "", "DELETE", one, "", asJSON...)
	s.wants(404, "", "DELETE", one, "", asJSON...)
	s.wants(200, `"actionType":"DELETED"`, "GET", "/v2/apps/delta", "", asJSON...)
	s.wants(404, "", "PUT", one+"/status?value=UP", "", asJSON...)
	s.wants(404, "", "PUT", one+"/metadata?a=b", "", asJSON...)
}

func TestAClientThatSpeaksXML(t *testing.T) { synctest.Test(t, aClientThatSpeaksXML) }

func aClientThatSpeaksXML(t *testing.T) {
	s := start(t, eureka.Settings{Open: true})
	const in = `<?xml version="1.0" encoding="UTF-8"?><instance><hostName>pay.internal</hostName><app>PAY</app><ipAddr>10.0.0.9</ipAddr><vipAddress>pay,payments</vipAddress>` +
		`<secureVipAddress>pay</secureVipAddress><status>STARTING</status><port>8080</port><securePort enabled="true">8443</securePort><homePageUrl>http://x/?a=1&amp;b=2</homePageUrl>` +
		`<dataCenterInfo class="com.netflix.appinfo.AmazonInfo"><name>Amazon</name><metadata><instance-id>i-7</instance-id><availability-zone>eu-1c</availability-zone></metadata></dataCenterInfo>` +
		`<metadata><a>1 &lt; 2</a></metadata></instance>`
	s.wants(204, "", "POST", "/apps/PAY", in, "Content-Type", "application/xml")
	s.wants(200, "", "PUT", "/apps/PAY/i-7?status=UP&lastDirtyTimestamp=1767225600123", "") // it gave none to compare with
	const want = `<application><name>PAY</name><instance><instanceId>i-7</instanceId><hostName>pay.internal</hostName><app>PAY</app><ipAddr>10.0.0.9</ipAddr><status>STARTING</status>` +
		`<overriddenstatus>UNKNOWN</overriddenstatus><port enabled="true">8080</port><securePort enabled="true">8443</securePort><countryId>1</countryId>` +
		`<dataCenterInfo class="com.netflix.appinfo.AmazonInfo"><name>Amazon</name><metadata><availability-zone>eu-1c</availability-zone><instance-id>i-7</instance-id></metadata></dataCenterInfo>` +
		`<leaseInfo><renewalIntervalInSecs>30</renewalIntervalInSecs><durationInSecs>90</durationInSecs><registrationTimestamp>N</registrationTimestamp><lastRenewalTimestamp>N</lastRenewalTimestamp>` +
		`<evictionTimestamp>0</evictionTimestamp><serviceUpTimestamp>N</serviceUpTimestamp></leaseInfo><metadata><a>1 &lt; 2</a></metadata><homePageUrl>http://x/?a=1&amp;b=2</homePageUrl>` +
		`<vipAddress>pay,payments</vipAddress><secureVipAddress>pay</secureVipAddress><isCoordinatingDiscoveryServer>false</isCoordinatingDiscoveryServer>` +
		`<lastUpdatedTimestamp>N</lastUpdatedTimestamp><lastDirtyTimestamp>N</lastDirtyTimestamp><actionType>ADDED</actionType></instance></application>`
	got := times.ReplaceAllString(s.wants(200, "", "GET", "/apps/PAY", ""), "${1}${2}N")
	if got = regexp.MustCompile(`lastDirtyTimestamp>\d+`).ReplaceAllString(got, "lastDirtyTimestamp>N"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s.wants(200, "<applications><versions__delta>1</versions__delta><apps__hashcode>STARTING_1_</apps__hashcode><application>", "GET", "/vips/payments", "", "Accept", "*/*")
	// What was registered in another way is there too, a key that is no name of an element only in JSON.
	i := registry.Instance{Service: "legacy", ID: "l1", Host: "10.0.0.3", Port: 80, Status: registry.Drain, Metadata: map[string]string{"1 a": "x", "ok": "y"}}
	if _, _, err := s.registry.Register(t.Context(), i, registry.Expect{}); err != nil {
		t.Fatal(err)
	}
	all := s.wants(200, "<metadata><ok>y</ok></metadata>", "GET", "/apps", "")
	if err := xml.Unmarshal([]byte(all), new(struct{})); err != nil {
		t.Error(err)
	}
	s.wants(200, `"status":"OUT_OF_SERVICE","overriddenStatus":"UNKNOWN"`, "GET", "/apps/legacy/l1", "", asJSON...)
	s.wants(200, `"1 a":"x"`, "GET", "/instances/l1", "", asJSON...)
	s.wants(200, `<apps__hashcode>OUT_OF_SERVICE_1_STARTING_1_</apps__hashcode>`, "GET", "/apps/", "")
}

// javaScript is how eureka-js-client writes an instance: numbers for ports are
// objects, booleans are no strings, the app is in any case.
const javaScript = `{"instance":{"app":"jsapp","hostName":"node.internal","ipAddr":"10.0.0.4","port":{"$":3000,"@enabled":true},"vipAddress":"jsapp",` +
	`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"status":"UP"}}`

func TestOddButRight(t *testing.T) {
	s := start(t, eureka.Settings{Open: true})
	s.wants(204, "", "POST", "/apps/jsapp", javaScript, asJSON...)
	s.wants(200, `"metadata":{"@class":"java.util.Collections$EmptyMap"}`, "GET", "/apps/JSAPP/node.internal", "", asJSON...)
	for name, body := range map[string]string{
		"lists of one":        `{"instance":[{"hostName":"h","port":[{"$":"80","@enabled":"true"}],"metadata":[{"a":"b"}]}]}`,
		"the last one counts": `{"instance":{"hostName":"x y","hostName":"h","port":80}}`,
		"unknown keys":        `{"instance":{"hostName":"h","port":80,"new":{"a":{"b":[1]}}}}`,
		"no status":           `{"instance":{"hostName":"h","port":80,"status":null}}`,
		"unknown status":      `{"instance":{"hostName":"h","port":80,"status":"UNKNOWN"}}`,
		"XML as JSON says":    `{"instance":{"hostName":"h","securePort":{"@enabled":"true","$":443},"port":{"@enabled":"false","$":80}}}`,
		"an odd zone":         `{"instance":{"hostName":"h","port":80,"metadata":{"zone":"a zone","weight":"heavy"}}}`,
		"only an address":     `{"instance":{"instanceId":"h","ipAddr":"2001:db8::1","port":80}}`,
	} {
		if w := s.ask("POST", "/apps/odd", body, asJSON...); w.Code != 204 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	s.wants(204, "", "POST", "/apps/x", "<!-- a --><instance>\n<hostName> h </hostName><port enabled='true'>80</port></instance>\n", "Content-Type", "text/xml")
	s.wants(200, "", "PUT", "/apps/x/h", "", "x-netflix-discovery-replication", "true", "DiscoveryIdentity-Name", "peer")
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(spring))
	_ = z.Close()
	s.wants(204, "", "POST", "/v2/apps/USERS", b.String(), "Content-Type", "application/json", "Content-Encoding", "gzip")
	w := s.ask("GET", "/apps", "", "Accept", "application/json", "Accept-Encoding", "gzip")
	r, err := gzip.NewReader(w.Body)
	if err != nil || w.Header().Get("Content-Encoding") != "gzip" {
		t.Fatal(err, w.Header())
	}
	text, err := io.ReadAll(r)
	if err != nil || !json.Valid(text) || !bytes.Contains(text, []byte(`"name":"USERS"`)) {
		t.Errorf("%v in %s", err, text)
	}
}

func TestHostileClients(t *testing.T) {
	s := start(t, eureka.Settings{Open: true, MaxBody: 32 << 10})
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	deepXML := strings.Repeat("<a>", 40) + strings.Repeat("</a>", 40)
	bomb := &bytes.Buffer{}
	z := gzip.NewWriter(bomb)
	_, _ = z.Write(make([]byte, 10<<20))
	_ = z.Close()
	with := func(more string) string { return `{"instance":{"hostName":"h","port":80,` + more + `}}` }
	for _, c := range []struct {
		path, kind, body string
		status           int
		why              string
	}{
		{"/apps/a", "json", "", 400, "is no JSON"},
		{"/apps/a", "json", "{", 400, "is no JSON"},
		{"/apps/a", "json", "[]", 400, "one member, has 0"},
		{"/apps/a", "json", `{"instance":{}} {}`, 400, "more behind it"},
		{"/apps/a", "json", `{"instance":{},"more":{}}`, 400, "one member, has 2"},
		{"/apps/a", "json", `{"other":{}}`, 400, "must be an instance"},
		{"/apps/a", "json", `{"instance":` + deep + `}`, 400, "levels deep"},
		{"/apps/a", "json", `{"instance":{"a":[` + strings.Repeat(`[`, 5000) + `]}}`, 400, "levels deep"},
		{"/apps/a", "json", `{"instance":{` + strings.Repeat(`"a":1,`, 5000) + `"b":1}}`, 400, "elements"},
		{"/apps/a", "json", with(`"hostName":["a","b"]`), 400, "list where one value"},
		{"/apps/a", "json", with(`"hostName":{"a":"b"}`), 400, "hostName must be text"},
		{"/apps/a", "json", with(`"hostName":"a/b"`), 400, "id must be"},
		{"/apps/a", "json", with(`"hostName":"169.254.169.254"`), 400, "host must be"},
		{"/apps/a", "json", with(`"hostName":"::ffff:0.0.0.0","instanceId":"x"`), 400, "host must be"},
		{"/apps/a", "json", with(`"instanceId":"a\u0000b"`), 400, "id must be"},
		{"/apps/a", "json", with(`"instanceId":"../../x"`), 400, "id must be"},
		{"/apps/a", "json", with(`"app":"other"`), 400, "the path says"},
		{"/apps/a", "json", with(`"port":{"$":70000}`), 400, "must be a port"},
		{"/apps/a", "json", with(`"port":{"$":-1}`), 400, "must be a number"},
		{"/apps/a", "json", with(`"port":{"$":80,"@enabled":"perhaps"}`), 400, "true or false"},
		{"/apps/a", "json", with(`"port":{"$":80,"@enabled":"false"}`), 400, "secure_port is required"},
		{"/apps/a", "json", with(`"status":"FINE"`), 400, "status must be"},
		{"/apps/a", "json", with(`"leaseInfo":{"durationInSecs":1e9}`), 400, "must be a number"},
		{"/apps/a", "json", with(`"leaseInfo":{"durationInSecs":99999999}`), 400, "ttl must be"},
		{"/apps/a", "json", with(`"metadata":{"a":{"b":"c"}}`), 400, "metadata.a must be text"},
		{"/apps/a", "json", with(`"metadata":{"a":"\u001b[2J"}`), 400, "printable"},
		{"/apps/a%2Fb", "json", with(`"a":1`), 400, "service must be"},
		{"/apps/a%0Ab", "json", with(`"a":1`), 400, "service must be"},
		{"/apps/" + strings.Repeat("a", 200), "json", with(`"a":1`), 400, "service must be"},
		{"/apps/a", "xml", "", 400, "is no XML"},
		{"/apps/a", "xml", deepXML, 400, "levels deep"},
		{"/apps/a", "xml", "<instance/><instance/>", 400, "more than one root"},
		{"/apps/a", "xml", "text<instance/>", 400, "outside of its root"},
		{"/apps/a", "xml", `<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><instance><hostName>&b;</hostName></instance>`, 400, "document type"},
		{"/apps/a", "xml", "<instance><hostName>&b;</hostName></instance>", 400, "is no XML"},
		{"/apps/a", "xml", "<?xml version='1.0' encoding='utf-7'?><instance/>", 400, "is no XML"},
		{"/apps/a", "xml", "<instance>" + strings.Repeat("<a/>", 5000) + "</instance>", 400, "elements"},
		{"/apps/a", "json", strings.Repeat(" ", 64<<10), 413, "too large"},
		{"/apps/a", "gzip", bomb.String(), 413, "too large"},
		{"/apps/a", "gzip", "no gzip", 400, "could not be read"},
		{"/apps/a", "br", "x", 400, "Content-Encoding must be gzip"},
		{"/peerreplication/batch/", "json", `{"replicationList":[]}`, 400, "has no peers"},
	} {
		header := []string{"Content-Type", "application/" + c.kind}
		if c.kind == "gzip" || c.kind == "br" {
			header = []string{"Content-Type", "application/json", "Content-Encoding", c.kind}
		}
		s.wants(c.status, c.why, "POST", c.path, c.body, header...)
	}
	s.wants(400, "lastDirtyTimestamp must be", "PUT", "/apps/a/b?lastDirtyTimestamp=x", "")
	s.wants(400, "value must be", "PUT", "/apps/a/b/status?value=up", "")
	s.wants(404, "", "PUT", "/apps/A%00/b", "")
	s.wants(404, "", "PATCH", "/apps/a/b", "")
	if n := len(s.registry.View().Services); n != 0 {
		t.Errorf("%d services were registered", n)
	}
	for i := range 3001 {
		want := 204
		if i == 3000 {
			want = 507
		}
		if w := s.ask("POST", fmt.Sprintf("/apps/app%d", i), with(`"a":1`), "Content-Type", "application/json"); w.Code != want {
			t.Fatalf("%d: %d %s", i, w.Code, w.Body)
		}
	}
	s.wants(200, `"apps__hashcode":"UP_3000_"`, "GET", "/apps", "", asJSON...)
	counts := s.Requests()
	for _, c := range []eureka.Count{
		{Operation: "register", Result: "malformed"},
		{Operation: "register", Result: "too_large"},
		{Operation: "register", Result: "full"},
		{Operation: "renew", Result: "not_found"},
		{Operation: "register", Result: "ok"},
	} {
		if counts[c] == 0 {
			t.Errorf("%v is not counted: %v", c, counts)
		}
	}
}

func TestWhoMayAsk(t *testing.T) {
	s := start(t, eureka.Settings{Users: map[string]string{"spring": "a long password"}})
	basic := func(user, password string) []string {
		r := &http.Request{Header: http.Header{}}
		r.SetBasicAuth(user, password)
		return []string{"Authorization", r.Header.Get("Authorization")}
	}
	for _, header := range [][]string{nil, basic("spring", ""), basic("", ""), basic("spring", "a long passwor"), basic("other", "a long password"), {"Authorization", "Bearer x"}} {
		for _, path := range []string{"/apps", "/apps/delta", "/nothing"} {
			w := s.ask("GET", path, "", header...)
			if w.Code != 401 || !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Basic ") || w.Header().Get("Connection") != "close" {
				t.Errorf("%v %s: %d %v", header, path, w.Code, w.Header())
			}
		}
		s.wants(401, "", "POST", "/apps/a", spring, header...)
	}
	s.wants(200, "", "GET", "/apps", "", basic("spring", "a long password")...)
	if closed := start(t, eureka.Settings{}); closed.ask("GET", "/apps", "").Code != 401 {
		t.Error("without users and not open, it lets somebody in")
	}
}

// A page that somebody's browser shows can have it send what needs no permission
// of ours; and with a name that leads here, all else.
func TestWebPagesChangeNothing(t *testing.T) {
	s := start(t, eureka.Settings{Open: true})
	s.wants(204, "", "POST", "/apps/users", spring, asJSON...)
	xml := "<instance><hostName>h</hostName><port>80</port></instance>"
	for _, header := range [][]string{{"Content-Type", "text/plain", "Origin", "https://evil.example"}, {"Origin", "null"}, {"Origin", "http://example.com"}} {
		s.wants(403, "web pages", "POST", "/apps/users", xml, header...)
		for _, method := range []string{"PUT", "DELETE"} {
			s.wants(403, "", method, "/apps/users/10.0.0.7:users:8080", "", header...)
			s.wants(403, "", method, "/apps/users/10.0.0.7:users:8080/status?value=DOWN", "", header...)
		}
	}
	if n := s.Requests()[eureka.Count{Operation: "register", Result: "forbidden"}]; n != 3 {
		t.Errorf("%d are counted", n)
	}
	s.wants(200, `"apps__hashcode":"UP_1_"`, "GET", "/apps", "", append([]string{"Origin", "http://example.com"}, asJSON...)...)
}

// Connections that somebody only opens must not use up the process' descriptors.
func TestConnectionsAreBounded(t *testing.T) {
	s := start(t, eureka.Settings{Open: true, MaxConnections: 2})
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(l)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // whoever is still there is let go
		_ = s.Close(ctx)
	})
	open := func() (net.Conn, *bufio.Reader) {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprint(c, "GET /eureka/apps HTTP/1.1\r\nHost: x\r\n\r\n")
		return c, bufio.NewReader(c)
	}
	answered := func(r *bufio.Reader) {
		t.Helper()
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") {
			t.Fatalf("%q, %v", line, err)
		}
	}
	first, one := open()
	_, two := open()
	answered(one)
	answered(two)
	third, three := open()
	_ = third.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if line, err := three.ReadString('\n'); err == nil {
		t.Errorf("a third one is answered: %q", line)
	}
	_ = third.SetReadDeadline(time.Now().Add(time.Minute))
	first.Close()
	answered(three)
}

func TestDeltaAndFullAgree(t *testing.T) {
	s := start(t, eureka.Settings{Open: true})
	i := registry.Instance{Service: "users", Host: "10.0.0.1", Port: 80, Status: registry.Up, TTL: unit.Duration(time.Minute)}
	for n := range 20 {
		i.ID = fmt.Sprint("u", n)
		if _, _, err := s.registry.Register(t.Context(), i, registry.Expect{}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 20 {
		var err error
		switch id := fmt.Sprint("u", n); n % 4 {
		case 0:
			err = s.registry.Deregister(t.Context(), "users", id, registry.Expect{})
		case 1:
			_, err = s.registry.SetStatus(t.Context(), "users", id, registry.Down, registry.Expect{})
		case 2:
			_, err = s.registry.Override(t.Context(), "users", id, registry.Drain, registry.Expect{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	type answer struct {
		Applications struct {
			Hash        string `json:"apps__hashcode"`
			Application []struct {
				Instance []struct {
					InstanceID, Status, ActionType string
				}
			}
		}
	}
	var full, delta answer
	for path, into := range map[string]*answer{"/apps/": &full, "/apps/delta": &delta} {
		if err := json.Unmarshal([]byte(s.wants(200, "", "GET", path, "", asJSON...)), into); err != nil {
			t.Fatal(err)
		}
	}
	if full.Applications.Hash != "DOWN_5_OUT_OF_SERVICE_5_UP_5_" || delta.Applications.Hash != full.Applications.Hash {
		t.Errorf("%q and %q", full.Applications.Hash, delta.Applications.Hash)
	}
	now := map[string]string{} // a client that starts from nothing
	for _, a := range delta.Applications.Application {
		for _, x := range a.Instance {
			if now[x.InstanceID] = x.Status; x.ActionType == "DELETED" {
				delete(now, x.InstanceID)
			}
		}
	}
	if len(now) != 15 || len(full.Applications.Application[0].Instance) != 15 {
		t.Errorf("%v and %v", now, full)
	}
	for _, x := range full.Applications.Application[0].Instance {
		if now[x.InstanceID] != x.Status {
			t.Errorf("%s is %s, by delta %s", x.InstanceID, x.Status, now[x.InstanceID])
		}
	}
}
