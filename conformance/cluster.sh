#!/bin/bash
# The official suite on a fresh cluster of two nodes in name spaces of their own, with a registry on loopback.
# Usage: cluster.sh [PATTERN]     PATTERN (grep -P) selects names of conformance.txt, see run.sh
#   PROCS=4     specs at a time          KEEP=1    leave the cluster running
#   OUT=DIR     where results gather (default conformance/out); runs of parts merge there
# conformance/passed.txt is a ratchet: a spec that stands in it must not fail; those that pass are added.
set -uo pipefail
cd "$(dirname "$0")/.."
. dev/world.sh
pattern=${1:-.} out=${OUT:-conformance/out}
export KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} KIT_IMAGES=${KIT_IMAGES:-$HOME/.cache/kube-kit/images}
mkdir -p "$out"
[ "$(id -u)" = 0 ] || { echo "the nodes of this cluster need root" >&2; exit 1; }
dev/packages.sh build node test || exit 1
if [ ! -x "$KIT_BIN/e2e.test" ] || [ ! -x "$KIT_BIN/ginkgo" ]; then conformance/build.sh suite || exit 1; fi
if ! ls "$KIT_IMAGES"/*.tar >/dev/null 2>&1; then conformance/build.sh images && conformance/images.sh || exit 1; fi
if [ -z "${KNARR:-}" ]; then
  cargo build --release --locked --package knarr || exit 1
  KNARR=$PWD/target/release/knarr
fi

world_make "$(mktemp -d /tmp/knarr-conformance.XXXXXX)" || exit 1
registries=()
remove() {
  local pid
  for pid in "${registries[@]+"${registries[@]}"}"; do kill "$pid" 2>/dev/null; done
  mkdir -p "$out/logs"
  cp "$WORLD/a/log/knarr" "$out/logs/node-a.log" 2>/dev/null
  cp "$WORLD/b/log/knarr" "$out/logs/node-b.log" 2>/dev/null
  [ -n "${KEEP:-}" ] || world_remove
}
trap remove EXIT

# Each side has a loopback of its own, so each has a registry; they share the files.
cat >"$WORLD/registry.yml" <<Y
version: 0.1
storage: {filesystem: {rootdirectory: $WORLD/registry}}
http: {addr: 127.0.0.1:5000}
Y
cat >"$WORLD/registries.yaml" <<Y
mirrors:
  registry.k8s.io:
    endpoint: ["http://127.0.0.1:5000"]
Y
for side in a b; do
  nsenter --net="/run/netns/$WORLD_ID$side" docker-registry serve "$WORLD/registry.yml" >"$WORLD/$side/log/registry" 2>&1 &
  registries+=($!)
done
eventually 20 on a curl -s http://127.0.0.1:5000/v2/ || exit 1
on a conformance/images.sh push 127.0.0.1:5000 >/dev/null || exit 1

world_server --private-registry "$WORLD/registries.yaml"
world_status --wait --timeout 120 || { tail -n 20 "$WORLD/a/log/knarr"; exit 1; }
token=$(on a "$KNARR" token create | sed -n 's/.*--token \([^ ]*\).*/\1/p')
world_agent "$token" --private-registry "$WORLD/registries.yaml"
eventually 60 on a "$KNARR" wait --for=condition=Ready --timeout=60s node/node-b || { tail -n 20 "$WORLD/b/log/knarr"; exit 1; }
for side in a b; do
  for image in "$KIT_IMAGES"/*.tar; do on $side "$KNARR" image --run-dir "$WORLD/$side/run" import "$image" >/dev/null || echo "not imported on $side: $image"; done
done

# The suite runs beside the cluster, where its addresses are reached.
on a env KUBECONFIG="$WORLD/kubeconfig" KIT_BIN="$KIT_BIN" conformance/run.sh -n "${PROCS:-4}" -o "$out" "$pattern"
code=$?
python3 conformance/ratchet.py conformance/passed.txt "$out/results.tsv" || code=1
if [ -n "${KEEP:-}" ]; then
  echo "the cluster runs on: nsenter --net=/run/netns/${WORLD_ID}a kubectl --kubeconfig $WORLD/kubeconfig get nodes"
fi
exit $code
