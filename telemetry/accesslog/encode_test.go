package accesslog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

type headers map[string]string

func (h headers) Peek(name string) []byte { return []byte(h[name]) }

func full() Record {
	return Record{
		Time: time.Date(2026, 10, 2, 12, 0, 1, 250_007_000, time.UTC), Duration: 12_345_678,
		RequestID: "01J", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
		Client: netip.MustParseAddr("192.0.2.1"), Peer: netip.MustParseAddrPort("[fe80::1%eth0]:443"),
		Listener: "web", Route: "users", Protocol: "HTTP/1.1", Method: "GET", Scheme: "https",
		Host: "api.example.com", Path: "/v1/users", Query: "q=1&password=hunter2",
		Status: 503, BytesIn: 10, BytesOut: 2048,
		GRPCStatus: "UNAVAILABLE", GRPCMessage: "no\n\"x\"",
		Upstream: "api", Endpoint: "10.0.0.1:80", Attempts: 2, UpstreamStatus: 503, UpstreamTook: 10 * time.Millisecond, UpstreamProtocol: "h2", Reused: true,
		Flags: "UC", Reason: "upstream_reset", Detail: `read "x": EOF`, Step: "proxy",
		Consumer: "alice", Subject: "sub", Auth: "jwt",
		TLS:       TLS{Version: "TLS 1.3", Cipher: "TLS_AES_128_GCM_SHA256", ServerName: "api.example.com", Resumed: true, Subject: "CN=alice", SPIFFEID: "spiffe://x/y", Fingerprint: "ab"},
		WAF:       WAF{Policy: "default", Mode: "block", Score: 5, Rules: []int{942100, 949110}},
		UserAgent: "curl/8", Referer: "https://u:p@x.test/a?token=abc&b=1#frag",
		Request: headers{"X-Tenant": "t\x001", "Cookie": "a=b"},
	}
}

func TestJSON(t *testing.T) {
	f := newFields([]string{"X-Tenant", "Cookie", "X-Absent"}, nil)
	r := full()
	got := string(f.appendJSON(nil, &r))
	want := `{"time":"2026-10-02T12:00:01.250007Z","duration_ms":12.345,"request_id":"01J","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736",` +
		`"client":"192.0.2.1","peer":"[fe80::1]:443","listener":"web","route":"users","protocol":"HTTP/1.1","method":"GET","scheme":"https",` +
		`"host":"api.example.com","path":"/v1/users","query":"q=1&password=***","status":503,"bytes_in":10,"bytes_out":2048,"grpc_status":"UNAVAILABLE","grpc_message":"no\n\"x\"",` +
		`"upstream":"api","endpoint":"10.0.0.1:80","attempts":2,"upstream_status":503,"upstream_protocol":"h2","upstream_ms":10.000,"reused":true,` +
		`"flags":"UC","reason":"upstream_reset","detail":"read \"x\": EOF","step":"proxy","consumer":"alice","subject":"sub","auth":"jwt",` +
		`"tls_version":"TLS 1.3","tls_cipher":"TLS_AES_128_GCM_SHA256","server_name":"api.example.com","tls_resumed":true,` +
		`"client_subject":"CN=alice","client_spiffe_id":"spiffe://x/y","client_fingerprint":"ab",` +
		`"waf":{"policy":"default","mode":"block","blocked":false,"score":5,"rules":[942100,949110]},` +
		`"user_agent":"curl/8","referer":"https://***@x.test/a?token=***&b=1#***",` +
		`"headers":{"x-tenant":"t\u00001","cookie":"***"}}` + "\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	small := Record{Method: "GET", Status: 404}
	got = string(f.appendJSON(nil, &small))
	want = `{"time":"0001-01-01T00:00:00.000000Z","duration_ms":0.000,"method":"GET","status":404,"bytes_in":0,"bytes_out":0}` + "\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestConsole(t *testing.T) {
	f := newFields(nil, nil)
	r := full()
	r.Path = "/a\n\x1b[31m\u202eé\xff"
	got := string(f.appendConsole(nil, &r))
	want := `12:00:01.250 503 GET https://api.example.com/a\x0a\x1b[31m\xe2\x80\xaeé\xff?q=1&password=*** 12.345ms 2048B 192.0.2.1` +
		` route=users grpc=UNAVAILABLE grpc_message="no\x0a\x22x\x22" upstream=api endpoint=10.0.0.1:80 attempts=2 flags=UC reason=upstream_reset step=proxy detail="read \x22x\x22: EOF"` +
		" consumer=alice waf=5,942100,949110 id=01J\n"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMaskedQueries(t *testing.T) {
	f := newFields(nil, []string{"Tax-ID"})
	for in, want := range map[string]string{
		"a=1&b=2":                       "a=1&b=2",
		"token=x":                       "token=***",
		"access_token=x&y=1":            "access_token=***&y=1",
		"ACCESS-TOKEN=x":                "ACCESS-TOKEN=***",
		"acc%65ss%5Ftoken=x":            "acc%65ss%5Ftoken=***",
		"user[password]=x":              "user[password]=***",
		"user%5Bpassword%5D=x":          "user%5Bpassword%5D=***",
		"user.secret=x;b=2":             "user.secret=***;b=2",
		"a=1;token=x":                   "a=1;token=***",
		"X-Amz-Signature=ff&x=1":        "X-Amz-Signature=***&x=1",
		"taxid=1&tax_id=2":              "taxid=***&tax_id=***",
		"token":                         "token",
		"=x&&&=":                        "=x&&&=",
		"tokens=1&monkey=2":             "tokens=1&monkey=2",
		"%=1&%zz=2&%4=3":                "%=1&%zz=2&%4=3",
		strings.Repeat("a", 200):        strings.Repeat("a", 200),
		"token=a=b":                     "token=***",
		"q=token%3Dx":                   "q=token%3Dx",
		strings.Repeat("k", 200) + "=v": strings.Repeat("k", 200) + "=***",
	} {
		if got := string(f.query(nil, in, appendEscaped)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestMaskedHeaders(t *testing.T) {
	f := newFields([]string{"Authorization", "cookie", "Set-Cookie", "X-API-Key", "Proxy-Authorization", "X-Mine", "Accept"}, []string{"x-mine"})
	for _, h := range f.chosen {
		if want := h.key != "accept"; h.masked != want {
			t.Errorf("%s: masked %v", h.name, h.masked)
		}
	}
}

// TestHostileHeaders: nothing drives the terminal of who reads the log, and
// headers of 64 KiB do not make lines of that size.
func TestHostileHeaders(t *testing.T) {
	fl := newFields([]string{"X-H"}, nil)
	r := full()
	r.UserAgent = "\u009b2J\x7f" + strings.Repeat("é", 30_000)
	r.Referer = "http://r.test/" + strings.Repeat("a", 60_000)
	r.Request = headers{"X-H": "x" + strings.Repeat("é", 30_000)}
	line := fl.appendJSON(nil, &r)
	if bytes.ContainsRune(line, '\u009b') || bytes.ContainsRune(line, 0x7f) || !bytes.Contains(line, []byte(`"\u009b2J\u007fé`)) {
		t.Errorf("terminal controls in %.300q", line)
	}
	if len(line) > 4*longest || bytes.Contains(line, []byte(`\ufffd`)) || !json.Valid(line) {
		t.Errorf("a line of %d bytes, or with half a character", len(line))
	}
}

func FuzzEscapeLikeEncodingJSON(f *testing.F) {
	for _, s := range []string{"", "plain", "q\"\\/\b\f\n\r\t\x00\x1f\x7f", "é\u2028\u2029\xff\xc3", "<a&b>", "\u0080\u009b2J\u009f\u00a0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := `"` + string(appendEscaped(nil, s)) + `"`
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(s); err != nil {
			t.Fatal(err)
		}
		text := want.String() // in which terminal controls stand as they are
		for c := rune(0x7f); c < 0xa0; c++ {
			text = strings.ReplaceAll(text, string(c), fmt.Sprintf(`\u%04x`, c))
		}
		if got+"\n" != text {
			t.Fatalf("%q: got %s, encoding/json writes %s", s, got, text)
		}
	})
}

func FuzzLineIsOneJSONObject(f *testing.F) {
	f.Add("/a", "x=1&token=2", "ua", "http://r/?q#f", "h")
	f.Add("/\xff\n", "%", "\"", "://@", "\x00")
	f.Fuzz(func(t *testing.T, path, query, agent, referer, h string) {
		fl := newFields([]string{"X-H"}, nil)
		r := full()
		r.Path, r.Query, r.UserAgent, r.Referer, r.Request = path, query, agent, referer, headers{"X-H": h}
		line := fl.appendJSON(nil, &r)
		if bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' || !json.Valid(line) || !utf8.Valid(line) {
			t.Fatalf("not one line of JSON: %q", line)
		}
		text := fl.appendConsole(nil, &r)
		if bytes.Count(text, []byte("\n")) != 1 || bytes.ContainsAny(text, "\x1b\r\x7f\x00") || !utf8.Valid(text) {
			t.Fatalf("console line can drive a terminal: %q", text)
		}
	})
}
