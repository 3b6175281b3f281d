#!/bin/bash
# The same pods on the Go kubelet with containerd and on ours, both nodes of one API server: what becomes of them and what
# is said of it must be the same but for what dev/kubelets/differences.txt lists. Told in cargo's words.
# KNARR: the program; KIT_BIN, KIT_IMAGES: what `make kit` and `make images` built. Root is needed. FOCUS: a part of the names.
# SHOW=1: also what is allowed to differ. TIMES=1: when states were reached. KEEP=1: leave the logs. HOLD=PIPE: goes on with what is asked for there.
set -uo pipefail
cd "$(dirname "$0")/.."
. dev/world.sh
KNARR=$(realpath "${KNARR:-target/debug/knarr}") KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} KIT_IMAGES=${KIT_IMAGES:-$HOME/.cache/kube-kit/images}
missing=
for program in kubelet kubectl containerd runc ctr; do [ -x "$KIT_BIN/$program" ] || missing="$missing $program"; done
for image in pause busybox; do [ -f "$KIT_IMAGES/$image.tar" ] || missing="$missing $image.tar"; done
[ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
[ -z "$missing" ] || { echo "left out, these are missing:$missing"; echo "test result: ok. 0 passed; 0 failed; 1 ignored"; exit 0; }
image=$(tar xOf "$KIT_IMAGES/busybox.tar" manifest.json | jq -r '.[0].RepoTags[0]') image_too=$(tar xOf "$KIT_IMAGES/busybox.tar" manifest.json | jq -r '.[0].RepoTags[-1]')
export PATH=$KIT_BIN:$PATH
W=$(mktemp -d /tmp/knarr-kubelets.XXXXXX) go=$(hostname) ours=our-node
[ "$go" != "$ours" ] || ours=own-node
pids=()
world_make "$W" || { world_remove; exit 1; }
export REF_DIR=$W/ref REF_PORT=6443 REF_BIN=$KIT_BIN REF_CGROUP=$WORLD_ID-go REF_SERVER=192.0.2.10 REF_SANS=,IP:192.0.2.10 REF_NODES=$ours KIT_IMAGES
mkdir -p "$W/log"; P=$REF_DIR/pki
k() { on a kubectl --kubeconfig "$REF_DIR/admin.kubeconfig" "$@"; }
start() { # side name command...
  local side=$1 name=$2; shift 2
  launch "$WORLD_ID$side" "$W/log/$name" "$@"
  pids+=("$launched")
}
remove() {
  if [ -n "${KEEP:-}" ]; then rm -rf target/test/kubelets; mkdir -p target/test/kubelets; cp "$W"/log/* "$REF_DIR"/log/* target/test/kubelets; fi
  on a bench/reference.sh down >/dev/null 2>&1
  finish "${pids[@]}"
  world_remove
}
trap remove EXIT
on a bench/reference.sh certs >/dev/null || exit 1

start a apiserver "$KNARR" kube-apiserver --data-dir="$W/apiserver" --secure-port=6443 --bind-address=0.0.0.0 --advertise-address=192.0.2.10 --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --client-ca-file="$P/ca.crt" \
  --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key" --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC \
  --enable-admission-plugins=NodeRestriction --allow-privileged=true --kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname --kubelet-client-certificate="$P/kubeletclient.crt" --kubelet-client-key="$P/kubeletclient.key"
eventually 90 k get --raw /readyz && eventually 90 k get namespace kube-system || exit 1
start a controllers "$KNARR" kube-controller-manager --kubeconfig="$REF_DIR/kcm.kubeconfig" --authentication-kubeconfig="$REF_DIR/kcm.kubeconfig" --authorization-kubeconfig="$REF_DIR/kcm.kubeconfig" --bind-address=127.0.0.1 --leader-elect=false \
  --root-ca-file="$P/ca.crt" --service-account-private-key-file="$P/sa.key" --use-service-account-credentials=true --allocate-node-cidrs=true --cluster-cidr=10.172.0.0/16 --service-cluster-ip-range=10.96.0.0/16 --cluster-signing-cert-file="$P/ca.crt" --cluster-signing-key-file="$P/ca.key"

# Both read the same configuration, but for the places that are theirs alone.
NO_IMAGES=1 on a bench/reference.sh up-node
printf 'nameserver 192.0.2.1\nsearch example.org\n' >"$REF_DIR/resolv.conf"
sed -e '/^containerRuntimeEndpoint/d' -e "s#^cgroupRoot:.*#cgroupRoot: /${WORLD_ID}b#" -e "\$apodLogsDir: $W/pods" "$REF_DIR/kubelet.yaml" >"$W/kubelet.yaml"
our_kubelet() { start b kubelet "$KNARR" kubelet --config="$W/kubelet.yaml" --kubeconfig="$REF_DIR/kubelet-$ours.kubeconfig" --hostname-override="$ours" --node-ip=192.0.2.11 --root-dir="$W/kubelet" --data-dir="$W/data" --run-dir="$W/run" --cluster-ranges=10.172.0.0/16,10.96.0.0/16; }
our_kubelet
eventually 60 [ -S "$REF_DIR/ctd/containerd.sock" ]
for name in pause busybox; do
  REF_IMAGES=$name.tar on a bench/reference.sh images
  eventually 90 on b "$KNARR" image --run-dir "$W/run" import "$KIT_IMAGES/$name.tar" || exit 1
done
for node in "$go" "$ours"; do eventually 90 k wait --for=condition=Ready --timeout=1s "node/$node" || { tail -n 5 "$W"/log/* "$REF_DIR"/log/*; exit 1; }; done
for space in side-a side-b; do k create namespace $space >/dev/null && eventually 90 k -n $space get serviceaccount default && eventually 90 k -n $space get configmap kube-root-ca.crt || exit 1; done
export HOST=192.0.2.10 PORT=6443 GO_ADDRESS=192.0.2.10 OUR_ADDRESS=192.0.2.11 GO_ROOT=$REF_DIR/kubelet OUR_ROOT=$W/kubelet KUBECTL=$KIT_BIN/kubectl KUBECONFIG=$REF_DIR/admin.kubeconfig IMAGE_TOO=$image_too PYTHONDONTWRITEBYTECODE=1
compare() { on a python3 dev/kubelets/run.py "$P" "$go" "$ours" "$image" "${1:-}"; }
compare "${FOCUS:-}"
code=$?
# With a pipe to hold it by: each line is a part of names to run, the kubelet of ours started anew before it; its end is that of all.
if [ -n "${HOLD:-}" ]; then
  while read -r part <"$HOLD" && [ "$part" != end ]; do
    finish "${pids[2]}"; KNARR=$(realpath target/debug/knarr); our_kubelet; pids=("${pids[@]:0:2}" "${pids[-1]}")
    eventually 90 on b "$KNARR" image --run-dir "$W/run" list
    compare "$part" >"$HOLD.out" 2>&1; echo done >>"$HOLD.out"
  done
fi
[ $code = 0 ] || { mkdir -p target/test/kubelets; cp "$W"/log/* "$REF_DIR"/log/* target/test/kubelets; }
exit $code
