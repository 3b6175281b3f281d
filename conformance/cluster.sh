#!/bin/bash
# The official suite on a fresh cluster of two nodes in name spaces of their own, with a registry that mirrors registry.k8s.io.
# Usage: cluster.sh [PATTERN]     PATTERN (grep -P) selects names of conformance.txt, see run.sh
#   PROCS=4     specs at a time          KEEP=1    leave the cluster running; the next run uses it
#   OUT=DIR     where results gather (default conformance/out); runs of parts merge there
#   LIST=FILE   has the names instead of conformance.txt, and there is no ratchet: each of them must pass. csi.txt is such a list.
#   SPLIT=1     every part of the cluster is a process of its own (split.sh), and no call may come from system:masters
# conformance/passed.txt is a ratchet: a spec that stands in it must not fail; those that pass are added.
set -uo pipefail
cd "$(dirname "$0")/.."
pattern=${1:-.} out=${OUT:-conformance/out} LIST=${LIST:-}; export LIST
export KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} KIT_IMAGES=${KIT_IMAGES:-$HOME/.cache/kube-kit/images}
export CLUSTER_NAME=${CLUSTER_NAME:-knc}
export CLUSTER_DIR=${CLUSTER_DIR:-/tmp/knarr-cluster-$CLUSTER_NAME}
mkdir -p "$out/logs"
[ "$(id -u)" = 0 ] || { echo "the nodes of this cluster need root" >&2; exit 1; }
dev/packages.sh build node test || exit 1
if [ ! -x "$KIT_BIN/e2e.test" ] || [ ! -x "$KIT_BIN/ginkgo" ]; then conformance/build.sh suite || exit 1; fi
if ! ls "$KIT_IMAGES"/*.tar >/dev/null 2>&1; then conformance/build.sh images && conformance/images.sh || exit 1; fi
if [ "${LIST##*/}" = csi.txt ] && [ ! -s "$KIT_IMAGES/csi/snapshot-controller.tar" ]; then conformance/build.sh csi && conformance/csi-images.sh || exit 1; fi
if [ -z "${KNARR:-}" ]; then
  cargo build --release --package knarr || exit 1
  export KNARR=$PWD/target/release/knarr
fi

remove() {
  for node in n1 n2; do cp "$CLUSTER_DIR/$node/log.txt" "$out/logs/$node.log" 2>/dev/null; done
  if [ -n "${KEEP:-}" ]; then
    echo "the cluster runs on: export KUBECONFIG=$CLUSTER_DIR/kubeconfig; end it with: CLUSTER_NAME=$CLUSTER_NAME conformance/nodes.sh down"
  else
    conformance/nodes.sh down
  fi
}
trap remove EXIT
if [ ! -s "$CLUSTER_DIR/kubeconfig" ]; then conformance/nodes.sh up 2 && conformance/nodes.sh images || exit 1; fi
if [ "${LIST##*/}" = csi.txt ]; then
  # Kinds of snapshots and their controller belong to a cluster, not to a driver.
  conformance/nodes.sh images "$KIT_IMAGES/csi" && "$CLUSTER_DIR/knarr" apply -f "$KIT_BIN/snapshots.yaml" --kubeconfig "$CLUSTER_DIR/kubeconfig" || exit 1
fi
# What the specs use most is there before they start; their time is not that of pulling.
for node in n1 n2; do
  for image in "$KIT_IMAGES"/*.tar; do
    conformance/nodes.sh in $node "$CLUSTER_DIR/knarr" image --run-dir "$CLUSTER_DIR/$node/knarr" import "$image" >/dev/null || echo "not imported on $node: $image"
  done
done

KUBECONFIG=$CLUSTER_DIR/kubeconfig conformance/run.sh -n "${PROCS:-4}" -o "$out" "$pattern"
code=$?
if [ -n "${SPLIT:-}" ]; then conformance/nodes.sh masters || code=1; fi
[ -n "$LIST" ] || python3 conformance/ratchet.py conformance/passed.txt "$out/results.tsv" || code=1
exit $code
