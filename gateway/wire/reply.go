package wire

import "github.com/valyala/fasthttp"

// Bodiless reports a reply that ends with its head, whatever that says; head
// says that it answers a HEAD.
func Bodiless(status int, head bool) bool { return status == 204 || status == 304 || head }

// BodilessLength is the Content-Length of a reply that is Bodiless: what a GET
// would have said, where it is known; below 0 for none. length is that of the
// body left out, 0 where it was streamed.
func BodilessLength(resp *fasthttp.Response, length int, streamed bool) int {
	announced := resp.Header.ContentLength()
	switch status := resp.StatusCode(); {
	case status == 204, status == 304 && announced <= 0:
		return -1
	case length == 0 && (announced != 0 || streamed):
		return announced
	}
	return length
}

// CutLine takes the first of complete lines "Name: value\r\n" apart; ok is false
// where there is none.
func CutLine(lines []byte) (name, value, rest []byte, ok bool) {
	colon := 0
	for colon < len(lines) && lines[colon] != ':' {
		colon++
	}
	end := colon
	for end < len(lines) && lines[end] != '\r' {
		end++
	}
	if end == len(lines) {
		return nil, nil, nil, false
	}
	value = lines[colon+1 : end]
	for len(value) > 0 && (value[0] == ' ' || value[0] == '\t') {
		value = value[1:]
	}
	return lines[:colon], value, lines[min(end+2, len(lines)):], true
}
