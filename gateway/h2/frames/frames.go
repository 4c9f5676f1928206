// Package frames is what both sides of HTTP/2 (RFC 9113) need below streams: the
// form of frames, header compression, the arithmetic of windows, buffers for
// bodies and a connection whose frames go out together. The server h2 and the
// client upstream/http2 use it. It decides nothing and knows no stream; it does
// not allocate once it runs.
package frames

import (
	"encoding/binary"
	"fmt"
)

// Type of a frame.
type Type uint8

// The types of RFC 9113, 6. Others are to be ignored.
const (
	Data Type = iota
	Headers
	Priority
	Reset
	Settings
	PushPromise
	Ping
	GoAway
	WindowUpdate
	Continuation
)

// Flags of frames; what a bit means depends on the type.
const (
	EndStream   = 0x1 // of Data and Headers
	Ack         = 0x1 // of Settings and Ping
	EndHeaders  = 0x4
	padded      = 0x8
	hasPriority = 0x20
)

// Code says why a stream or a connection ends (RFC 9113, 7).
type Code uint32

// The codes.
const (
	NoError Code = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

var codes = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String is the name that the RFC has for it.
func (c Code) String() string {
	if int(c) < len(codes) {
		return codes[c]
	}
	return fmt.Sprintf("error code %d", uint32(c))
}

// SettingID names a setting.
type SettingID uint16

// The settings of RFC 9113, 6.5.2, and that of RFC 8441, 3.
const (
	HeaderTableSize SettingID = iota + 1
	EnablePush
	MaxConcurrentStreams
	InitialWindowSize
	MaxFrameSize
	MaxHeaderListSize
	_
	EnableConnectProtocol
)

// Setting is one of a SETTINGS frame.
type Setting struct {
	ID    SettingID
	Value uint32
}

const (
	// Preface is what a client sends before its first frame.
	Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	// HeaderLen is the length of what every frame begins with.
	HeaderLen = 9
	// MinFrame is how large a payload everybody must take, and what applies until
	// SETTINGS say more; LargestFrame is the most that they can say.
	MinFrame, LargestFrame = 1 << 14, 1<<24 - 1
	// DefaultWindow is every window until SETTINGS or WINDOW_UPDATE say otherwise.
	DefaultWindow = 65535
	// MaxWindow is the largest window, and the largest stream.
	MaxWindow = 1<<31 - 1
	// DefaultTable is the size of the table of header compression until SETTINGS
	// say otherwise.
	DefaultTable = 4096
)

// AppendHead appends what a frame begins with.
func AppendHead(b []byte, length int, t Type, flags byte, stream uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), byte(t), flags,
		byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

// AppendBlock appends a header block as a HEADERS frame and as many
// CONTINUATION frames as it takes. end says that no body follows.
func AppendBlock(b []byte, stream uint32, end bool, block []byte, maxFrame int) []byte {
	t, flags := Headers, byte(0)
	if end {
		flags = EndStream
	}
	for {
		piece := block[:min(len(block), maxFrame)]
		if block = block[len(piece):]; len(block) == 0 {
			flags |= EndHeaders
		}
		b = append(AppendHead(b, len(piece), t, flags, stream), piece...)
		if len(block) == 0 {
			return b
		}
		t, flags = Continuation, 0
	}
}

// AppendData appends a DATA frame. p is at most the peer's maximum.
func AppendData(b []byte, stream uint32, end bool, p []byte) []byte {
	var flags byte
	if end {
		flags = EndStream
	}
	return append(AppendHead(b, len(p), Data, flags, stream), p...)
}

// AppendReset appends a RST_STREAM frame.
func AppendReset(b []byte, stream uint32, c Code) []byte {
	return binary.BigEndian.AppendUint32(AppendHead(b, 4, Reset, 0, stream), uint32(c))
}

// AppendSettings appends a SETTINGS frame.
func AppendSettings(b []byte, settings ...Setting) []byte {
	b = AppendHead(b, 6*len(settings), Settings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, uint16(s.ID)), s.Value)
	}
	return b
}

// AppendSettingsAck appends the answer to SETTINGS.
func AppendSettingsAck(b []byte) []byte { return AppendHead(b, 0, Settings, Ack, 0) }

// AppendPing appends a PING, or the answer to one.
func AppendPing(b []byte, ack bool, data [8]byte) []byte {
	var flags byte
	if ack {
		flags = Ack
	}
	return append(AppendHead(b, len(data), Ping, flags, 0), data[:]...)
}

// AppendGoAway appends a GOAWAY frame: streams above last have not been looked at.
func AppendGoAway(b []byte, last uint32, c Code, debug string) []byte {
	b = AppendHead(b, 8+len(debug), GoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	return append(binary.BigEndian.AppendUint32(b, uint32(c)), debug...)
}

// AppendWindowUpdate appends a WINDOW_UPDATE frame; n is above 0.
func AppendWindowUpdate(b []byte, stream uint32, n int32) []byte {
	return binary.BigEndian.AppendUint32(AppendHead(b, 4, WindowUpdate, 0, stream), uint32(n))
}
