#!/bin/bash
# `make up`: a cluster of one node on this machine, with all set-up. State: /var/lib/knarr, /run/knarr, /etc/knarr.
# KNARR_FLAGS: more flags of `knarr server`.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "make up needs root: a node makes name spaces, control groups and links" >&2; exit 1; }
command -v cargo >/dev/null || { echo "there is no Rust toolchain: cargo is missing (see https://rustup.rs)" >&2; exit 1; }
dev/packages.sh build node
cargo build --release --locked --package knarr
knarr=$PWD/target/release/knarr run=/run/knarr config=/etc/knarr/knarr.yaml
if "$knarr" status >/dev/null 2>&1; then
  echo "a server is running already ('make down' stops it)"
else
  "$knarr" check >/tmp/knarr-check.$$ || { cat /tmp/knarr-check.$$; rm -f /tmp/knarr-check.$$; exit 1; }
  rm -f /tmp/knarr-check.$$
  mkdir -p "$run" /var/log/knarr
  # The program runs from a copy, so that the next build can replace the file.
  install -m 755 "$knarr" "$run/knarr"
  # shellcheck disable=SC2086
  setsid "$run/knarr" server ${KNARR_FLAGS:-} >>/var/log/knarr/server.log 2>&1 </dev/null &
  pid=$!
  echo $pid >"$run/server.pid"
  if ! "$knarr" status --wait --timeout 120 >/dev/null; then
    kill -0 $pid 2>/dev/null || echo "the server ended:"
    tail -n 5 /var/log/knarr/server.log
    exit 1
  fi
fi
"$knarr" image import --demo >/dev/null
kubectl=kubectl
command -v kubectl >/dev/null || { kubectl="$knarr"; note=" (there is no kubectl here; knarr has the most needed verbs itself)"; }
cat <<T

The node is Ready and DNS answers. The kubeconfig is $config, the log is /var/log/knarr/server.log.
Three commands to try${note:-}:

T
if [ "$kubectl" = kubectl ]; then cat <<T
  export KUBECONFIG=$config
  kubectl create deployment web --image=knarr.io/demo:1 --replicas=3 --port=80 && kubectl expose deployment web
  kubectl run try --rm -i --restart=Never --image=knarr.io/demo:1 --command -- wget http://web.default.svc.cluster.local/
T
else cat <<T
  $knarr apply -f docs/examples/web.yaml
  $knarr wait --for=condition=Available deployment/web && $knarr get pods -o wide
  $knarr exec deployment/web -- wget http://web.default.svc.cluster.local/
T
fi
echo
