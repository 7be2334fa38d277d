#!/usr/bin/env bash
# Writes what charts/insitu has from elsewhere: the workflows (Helm cannot read files outside its chart),
# the version, and the README, by helm-docs.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

chart=charts/insitu
version=$(cat VERSION)

rm -rf "$chart/files/workflows"
mkdir -p "$chart/files/workflows/steps"
cp workflows/in-database-pipeline*.yaml workflows/monitoring.yaml "$chart/files/workflows/"
cp workflows/steps/*.yaml "$chart/files/workflows/steps/"

sed -i -e "s/^version: .*/version: $version/" -e "s/^appVersion: .*/appVersion: $version/" "$chart/Chart.yaml"

helm-docs --chart-search-root "$chart" --template-files README.md.gotmpl --log-level warning
