#!/bin/bash
# Knarr and the Go components side by side on this machine: rounds alternate, each side starts from an empty directory, each
# with TLS, RBAC and durable writes. Server CPU is counted over all processes of the side's control plane, for clients share
# the cores. Needs root and `make kit`. Both sides run in network name spaces of their own.
# Usage: run.sh [ROW...]     ROUNDS=3  SIDES="go knarr"  and the counts below
# Rows: size | start idle create create1 get patch apply list fanout pod pods exec | podlist podmem | definitions | restored | schedule repel | endpoint
# (a bar: each group has a cluster of its own; only the first and the last have a node)
# Writes raw.tsv (round, side, row, measure, value) and table.md in bench/out, or where OUT says. A row that fails says why, the others
# go on, and the exit code is 1; logs of a side that failed are in bench/out/failed.
set -uo pipefail
cd "$(dirname "$0")/.."
. dev/world.sh
every="size start idle create create1 get patch apply list fanout pod pods exec podlist podmem definitions restored schedule repel endpoint"
rows=" ${*:-$every} "
for row in $rows; do [[ " $every " == *" $row "* ]] || { echo "there is no row $row; rows: $every" >&2; exit 1; }; done
# So many that the handshakes of the clients are not what is measured.
export CREATES=${CREATES:-8000} GETS=${GETS:-8000} PATCHES=${PATCHES:-6000} PODS=${PODS:-50} IDLE=${IDLE:-30}
export OBJECTS=${OBJECTS:-10000} NODES=${NODES:-1000} SCHEDULE=${SCHEDULE:-2000} REPEL=${REPEL:-500} SERVICES=${SERVICES:-10000} FLIPS=${FLIPS:-15}
export DEFINITIONS=${DEFINITIONS:-1000} MAPS=${MAPS:-100000}
FORGET=${FORGET:-330} # seconds until neither side remembers old versions
ROUNDS=${ROUNDS:-3} SIDES=${SIDES:-go knarr} LONGEST=${LONGEST:-240}
export KIT_BIN=${KIT_BIN:-$HOME/.cache/kube-kit/bin} KIT_IMAGES=${KIT_IMAGES:-$HOME/.cache/kube-kit/images}
out=${OUT:-bench/out}; rm -rf "$out/failed"; mkdir -p "$out"; : >"$out/raw.tsv"
[ "$(id -u)" = 0 ] || { echo "make bench needs root, as nodes do" >&2; exit 1; }
dev/packages.sh build node bench || exit 1
programs="etcd kube-apiserver kube-controller-manager kube-scheduler containerd containerd-shim-runc-v2 runc kubelet kube-proxy kubectl"
case $SIDES in *go*)
  for program in $programs; do [ -x "$KIT_BIN/$program" ] || { echo "$program is missing: run 'make kit' first" >&2; exit 1; }; done
esac
if [ -z "${KNARR:-}" ]; then
  # What is shipped is what is measured.
  KNARR=$PWD/target/$(uname -m)-unknown-linux-gnu/dist/knarr
  [ -x "$KNARR" ] || dev/release.sh || exit 1
fi
[ -n "${LOAD:-}" ] || { cargo build --release --package load || exit 1; LOAD=$PWD/target/release/load; }
side='' up='' job='' others='' failures=0 round=0 row=''

# --- Ending, in every case ------------------------------------------------------------------------------------------

side_down() {
  local pid
  for pid in $job $others; do kill "$pid" 2>/dev/null; done
  job='' others=''
  [ -n "$up" ] || return 0
  if [ "$up" = go ]; then
    on a bench/reference.sh down
  elif pid=$(cat "$WORLD/a/pid" 2>/dev/null) && kill "$pid" 2>/dev/null; then
    for _ in $(seq 200); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
  fi
  # Whatever still lives in the two machines.
  for pid in $(ip netns pids "${WORLD_ID}a"; ip netns pids "${WORLD_ID}b"); do kill -9 "$pid" 2>/dev/null; done
  rm -f "$WORLD/a/pid"
  world_remove
  up=
}
trap 'trap "" INT TERM HUP; side_down' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A signal ends a `wait` at once, a program in the foreground only when that is done. For programs only: of a function, the
# job would be a shell whose child outlives it.
waited() { "$@" & job=$!; local code=0; wait "$job" || code=$?; job=; return $code; }
inside() { waited nsenter --net="/run/netns/${WORLD_ID}a" "$@"; }
pause() { waited sleep "$1"; }

note() { printf '%s\t%s\t%s\t%s\t%s\n' "$round" "$side" "$row" "$1" "$2" | tee -a "$out/raw.tsv"; }
wanted() { local one; for one in "$@"; do [[ $rows == *" $one "* ]] && return 0; done; return 1; }
per() { awk "BEGIN { print ($1) / ($2) }"; }

# A side with a dead part would look small and quick.
whole() {
  local file
  if [ "$up" = go ]; then
    for file in "$REF_DIR"/run/*.pid; do
      [ -d "/proc/$(cat "$file")" ] || { failed "$(basename "$file" .pid) has ended: $(tail -n 1 "$REF_DIR/log/$(basename "$file" .pid).log")"; return 1; }
    done
  else
    [ -d "/proc/$(cat "$WORLD/a/pid")" ] || { failed "the server has ended: $(tail -n 6 "$WORLD/a/log/knarr" | tr '\n' ' ')"; return 1; }
  fi
}

failed() { # why
  failures=$((failures + 1))
  echo "FAILED: round $round, $side, $row: $1" >&2
  local logs=$out/failed/$round-$side-$row
  mkdir -p "$logs"
  echo "$1" >"$logs/why"
  [ -z "$up" ] || cp "$WORLD"/a/log/knarr "$WORLD"/ref/log/*.log "$logs" 2>/dev/null
  return 1
}

# Puts a load on the side; $answer is what came out.
load() { # load-row count clients
  answer=
  inside timeout "$LONGEST" "$LOAD" "$config" "$@" >"$WORLD/answer" 2>"$WORLD/why"
  case $? in
    0) answer=$(<"$WORLD/answer"); whole ;;
    124) failed "load $*: not done in $LONGEST s" ;;
    *) failed "load $*: $(tr '\n' ' ' <"$WORLD/why")" ;;
  esac
}

# --- The two sides --------------------------------------------------------------------------------------------------

# The Go components at their best: no client of the control plane waits for its own rate limit.
export KCM_EXTRA="--kube-api-qps=5000 --kube-api-burst=10000" SCHED_EXTRA="--kube-api-qps=5000 --kube-api-burst=10000"
export REF_KUBELET_QPS=1000 PROXY_MODE=nftables REF_BIN=$KIT_BIN REF_IMAGES="pause.tar busybox.tar"

# What is in /run and /var/log on a machine lies in memory here, as reference.sh has it for the Go node; world_remove unmounts it.
in_memory() { # directory...
  local dir
  for dir in "$@"; do mkdir -p "$dir" && mount -t tmpfs tmpfs "$dir" || return 1; done
}

side_up() { # go|knarr with-node|without-node [range of pod addresses]
  local nodes=$2 range=${3:-} begin wait=ready dir image
  flags=()
  dir=$(mktemp -d /tmp/knarr-bench.XXXXXX)
  export REF_DIR=$dir/ref
  up=$1
  world_make "$dir" || { failed "no name spaces"; return 1; }
  [ "$nodes" = with-node ] || wait=served
  if [ "$side" = go ]; then
    export REF_CGROUP=${WORLD_ID}a
    config=$REF_DIR/admin.kubeconfig
    inside bench/reference.sh certs
    begin=$EPOCHREALTIME
    KCM_EXTRA="$KCM_EXTRA ${range:+--cluster-cidr=$range}" inside bench/reference.sh up-control || { failed "the control plane did not start"; return 1; }
    [ "$nodes" != with-node ] || NO_IMAGES=1 inside bench/reference.sh up-node || { failed "the node did not start"; return 1; }
  else
    config=$WORLD/kubeconfig
    in_memory "$WORLD/a/run" "$WORLD/a/log" || { failed "no file system in memory"; return 1; }
    [ "$nodes" = with-node ] || flags+=(--disable node)
    [ -z "$range" ] || flags+=(--cluster-cidr "$range")
    begin=$EPOCHREALTIME
    world_server "${flags[@]}"
    until [ -s "$config" ]; do
      whole || return 1
      sleep 0.005
    done
  fi
  load $wait 1 1 || return 1
  if [ "$nodes" = with-node ]; then
    row=start
    ! wanted start || note seconds "$(per "$EPOCHREALTIME - $begin" 1)"
    if [ "$side" = go ]; then
      inside bench/reference.sh images
    else
      for image in $REF_IMAGES; do inside "$KNARR" image --run-dir "$WORLD/a/run" import "$KIT_IMAGES/$image" >/dev/null; done
    fi
  fi
}

# Processes of the side: those that answer API calls, the scheduler, the node, all, or what holds pods (shims, keepers, and
# the pods themselves). One process is all of that but the last on the side of knarr.
processes() { # api|scheduler|node|all|pods
  case $side-$1 in
    go-api) cat "$REF_DIR"/run/{etcd,apiserver}.pid ;;
    go-scheduler) cat "$REF_DIR"/run/scheduler.pid ;;
    go-node) cat "$REF_DIR"/run/{kubelet,containerd,proxy}.pid; processes pods ;;
    go-all) cat "$REF_DIR"/run/*.pid; processes pods ;;
    knarr-all|knarr-node) cat "$WORLD/a/pid"; processes pods ;;
    *-pods) { pgrep -f "containerd-shim-runc-v2.*$WORLD/"; find /sys/fs/cgroup -path "*/${WORLD_ID}a*" -name cgroup.procs -exec cat {} + 2>/dev/null; } | sort -u ;;
    knarr-*) cat "$WORLD/a/pid" ;;
  esac
}

# Microseconds of CPU that the processes and what they started have used.
cpu() { # as processes
  local pid total=0 ticks
  for pid in $(processes "$1" | sort -u); do
    ticks=$(awk '{ sub(/.*\) /, ""); print $12 + $13 + $14 + $15 }' "/proc/$pid/stat" 2>/dev/null) && total=$((total + ticks))
  done
  echo $((total * 1000000 / $(getconf CLK_TCK)))
}

# KiB of memory, shared pages counted by share.
pss() { # as processes [Pss_Anon]
  local pid
  for pid in $(processes "$1" | sort -u); do awk -v kind="${2:-Pss}:" '$1 == kind { print $2 }' "/proc/$pid/smaps_rollup" 2>/dev/null; done | awk '{ n += $1 } END { print n + 0 }'
}

# KiB of resident memory: now, or the highest since `forget_peak`.
resident() { # VmRSS|VmHWM
  local pid
  for pid in $(processes api); do awk -v "field=$1:" '$1 == field { print $2 }' "/proc/$pid/status"; done | awk '{ n += $1 } END { print n + 0 }'
}
forget_peak() { local pid; for pid in $(processes api); do echo 5 >"/proc/$pid/clear_refs"; done; }

# Waits until all processes of the side have no more to do than when they idle.
settle() { # seconds at most
  local end=$((SECONDS + $1)) before after
  before=$(cpu all)
  while [ $SECONDS -lt $end ]; do
    pause 2
    after=$(cpu all)
    [ $((after - before)) -gt 200000 ] || return 0
    before=$after
  done
  echo "$side, $row: still busy after $1 s" >&2
  return 1
}

# --- The rows -------------------------------------------------------------------------------------------------------

size() {
  row=size
  wanted size || return 0
  local files=() total=0 file
  if [ "$side" = go ]; then
    for file in $programs; do files+=("$KIT_BIN/$file"); done
    files+=(/usr/lib/cni/{bridge,host-local,loopback,portmap})
  else
    files+=("$KNARR")
  fi
  for file in "${files[@]}"; do
    strip -o "$out/stripped" "$file" && total=$((total + $(stat -Lc %s "$out/stripped"))) || { failed "cannot strip $file"; return 0; }
  done
  rm -f "$out/stripped"
  note mb "$(per "$total" 1e6)"
}

call() { # row load-row count clients
  row=$1
  wanted "$row" || return 0
  local before after
  before=$(cpu api)
  load "$2" "$3" "$4" || return 0
  after=$(cpu api)
  # This one begins with deleting what the row before it made.
  [ "$row" = create1 ] || note us_cpu_per_op "$(jq -r --argjson cpu $((after - before)) '$cpu / .done' <<<"$answer")"
  note per_second "$(jq -r '.done / .seconds' <<<"$answer")"
  note p50_ms "$(jq -r '.p50_ms // empty' <<<"$answer")"
}

idle() {
  row=idle
  wanted idle || return 0
  pause 10
  local before after
  before=$(cpu all); pause "$IDLE"; after=$(cpu all)
  note percent_of_core "$(per "$after - $before" "$IDLE * 1e4")"
  note pss_mib "$(per "$(pss all)" 1024)"
}

pods() {
  pods_that_wait
  row=exec
  wanted exec && load exec 100 1 || return 0
  note p50_ms "$(jq .p50_ms <<<"$answer")"
  note p99_ms "$(jq .p99_ms <<<"$answer")"
}

pods_that_wait() {
  row=pod
  if wanted pod && load pod 20 1; then
    note p50_ms "$(jq .p50_ms <<<"$answer")"
    note p99_ms "$(jq .p99_ms <<<"$answer")"
  fi
  row=pods
  wanted pods || return 0
  load pods "$PODS" 1 || return 0
  note per_second "$(jq '.done / .seconds' <<<"$answer")"
  note p50_ms "$(jq .p50_ms <<<"$answer")"
  pause 5
  note mib_per_pod "$(per "$(pss pods)" "1024 * $PODS")"
  # What follows their start is done when the node idles.
  settle 60; pause 5
  local before after
  before=$(cpu node); pause "$IDLE"; after=$(cpu node)
  note idle_percent_of_core "$(per "$after - $before" "$IDLE * 1e4")"
}

# Lists of many pods, and what each costs in memory after one list in either encoding. Both are one row's work.
objects() {
  row=podmem
  local first last before after rss peak
  settle 60; pause 5; first=$(pss all)
  load fill "$OBJECTS" 32 || return 0
  settle 60
  row=podlist
  forget_peak || { failed "the kernel does not forget peaks"; return 0; }
  rss=$(resident VmRSS)
  load lists 1 1 || return 0
  peak=$(resident VmHWM)
  if wanted podlist; then
    note cold_ms "$(jq .p50_ms <<<"$answer")"
    note peak_mib "$(per "$peak - $rss" 1024)"
    note size_mb "$(jq '.bytes / 1e6' <<<"$answer")"
  fi
  load lists-protobuf 1 1 || return 0
  # Neither side gives back at once what it has freed.
  settle 60; pause 5; last=$(pss all)
  row=podmem
  ! wanted podmem || note kib_per_pod "$(per "$last - $first" "$OBJECTS")"
  row=podlist
  wanted podlist || return 0
  before=$(cpu api)
  load lists 15 1 || return 0
  after=$(cpu api)
  note p50_ms "$(jq .p50_ms <<<"$answer")"
  note us_cpu_per_op "$(jq -r --argjson cpu $((after - before)) '$cpu / .done' <<<"$answer")"
}

# Definitions that nobody uses: what each costs once they are served and the history of their making is forgotten. Pages of
# files do not count: in so long a time the kernel takes back those of the program.
definitions() {
  row=definitions
  local first last
  settle 60; pause 5; first=$(pss all Pss_Anon)
  load definitions "$DEFINITIONS" 8 || return 0
  settle 120
  note kib_each_new "$(per "$(pss all Pss_Anon) - $first" "$DEFINITIONS")"
  pause "$FORGET"; settle 60; last=$(pss all Pss_Anon)
  note kib_each "$(per "$last - $first" "$DEFINITIONS")"
}

# From the start of what was killed until one of its many objects and a page of them are read consistently.
restored() {
  row=restored
  local begin pid
  LONGEST=900 load maps "$MAPS" 32 || return 0
  settle 60
  for pid in $(processes api); do kill -9 "$pid"; done
  # The first thread of a killed process is a zombie while the others still give back memory, and ports after that.
  for pid in $(processes api); do
    while [ -d "/proc/$pid" ] && ! { grep -qs '^State:.Z' "/proc/$pid/status" && [ "$(ls "/proc/$pid/task" | wc -l)" -le 1 ]; }; do sleep 0.01; done
  done
  begin=$EPOCHREALTIME
  if [ "$side" = go ]; then inside bench/reference.sh up-again; else world_server --disable node; fi
  load restored "$MAPS" 1 || return 0
  note seconds "$(per "$EPOCHREALTIME - $begin" 1)"
}

# What the scheduler tells afterwards in events and conditions is part of its work, hence the pause before the CPU is read.
# A heartbeat of all nodes comes before: half a heartbeat a pod, or two, is not what a pod costs.
bind() { # row count
  row=$1
  wanted "$row" || return 0
  local before after scheduler
  load beats 1 1 || return 0
  pause 1
  before=$(cpu all) scheduler=$(cpu scheduler)
  load "$row" "$2" 32 || return 0
  pause 2
  after=$(cpu all)
  note us_cpu_per_op "$(per "$after - $before" "$2")"
  [ "$side" = knarr ] || note us_cpu_scheduler "$(per "$(cpu scheduler) - $scheduler" "$2")"
  note per_second "$(jq '.done / .seconds' <<<"$answer")"
}

fleet() {
  row=schedule
  local before after
  before=$(cpu all)
  load nodes "$NODES" 16 || return 0
  # What nodes bring about is not part of what pods cost. Heartbeats lest nodes fall meanwhile.
  for _ in 1 2 3 4; do settle 20 && break; load beats 1 1 || return 0; done
  after=$(cpu all)
  ! wanted schedule || note us_cpu_per_node "$(per "$after - $before" "$NODES")"
  bind schedule "$SCHEDULE"
  bind repel "$REPEL"
}

# The listener is the second machine.
endpoint() {
  row=endpoint
  local address before after
  for address in 192.0.2.20 192.0.2.21; do ip -n "${WORLD_ID}b" addr add "$address/24" dev up0; done
  nsenter --net="/run/netns/${WORLD_ID}b" "$LOAD" - listen 0 0 >/dev/null 2>&1 & others=$!
  # The Go side needs a minute for so many on a quiet machine, and long on a busy one.
  LONGEST=480 load services "$SERVICES" 32 || return 0
  settle 60
  before=$(cpu all)
  load flip "$FLIPS" 1 || return 0
  after=$(cpu all)
  note p50_ms "$(jq .p50_ms <<<"$answer")"
  note us_cpu_per_op "$(per "$after - $before" "$FLIPS")"
}

# Rows that work on objects, where those that make them were not wanted.
needs_objects() {
  local one
  wanted create || wanted create1 && return 1
  for one in get patch list fanout; do wanted "$one" && return; done
  return 1
}

node_rows() {
  idle
  if needs_objects; then row=create; load create 300 32 || return 0; fi
  call create create "$CREATES" 32
  call create1 create 300 1
  call get get "$GETS" 32
  call patch patch "$PATCHES" 32
  call apply apply "$PATCHES" 32
  call list list 50 1
  # Enough events that the watchers' handshakes are not what is measured.
  call fanout fanout 1000 50
  pods
}

# A cluster of its own for these rows, where one of them is wanted.
group() { # name with-node|without-node function range rows...
  local nodes=$2 what=$3 range=$4; row=$1; shift 4
  wanted "$@" || return 0
  ! side_up "$name" "$nodes" "$range" || $what
  side_down
}

for round in $(seq "$ROUNDS"); do
  for name in $SIDES; do
    side=$name
    [ "$round" != 1 ] || size
    # shellcheck disable=SC2046
    group node with-node node_rows "" start idle create create1 get patch apply list fanout pod pods exec
    group objects without-node objects "" podlist podmem
    group definitions without-node definitions "" definitions
    group restored without-node restored "" restored
    # A thousand nodes need more than a /16.
    group fleet without-node fleet 10.128.0.0/10 schedule repel
    # Filling a cluster with services takes the Go side long, and the changes of one round are many enough.
    [ "$round" != 1 ] || group services with-node endpoint "" endpoint
  done
done
python3 bench/table.py "$out/raw.tsv" | tee "$out/table.md"
[ $failures = 0 ] || { echo "$failures failures, see above and $out/failed" >&2; exit 1; }
