package frames_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/net/http2"

	"github.com/gatehouse-proxy/gatehouse/gateway/h2/frames"
)

// everything is one of each frame.
func everything() []byte {
	b := frames.AppendSettings(nil, frames.Setting{ID: frames.InitialWindowSize, Value: 70000}, frames.Setting{ID: frames.MaxFrameSize, Value: 1 << 14})
	b = frames.AppendSettingsAck(b)
	b = frames.AppendBlock(b, 1, false, []byte("0123456789"), 4)
	b = frames.AppendData(b, 1, true, bytes.Repeat([]byte("x"), frames.MinFrame))
	b = frames.AppendReset(b, 3, frames.RefusedStream)
	b = frames.AppendPing(b, true, [8]byte{1, 2, 3})
	b = frames.AppendWindowUpdate(b, 5, 77)
	return frames.AppendGoAway(b, 7, frames.EnhanceYourCalm, "bye")
}

func TestFramesAreWhatAnotherReads(t *testing.T) {
	f := http2.NewFramer(nil, bytes.NewReader(everything()))
	var got []string
	for {
		v, err := f.ReadFrame()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text := v.Header().Type.String()
		switch v := v.(type) {
		case *http2.SettingsFrame:
			if n, _ := v.Value(http2.SettingInitialWindowSize); !v.IsAck() && n != 70000 {
				t.Errorf("a window of %d", n)
			}
		case *http2.HeadersFrame:
			text += string(v.HeaderBlockFragment())
		case *http2.ContinuationFrame:
			text += string(v.HeaderBlockFragment())
		case *http2.DataFrame:
			if len(v.Data()) != frames.MinFrame || !v.StreamEnded() {
				t.Errorf("%v", v)
			}
		case *http2.RSTStreamFrame:
			text += v.ErrCode.String()
		case *http2.GoAwayFrame:
			text += v.ErrCode.String() + string(v.DebugData())
		case *http2.WindowUpdateFrame:
			if v.Increment != 77 {
				t.Errorf("%v", v)
			}
		}
		got = append(got, text)
	}
	want := "SETTINGS SETTINGS HEADERS0123 CONTINUATION4567 CONTINUATION89 DATA RST_STREAMREFUSED_STREAM PING WINDOW_UPDATE GOAWAYENHANCE_YOUR_CALMbye"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got %s", s)
	}
}

func TestFramesComeInAnyPieces(t *testing.T) {
	all := everything()
	for name, src := range map[string]io.Reader{
		"at once": bytes.NewReader(all), "bytes": iotest.OneByteReader(bytes.NewReader(all)),
		"halves": iotest.HalfReader(bytes.NewReader(all)), "with the end": iotest.DataErrReader(bytes.NewReader(all)),
	} {
		for _, early := range []int{0, 5, 100} {
			_, _ = io.CopyN(io.Discard, src, int64(early))
			r := frames.NewReader(src, all[:early:early])
			n := 0
			for {
				f, err := r.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				switch n++; f.Type {
				case frames.Reset:
					if frames.Code(f.Uint32()) != frames.RefusedStream || f.Stream != 3 {
						t.Errorf("%+v", f)
					}
				case frames.GoAway:
					if f.Uint32() != 7 || f.GoAwayCode() != frames.EnhanceYourCalm {
						t.Errorf("%+v", f)
					}
				case frames.Data:
					if !f.Ended() || len(f.Payload) != frames.MinFrame {
						t.Errorf("%d bytes", len(f.Payload))
					}
				}
			}
			if n != 10 {
				t.Errorf("%s: %d frames", name, n)
			}
			r.Release()
			if seek, ok := src.(*bytes.Reader); ok {
				_, _ = seek.Seek(0, io.SeekStart)
			} else {
				break
			}
		}
	}
}

func TestBrokenRules(t *testing.T) {
	raw := func(t frames.Type, flags byte, stream uint32, payload string) []byte {
		return append(frames.AppendHead(nil, len(payload), t, flags, stream), payload...)
	}
	headers := frames.AppendHead(nil, 0, frames.Headers, 0, 1)
	for name, c := range map[string]struct {
		b      []byte
		code   frames.Code
		stream uint32
	}{
		"too large":                 {frames.AppendHead(nil, frames.MinFrame+1, frames.Data, 0, 1), frames.FrameSizeError, 0},
		"data of no stream":         {raw(frames.Data, 0, 0, "x"), frames.ProtocolError, 0},
		"settings on a stream":      {raw(frames.Settings, 0, 1, ""), frames.ProtocolError, 0},
		"padding without a length":  {raw(frames.Data, 8, 1, ""), frames.FrameSizeError, 0},
		"more padding than frame":   {raw(frames.Data, 8, 1, "\x05abcd"), frames.ProtocolError, 0},
		"padding in headers":        {raw(frames.Headers, 8|4, 1, "\x05abcd"), frames.ProtocolError, 0},
		"short priority in headers": {raw(frames.Headers, 0x20|4, 1, "abcd"), frames.FrameSizeError, 0},
		"priority":                  {raw(frames.Priority, 0, 1, "abcd"), frames.FrameSizeError, 1},
		"reset":                     {raw(frames.Reset, 0, 1, "abc"), frames.FrameSizeError, 0},
		"settings":                  {raw(frames.Settings, 0, 0, "abc"), frames.FrameSizeError, 0},
		"settings ack":              {raw(frames.Settings, 1, 0, "abcdef"), frames.FrameSizeError, 0},
		"ping":                      {raw(frames.Ping, 0, 0, "abc"), frames.FrameSizeError, 0},
		"goaway":                    {raw(frames.GoAway, 0, 0, "abc"), frames.FrameSizeError, 0},
		"window":                    {raw(frames.WindowUpdate, 0, 0, "abc"), frames.FrameSizeError, 0},
		"window by nothing":         {raw(frames.WindowUpdate, 0, 0, "\x80\x00\x00\x00"), frames.ProtocolError, 0},
		"stream's window":           {raw(frames.WindowUpdate, 0, 5, "\x00\x00\x00\x00"), frames.ProtocolError, 5},
		"continuation of nothing":   {raw(frames.Continuation, 4, 1, ""), frames.ProtocolError, 0},
		"continuation of another":   {append(headers[:9:9], raw(frames.Continuation, 4, 3, "")...), frames.ProtocolError, 0},
		"data within a block":       {append(headers[:9:9], raw(frames.Data, 0, 1, "")...), frames.ProtocolError, 0},
		"unknown within a block":    {append(headers[:9:9], raw(200, 0, 0, "")...), frames.ProtocolError, 0},
	} {
		r := frames.NewReader(bytes.NewReader(c.b), nil)
		var err error
		for err == nil {
			_, err = r.Next()
		}
		var e *frames.Error
		if !errors.As(err, &e) || e.Code != c.code || e.Stream != c.stream {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := frames.NewReader(strings.NewReader("\x00\x00\x01\x00"), nil)
	if _, err := r.Next(); err != io.ErrUnexpectedEOF || string(r.Peek()) != "\x00\x00\x01\x00" {
		t.Errorf("an end within a frame: %v, %q", err, r.Peek())
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		s    frames.Setting
		code frames.Code
	}{
		{frames.Setting{ID: frames.EnablePush, Value: 2}, frames.ProtocolError},
		{frames.Setting{ID: frames.InitialWindowSize, Value: 1 << 31}, frames.FlowControlError},
		{frames.Setting{ID: frames.MaxFrameSize, Value: 100}, frames.ProtocolError},
		{frames.Setting{ID: frames.MaxFrameSize, Value: 1 << 24}, frames.ProtocolError},
		{frames.Setting{ID: 99, Value: 1 << 31}, frames.NoError},
	} {
		f, err := frames.NewReader(bytes.NewReader(frames.AppendSettings(nil, c.s)), nil).Next()
		if err != nil {
			t.Fatal(err)
		}
		s, ok, err := f.Setting(0)
		var e *frames.Error
		if s != c.s || !ok || (err == nil) != (c.code == frames.NoError) || err != nil && (!errors.As(err, &e) || e.Code != c.code) {
			t.Errorf("%+v: %+v, %v", c.s, s, err)
		}
		if _, ok, _ := f.Setting(1); ok {
			t.Error("one setting too many")
		}
	}
}

// Whatever comes, it is read as x/net's Framer reads it, or refused like there.
func FuzzReader(f *testing.F) {
	f.Add(everything())
	f.Add([]byte("\x00\x00\x06\x00\x08\x00\x00\x00\x01\x02abc\x00\x00"))
	f.Add([]byte("\x00\x00\x05\x01\x2c\x00\x00\x00\x01\x00abcd"))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		theirs := http2.NewFramer(nil, bytes.NewReader(b))
		theirs.SetMaxReadFrameSize(frames.MinFrame)
		ours := frames.NewReader(iotest.HalfReader(bytes.NewReader(b)), nil)
		for {
			v, theirErr := theirs.ReadFrame()
			got, err := ours.Next()
			var e *frames.Error
			if errors.As(err, &e) && e.Stream != 0 || got.Type == frames.PushPromise || got.Type > frames.Continuation {
				return // what x/net says there is its own affair
			}
			if e != nil && e.Detail == "a stream depends on itself" {
				return // x/net leaves that to its caller
			}
			if (err == nil) != (theirErr == nil) {
				t.Fatalf("we say %v, x/net %v", err, theirErr)
			}
			if err != nil {
				return
			}
			if h := v.Header(); uint8(h.Type) != uint8(got.Type) || h.StreamID != got.Stream {
				t.Fatalf("we read %+v, x/net %v", got, h)
			}
			switch v := v.(type) {
			case *http2.DataFrame:
				if !bytes.Equal(v.Data(), got.Payload) || int(v.Length) != len(got.Payload)+got.Padding {
					t.Fatalf("%q and %q", v.Data(), got.Payload)
				}
			case *http2.HeadersFrame:
				if !bytes.Equal(v.HeaderBlockFragment(), got.Payload) {
					t.Fatalf("%q and %q", v.HeaderBlockFragment(), got.Payload)
				}
			}
		}
	})
}
