package waf

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// hidden stands for what must not be logged.
const hidden = "[masked]"

// maxText is how much of a message or of matched data is logged, in bytes.
const maxText = 256

// secretWords mark arguments, headers and fields whose values are credentials.
const secretWords = `pass(?:wd|word|phrase|code)?|pwd|secret|token|api[-_]?key|apikey|auth(?:orization)?|credential|session|sessid|jwt|otp|pin|cvv|cvc|card(?:[-_]?(?:no|num|number))?|ssn|iban|signature|private[-_]?key`

var (
	secretKey = regexp.MustCompile(`(?i)(?:\A|[^a-z])(?:` + secretWords + `)(?:[^a-z]|\z)|(?i)(?:password|passwd|secret|token|apikey|credential|sessionid|sessid)`)
	// In free text: name=value, name: value and "name":"value". Short words that
	// are parts of many others are left out.
	secretPair = regexp.MustCompile(`(?i)([a-z0-9_.\[\]-]*(?:passw|passphrase|passcode|pwd|secret|token|api[-_]?key|authorization|credential|session_?id|sessid|jwt|private[-_]?key)[a-z0-9_.\[\]-]*["']?\s*[:=]\s*["']?)([^&;,"'\s}]+)`)
	// In free text: the credentials of RFC 7235, and JSON web tokens.
	secretScheme = regexp.MustCompile(`(?i)\b(bearer|basic|digest|negotiate)\s+[a-z0-9._~+/=-]{6,}`)
	secretJWT    = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`)
)

// secretHeaders are headers whose values are credentials as a whole.
var secretHeaders = map[string]bool{
	"authorization": true, "proxy-authorization": true, "cookie": true, "set-cookie": true,
	"x-api-key": true, "api-key": true, "x-auth-token": true, "x-csrf-token": true, "x-xsrf-token": true,
	"x-amz-security-token": true, "x-forwarded-client-cert": true,
}

// credential reports that a variable's value is not for the log.
func credential(variable, key string) bool {
	switch variable {
	case "REQUEST_COOKIES", "ENV":
		return true
	case "REQUEST_HEADERS", "RESPONSE_HEADERS":
		if secretHeaders[strings.ToLower(key)] {
			return true
		}
	}
	return key != "" && secretKey.MatchString(key)
}

// mask hides credentials inside free text.
func mask(s string) string {
	if s == "" {
		return s
	}
	s = secretScheme.ReplaceAllString(s, "$1 "+hidden)
	s = secretPair.ReplaceAllString(s, "${1}"+hidden)
	return secretJWT.ReplaceAllString(s, hidden)
}

// cut shortens s to maxText bytes of whole characters, and copies it.
func cut(s string) string {
	if len(s) <= maxText {
		return strings.Clone(s)
	}
	n := maxText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
