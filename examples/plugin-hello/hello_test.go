package hello

import (
	"testing"

	"github.com/gatehouse-proxy/gatehouse/gateway/reason"
	"github.com/gatehouse-proxy/gatehouse/plugins"
	"github.com/gatehouse-proxy/gatehouse/plugins/plugintest"
)

func TestConformance(t *testing.T) {
	plugintest.Run(t, Factory(), plugintest.Options{
		Good: []string{"{greeting: hi, unwelcome: [BadBot]}"},
		Bad: []plugintest.Bad{
			{YAML: "unwelcome: ['']", Want: "unwelcome: must not have an empty text"},
			{YAML: "greeting: 5", Want: "greeting"},
		},
	})
}

func TestGreetsAndTurnsAway(t *testing.T) {
	in, err := Factory().New(&Config{Greeting: "hi", Unwelcome: []string{"BadBot"}}, plugins.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(agent string) plugintest.Reply {
		return plugintest.Do(t, plugintest.Request{Raw: "GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: " + agent + "\r\n\r\n"}, in.Handle, plugintest.Upstream)
	}
	if r := ask("curl/8"); r.Status != 200 || string(r.Header.Peek("X-Hello")) != "hi" {
		t.Errorf("%d, X-Hello %q", r.Status, r.Header.Peek("X-Hello"))
	}
	if r := ask("BadBot/1.0"); r.Status != 403 || r.Refusal.Reason != reason.Forbidden {
		t.Errorf("%d %v", r.Status, r.Refusal)
	}
}
