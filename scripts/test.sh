#!/usr/bin/env bash
# All tests, over real services started for them on free ports in a directory of their own.
# Arguments go to `go test` in place of ./... (for example: scripts/test.sh ./internal/training/ -run Resume).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

state=$(mktemp -d "${TMPDIR:-/tmp}/insitu-test.XXXXXX")
finish() {
  bin/insitu services stop --state "$state" >/dev/null 2>&1 || true
  rm -rf "$state"
}
trap finish EXIT
trap 'exit 130' INT TERM

echo "test: starting two PostgreSQL clusters, an S3 server and MLflow in $state"
INSITU_TEST_BINDINGS=$(bin/insitu services start --throwaway --state "$state")
export INSITU_TEST_BINDINGS
export INSITU_LIQUIBASE=$INSITU_TOOLS/liquibase
export INSITU_TEST_MLFLOW_PYTHON=$INSITU_TOOLS/mlflow-venv/bin/python
export INSITU_TEST_BIN=$PWD/bin

echo "test: pytest"
python=0
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$INSITU_TOOLS/db-venv/bin/python" -m pytest -q -p no:cacheprovider database examples 2>&1 | tee "$state/pytest.log" | tail -15 || python=$?

echo "test: go test (the first time compiles for some minutes)"
packages=("$@")
[ $# -gt 0 ] || packages=(./...)
go=0
CGO_ENABLED=0 go test -v -timeout 40m "${packages[@]}" >"$state/go.log" 2>&1 || go=$?
grep -E '^(ok|FAIL|panic:)|^[[:space:]]*--- FAIL' "$state/go.log" || true
if [ "$go" != 0 ]; then
  echo "test: what failed, with its output (the whole log: ${INSITU_TEST_LOG:=${TMPDIR:-/tmp}/insitu-go-test.log})"
  cp "$state/go.log" "$INSITU_TEST_LOG"
  grep -nE -A25 '^[[:space:]]*--- FAIL|^panic:|\[build failed\]|^# ' "$state/go.log" | head -300 || true
fi
echo "test: skipped"
grep -E -A1 '^[[:space:]]*--- SKIP' "$state/go.log" | grep -v '^--$' || echo "  nothing"

count() { grep -cE "^[[:space:]]*--- $1" "$state/go.log" || true; }
from() { sed -nE "s/.*[^0-9]?([0-9]+) $1.*/\1/p" "$state/pytest.log" | tail -1 | grep . || echo 0; }
echo "$(($(count PASS) + $(from passed))) passed, $(($(count FAIL) + $(from failed))) failed, $(($(count SKIP) + $(from skipped))) skipped"
[ "$python" = 0 ] && [ "$go" = 0 ]
