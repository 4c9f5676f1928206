#!/usr/bin/env bash
# Installs what tests and benchmarks need beyond Go, where it is missing, on
# Debian and its relatives; elsewhere it says what to install.
#   scripts/setup.sh              for make test
#   scripts/setup.sh bench        also nginx, HAProxy and the load generators
#   scripts/setup.sh containers   also a container engine and what its images are made of
set -euo pipefail
declare -A package=([curl]=curl [redis-server]=redis-server [dnsmasq]=dnsmasq-base [node]=nodejs [npm]=npm [systemd-socket-activate]=systemd)
case ${1:-} in
bench)
	package+=([nginx]=nginx-light [haproxy]=haproxy [wrk]=wrk [h2load]=nghttp2-client) ;;
containers)
	package+=([dockerd]=docker.io [busybox]=busybox-static [prometheus]=prometheus [ip]=iproute2)
	if ! docker compose version >/dev/null 2>&1; then package+=([docker-compose]=docker-compose); fi ;;
esac
missing=()
for command in "${!package[@]}"; do
	PATH=$PATH:/usr/sbin command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
if (( ${#missing[@]} == 0 )); then
	exit 0
fi
echo "setup: missing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
	echo "setup: no apt-get here; install these by hand and run again" >&2
	exit 1
fi
sudo=()
if (( EUID != 0 )); then sudo=(sudo); fi
# A mirror may fail for a moment, and another program may be installing something.
patient=(-o Acquire::Retries=5 -o DPkg::Lock::Timeout=120)
"${sudo[@]}" apt-get "${patient[@]}" update -qq
DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get "${patient[@]}" install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
echo "setup: installed ${missing[*]}"
