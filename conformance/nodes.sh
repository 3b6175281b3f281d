#!/bin/bash
# A private cluster on this machine: one server and further agents, each node in network, mount and UTS name spaces of
# its own, on a bridge that only this machine reaches. For the conformance suite and for tests of several nodes.
#
#   nodes.sh up [NODES]          make it (2 nodes unless told otherwise) and wait until every node is Ready
#   nodes.sh down                end it and leave nothing behind
#   nodes.sh start|stop NODE     start or stop knarr on a node (its containers go on running)
#   nodes.sh kill NODE           end knarr on a node at once (kill -9)
#   nodes.sh in NODE COMMAND...  run a command in a node's name spaces
#   nodes.sh images [DIR]        serve the images of DIR (docker-archive tars) to the nodes
#   nodes.sh ready [SECONDS]     wait until every node is Ready
#   nodes.sh masters             count the calls by system:masters since the set-up (SPLIT=1)
#   nodes.sh env                 print the address of the kubeconfig and of the nodes
#
# Settings (environment): KNARR (the program), CLUSTER_DIR, CLUSTER_NAME (prefix of links, name spaces and control groups,
# at most 8 letters), CLUSTER_NET (first three numbers of the nodes' addresses), CLUSTER_PODS, CLUSTER_SERVICES,
# NODE_CPU, NODE_MEMORY, LOG_LEVEL, SERVER_FLAGS, AGENT_FLAGS, REGISTRY_DIR. SPLIT=1: every part is a process of its own, see split.sh.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
NAME=${CLUSTER_NAME:-knt}
DIR=${CLUSTER_DIR:-/tmp/knarr-cluster-$NAME}
NET=${CLUSTER_NET:-10.88.0}
PODS=${CLUSTER_PODS:-10.52.0.0/16}
SERVICES=${CLUSTER_SERVICES:-10.53.0.0/16}
CPU=${NODE_CPU:-2}
MEMORY=${NODE_MEMORY:-4Gi}
LOG=${LOG_LEVEL:-info}
REGISTRY_DIR=${REGISTRY_DIR:-$HOME/.cache/knarr/registry}
PORT=6443
BRIDGE=$NAME-br
GATE=$NET.1

fail() { echo "nodes.sh: $*" >&2; exit 1; }

knarr() {
  local found
  for found in "${KNARR:-}" "$here/../target/release/knarr" "$here/../target/debug/knarr"; do
    [ -n "$found" ] && [ -x "$found" ] && { realpath "$found"; return; }
  done
  fail "no knarr program; build it (cargo build --release) or name it with KNARR"
}

# Nodes are n1 (the server), n2, n3 ...; the address of nK ends in K+1.
address() { echo "$NET.$((${1#n} + 1))"; }
node_dir() { echo "$DIR/$1"; }
nodes() { [ -d "$DIR" ] && find "$DIR" -maxdepth 1 -name 'n[0-9]*' -printf '%f\n' | sort -V; }
holder() { cat "$(node_dir "$1")/holder.pid" 2>/dev/null || fail "there is no node $1"; }
alive() { [ -n "$1" ] && [ -d "/proc/$1" ]; }

# A process that does nothing holds a node's name spaces, so that they outlive knarr as a machine would.
make_node() {
  local node=$1 dir; dir=$(node_dir "$node")
  mkdir -p "$dir"/{data,knarr,run,kubelet,pods,containers,csi-data}
  ip netns add "$NAME-$node"
  ip link add "$NAME-$node" type veth peer name eth0 netns "$NAME-$node"
  ip link set "$NAME-$node" master "$BRIDGE" up
  ip -n "$NAME-$node" link set lo up
  ip -n "$NAME-$node" addr add "$(address "$node")/24" dev eth0
  ip -n "$NAME-$node" link set eth0 up
  ip -n "$NAME-$node" route add default via "$GATE"
  setsid nsenter --net="/run/netns/$NAME-$node" unshare --mount --uts --propagation private bash -c '
    set -e
    dir=$1; hostname "$2"
    mkdir -p /var/lib/kubelet /var/log/pods /var/log/containers /var/lib/csi-hostpath-data
    mount --bind "$dir/kubelet" /var/lib/kubelet
    mount --bind "$dir/pods" /var/log/pods
    mount --bind "$dir/containers" /var/log/containers
    # Where the volume driver of the suite keeps its volumes.
    mount --bind "$dir/csi-data" /var/lib/csi-hostpath-data
    mount -t tmpfs -o mode=755 tmpfs /run
    mount --make-rshared /
    echo $$ > "$dir/holder.pid"
    exec sleep infinity' holder "$dir" "$node" </dev/null >"$dir/holder.log" 2>&1 &
  until [ -s "$dir/holder.pid" ]; do kill -0 $! 2>/dev/null || fail "name spaces of $node: $(cat "$dir/holder.log")"; sleep 0.05; done
}

in_node() { local pid; pid=$(holder "$1"); shift; nsenter -t "$pid" --net --mount --uts -- "$@"; }

start_node() {
  local node=$1 dir flags; dir=$(node_dir "$node")
  if [ -n "${SPLIT:-}" ]; then split_node "$node"; return; fi
  flags=(--data-dir "$dir/data" --run-dir "$dir/knarr" --node-name "$node" --node-ip "$(address "$node")" --cgroup-root "$NAME-$node"
    --node-cpu "$CPU" --node-memory "$MEMORY" --private-registry "$DIR/registries.yaml" --resolv-conf "$DIR/resolv.conf" --log-level "$LOG"
    # A nearly full disk of the machine is no concern of the nodes.
    --eviction-hard 'memory.available<100Mi,nodefs.available<1%,imagefs.available<1%' --image-gc-high-threshold 100)
  if [ "$node" = n1 ]; then
    flags=(server "${flags[@]}" --cluster-cidr "$PODS" --service-cidr "$SERVICES" --https-listen-port $PORT --advertise-address "$(address n1)"
      --write-kubeconfig "$dir/kubeconfig" ${SERVER_FLAGS:-})
  else
    flags=(agent "${flags[@]}" --server "https://$(address n1):$PORT" --token-file "$DIR/n1/data/token" ${AGENT_FLAGS:-})
  fi
  start_part "$node" knarr "${flags[@]}"
}

# The shell that becomes knarr says its own process id.
start_part() { # node name arguments...
  local node=$1 dir part=$2; shift 2; dir=$(node_dir "$node")
  alive "$(cat "$dir/$part.pid" 2>/dev/null || true)" && return
  setsid nsenter -t "$(holder "$node")" --net --mount --uts -- bash -c 'echo $$ > "$1"; shift; exec "$@"' start "$dir/$part.pid.new" "$DIR/knarr" "$@" \
    </dev/null >>"$dir/log.txt" 2>&1 &
  until [ -s "$dir/$part.pid.new" ]; do sleep 0.02; done
  mv "$dir/$part.pid.new" "$dir/$part.pid"
}

stop_node() {
  local file
  for file in "$(node_dir "$1")"/*.pid; do
    case $file in */holder.pid | *'*.pid') ;; *) stop_part "$file" "$2" ;; esac
  done
}

stop_part() { # pid-file signal
  local pid; pid=$(cat "$1" 2>/dev/null || true)
  alive "$pid" || return 0
  kill "-$2" "$pid"
  for _ in $(seq 200); do alive "$pid" || { rm -f "$1"; return 0; }; sleep 0.05; done
  [ "$2" = KILL ] || stop_part "$1" KILL
}

wait_ready() {
  local node dir
  if [ -n "${SPLIT:-}" ]; then split_ready "${1:-120}"; return; fi
  for node in $(nodes); do
    dir=$(node_dir "$node")
    "$DIR/knarr" status --wait --timeout "${1:-120}" --run-dir "$dir/knarr" >"$dir/status.txt" 2>&1 && continue
    cat "$dir/status.txt" >&2; tail -n 20 "$dir/log.txt" >&2
    fail "$node is not ready"
  done
}

up() {
  local count=${1:-2} number
  [ "$(id -u)" = 0 ] || fail "needs root"
  [ -e "$DIR" ] && fail "$DIR is there already; end that cluster with: nodes.sh down"
  ip link show "$BRIDGE" >/dev/null 2>&1 && fail "the link $BRIDGE is there already"
  mkdir -p "$DIR"
  trap 'echo "nodes.sh: giving up, cleaning up" >&2; [ -n "${KEEP:-}" ] || down' ERR
  cp "$(knarr)" "$DIR/knarr"
  printf 'mirrors:\n  registry.k8s.io:\n    endpoint: ["http://%s:5000"]\n  "%s:5000":\n    endpoint: ["http://%s:5000"]\n' "$GATE" "$GATE" "$GATE" >"$DIR/registries.yaml"
  # Nobody resolves names of the world for the nodes; a refusal is quicker than silence.
  echo "nameserver $GATE" >"$DIR/resolv.conf"
  ip link add "$BRIDGE" type bridge
  ip addr add "$GATE/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  for number in $(seq "$count"); do make_node "n$number"; done
  [ -z "${SPLIT:-}" ] || split_keys "$count"
  start_node n1
  # Services can be reached from here through the server's node.
  ip route add "$SERVICES" via "$(address n1)"
  [ -n "${SPLIT:-}" ] || admin_kubeconfig
  for number in $(seq 2 "$count"); do start_node "n$number"; done
  wait_ready "${WAIT:-120}"
  routes
  trap - ERR
  environment
}

admin_kubeconfig() {
  for _ in $(seq 600); do [ -s "$DIR/n1/data/token" ] && [ -s "$DIR/n1/kubeconfig" ] && break; alive "$(cat "$DIR/n1/knarr.pid")" || break; sleep 0.05; done
  [ -s "$DIR/n1/data/token" ] || { tail "$DIR/n1/log.txt" >&2; fail "the server did not start"; }
  sed "s#https://127.0.0.1:#https://$(address n1):#" "$DIR/n1/kubeconfig" >"$DIR/kubeconfig"
  chmod 600 "$DIR/kubeconfig"
}

# Pods can be reached from here through their own nodes: a node drops what it sees only one direction of.
routes() {
  "$DIR/knarr" get nodes -o json --kubeconfig "$DIR/kubeconfig" | python3 -c '
import json, sys
for node in json.load(sys.stdin)["items"]:
    addresses = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
    print(node["spec"]["podCIDR"], addresses[0])' | while read -r range via; do ip route replace "$range" via "$via"; done
}

# Processes of a node: all in its mount name space, and all in its control groups.
processes() {
  local node=$1 own pid
  own=$(readlink "/proc/$(holder "$node")/ns/mnt" 2>/dev/null || true)
  {
    for pid in /proc/[0-9]*; do [ -n "$own" ] && [ "$(readlink "$pid/ns/mnt" 2>/dev/null || true)" = "$own" ] && echo "${pid#/proc/}"; done
    find /sys/fs/cgroup -path "*/$NAME-$node*" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  } | sort -u
}

# Loop devices of images in the nodes' folders: a volume driver that was ended with its volumes has left them.
free_loops() {
  local device inode number disk
  disk=$(findmnt -no MAJ:MIN -T "$DIR" | tr -d " ")
  losetup -nlO NAME,BACK-INO,BACK-MAJ:MIN 2>/dev/null | while read -r device inode number; do
    [ "$number" = "$disk" ] && [ -n "$(find "$DIR"/n*/csi-data -inum "$inode" -print -quit)" ] && losetup -d "$device"
  done || true
}

down() {
  trap - ERR
  local node pid path
  [ -d "$DIR" ] || { echo "no cluster in $DIR"; return 0; }
  for node in $(nodes | sort -rV); do stop_node "$node" TERM || true; done
  for node in $(nodes); do
    for _ in 1 2 3 4 5; do
      pid=$(processes "$node" 2>/dev/null || true)
      [ -n "$pid" ] || break
      # shellcheck disable=SC2086
      kill -9 $pid 2>/dev/null || true
      sleep 0.2
    done
    ip netns del "$NAME-$node" 2>/dev/null || true
    ip link del "$NAME-$node" 2>/dev/null || true
    find /sys/fs/cgroup -depth -type d \( -path "*/$NAME-$node" -o -path "*/$NAME-$node/*" \) -exec rmdir {} + 2>/dev/null || true
  done
  [ ! -s "$DIR/registry.pid" ] || kill "$(cat "$DIR/registry.pid")" 2>/dev/null || true
  ip link del "$BRIDGE" 2>/dev/null || true
  free_loops
  for path in $(awk -v d="$DIR/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r); do umount -l "$path" 2>/dev/null || true; done
  rm -rf "$DIR"
}

# A registry on the bridge's address, filled from docker-archive tars under the names they carry.
images() {
  local source=${1:-$HOME/.cache/kube-kit/images} tar name path program
  for program in docker-registry skopeo; do command -v $program >/dev/null || fail "$program is missing (apt-get install docker-registry skopeo)"; done
  ls "$source"/*.tar >/dev/null 2>&1 || fail "no images in $source"
  if ! alive "$(cat "$DIR/registry.pid" 2>/dev/null || true)"; then
    mkdir -p "$REGISTRY_DIR"
    cat >"$DIR/registry.yaml" <<YAML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $REGISTRY_DIR}}
http: {addr: "$GATE:5000"}
YAML
    setsid docker-registry serve "$DIR/registry.yaml" </dev/null >"$DIR/registry.log" 2>&1 &
    echo $! >"$DIR/registry.pid"
    for _ in $(seq 100); do curl -fsS "http://$GATE:5000/v2/" >/dev/null 2>&1 && break; sleep 0.1; done
  fi
  for tar in "$source"/*.tar; do
    for name in $(tar -xOf "$tar" manifest.json | python3 -c 'import json,sys; print(" ".join(json.load(sys.stdin)[0]["RepoTags"]))'); do
      path=${name#*/}
      # What was built anew since is pushed again.
      [ "$REGISTRY_DIR/docker/registry/v2/repositories/${path%:*}/_manifests/tags/${path##*:}/current/link" -nt "$tar" ] && continue
      skopeo copy -q --dest-tls-verify=false "docker-archive:$tar:$name" "docker://$GATE:5000/$path"
      echo "pushed $path"
    done
  done
}

environment() {
  echo "KUBECONFIG=$DIR/kubeconfig"
  for node in $(nodes); do echo "$node $(address "$node")"; done
}

# shellcheck source=conformance/split.sh
. "$here/split.sh"
command=${1:-}; [ $# -eq 0 ] || shift
case $command in
  up) up "$@" ;;
  down) down ;;
  start) start_node "${1:?which node}" ;;
  stop) stop_node "${1:?which node}" TERM ;;
  kill) stop_node "${1:?which node}" KILL ;;
  in) in_node "$@" ;;
  images) images "$@" ;;
  ready) wait_ready "$@" && routes ;;
  env) environment ;;
  masters) split_masters ;;
  *) sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 2 ;;
esac
