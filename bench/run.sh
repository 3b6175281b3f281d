#!/bin/bash
# Knarr and the Go components side by side on this machine: rounds alternate, each side starts from an empty directory, each
# with TLS, RBAC and durable writes. Server CPU is counted over all processes of the side's control plane, for clients share
# the cores. Needs root and `make kit`. Both sides run in a network name space of their own.
# Usage: run.sh [ROW...]     ROUNDS=3 CREATES=2000 GETS=4000 PATCHES=1500 PODS=50 IDLE=30     SIDES="go knarr"
# Rows: start idle create create1 get patch apply list fanout pod pods
# Writes bench/out/raw.tsv (round, side, row, measure, value) and bench/out/table.md
set -uo pipefail
cd "$(dirname "$0")/.."
. dev/world.sh
rows=" ${*:-start idle create create1 get patch apply list fanout pod pods} "
ROUNDS=${ROUNDS:-3} CREATES=${CREATES:-2000} GETS=${GETS:-4000} PATCHES=${PATCHES:-1500} PODS=${PODS:-50} IDLE=${IDLE:-30} SIDES=${SIDES:-go knarr}
export KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} KIT_IMAGES=${KIT_IMAGES:-$HOME/.cache/kube-kit/images}
out=bench/out; mkdir -p "$out"; : >"$out/raw.tsv"
[ "$(id -u)" = 0 ] || { echo "make bench needs root, as nodes do" >&2; exit 1; }
dev/packages.sh build node bench || exit 1
case $SIDES in *go*)
  for program in kube-apiserver etcd kubelet containerd; do [ -x "$KIT_BIN/$program" ] || { echo "$program is missing: run 'make kit' first" >&2; exit 1; }; done
esac
if [ -z "${KNARR:-}" ]; then
  cargo build --release --package knarr || exit 1
  KNARR=$PWD/target/release/knarr
fi
[ -n "${LOAD:-}" ] || { cargo build --release --package load || exit 1; LOAD=$PWD/target/release/load; }
trap 'side_down; world_remove' EXIT
side=

note() { printf '%s\t%s\t%s\t%s\t%s\n' "$round" "$side" "$row" "$1" "$2" | tee -a "$out/raw.tsv"; }
wanted() { [[ $rows == *" $1 "* ]]; }

# --- The two sides --------------------------------------------------------------------------------------------------

side_up() { # go|knarr
  side=$1
  world_make "$(mktemp -d /tmp/knarr-bench.XXXXXX)" || return 1
  local begin=$EPOCHREALTIME row=start
  if [ "$side" = go ]; then
    export REF_DIR=$WORLD/ref REF_BIN=$KIT_BIN
    on a bench/reference.sh up-control && NO_IMAGES=1 on a bench/reference.sh up-node || return 1
    config=$REF_DIR/admin.kubeconfig
  else
    world_server
    config=$WORLD/kubeconfig
    until [ -s "$config" ]; do sleep 0.005; done
  fi
  on a "$LOAD" "$config" ready 1 1 >/dev/null || return 1
  ! wanted start || note seconds "$(awk "BEGIN { print $EPOCHREALTIME - $begin }")"
  if [ "$side" = go ]; then on a bench/reference.sh images; else on a "$KNARR" image --run-dir "$WORLD/a/run" import "$KIT_IMAGES/pause.tar" >/dev/null; fi
}

side_down() {
  [ -n "$side" ] || return 0
  [ "$side" = go ] && on a bench/reference.sh down
  side=
}

# Processes of the side: those that answer API calls, all, or what holds pods (shims, keepers, and the pods themselves).
processes() { # control|all|pods
  case $side-$1 in
    go-control) cat "$REF_DIR"/run/{etcd,apiserver}.pid ;;
    go-all) cat "$REF_DIR"/run/*.pid; processes pods ;;
    go-pods) pgrep -f "containerd-shim-runc-v2.*$REF_DIR"; pgrep -x pause ;;
    knarr-control) cat "$WORLD/a/pid" ;;
    knarr-all) cat "$WORLD/a/pid"; processes pods ;;
    knarr-pods) find /sys/fs/cgroup -path "*/${WORLD_ID}a*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u ;;
  esac
}

# Microseconds of CPU that the processes have used.
cpu() { # control|all
  local pid total=0 ticks
  for pid in $(processes "$1" | sort -u); do
    ticks=$(awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$pid/stat" 2>/dev/null) && total=$((total + ticks))
  done
  echo $((total * 1000000 / $(getconf CLK_TCK)))
}

# KiB of memory, shared pages counted by share.
pss() { # control|all|pods
  local pid
  for pid in $(processes "$1" | sort -u); do awk '/^Pss:/ { print $2 }' "/proc/$pid/smaps_rollup" 2>/dev/null; done | awk '{ n += $1 } END { print n + 0 }'
}

# --- The rows -------------------------------------------------------------------------------------------------------

call() { # row load-row count clients
  row=$1
  wanted "$row" || return 0
  local before after answer
  before=$(cpu control)
  answer=$(on a "$LOAD" "$config" "$2" "$3" "$4") || { echo "$side: $row failed" >&2; return 0; }
  after=$(cpu control)
  note us_cpu_per_op "$(jq -r --argjson cpu $((after - before)) '$cpu / .done' <<<"$answer")"
  note per_second "$(jq -r '.done / .seconds' <<<"$answer")"
  note p50_ms "$(jq -r '.p50_ms // empty' <<<"$answer")"
}

idle() {
  row=idle
  wanted idle || return 0
  sleep 10
  local before after
  before=$(cpu all); sleep "$IDLE"; after=$(cpu all)
  note percent_of_core "$(awk "BEGIN { print ($after - $before) / $IDLE / 1e4 }")"
  note pss_mib "$(awk "BEGIN { print $(pss all) / 1024 }")"
}

pods() {
  local answer
  row=pod
  if wanted pod; then
    answer=$(on a "$LOAD" "$config" pod 20 1) && { note p50_ms "$(jq .p50_ms <<<"$answer")"; note p99_ms "$(jq .p99_ms <<<"$answer")"; } || echo "$side: pod failed" >&2
  fi
  row=pods
  wanted pods || return 0
  answer=$(on a "$LOAD" "$config" pods "$PODS" 1) || { echo "$side: pods failed" >&2; return 0; }
  note per_second "$(jq '.done / .seconds' <<<"$answer")"
  note p50_ms "$(jq .p50_ms <<<"$answer")"
  sleep 5
  note mib_per_pod "$(awk "BEGIN { print $(pss pods) / 1024 / $PODS }")"
}

for round in $(seq "$ROUNDS"); do
  for name in $SIDES; do
    if side_up "$name"; then
      idle
      call create create "$CREATES" 32
      call create1 create 300 1
      call get get "$GETS" 32
      call patch patch "$PATCHES" 32
      call apply apply "$PATCHES" 32
      call list list 50 1
      call fanout fanout 200 50
      pods
    else
      echo "$name did not start; see $WORLD" >&2
    fi
    side_down; world_remove
  done
done
python3 bench/table.py "$out/raw.tsv" | tee "$out/table.md"
