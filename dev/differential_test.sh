#!/bin/bash
# The same calls to the Go kube-apiserver and to ours, one beside the other: the answers must be the same but for what
# dev/differential/differences.txt lists. Told in cargo's words.
# KNARR: the program; KIT_BIN: what `make kit` built. FOCUS: a part of the names of groups. SHOW=1: differences whole.
set -uo pipefail
cd "$(dirname "$0")/.."
KNARR=$(realpath "${KNARR:-target/debug/knarr}") KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin}
missing=
for program in etcd kube-apiserver kubectl; do [ -x "$KIT_BIN/$program" ] || missing="$missing $program"; done
[ -z "$missing" ] || { echo "left out, these are missing:$missing"; echo "test result: ok. 0 passed; 0 failed; 1 ignored"; exit 0; }
export PATH=$KIT_BIN:$PATH
W=$(mktemp -d /tmp/knarr-differential.XXXXXX)
export REF_DIR=$W/ref REF_PORT=6443 REF_BIN=$KIT_BIN; P=$REF_DIR/pki
mkdir -p "$W/log"; pids=()
remove() {
  local pid
  for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null; done # the Go server would wait for etcd
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
  [ -n "${KEEP:-}" ] || rm -rf "$W"
}
trap remove EXIT
start() { local name=$1; shift; "$@" >"$W/log/$name" 2>&1 </dev/null & pids+=($!); }
bench/reference.sh certs >/dev/null || exit 1
mapfile -t ports < <(python3 -c 'import socket; held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]; print(*(one.getsockname()[1] for one in held), sep="\n")')
apiserver() { # name port program and flags of its own...
  local name=$1 port=$2; shift 2
  start "$name" "$@" --secure-port="$port" --bind-address=127.0.0.1 --advertise-address=192.0.2.20 --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --client-ca-file="$P/ca.crt" \
    --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key" --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --enable-bootstrap-token-auth=true --allow-privileged=true --kubelet-client-certificate="$P/kubeletclient.crt" --kubelet-client-key="$P/kubeletclient.key" \
    --requestheader-client-ca-file="$P/ca.crt" --requestheader-allowed-names=front-proxy-client --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$P/front.crt" --proxy-client-key-file="$P/front.key"
}
start etcd etcd --data-dir "$W/etcd" --listen-client-urls "http://127.0.0.1:${ports[0]}" --advertise-client-urls "http://127.0.0.1:${ports[0]}" --listen-peer-urls "http://127.0.0.1:${ports[1]}" --initial-advertise-peer-urls "http://127.0.0.1:${ports[1]}" --initial-cluster "default=http://127.0.0.1:${ports[1]}" --log-level warn
end=$((SECONDS + 60)) # the Go server gives up where etcd needs more than a moment to begin
until curl -sf "http://127.0.0.1:${ports[0]}/health" >/dev/null || [ $SECONDS -ge $end ]; do sleep 0.2; done
apiserver theirs "${ports[2]}" kube-apiserver --etcd-servers="http://127.0.0.1:${ports[0]}"
apiserver ours "${ports[3]}" "$KNARR" kube-apiserver --data-dir="$W/data"
for port in "${ports[2]}" "${ports[3]}"; do
  end=$((SECONDS + 120))
  until curl -sf --cacert "$P/ca.crt" --cert "$P/admin.crt" --key "$P/admin.key" "https://127.0.0.1:$port/readyz" >/dev/null; do
    [ $SECONDS -lt $end ] || { tail -n 5 "$W"/log/*; echo "test differential::start ... FAILED (120000 ms)"; exit 1; }
    sleep 0.2
  done
done
PYTHONDONTWRITEBYTECODE=1 python3 dev/differential/run.py "$P" "${ports[2]}" "${ports[3]}" "${FOCUS:-}"
code=$?
[ $code = 0 ] || { mkdir -p target/test/differential; cp "$W"/log/* target/test/differential/; }
exit $code
