package wire

import "github.com/valyala/fasthttp"

// Fill puts the request's line and those fields that are the pipeline's into q.
func (h *Head) Fill(q *fasthttp.RequestHeader) {
	q.SetNoDefaultContentType(true)
	q.SetMethodBytes(h.Method)
	q.SetRequestURIBytes(h.Target)
	q.SetHostBytes(h.Host)
	if h.HTTP10 {
		q.SetProtocol("HTTP/1.0")
	}
	if h.HasCookie {
		// As an ordinary field a cookie stays as it was sent until somebody asks
		// for cookies; fasthttp would take it apart and lose some.
		q.DisableSpecialHeader()
		for _, f := range h.Fields {
			if n := f.Name(h.Raw); EqualFold(n, "cookie") {
				q.AddBytesKV(n, f.Value(h.Raw))
			}
		}
		q.EnableSpecialHeader()
	}
	for i, f := range h.Fields {
		n := f.Name(h.Raw)
		if h.Special(i) || h.HasCookie && EqualFold(n, "cookie") {
			continue
		}
		q.AddBytesKV(n, f.Value(h.Raw))
	}
}
