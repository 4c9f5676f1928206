package main

import (
	"context"
	"fmt"
	"strings"
)

const nginxHead = `daemon off; master_process on; worker_processes 2; pid %s; error_log stderr crit;
events { worker_connections 8192; }
http { access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; tcp_nodelay on;
client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/f; uwsgi_temp_path %[2]s/u; scgi_temp_path %[2]s/s;
`

func (r *run) nginx(ctx context.Context, name, http string) (*process, error) {
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	path, err := r.file(name+".conf", fmt.Sprintf(nginxHead, r.dir+"/"+name+".pid", r.dir)+
		strings.ReplaceAll(strings.ReplaceAll(http, "LISTEN", address), "BACKEND", r.backend)+"}\n")
	if err != nil {
		return nil, err
	}
	return r.start(ctx, name, address, "/usr/sbin/nginx", "-c", path)
}

// startBackend is what every proxy under test forwards to.
func (r *run) startBackend(ctx context.Context) error {
	body := strings.Repeat("x", 256)
	p, err := r.nginx(ctx, "backend", fmt.Sprintf(`server { listen LISTEN backlog=4096; location / { return 200 "%s"; } }`, body))
	if err != nil {
		return err
	}
	r.backend = p.address
	return nil
}

const nginxPlain = `upstream b { server BACKEND; keepalive 256; keepalive_requests 1000000000; }
server { listen LISTEN backlog=4096; location / { proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; } }`

func (r *run) nginxPlain(ctx context.Context) (*process, error) {
	return r.nginx(ctx, "nginx", nginxPlain)
}

func (r *run) nginxGuarded(ctx context.Context) (*process, error) {
	return r.nginx(ctx, "nginx", fmt.Sprintf(`limit_req_zone $http_x_api_key zone=k:10m rate=100000000r/s;
log_format full '$remote_addr $request_id [$time_iso8601] "$request" $status $body_bytes_sent $request_time "$upstream_addr" "$http_user_agent"';
access_log %s/nginx-access.log full buffer=64k flush=1s;
map $http_x_api_key $known { default 0; "bench-key" 1; }
upstream b { server BACKEND; keepalive 256; keepalive_requests 1000000000; }
server { listen LISTEN backlog=4096; location / { if ($known = 0) { return 401; } limit_req zone=k burst=1000000 nodelay;
proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Request-ID $request_id; } }`, r.dir))
}

func (r *run) haproxy(ctx context.Context) (*process, error) {
	return r.haproxyWith(ctx, fmt.Sprintf("frontend f\n  bind LISTEN\n  default_backend b\nbackend b\n  server s %s\n", r.backend))
}

// haproxyWith starts HAProxy with sections in which LISTEN stands for the address.
func (r *run) haproxyWith(ctx context.Context, sections string) (*process, error) {
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	path, err := r.file("haproxy.cfg", `global
  nbthread 2
  maxconn 2048
defaults
  mode http
  timeout client 1h
  timeout server 1h
  timeout connect 5s
  http-reuse always
  option forwardfor
`+strings.ReplaceAll(sections, "LISTEN", address))
	if err != nil {
		return nil, err
	}
	return r.start(ctx, "haproxy", address, "/usr/sbin/haproxy", "-db", "-f", path)
}

// gateway starts Gatehouse with a config in which LISTEN and BACKEND stand for
// the addresses.
func (r *run) gateway(ctx context.Context, name, config string) (*process, error) {
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	admin, err := freePort()
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("node:\n  name: bench\n  data_dir: %s/data\n  admin: { address: %q }\n  access_log: { path: %s }\n",
		r.dir, admin, accessLog(name, r.dir)) + config
	path, err := r.file(name+".yaml", strings.ReplaceAll(strings.ReplaceAll(text, "LISTEN", address), "BACKEND", r.backend))
	if err != nil {
		return nil, err
	}
	return r.start(ctx, name, address, r.gatehouse, "run", "-c", path)
}

func accessLog(name, dir string) string {
	if strings.Contains(name, "guarded") {
		return dir + "/gatehouse-access.log"
	}
	return "\"off\""
}

const gatewayPlain = `listeners: { web: { address: "LISTEN" } }
upstreams: { b: { endpoints: ["BACKEND"] } }
routes: { all: { match: { path: / }, backends: [{ upstream: b }] } }
`
