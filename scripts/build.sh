#!/usr/bin/env bash
# Builds insitu and the six steps into bin/, and says how far it is: the first build compiles for minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
export CGO_ENABLED=0
packages=(./cmd/insitu ./steps/...)

flags=(-trimpath -ldflags '-s -w')
# Git refuses a checkout of another user; then there is no commit to record in the programs.
git status --porcelain >/dev/null 2>&1 || flags+=(-buildvcs=false)

# without_downloads drops the line that Go writes for each module.
without_downloads() { grep -v '^go: downloading ' || true; }

[ -x bin/insitu ] || echo "build: bin/ (the first time downloads Go modules and compiles Argo's packages: some minutes)"
total=$(go list -deps "${packages[@]}" 2> >(without_downloads >&2) | wc -l)
compiled=0
go build -v "${flags[@]}" -o bin/ "${packages[@]}" 2>&1 | without_downloads | while IFS= read -r line; do
  case $line in
    *[!A-Za-z0-9._/~-]*) printf '%s\n' "$line" >&2 ;; # an error: package paths have no spaces and colons
    *)
      compiled=$((compiled + 1))
      if [ $((compiled % 100)) = 0 ]; then echo "build: $compiled of $total packages compiled"; fi
      ;;
  esac
done
