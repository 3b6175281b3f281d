# Two machines on one: network name spaces with a cable between them, in which servers and agents run as on hosts of
# their own. Nothing of the real host's links, addresses or firewall is touched. To be sourced; `world_make DIR` first.
#
#   a  192.0.2.10   the server             b  192.0.2.11   a second node

world_make() { # dir
  WORLD=$1 WORLD_ID=kn$$
  mkdir -p "$WORLD"
  local side
  for side in a b; do
    ip netns add "$WORLD_ID$side" || return 1
    ip -n "$WORLD_ID$side" link set lo up
  done
  ip link add up0 netns "${WORLD_ID}a" type veth peer name up0 netns "${WORLD_ID}b" || return 1
  ip -n "${WORLD_ID}a" addr add 192.0.2.10/24 dev up0
  ip -n "${WORLD_ID}b" addr add 192.0.2.11/24 dev up0
  for side in a b; do
    ip -n "$WORLD_ID$side" link set up0 up
    ip -n "$WORLD_ID$side" route add default dev up0
    mkdir -p "$WORLD/$side/log"
    # No name server answers outside of this world, and none is asked.
    echo 'nameserver 192.0.2.1' >"$WORLD/$side/resolv.conf"
  done
}

# Runs a program on a side.
on() { # side command...
  local side=$1; shift
  nsenter --net="/run/netns/$WORLD_ID$side" "$@"
}

world_flags() { # side
  local dir=$WORLD/$1
  echo --data-dir "$dir/data" --run-dir "$dir/run" --kubelet-root "$dir/kubelet" --pod-logs "$dir/log/pods" \
    --pod-manifests "$dir/manifests" --eviction-hard 'memory.available<100Mi,nodefs.available<1%' --image-gc-high-threshold 100 \
    --cgroup-root "$WORLD_ID$1" --resolv-conf "$dir/resolv.conf" --node-name "node-$1"
}

# Starts `knarr server` on side a; more flags may follow. The id of the job is that of the program itself, since nothing forks.
world_server() {
  # shellcheck disable=SC2046
  nsenter --net="/run/netns/${WORLD_ID}a" setsid "$KNARR" server $(world_flags a) --write-kubeconfig "$WORLD/kubeconfig" "$@" >>"$WORLD/a/log/knarr" 2>&1 </dev/null &
  echo $! >"$WORLD/a/pid"
  # The kubeconfig names the loopback of side a, where every client runs.
  export KUBECONFIG=$WORLD/kubeconfig
}

# Starts `knarr agent` on side b.
world_agent() { # token flags...
  local token=$1; shift
  # shellcheck disable=SC2046
  nsenter --net="/run/netns/${WORLD_ID}b" setsid "$KNARR" agent --server https://192.0.2.10:6443 --token "$token" $(world_flags b) "$@" >>"$WORLD/b/log/knarr" 2>&1 </dev/null &
  echo $! >"$WORLD/b/pid"
}

world_status() { # flags...
  on a "$KNARR" status --run-dir "$WORLD/a/run" "$@"
}

world_stop() { # side signal
  local pid
  pid=$(cat "$WORLD/$1/pid" 2>/dev/null) || return 0
  kill "-$2" "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
  rm -f "$WORLD/$1/pid"
}

# Ends everything that lives in the world: what is in its control groups, its mounts, its name spaces, its files.
world_remove() {
  local side group pid
  world_stop a TERM; world_stop b TERM
  for side in a b; do
    for group in /sys/fs/cgroup/*/"$WORLD_ID$side" "/sys/fs/cgroup/$WORLD_ID$side"; do
      [ -d "$group" ] || continue
      find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u | while read -r pid; do kill -9 "$pid" 2>/dev/null; done
    done
  done
  for side in a b; do
    for group in /sys/fs/cgroup/*/"$WORLD_ID$side" "/sys/fs/cgroup/$WORLD_ID$side"; do
      for _ in $(seq 50); do
        [ -d "$group" ] || break
        find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
        [ -d "$group" ] && sleep 0.1
      done
    done
    ip netns del "$WORLD_ID$side" 2>/dev/null
  done
  awk -v dir="$WORLD/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do umount -l "$mount" 2>/dev/null; done
  rm -rf "$WORLD"
}

# Repeats a command until it succeeds, for at most so many seconds.
eventually() { # seconds command...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "not within its time: $*"; "$@"; return 1; }
    sleep 0.1
  done
}
