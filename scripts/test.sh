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
export INSITU_TEST_OPENAPI=$INSITU_TOOLS/openapi-venv/bin/openapi-spec-validator
export INSITU_TEST_DATAHUB=$INSITU_TOOLS/catalog-venv/bin/datahub
export INSITU_TEST_CALLERS_PYTHON=$INSITU_TOOLS/callers-venv/bin/python
export INSITU_TEST_PYTHON=$INSITU_TOOLS/db-venv/bin/python
export INSITU_TEST_BACKSTAGE=$INSITU_TOOLS/backstage
export INSITU_TEST_PGADMIN_PYTHON=$INSITU_TOOLS/pgadmin-venv/bin/python
export INSITU_TEST_BIN=$PWD/bin

echo "test: pytest"
python=0
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$INSITU_TOOLS/db-venv/bin/python" -m pytest -q -p no:cacheprovider database examples || python=$?

echo "test: go test (the first time compiles for some minutes)"
packages=("$@")
[ $# -gt 0 ] || packages=(./...)
go=0
CGO_ENABLED=0 gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg -- -timeout 40m "${packages[@]}" || go=$?

# The same tests once more where the training database is Greenplum.
greenplum=0
if [ -n "${INSITU_TEST_GREENPLUM_URL:-}" ]; then
  bindings=$state/greenplum-bindings
  cp -rp "$INSITU_TEST_BINDINGS" "$bindings"
  python3 - "$bindings/training-db" <<'PY'
import os, pathlib, sys, urllib.parse as u
url = u.urlsplit(os.environ["INSITU_TEST_GREENPLUM_URL"])
mode = u.parse_qs(url.query).get("sslmode", ["prefer"])[0]
files = {"host": url.hostname, "port": str(url.port or 5432), "database": url.path.strip("/"), "username": u.unquote(url.username or ""), "password": u.unquote(url.password or ""), "sslmode": mode}
for name, value in files.items():
    (pathlib.Path(sys.argv[1]) / name).write_text(value)
PY
  echo "test: go test, the packages that use the training database, on Greenplum"
  INSITU_TEST_BINDINGS=$bindings CGO_ENABLED=0 gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg -- -count=1 -timeout 40m \
    ./internal/postgres ./internal/dataset ./internal/training ./internal/steps/... ./test/pipeline || greenplum=$?
else
  echo "test: not on Greenplum: INSITU_TEST_GREENPLUM_URL is not set"
fi
[ "$python" = 0 ] && [ "$go" = 0 ] && [ "$greenplum" = 0 ]
