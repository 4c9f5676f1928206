#!/usr/bin/env bash
# Installs the client of Eureka from npm that a test registers with, into the
# folder given, if it is not there yet. It needs Node.js and npm.
set -euo pipefail
into=$1
from=$(cd "$(dirname "$0")/../test/e2e/testdata/eureka-client" && pwd)
mkdir -p "$into"
exec 9>"$into/.lock"
flock 9 # others may be about to do the same
if cmp -s "$from/package-lock.json" "$into/package-lock.json" && [[ -e $into/node_modules/.package-lock.json ]]; then
	exit 0
fi
rm -rf "$into/node_modules"
cp "$from/package.json" "$into/"
(cd "$into" && cp "$from/package-lock.json" . && npm ci --prefer-offline --no-audit --no-fund --ignore-scripts --omit=dev >&2)
