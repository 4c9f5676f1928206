package waf

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCredentialVariables(t *testing.T) {
	for name, want := range map[string]bool{
		"REQUEST_HEADERS:Authorization": true, "REQUEST_HEADERS:cookie": true, "REQUEST_HEADERS:X-Api-Key": true,
		"REQUEST_HEADERS:User-Agent": false, "REQUEST_HEADERS:Accept": false, "RESPONSE_HEADERS:Set-Cookie": true,
		"REQUEST_COOKIES:anything": true, "ARGS:q": false, "ARGS:password": true, "ARGS:newPassword2": true,
		"ARGS:user[pwd]": true, "ARGS:json.user.api_key": true, "ARGS:access_token": true, "ARGS:pin": true,
		"ARGS:shipping": false, "ARGS:authors": false, "ARGS:author": false, "ARGS:card_number": true, "ARGS:cards": false,
		"REQUEST_URI:": false,
	} {
		variable, key, _ := strings.Cut(name, ":")
		if got := credential(variable, key); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestMaskInText(t *testing.T) {
	for in, want := range map[string]string{
		"":                                      "",
		"found within ARGS:q: 1' or 1=1":        "found within ARGS:q: 1' or 1=1",
		"/login?user=anna&password=hunter2&x=1": "/login?user=anna&password=[masked]&x=1",
		`{"user":"anna","api_key":"hunter2"}`:   `{"user":"anna","api_key":"[masked]"}`,
		"Authorization: Bearer hunter2hunter2":  "Authorization: [masked] [masked]",
		"got Basic aHVudGVyMjpodW50ZXIy here":   "got Basic [masked] here",
		"t eyJhbGciOiJIUzI1NiJ9.eyJzdWIi.sig z": "t [masked] z",
		"client_secret = hunter2; y":            "client_secret = [masked]; y",
	} {
		if got := mask(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	long := strings.Repeat("é", maxText)
	if got := cut("x" + long); len(got) > maxText+len("…") || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") {
		t.Fatalf("%d bytes, %q", len(got), got)
	}
	if cut("abc") != "abc" {
		t.Fatal("short text was changed")
	}
}
