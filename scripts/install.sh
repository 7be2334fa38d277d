#!/usr/bin/env bash
# Installs what `make run` and `make test` need on Debian 12, as root or as a user with sudo.
# Quick when everything is there; says what it does; run again it goes on where it stopped.
# `install.sh test`, `bench`, `lint`, `chart`, `images` and `e2e` add what only those need.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

go_version=1.26.8
versitygw_version=v1.8.0
golangci_version=v2.15.0
gotestsum_version=v1.13.0
buildx_version=v0.38.2
helm_version=v3.19.0
helm_docs_version=v1.14.2
kubeconform_version=v0.7.0
cli_runtime_version=v0.34.0
logs=$INSITU_TOOLS/logs
mkdir -p "$INSITU_TOOLS/bin" "$logs"

say() { printf 'install: %s\n' "$*"; }

# One install at a time: two checkouts share the tools.
exec 9>"$INSITU_TOOLS/.lock"
flock -n 9 || { say "waiting for another install to end"; flock 9; }

# quietly NAME COMMAND...: its output goes to a log; says now and then that it still works, and how it failed.
quietly() {
  local name=$1 log=$logs/$1.log began=$SECONDS status=0 ticker
  shift
  # Nothing of this loop may outlive the script: neither its output nor the lock.
  (while sleep 30 >/dev/null 2>&1 && kill -0 $$; do say "$name goes on ($((SECONDS - began)) s; log: $log)"; done) 9>&- &
  ticker=$!
  "$@" >"$log" 2>&1 || status=$?
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  [ "$status" = 0 ] || { tail -20 "$log" >&2; echo "install: $name: exit code $status; the whole log: $log" >&2; }
  return "$status"
}
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# packages NAME...: Debian packages, those that are missing.
packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f '${Status}\n' "$name" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "Debian packages: ${missing[*]}"
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    echo "install: that needs root, and there is no sudo. As root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 2
  fi
  as_root true # sudo asks for the password here, where it is seen
  # PostgreSQL's package would start a cluster of its own, which nobody asked for.
  if ! dpkg-query -W postgresql-common >/dev/null 2>&1; then
    as_root mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.d/insitu.conf >/dev/null
  fi
  quietly apt-get-update as_root apt-get update -q
  quietly apt-get-install as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# Debian's Go (1.19) cannot build this and cannot fetch another Go by itself, but it can
# download the official toolchain, which is a module.
install_go() {
  local have
  have=$(cd / && GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || have=
  if [ -n "$have" ] && [ "$(printf 'go1.21\n%s\n' "$have" | sort -V | head -1)" = go1.21 ]; then
    return 0 # 1.21 and later fetch the version go.mod names
  fi
  packages golang-go
  local platform dir
  platform=linux-$(dpkg --print-architecture)
  say "Go $go_version (toolchain module)"
  # -json, not -f: Go 1.19 knows no other machine-readable form.
  dir=$(cd / && GO111MODULE=on GOFLAGS=-mod=mod go mod download -json "golang.org/toolchain@v0.0.1-go$go_version.$platform" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
  [ -d "$dir" ] || { echo "install: the Go toolchain could not be downloaded" >&2; exit 1; }
  rm -rf "$INSITU_TOOLS/go.new" "$INSITU_TOOLS/go"
  cp -r "$dir" "$INSITU_TOOLS/go.new"
  chmod -R u+w,a+rX "$INSITU_TOOLS/go.new"
  chmod a+x "$INSITU_TOOLS/go.new/bin/"* "$INSITU_TOOLS/go.new/pkg/tool/"*/* # module zips carry no modes
  mv "$INSITU_TOOLS/go.new" "$INSITU_TOOLS/go"
  . scripts/env.sh
}

# venv NAME REQUIREMENTS [venv options]: a Python environment, made again when the requirements change.
venv() {
  local name=$1 requirements=$2 dir=$INSITU_TOOLS/$1
  shift 2
  local want
  want=$(sha256sum "$requirements" | cut -d' ' -f1)
  [ "$(cat "$dir/.requirements" 2>/dev/null)" = "$want" ] && return 0
  say "Python packages for $name ($requirements)"
  rm -rf "$dir"
  /usr/bin/python3 -m venv "$@" "$dir"
  quietly "$name" "$dir/bin/pip" install --no-compile -r "$requirements"
  "$dir/bin/python" -m compileall -q "$dir/lib" >/dev/null 2>&1 || true
  chmod -R a+rX "$dir"
  echo "$want" >"$dir/.requirements"
}

# npm_packages NAME FOLDER: the npm packages that package-lock.json in the folder pins, without their install scripts.
npm_packages() {
  local dir=$INSITU_TOOLS/$1 want
  want=$(cat "$2/package.json" "$2/package-lock.json" | sha256sum | cut -d' ' -f1)
  [ "$(cat "$dir/.packages" 2>/dev/null)" = "$want" ] && return 0
  command -v npm >/dev/null || packages nodejs npm
  say "npm packages for $1 ($2)"
  rm -rf "$dir"
  mkdir -p "$dir"
  cp "$2/package.json" "$2/package-lock.json" "$dir"
  quietly "$1" npm --prefix "$dir" ci --ignore-scripts --no-audit --no-fund
  chmod -R a+rX "$dir"
  echo "$want" >"$dir/.packages"
}

install_liquibase() {
  local dir=$INSITU_TOOLS/liquibase want
  want=$(sha256sum scripts/liquibase.pom.xml | cut -d' ' -f1)
  [ "$(cat "$dir/.pom" 2>/dev/null)" = "$want" ] && return 0
  say "Liquibase 4.33.0 and the PostgreSQL driver"
  rm -rf "$dir"
  quietly liquibase mvn -B -ntp -Dstyle.color=never -f scripts/liquibase.pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$dir"
  echo "$want" >"$dir/.pom"
}

# gotool NAME PACKAGE VERSION: a Go program, built from its module.
gotool() {
  [ -x "$INSITU_TOOLS/bin/$1" ] && [ "$(cat "$INSITU_TOOLS/bin/.$1" 2>/dev/null)" = "$3" ] && return 0
  say "$1 $3 (built from its Go module)"
  (cd / && GOBIN=$INSITU_TOOLS/bin quietly "$1" go install "$2@$3")
  echo "$3" >"$INSITU_TOOLS/bin/.$1"
}

# carvel NAME: kapp or ytt, built with the dependencies that scripts/carvel/go.sum pins.
carvel() {
  local want
  want=$(sha256sum scripts/carvel/go.mod | cut -d' ' -f1)
  [ -x "$INSITU_TOOLS/bin/$1" ] && [ "$(cat "$INSITU_TOOLS/bin/.$1" 2>/dev/null)" = "$want" ] && return 0
  say "$1 (built from its Go module)"
  (cd scripts/carvel && quietly "$1" go build -trimpath -ldflags '-s -w' -o "$INSITU_TOOLS/bin/$1" "carvel.dev/$1/cmd/$1")
  echo "$want" >"$INSITU_TOOLS/bin/.$1"
}

[ -d "$INSITU_TOOLS/mlflow-venv" ] || say "the first time takes some minutes and 6 GB of disk (Debian packages; $INSITU_TOOLS; Go's and pip's caches)"
packages ca-certificates git maven default-jre-headless \
  postgresql-15 postgresql-plpython3-15 python3-numpy python3-torch python3-sklearn python3-pil python3-venv
install_go
# The downloads of Python packages and the build of Go programs share the machine well.
venv db-venv requirements/db.txt --system-site-packages &
db=$!
(venv mlflow-venv requirements/mlflow.txt) &
mlflow=$!
install_liquibase
gotool versitygw github.com/versity/versitygw/cmd/versitygw "$versitygw_version"
wait "$db"
wait "$mlflow"

# chart_tools: what writes and checks charts/insitu.
# kubeconform would download schemas; a module that Helm depends on has the API server's OpenAPI document.
chart_tools() {
  gotool helm helm.sh/helm/v3/cmd/helm "$helm_version"
  gotool helm-docs github.com/norwoodj/helm-docs/cmd/helm-docs "$helm_docs_version"
  gotool kubeconform github.com/yannh/kubeconform/cmd/kubeconform "$kubeconform_version"
  local document=$INSITU_TOOLS/kubernetes-openapi.json dir
  [ "$(cat "$INSITU_TOOLS/.kubernetes-openapi" 2>/dev/null)" = "$cli_runtime_version" ] && return 0
  say "Kubernetes' OpenAPI document (k8s.io/cli-runtime $cli_runtime_version)"
  dir=$(cd / && go mod download -json "k8s.io/cli-runtime@$cli_runtime_version" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
  install -m 644 "$dir/artifacts/openapi/swagger.json" "$document"
  echo "$cli_runtime_version" >"$INSITU_TOOLS/.kubernetes-openapi"
}

case ${1:-} in
test)
  gotool gotestsum gotest.tools/gotestsum "$gotestsum_version"
  venv openapi-venv requirements/openapi.txt
  venv catalog-venv requirements/catalog.txt # 150 MB: DataHub's checker of metadata files
  packages chromium fonts-dejavu-core # opens the page of `insitu serve`
  venv callers-venv requirements/callers.txt
  npm_packages backstage requirements/backstage # reads what insitu init writes for portals
  venv pgadmin-venv requirements/pgadmin.txt
  chart_tools
  carvel ytt
  ;;
bench)
  packages python3-psycopg2 python3-sklearn # the peer of the group "start"
  venv bench-venv requirements/bench.txt --system-site-packages # those of the group "serve"
  ;;
e2e)
  chart_tools
  carvel ytt
  command -v kapp >/dev/null || carvel kapp # takes minutes
  ;;
lint)
  packages shellcheck
  gotool golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint "$golangci_version"
  ;;
chart) chart_tools ;;
images)
  packages debootstrap
  command -v dockerd >/dev/null || packages docker.io
  if ! docker buildx version >/dev/null 2>&1; then
    gotool buildx github.com/docker/buildx/cmd/buildx "$buildx_version"
    mkdir -p ~/.docker/cli-plugins
    ln -sf "$INSITU_TOOLS/bin/buildx" ~/.docker/cli-plugins/docker-buildx
  fi
  ;;
esac
chmod -R a+rX "$INSITU_TOOLS/bin"
chmod a+rX "$INSITU_TOOLS"
