package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Kind is a Prometheus metric type.
type Kind string

// The kinds in use.
const (
	KindCounter   Kind = "counter"
	KindGauge     Kind = "gauge"
	KindHistogram Kind = "histogram"
)

// Family describes one metric for documentation.
type Family struct {
	Name, Help string
	Kind       Kind
	Labels     []string
}

type family struct {
	Family
	desc *prometheus.Desc
}

func define(kind Kind, name, help string, labels ...string) *family {
	return &family{
		Family: Family{Name: name, Help: help, Kind: kind, Labels: labels},
		desc:   prometheus.NewDesc(name, help, labels, nil),
	}
}

// unhandledRefusals is the reason under which unknown ones are counted.
const unhandledRefusals = "other"

// The families this package collects. The order is the documentation's.
var (
	buildInfo = define(KindGauge, "gatehouse_build_info", "Always 1; the labels say which version runs.", "version", "go_version")

	requests        = define(KindCounter, "gatehouse_route_requests_total", "Requests finished, by route and status code.", "route", "code")
	requestDuration = define(KindHistogram, "gatehouse_route_request_duration_seconds", "From the first byte of the request head to the last byte of the reply.", "route")
	requestBytes    = define(KindCounter, "gatehouse_route_request_body_bytes_total", "Bytes of request bodies read.", "route")
	replyBytes      = define(KindCounter, "gatehouse_route_response_body_bytes_total", "Bytes of reply bodies written.", "route")
	grpcCalls       = define(KindCounter, "gatehouse_route_grpc_calls_total", "gRPC and gRPC-Web calls finished, by route and status, from the upstream or Gatehouse's own.", "route", "grpc_status")
	inFlight        = define(KindGauge, "gatehouse_route_requests_in_flight", "Requests being served, all routes together.")
	refusals        = define(KindCounter, "gatehouse_route_refusals_total", "Requests that Gatehouse itself answered, by reason.", "reason")

	replies          = define(KindCounter, "gatehouse_upstream_responses_total", "Replies of an upstream's endpoints, by status code; every try counts.", "upstream", "code")
	tryDuration      = define(KindHistogram, "gatehouse_upstream_try_duration_seconds", "From the start of one try to its reply head or failure.", "upstream")
	tries            = define(KindCounter, "gatehouse_upstream_tries_total", "Tries by endpoint and outcome.", "upstream", "endpoint", "outcome")
	retries          = define(KindCounter, "gatehouse_upstream_retries_total", "Tries after the first of a request.", "upstream")
	retriesDenied    = define(KindCounter, "gatehouse_upstream_retries_denied_total", "Retries not made because the budget was used up.", "upstream")
	hedges           = define(KindCounter, "gatehouse_upstream_hedges_total", "Second tries sent because the first was slow.", "upstream")
	mirrors          = define(KindCounter, "gatehouse_upstream_mirrored_total", "Copies of requests sent to a mirror.", "upstream")
	mirrorDropped    = define(KindCounter, "gatehouse_upstream_mirror_dropped_total", "Copies that were not sent to a mirror: too many were under way (busy), the body was too long or of unknown length (too_long), or the mirror had no endpoint to use or no room (unavailable).", "upstream", "cause")
	overflow         = define(KindCounter, "gatehouse_upstream_overflow_total", "What a circuit breaker limit refused: requests, or connections, for which requests then wait as long as they may.", "upstream", "limit")
	noEndpoint       = define(KindCounter, "gatehouse_upstream_no_endpoint_total", "Picks that found no endpoint to use.", "upstream")
	panicMode        = define(KindGauge, "gatehouse_upstream_panic_mode", "1 while so few endpoints are healthy that all are used.", "upstream")
	upstreamActive   = define(KindGauge, "gatehouse_upstream_requests_in_flight", "Tries under way, by endpoint.", "upstream", "endpoint")
	upstreamOpen     = define(KindGauge, "gatehouse_upstream_connections_open", "Connections to endpoints, idle ones included.", "upstream", "endpoint")
	upstreamConnects = define(KindCounter, "gatehouse_upstream_connects_total", "Connections made to endpoints.", "upstream", "endpoint")
	connectFailures  = define(KindCounter, "gatehouse_upstream_connect_failures_total", "Connections to endpoints that could not be made.", "upstream", "endpoint")
	healthy          = define(KindGauge, "gatehouse_upstream_endpoint_healthy", "1 if the endpoint passes its health check and is not ejected.", "upstream", "endpoint")
	ejections        = define(KindCounter, "gatehouse_upstream_ejections_total", "Times outlier detection took an endpoint out.", "upstream", "endpoint")
	probes           = define(KindCounter, "gatehouse_upstream_health_checks_total", "Health checks, by result.", "upstream", "endpoint", "result")
	sourceAge        = define(KindGauge, "gatehouse_upstream_discovery_age_seconds", "How long ago the source last confirmed the upstream's endpoints. Absent where it never did, and for endpoints given in the config.", "upstream", "source")
	sourceFailures   = define(KindCounter, "gatehouse_upstream_discovery_failures_total", "Attempts to find the upstream's endpoints that failed; the last list stays in use.", "upstream", "source")
	sourceEndpoints  = define(KindGauge, "gatehouse_upstream_discovery_endpoints", "Endpoints that the source has found.", "upstream", "source")
	listenerOpen     = define(KindGauge, "gatehouse_listener_connections_open", "Client connections.", "listener")
	listenerSpoken   = define(KindGauge, "gatehouse_listener_protocol_connections_open", "Client connections by what is spoken on them: h1, h2, h3 or tcp.", "listener", "protocol")
	listenerAccepted = define(KindCounter, "gatehouse_listener_connections_total", "Client connections accepted.", "listener")
	listenerRefused  = define(KindCounter, "gatehouse_listener_connections_refused_total", "Client connections closed at once, over a limit.", "listener")
	listenerRefusals = define(KindCounter, "gatehouse_listener_protocol_refusals_total", "Handshakes and requests refused before there was a request, by reason.", "listener", "reason")
	handshakes       = define(KindCounter, "gatehouse_listener_tls_handshakes_total", "TLS handshakes that succeeded: full ones, and those that resumed a session.", "listener", "kind")
	unknownNames     = define(KindCounter, "gatehouse_listener_tls_unknown_names_total", "TLS handshakes for a name that no certificate is for, or for none, which were shown the first certificate.", "listener")
	streamReceived   = define(KindCounter, "gatehouse_listener_stream_received_bytes_total", "Bytes that clients sent over connections and in datagrams that are passed on unread.", "listener")
	streamSent       = define(KindCounter, "gatehouse_listener_stream_sent_bytes_total", "Bytes that clients were sent over them.", "listener")
	acceptErrors     = define(KindCounter, "gatehouse_listener_accept_errors_total", "Accepts that failed, for want of file descriptors for example.", "listener")
	configRevision   = define(KindGauge, "gatehouse_config_revision_number", "The revision that is live; counts from 1 at start.")
	configOK         = define(KindGauge, "gatehouse_config_last_reload_successful", "1 if the last reload succeeded, 0 if the node keeps an older config.")
	configTime       = define(KindGauge, "gatehouse_config_last_success_timestamp_seconds", "When the live config was applied, seconds since 1970.")
	configTook       = define(KindGauge, "gatehouse_config_last_reload_duration_seconds", "How long the last reload took.")
	configReloads    = define(KindCounter, "gatehouse_config_reloads_total", "Reloads by result.", "result")
	configBroken     = define(KindGauge, "gatehouse_config_routes_broken", "Routes of the live config that do not work on this node.")
	fleetRevision    = define(KindGauge, "gatehouse_fleet_revision_number", "The revision of the fleet's config that is live here; 0: none. This and the following only where node.config is store.")
	fleetFromDisk    = define(KindGauge, "gatehouse_fleet_revision_from_disk", "1 while the live revision is the copy on disk and the store has not confirmed it since the start.")
	fleetUp          = define(KindGauge, "gatehouse_fleet_store_up", "1 if the store answered the last time it was asked.")
	fleetAnswered    = define(KindGauge, "gatehouse_fleet_store_last_answer_timestamp_seconds", "When the store last answered, seconds since 1970; 0: not since the start.")
	fleetRefused     = define(KindCounter, "gatehouse_fleet_revisions_refused_total", "Revisions that were not run here: signed by nobody trusted (untrusted), older than what runs (old), not readable (malformed), or not to be built on this node (invalid).", "reason")
	fleetRestored    = define(KindCounter, "gatehouse_fleet_revisions_restored_total", "Times this node gave an emptied store its revisions back.")
	sharedUp         = define(KindGauge, "gatehouse_secrets_store_up", "1 if certificates and session tickets are shared with other nodes: the store answers, and node.secret_key is theirs. Only of nodes with node.store.redis and node.secret_key.")
	ticketsShared    = define(KindGauge, "gatehouse_secrets_tickets_shared", "1 if the secrets behind session tickets are those of the fleet, 0 if this node has its own; by how often they are rotated.", "rotate")
	ticketsMade      = define(KindGauge, "gatehouse_secrets_tickets_made_timestamp_seconds", "When the secret was made that new session tickets are made with, seconds since 1970.", "rotate")
	serviceInstances = define(KindGauge, "gatehouse_registry_instances", "Instances in the service registry as this node sees it, by service and status; services beyond the first 100 by name are added up as \"other\". This and the following only where the registry is used.", "service", "status")
	serviceCount     = define(KindGauge, "gatehouse_registry_services", "Services in the registry.")
	serviceMissing   = define(KindGauge, "gatehouse_registry_instances_missing", "Instances that the store has lost and this node keeps until they register again.")
	serviceMalformed = define(KindGauge, "gatehouse_registry_entries_malformed", "Entries in the store that cannot be read and are left out.")
	serviceUp        = define(KindGauge, "gatehouse_registry_store_up", "1 if the registry could be read from the store the last time.")
	serviceAnswered  = define(KindGauge, "gatehouse_registry_last_answer_timestamp_seconds", "When it last could be, seconds since 1970; 0: not since the start.")
	servicePreserved = define(KindGauge, "gatehouse_registry_self_preservation", "1 while nobody is evicted because too many leases are over at once. On nodes with the control role.")
	serviceOverdue   = define(KindGauge, "gatehouse_registry_leases_overdue", "Leases that were over when they were last looked at.")
	serviceEvicted   = define(KindCounter, "gatehouse_registry_evictions_total", "Instances this node has evicted.")
	eurekaRequests   = define(KindCounter, "gatehouse_registry_eureka_requests_total", "Requests of clients of Eureka by operation (register, renew, cancel, status, metadata, query, other) and result (ok, not_found, unauthorized, forbidden, malformed, too_large, busy, full, unavailable).", "operation", "result")
	fleetWritable    = define(KindGauge, "gatehouse_fleet_store_writable", "0 while the store answers but cannot be written to: a replica, or out of memory.")
	fleetNodes       = define(KindGauge, "gatehouse_fleet_nodes", "Live nodes as this one sees them: running the newest revision (current), an older one (behind), or an older one because they refuse the newest (refusing); running it from their disk without the store having confirmed it (from_disk); with data in the store that no node has written (unreadable); and with a config of their own (file).", "state")
	fleetLag         = define(KindGauge, "gatehouse_fleet_lag_seconds", "For how long a live node has not run the newest revision, the one that is behind the longest; 0: all run it.")
	certNotAfter     = define(KindGauge, "gatehouse_certificate_not_after_timestamp_seconds", "When the certificate in use expires, seconds since 1970; 0 while none could be loaded. Days left: (X - time()) / 86400.", "certificate")
	certOCSP         = define(KindGauge, "gatehouse_certificate_ocsp_next_update_timestamp_seconds", "Until when the OCSP response shown with the certificate is valid, seconds since 1970; 0 while none can be shown. Only of certificates with an ocsp_file.", "certificate")
	certLoads        = define(KindCounter, "gatehouse_certificate_loads_total", "Certificates put in use, and errors met while following their files or ordering them.", "certificate", "result")
	certOrders       = define(KindCounter, "gatehouse_certificate_orders_total", "Orders at a certificate authority, by what became of them: success, unreachable, rate_limited, challenge_failed, refused, unusable (storage, files of authorities), or store_away: what the nodes share could not be had, and nothing was ordered or the order was given up.", "certificate", "result")
	certOrdered      = define(KindGauge, "gatehouse_certificate_last_order_timestamp_seconds", "When an authority last issued the certificate, seconds since 1970; 0: not since the node started.", "certificate")
	certNext         = define(KindGauge, "gatehouse_certificate_next_order_timestamp_seconds", "When the authority is asked next: a renewal, or another try after a failure; 0: at once.", "certificate")
	accessLogLines   = define(KindCounter, "gatehouse_accesslog_lines_total", "Access log lines, by what became of them.", "result")
	traceSpans       = define(KindCounter, "gatehouse_trace_spans_total", "Spans, by what became of them.", "result")
	handovers        = define(KindCounter, "gatehouse_node_handovers_total", "Handovers to a new process by result; the new one goes on counting where the old one was.", "result")
	panics           = define(KindCounter, "gatehouse_node_panics_total", "Panics caught while serving a request.")
	families         = []*family{
		buildInfo,
		requests, requestDuration, requestBytes, replyBytes, grpcCalls, inFlight, refusals,
		replies, tryDuration, tries, retries, retriesDenied, hedges, mirrors, mirrorDropped, overflow, noEndpoint, panicMode,
		upstreamActive, upstreamOpen, upstreamConnects, connectFailures, healthy, ejections, probes,
		sourceAge, sourceFailures, sourceEndpoints,
		listenerOpen, listenerSpoken, listenerAccepted, listenerRefused, listenerRefusals, handshakes, unknownNames, acceptErrors, streamReceived, streamSent,
		configRevision, configOK, configTime, configTook, configReloads, configBroken,
		fleetRevision, fleetFromDisk, fleetUp, fleetAnswered, fleetRefused, fleetRestored, fleetWritable, fleetNodes, fleetLag,
		sharedUp, ticketsShared, ticketsMade,
		serviceInstances, serviceCount, serviceMissing, serviceMalformed, serviceUp, serviceAnswered, servicePreserved, serviceOverdue, serviceEvicted, eurekaRequests,
		certNotAfter, certOCSP, certLoads, certOrders, certOrdered, certNext,
		accessLogLines, traceSpans, handovers, panics,
	}
)

// Families lists everything this package collects besides the Go runtime's and
// the process's own metrics.
func Families() []Family {
	out := make([]Family, len(families))
	for i, f := range families {
		out[i] = f.Family
	}
	return out
}
