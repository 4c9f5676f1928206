package metrics_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gatehouse-proxy/gatehouse/telemetry/metrics"
)

func TestServices(t *testing.T) {
	m := metrics.New(metrics.Settings{})
	var c *metrics.RegistryCounts
	m.Services(func() *metrics.RegistryCounts { return c })
	if text := scrape(t, m); strings.Contains(text, "gatehouse_registry_") {
		t.Error("there are series of a registry nobody uses")
	}
	c = &metrics.RegistryCounts{
		Services: 2, Missing: 3, Malformed: 4, Overdue: 5, StoreUp: true, Preserving: true, Evicted: 6, Answered: time.Unix(1000, 0),
		Instances: []metrics.InstanceCount{{Service: "users", Status: "up", Count: 7}},
	}
	m.Eureka(func() []metrics.EurekaCount {
		return []metrics.EurekaCount{{Operation: "renew", Result: "ok", Count: 8}}
	})
	want(t, scrape(t, m),
		`gatehouse_registry_eureka_requests_total{operation="renew",result="ok"} 8`,
		`gatehouse_registry_instances{service="users",status="up"} 7`,
		`gatehouse_registry_services 2`, `gatehouse_registry_instances_missing 3`, `gatehouse_registry_entries_malformed 4`,
		`gatehouse_registry_store_up 1`, `gatehouse_registry_last_answer_timestamp_seconds 1000`,
		`gatehouse_registry_self_preservation 1`, `gatehouse_registry_leases_overdue 5`, `gatehouse_registry_evictions_total 6`)
}
