# Two machines on one: network name spaces with a cable between them, in which servers and agents run as on hosts of
# their own. Nothing of the real host's links, addresses or firewall is touched. To be sourced; `world_make DIR` first.
#
#   a  192.0.2.10   the server             b  192.0.2.11   a second node
#
# The functions at the end, from `launch` on, need no such world: other scripts make theirs in their own way, and start, end
# and clear away programs as it is done here.

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

# Starts `knarr server` on side a; more flags may follow.
world_server() {
  # shellcheck disable=SC2046
  launch "${WORLD_ID}a" "$WORLD/a/log/knarr" "$KNARR" server $(world_flags a) --write-kubeconfig "$WORLD/kubeconfig" "$@"
  echo "$launched" >"$WORLD/a/pid"
  # The kubeconfig names the loopback of side a, where every client runs.
  export KUBECONFIG=$WORLD/kubeconfig
}

# Starts `knarr agent` on side b.
world_agent() { # token flags...
  local token=$1; shift
  # shellcheck disable=SC2046
  launch "${WORLD_ID}b" "$WORLD/b/log/knarr" "$KNARR" agent --server https://192.0.2.10:6443 --token "$token" $(world_flags b) "$@"
  echo "$launched" >"$WORLD/b/pid"
}

world_status() { # flags...
  on a "$KNARR" status --run-dir "$WORLD/a/run" "$@"
}

world_stop() { # side signal
  local pid
  pid=$(cat "$WORLD/$1/pid" 2>/dev/null) || return 0
  kill "-$2" "$pid" 2>/dev/null || true
  while runs "$pid"; do sleep 0.05; done
  rm -f "$WORLD/$1/pid"
}

# Ends everything that lives in the world: what is in its control groups, its mounts, its name spaces, its files.
world_remove() {
  world_stop a TERM; world_stop b TERM
  clear_groups "${WORLD_ID}a" "${WORLD_ID}b"
  ip netns del "${WORLD_ID}a" 2>/dev/null; ip netns del "${WORLD_ID}b" 2>/dev/null
  clear_mounts "$WORLD"
  rm -rf "$WORLD"
}

# Starts a program in a network name space, away from the terminal, with what it says at the end of a file. `launched` is then
# the id of the program itself, since nothing forks.
launch() { # name-space log command...
  local space=$1 log=$2; shift 2
  nsenter --net="/run/netns/$space" setsid "$@" >>"$log" 2>&1 </dev/null &
  launched=$!
}

# Whether a process runs. One that has ended may not have been waited for yet.
runs() { grep -qs '^State:.[^ZX]' "/proc/$1/status"; } # pid

# Ends processes: they have 10 seconds each to do it themselves.
finish() { # pid...
  local pid
  kill "$@" 2>/dev/null || true
  for pid; do
    for _ in $(seq 200); do runs "$pid" || break; sleep 0.05; done
    ! runs "$pid" || kill -9 "$pid" 2>/dev/null || true
  done
}

# Ends what is in control groups, and removes them in every hierarchy.
clear_groups() { # name...
  local name group groups=() pid
  for name; do for group in /sys/fs/cgroup/"$name" /sys/fs/cgroup/*/"$name"; do [ ! -d "$group" ] || groups+=("$group"); done; done
  for group in "${groups[@]}"; do
    for pid in $(find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u); do kill -9 "$pid" 2>/dev/null || true; done
  done
  for group in "${groups[@]}"; do
    for _ in $(seq 50); do
      [ -d "$group" ] || break
      find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
      [ ! -d "$group" ] || sleep 0.1
    done
  done
}

# Unmounts what is mounted below a folder.
clear_mounts() { # folder
  local mount
  for mount in $(awk -v dir="$1/" 'index($5, dir) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do umount -l "$mount" 2>/dev/null || true; done
}

# Repeats a command until it succeeds, for at most so many seconds.
eventually() { # seconds command...
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "not within its time: $*"; "$@"; return 1; }
    sleep 0.1
  done
}
