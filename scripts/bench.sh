#!/usr/bin/env bash
# Measures Insitu against limits and peers on services started for it, and writes docs/benchmarks.md and its plot.
# Arguments go to the program, see docs/benchmarks.md: scripts/bench.sh -only load,train -rounds 3
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

state=$(mktemp -d "${TMPDIR:-/tmp}/insitu-bench.XXXXXX")
finish() {
  bin/insitu services stop --state "$state" >/dev/null 2>&1 || true
  rm -rf "$state"
}
trap finish EXIT
trap 'exit 130' INT TERM

echo "bench: starting two PostgreSQL clusters, an S3 server and MLflow in $state" >&2
bindings=$(bin/insitu services start --throwaway --state "$state")
CGO_ENABLED=0 go build -o "$state/bench" ./test/bench
"$state/bench" -bindings "$bindings" -python "$INSITU_TOOLS/db-venv/bin/python" -peers "$INSITU_TOOLS/bench-venv/bin/python" -page docs/benchmarks.md "$@"
