#!/usr/bin/env bash
# Builds the images for this machine and leaves them in the local Docker: images.sh [target...], all by default.
# BASES=registry takes the bases docker-bake.hcl pins, BASES=local makes stand-ins where no registry is reachable;
# without it, this tries the registry and says what it found.
# Publishing, for both platforms and with attestations, is `docker buildx bake --push`: see docs/images.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
[ $# -gt 0 ] || set -- default dev

say() { printf 'images: %s\n' "$*"; }
fail() { printf 'images: %s\n' "$*" >&2; exit 2; }

if ! docker buildx version >/dev/null 2>&1; then scripts/install.sh images; fi
docker info >/dev/null 2>&1 || fail "no Docker daemon answers; start one, for example with:
  sudo systemctl start docker
or, on a machine without systemd, as root:
  setsid nohup dockerd >/var/log/dockerd.log 2>&1 &"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# stand_in_debian: Debian 12 with what this machine trusts: behind a proxy that signs for others, packages are fetched through it.
stand_in_debian() {
  local root=$scratch/debian
  [ "$(id -u)" = 0 ] || fail "making a stand-in for Debian takes root, once: sudo make images BASES=local"
  say "stand-in for Debian (debootstrap, half a minute)"
  debootstrap --variant=minbase --include=ca-certificates bookworm "$root" >"$scratch/log" 2>&1 || { tail -20 "$scratch/log" >&2; fail "debootstrap failed"; }
  cp -r /usr/local/share/ca-certificates "$root/usr/local/share/" 2>/dev/null || true
  chroot "$root" update-ca-certificates >/dev/null 2>&1
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/debootstrap
  tar -C "$root" --numeric-owner -c . | docker import - "$1" >/dev/null
}

# pinned BASE: what docker-bake.hcl sets that base to.
pinned() { docker buildx bake --print default dev 2>/dev/null | sed -n "s/.*\"$1\": \"\(.*\)\".*/\1/p" | head -1; }

case ${BASES:-} in
registry) ;;
local) ;;
'')
  static=${STATIC_BASE:-$(pinned STATIC_BASE)}
  if docker image inspect "$static" >/dev/null 2>&1 || timeout 60 docker pull -q "$static" >/dev/null 2>&1; then
    BASES=registry
  else
    say "$static cannot be pulled: stand-ins for the bases are made here (BASES=local); BASES=registry shows the error"
    BASES=local
  fi
  ;;
*) fail "BASES=$BASES: expected registry, local or nothing" ;;
esac

# Neither several platforms nor attestations fit into the local Docker.
options=(--set "*.platform=linux/$(docker version -f '{{.Server.Arch}}')" --set '*.attest=' --set '*.network=host' --allow network.host)
if [ "$BASES" = local ]; then
  command -v debootstrap >/dev/null || scripts/install.sh images
  export DEBIAN_BASE=insitu-stand-in/debian:12 STATIC_BASE=insitu-stand-in/static:12 CC_BASE=insitu-stand-in/cc:12
  docker image inspect "$DEBIAN_BASE" >/dev/null 2>&1 || stand_in_debian "$DEBIAN_BASE"
  for kind in static cc; do
    docker build -q --network=none --target "$kind" --build-arg DEBIAN_BASE -t "insitu-stand-in/$kind:12" images/stand-ins >/dev/null
  done
fi

case " $* " in
*" dev "* | *" dev-s3 "*)
  programs=$PWD/bin version=$(pinned VERSITYGW)
  # Outside the module, whose go.mod would take part.
  (cd / && CGO_ENABLED=0 GOBIN=$programs go install -trimpath -ldflags '-s -w' "github.com/versity/versitygw/cmd/versitygw@$version")
  ;;
esac

# The programs are those of bin/, which scripts/build.sh keeps up to date.
BINARIES=prebuilt REVISION=${REVISION:-$(git rev-parse HEAD 2>/dev/null || true)} \
  docker buildx bake --load "${options[@]}" "$@"
