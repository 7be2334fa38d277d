# Sourced by the other scripts and the Makefile: where tools are and which Go is used.
# shellcheck shell=bash
if [ -z "${INSITU_TOOLS:-}" ]; then
  if [ "$(id -u)" = 0 ]; then
    INSITU_TOOLS=/var/cache/insitu # the database's user must be able to read it
  else
    INSITU_TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/insitu
  fi
fi
export INSITU_TOOLS
# Debian's Go is too old to build this; scripts/install.sh puts the pinned one here when it must.
if [ -x "$INSITU_TOOLS/go/bin/go" ]; then
  PATH=$INSITU_TOOLS/go/bin:$PATH
fi
# A distribution's newer Go may be set to refuse the version go.mod names instead of fetching it.
export GOTOOLCHAIN=${GOTOOLCHAIN:-auto}
PATH=$INSITU_TOOLS/bin:$PATH
export PATH
