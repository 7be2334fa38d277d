#!/usr/bin/env bash
# The end-to-end tests: the pipelines on the Kubernetes cluster of KUBECONFIG, which has Argo Workflows.
# Arguments go to `go test` (for example: scripts/e2e.sh -run Evicted).
# docs/testing.md lists the variables. Exit code 2: something that is needed is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

say() { printf 'e2e: %s\n' "$*"; }
missing() { printf 'e2e: %s\n' "$*" >&2; exit 2; }

# The tests change what they find there, so nobody runs them on whatever cluster kubectl would choose.
[ -n "${KUBECONFIG:-}" ] || missing "KUBECONFIG is not set: it names the cluster to test on"
while read -r program how; do
  command -v "$program" >/dev/null || missing "$program is not on PATH: $how"
done <<'PROGRAMS'
kubectl see https://kubernetes.io/docs/tasks/tools
argo take the command of Argo Workflows 3.7 or 4 from https://github.com/argoproj/argo-workflows/releases
helm run scripts/install.sh e2e
kapp run scripts/install.sh e2e
ytt run scripts/install.sh e2e
PROGRAMS
answer=$(kubectl get --raw /readyz --request-timeout=15s 2>&1) || missing "the cluster of $KUBECONFIG does not answer: $answer"
crds=$(kubectl get crd workflows.argoproj.io workflowtemplates.argoproj.io -o name 2>&1) ||
  missing "the cluster has no Argo Workflows: $crds"

# load_images brings the images that are not there yet into the cluster, with the shell command in INSITU_E2E_LOAD:
# it finds the image's name in $IMAGE and the file `docker save` wrote in $ARCHIVE.
load_images() {
  local cluster loaded image id ARCHIVE
  cluster=$(kubectl get namespace kube-system -o jsonpath='{.metadata.uid}')
  loaded=$INSITU_TOOLS/e2e/$cluster # one file an image, with the id of what was loaded
  mkdir -p "$loaded"
  ARCHIVE=$(mktemp "${TMPDIR:-/tmp}/insitu-image.XXXXXX.tar")
  # shellcheck disable=SC2064  # the file of now
  trap "rm -f '$ARCHIVE'" RETURN EXIT
  while read -r image; do
    id=$(docker image inspect -f '{{.Id}}' "$image" 2>/dev/null) || missing "there is no image $image in the local Docker: run make images"
    if [ "$(cat "$loaded/${image//\//_}" 2>/dev/null)" = "$id" ]; then continue; fi
    say "load $image"
    docker save "$image" -o "$ARCHIVE"
    IMAGE=$image ARCHIVE=$ARCHIVE bash -c "$INSITU_E2E_LOAD" || { echo "e2e: $image could not be loaded with: $INSITU_E2E_LOAD" >&2; exit 1; }
    echo "$id" >"$loaded/${image//\//_}"
  done
}

if [ -n "${INSITU_E2E_LOAD:-}" ]; then
  version=$(cat VERSION)
  # The Git server of the GitOps test, on the base that scripts/images.sh made if there is one.
  base=${DEBIAN_BASE:-insitu-stand-in/debian:12}
  docker image inspect "$base" >/dev/null 2>&1 || base=debian:bookworm-slim
  docker build -q --network=host --build-arg DEBIAN_BASE="$base" -t "insitu/e2e-git:$version" test/e2e/git >/dev/null
  printf "insitu/%s:$version\n" upload-dataset deploy-training-code train-model evaluate-model promote-model-to-staging \
    deploy-inference-db insitu postgres-training postgres-inference dev-s3 dev-mlflow e2e-git | load_images
fi

# The tests mostly wait for the cluster: more of them at once than there are processors.
INSITU_E2E=1 CGO_ENABLED=0 go test -count=1 -v -timeout 45m -parallel 4 -p 1 ./test/e2e/ ./test/chart/ "$@"
