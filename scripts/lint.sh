#!/usr/bin/env bash
# The linters `make lint` runs, quick ones first; all of them run, and one finding fails the whole.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
export CGO_ENABLED=0

failed=0
# check NAME COMMAND...: says what runs and remembers that it failed.
check() {
  echo "lint: $1"
  shift
  "$@" || failed=1
}

# gofmt exits 0 whatever it finds.
gofmt_clean() {
  local files
  files=$(git ls-files -z --cached --others --exclude-standard -- '*.go' | xargs -0 -r ls -d 2>/dev/null | xargs -r gofmt -s -l)
  [ -z "$files" ] || { printf 'not formatted, run gofmt -s -w:\n%s\n' "$files" >&2; return 1; }
}

python=(database examples test internal/pgadmin images/pgadmin)
check gofmt gofmt_clean
check "ruff check" "$INSITU_TOOLS/db-venv/bin/ruff" check --quiet "${python[@]}"
check "ruff format" "$INSITU_TOOLS/db-venv/bin/ruff" format --check --quiet "${python[@]}"
check shellcheck shellcheck -x scripts/*.sh images/*/insitu-* .ci/run
check "go vet" go vet ./...
check "golangci-lint (the first time compiles for some minutes)" golangci-lint run --allow-serial-runners ./...
[ "$failed" = 0 ] || { echo "lint: there are findings" >&2; exit 1; }
echo "lint: clean"
